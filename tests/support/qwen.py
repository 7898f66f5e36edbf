"""Random models of the Qwen-VL family with their real processors, and naive passes over them.

What the family does its own way is written out here once more: patches and windows, positions of three axes, features
that enter behind the first layers.
"""

import math

import torch
import transformers
from letters import tokenizer
from naive_family import IMAGE, Sight
from naive_maps import digest
from sightline.decoders.seeds import seed_of
from sightline.models.counterfactual import draw, permutation
from sightline.models.qwen_vl_processor import STOCK, image_only_processor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PATCH, MERGE, FRAMES = 4, 2, 2
WINDOW = 16
"""Side of a window, in pixels: two image tokens."""
FULL = 1
"""The layer of Qwen2.5-VL's tower that attends over the whole image."""
SIZES = ((16, 16), (24, 16), (16, 32), (24, 24))
"""Width and height of images: 2 x 2, 3 x 2, 2 x 4 and 3 x 3 image tokens."""
START, VIDEO = 4, 3
TEXT = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]},
}  # fmt: skip
TOWER = {"num_heads": 3, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": FRAMES}
TOWERS = {
    "qwen2_vl": {"depth": 2, "embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2},
    "qwen2_5_vl": {
        "depth": 3, "hidden_size": 24, "intermediate_size": 32, "out_hidden_size": 32, "window_size": WINDOW,
        "fullatt_block_indexes": [FULL],
    },
    "qwen3_vl": {
        "depth": 3, "hidden_size": 24, "intermediate_size": 32, "out_hidden_size": 32, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    },
}  # fmt: skip
NAMES = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<sep><image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def qwen_config(kind, **text):
    """A small configuration of one of `KINDS`."""
    head = {"head_dim": 8} if kind == "qwen3_vl" else {}
    marks = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": 6}
    build = getattr(transformers, f"{NAMES[kind]}Config")
    return build(text_config=TEXT | head | text, vision_config=TOWER | TOWERS[kind], tie_word_embeddings=False, **marks)


def qwen_model(kind, seed=0, scale=6):
    """A random model in float64, with weights so large that image, text and positions matter."""
    torch.manual_seed(seed)
    model = getattr(transformers, f"{NAMES[kind]}ForConditionalGeneration")(qwen_config(kind)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    return model


def qwen_processor(kind="qwen2_5_vl"):
    """The family's processor on a tokenizer of letters; images keep their size, in whole image tokens."""
    pixels = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 64, "longest_edge": 64 * 64}, patch_size=PATCH, merge_size=MERGE,
        temporal_patch_size=FRAMES,
    )  # fmt: skip
    words = tokenizer(
        extra_special_tokens={"image_token": "<image>", "vision_start_token": "<sep>"}, padding_side="left"
    )
    return image_only_processor(kind)(image_processor=pixels, tokenizer=words, chat_template=TEMPLATE)


def places(ids, grids):
    """Positions of a prompt, `[3, 1, length]`: frame, row, column; behind an image they go on by its longer side."""
    made, at, grids = [], 0, list(grids)
    while len(made) < len(ids):
        if ids[len(made)] != IMAGE:
            made.append((at, at, at))
            at += 1
            continue
        _, height, width = (int(each) for each in grids.pop(0))
        rows, columns = height // MERGE, width // MERGE
        made += [(at, at + row, at + column) for row in range(rows) for column in range(columns)]
        at += max(rows, columns)
    return torch.tensor(made).T[:, None]


class QwenSight(Sight):
    """One image under one text. What `embedded` gives is the decoder's call, features of later layers included."""

    @property
    def tower(self):
        return self.model.model.visual

    @property
    def pixels(self):
        return self.row["pixel_values"]

    @property
    def layers(self):
        """How many layers of the decoder get features."""
        return len(getattr(self.tower.config, "deepstack_visual_indexes", ()))

    def features(self, **other):
        pixels = other.get("pixel_values", self.pixels)
        found = self.model.model.get_image_features(pixels, self.row["image_grid_thw"], return_dict=True)
        behind = found.deepstack_features if self.layers else []
        behind = [each if isinstance(each, torch.Tensor) else each[0] for each in behind]  # split by image since 5.18
        return torch.cat([found.pooler_output[0], *behind], dim=-1)

    def embedded(self, new=(), ids=None, features=None):
        ids = [*(self.ids if ids is None else ids), *new]
        embeds, image = self.model.get_input_embeddings()(torch.tensor([ids])), torch.tensor([ids]) == IMAGE
        call = {"inputs_embeds": embeds, "position_ids": places(ids, self.row["image_grid_thw"])}
        if image.any():
            own, *behind = (self.features() if features is None else features).split(embeds.shape[-1], dim=-1)
            embeds[image] = own
            if behind:
                call |= {"visual_pos_masks": image, "deepstack_visual_embeds": behind}
        return call

    def call(self, embeds):
        return embeds | {"use_cache": False}

    def like(self, draw):
        """A number for each pixel of the still image, the same in both frames of a patch."""
        one = draw((len(self.pixels), 3, 1, PATCH * PATCH))
        return torch.cat([one, one], dim=2).reshape(self.pixels.shape)

    def noised(self, strategy):
        generator = torch.Generator().manual_seed(seed_of(self.pixels, strategy.seed))
        betas = [1 / (1 + math.exp(6 - 12 * step / 999)) * (0.005 - 1e-5) + 1e-5 for step in range(1000)]
        kept = math.prod(1 - beta for beta in betas[: strategy.noise_step + 1])
        noise = self.like(lambda shape: torch.randn(shape, generator=generator))
        return (math.sqrt(kept) * self.pixels.float() + math.sqrt(1 - kept) * noise).double()

    def static(self, seed):
        generator = torch.Generator().manual_seed(seed_of(self.pixels, seed))
        return self.like(lambda shape: torch.rand(shape, generator=generator)).double()

    def vision_edit(self, strategy):
        """Maps of pieces, in the order in which a layer is called: windows of the image, or the image as a whole."""
        drawn, done = torch.tensor([digest(self.pixels, strategy.seed)]), {}

        def edit(layer, plain):
            length, first = plain.shape[-1], done.get(layer, 0)
            done[layer] = (first + length) % len(self.pixels)
            inside = torch.arange(first, first + length)[None]
            order = permutation(drawn, layer, plain.shape[1], length * length, first)
            made = {
                "uniform": plain.mean((-1, -2), keepdim=True).expand_as(plain),
                "random": draw(drawn, layer, plain.shape[1], inside, inside).double(),
                "reversed": plain.amax((-1, -2), keepdim=True) - plain,
                "shuffle": plain.flatten(2).gather(-1, order).view(plain.shape),
            }[strategy.vision_kind]
            return made / made.sum(-1, keepdim=True)

        return edit


def pieces(width, height):
    """Patches of each window of an image of that size, row after row of windows."""
    rows, columns = ((side // (PATCH * MERGE)) for side in (height, width))
    across = WINDOW // (PATCH * MERGE)
    return [
        MERGE**2 * min(across, rows - row) * min(across, columns - column)
        for row in range(0, rows, across)
        for column in range(0, columns, across)
    ]


__all__ = ["KINDS", "SIZES", "STOCK", "QwenSight", "pieces", "places", "qwen_config", "qwen_model", "qwen_processor"]
