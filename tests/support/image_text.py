"""Random models of the five types that `auto` serves by what it looks up, their real processors, and naive passes.

Written out here once more: who sees whom in a prompt, and what the processors put around image tokens.
"""

import contextlib
import warnings

import torch
import transformers
from letters import LETTERS, SPECIAL
from naive_family import NAIVE, Sight, cut
from naive_maps import full_maps, vision_map
from naive_selection import hidden_columns, interaction
from sightline.models.image_only import image_only
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from transformers.modeling_utils import AttentionInterface
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

KINDS = ("gemma3", "idefics3", "internvl", "paligemma", "smolvlm")
IMAGE, WINDOW = 5, 20
MARKS = {
    "gemma3": {"boi_token": "<boi>", "eoi_token": "<eoi>"},
    "idefics3": {
        "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    } | {f"row_{row}_col_{column}": f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)},
    "internvl": {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<image>",
        "video_token": "<video>",
    },
    "paligemma": {},
}  # fmt: skip
MARKS["smolvlm"] = MARKS["idefics3"] | {"video_token": "<video>"}
PLACEHOLDER = dict.fromkeys(KINDS, "<image>") | {"gemma3": "<boi>"}
TEXT = {
    "vocab_size": 112, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
TOWER = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
WIDE = TEXT | {"head_dim": 8}
GEMMA = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}


def image_text_config(kind):
    """A small configuration: 16 image tokens an image in Gemma 3, 4 in the others."""
    if kind == "internvl":
        tower = transformers.InternVLVisionConfig(**TOWER | {"image_size": [16, 16], "patch_size": [4, 4]})
        return transformers.InternVLConfig(
            vision_config=tower, text_config=transformers.Qwen2Config(**TEXT), image_token_id=IMAGE,
            image_seq_length=4, tie_word_embeddings=False,
        )  # fmt: skip
    if kind == "gemma3":
        text = transformers.Gemma3TextConfig(**WIDE | GEMMA)
        tower = transformers.SiglipVisionConfig(**TOWER)
        return transformers.Gemma3Config(
            vision_config=tower, text_config=text, image_token_index=IMAGE, mm_tokens_per_image=4,
            tie_word_embeddings=False,
        )  # fmt: skip
    if kind.startswith("paligemma"):
        tower = transformers.SiglipVisionConfig(**TOWER | {"patch_size": 8, "projection_dim": 32})
        text = transformers.GemmaConfig(**WIDE)
        if kind == "paligemma2":
            text = transformers.Gemma2Config(**WIDE | GEMMA, final_logit_softcapping=4.0, query_pre_attn_scalar=8)
        return transformers.PaliGemmaConfig(
            vision_config=tower, text_config=text, image_token_index=IMAGE, projection_dim=32,
            tie_word_embeddings=False,
        )  # fmt: skip
    build = {"idefics3": transformers.Idefics3Config, "smolvlm": transformers.SmolVLMConfig}[kind]
    text = transformers.LlamaConfig(**TEXT)
    return build(
        vision_config=dict(TOWER), text_config=text, image_token_id=IMAGE, scale_factor=2, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip


SEEDS = {"idefics3": 2, "internvl": 2, "smolvlm": 1}
"""Of models that say various things; 0 for others."""


def image_text_model(kind, scale=6):
    """A random model in float64, with weights so large that images and edits change tokens."""
    torch.manual_seed(SEEDS.get(kind, 0))
    model = transformers.AutoModelForImageTextToText.from_config(image_text_config(kind)).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mm_input_projection_weight" in name:
                parameter.normal_(std=0.3)
            elif name.endswith("cls_token") or "position_embeddings" in name:
                parameter.normal_()
            elif parameter.dim() > 1:
                parameter.mul_(scale)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
        head, said = model.get_output_embeddings(), range(len(SPECIAL), len(SPECIAL) + len(LETTERS))
        head.weight[[token for token in range(len(head.weight)) if token not in (2, *said)]] = 0
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    return model


def marked_tokenizer(kind):
    """The tokenizer of letters with the marks of a family behind the letters."""
    marks = list(MARKS[kind].values())
    tokens = [*SPECIAL, *LETTERS, *(m for m in marks if m != "<image>")]
    raw = Tokenizer(WordLevel({token: place for place, token in enumerate(tokens)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"image_token": "<image>"} | MARKS[kind]
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        clean_up_tokenization_spaces=False, padding_side="left", extra_special_tokens=named,
    )  # fmt: skip
    assert len(made) <= TEXT["vocab_size"]
    return made


def template(kind):
    return (
        "{% for message in messages %}USER: {% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + PLACEHOLDER[kind] + "{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
    )


def image_text_processor(kind, splits=False):
    """The family's own processor, on images of 16 x 16; InternVL's and SmolVLM's without videos.

    Args:
        splits: Idefics 3 and SmolVLM cut images larger than that into crops.
    """
    words, square = marked_tokenizer(kind), {"height": 16, "width": 16}
    chat = None if kind == "paligemma" else template(kind)
    if kind == "gemma3":
        pixels = Gemma3ImageProcessorPil(size=square)
        return transformers.Gemma3Processor(pixels, words, chat_template=chat, image_seq_length=4)
    if kind == "internvl":
        pixels = GotOcr2ImageProcessorPil(size=square, crop_to_patches=False)
        return image_only(kind)(pixels, words, chat_template=chat, image_seq_length=4)
    if kind == "paligemma":
        pixels = SiglipImageProcessorPil(size=square)
        pixels.image_seq_length = 4
        return transformers.PaliGemmaProcessor(pixels, words)
    build = Idefics3ImageProcessorPil if kind == "idefics3" else SmolVLMImageProcessorPil
    pixels = build(
        size={"longest_edge": 32 if splits else 16}, max_image_size={"longest_edge": 16}, do_image_splitting=splits
    )
    make = transformers.Idefics3Processor if kind == "idefics3" else image_only(kind)
    return make(pixels, words, image_seq_len=4, chat_template=chat)


def questions(kind, processor, images, texts):
    """Model inputs, float64, as a user makes them; images row by row. Without any image, texts alone."""
    if kind == "paligemma":
        prompts = ["<image>" * len(row) + text for row, text in zip(images, texts, strict=True)]
    else:
        turns = [
            [{"role": "user", "content": [*({"type": "image"} for _ in row), {"type": "text", "text": text}]}]
            for row, text in zip(images, texts, strict=True)
        ]
        prompts = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
    if not any(images):  # PaliGemma's processor insists on an image
        reader = processor.tokenizer if kind == "paligemma" else processor
        more = {"return_token_type_ids": True} if kind == "paligemma" else {}
        return dict(reader(text=prompts, padding=True, return_tensors="pt", **more))
    given = [list(row) for row in images]
    more = {"crop_to_patches": False} if kind == "internvl" else {}
    if kind in ("internvl", "paligemma"):
        given = [image for row in given for image in row]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # PaliGemma's makes arrays of tensors
        made = dict(processor(images=given, text=prompts, padding=True, return_tensors="pt", **more))
    made.pop("labels", None)
    return made | {"pixel_values": made["pixel_values"].double()}


@contextlib.contextmanager
def written_out(decoder, seen, edit=None, push=None):
    """Attention of `decoder` with full maps: who sees whom is `seen(window)`, those of layer l are `edit(l, A)`.

    Args:
        push: from a layer and its scores to pushed scores.
    """

    def forward(module, query, key, value, attention_mask, scaling=None, **kwargs):
        repeats = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
        scores = query @ key.mT * scaling
        scores = scores if push is None else push(module.layer_idx, scores)
        weights = scores.masked_fill(~seen(getattr(module, "sliding_window", None)), -torch.inf).softmax(-1)
        return ((weights if edit is None else edit(module.layer_idx, weights)) @ value).transpose(1, 2), None

    before = decoder.config._attn_implementation
    AttentionInterface.register("in_full", forward)
    decoder.set_attn_implementation("in_full")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)
        AttentionInterface._global_mapping.pop("in_full")


class ImageTextSight(Sight):
    """One image under one text. What `embedded` gives is embeddings, their ids, and how many of them are the prompt."""

    def __init__(self, model, processor, image, text, context=None):
        self.model, self.processor, self.image, self.text = model, processor, image, text
        self.context, self.kept, self.unseen = context, {}, []
        self.kind = model.config.model_type
        self.row = questions(self.kind, processor, [[image]], [text])
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.ids = self.row["input_ids"][0].tolist()

    @property
    def tower(self):
        return self.model.get_encoder(modality="image")

    def features(self, **other):
        given = {name: self.row[name] for name in ("pixel_values", "pixel_attention_mask") if name in self.row}
        return torch.cat(list(self.model.get_image_features(**given | other).pooler_output))

    def embedded(self, new=(), ids=None, features=None):
        prompt = list(self.ids if ids is None else ids)
        return super().embedded(new, ids, features), [*prompt, *new], len(prompt)

    def call(self, laid):
        return {"inputs_embeds": laid[0], "use_cache": False}

    def seen(self, ids, prompt):
        """Who sees whom: earlier tokens; an image's own in Gemma 3; all of the prompt in PaliGemma."""
        places = torch.arange(len(ids))
        allowed = places <= places[:, None]
        if self.kind == "gemma3":
            numbers, before = [], None
            for token in ids:
                numbers.append((numbers[-1] if before == IMAGE else len(numbers)) if token == IMAGE else -1)
                before = token
            blocks = torch.tensor(numbers)
            allowed |= (blocks == blocks[:, None]) & (blocks >= 0)
        if self.kind == "paligemma":
            allowed |= (places < prompt) & (places[:, None] < prompt)
        allowed[:, self.unseen] = False
        return lambda window: allowed & (places > places[:, None] - window) if window else allowed

    def hidden(self, laid, edit=None, push=None):
        with written_out(self.decoder, self.seen(*laid[1:]), edit, push):
            return self.decoder(**self.call(laid), output_hidden_states=True).hidden_states


def disabled(heads, first, mode="uniform"):
    """Heads, (layer, head), that look at all they see alike, or give nothing, from the query row `first` on."""

    def edit(layer, plain):
        made = plain.clone()
        for head in (head for where, head in heads if where == layer):
            for row in range(first, plain.shape[-1]):
                visible = (plain[0, head, row] > 0).to(plain)
                made[0, head, row] = visible / visible.sum() if mode == "uniform" else 0
        return made

    return edit


def contrasted_heads(sight, strategy, new, given):
    """DeCoRe and HICD."""
    whole = getattr(strategy, "mask_prefill", True)
    edit = disabled(given["heads"], 0 if whole else len(sight.ids) - 1)
    base, other = sight.base(new), sight.logits(sight.embedded(new), edit)
    scores = (1 + strategy.alpha) * base.log_softmax(-1) - strategy.alpha * other.log_softmax(-1)
    return cut(scores, base, strategy.beta)


def gazing(sight, strategy, new, _given):
    """CG-VLM, with a gate that knows rows by their place in the text."""
    noise, bare = sight.static(strategy.seed), sight.reworded("")
    full, text, image, neither = (
        each.logits(each.embedded(new, features=each.features(**other)))
        for each in (sight, bare)
        for other in ({}, {"pixel_values": noise})
    )
    opened = interaction(full, image, text, neither, strategy.top_k_tokens) > strategy.k
    rows = sight.kept.setdefault("opened", {})
    rows[len(sight.ids) - 1 + len(new)] = opened

    def push(layer, scores):
        scores = scores.clone()
        for row in (row for row, is_open in rows.items() if is_open and layer in strategy.layers):
            sizes = scores[0, :, row, sight.columns].abs().mean(dim=0)
            scores[0, :, row, sight.columns] += strategy.alpha * sizes
        return scores

    return sight.head(sight.hidden(sight.embedded(new), push=push)[-1])[0, -1]


def blind(sight, strategy, new, given):
    """AVC; where keys are masked, the branch does not see the columns of its other tokens."""
    if strategy.masking != "mask":
        return NAIVE["avc"](sight, strategy, new, given)
    if "hidden" not in sight.kept:
        maps = sight.maps(sight.embedded())
        sight.kept["hidden"] = hidden_columns(maps, sight.columns, strategy.gamma, strategy.lamb)
    base = sight.base(new)
    sight.unseen = sight.kept["hidden"]
    other = sight.base(new)
    sight.unseen = []
    return cut((1 + strategy.alpha) * base - strategy.alpha * other, base, strategy.beta)


def counterfactual(sight, strategy, new, given):
    """CausalMM; its gate weighs what the projector is given by the shuffled map of the tower's last layer."""
    if strategy.vision_mode != "gate":
        return NAIVE["causalmm"](sight, strategy, new, given)
    maps = {}

    def keep(layer, plain):
        maps[layer] = vision_map(strategy, sight.row["pixel_values"].reshape(-1, 3, 16, 16), layer, plain)
        return plain

    def weigh(_module, args):
        side = round(args[0].shape[1] ** 0.5)
        map = maps[max(maps)].mean(dim=1, keepdim=True)
        return (
            args[0] * torch.nn.functional.interpolate(map, size=(side, side), mode="bilinear").flatten(1)[..., None],
        )

    inner = sight.model.model
    handle = (
        inner.connector if hasattr(inner, "connector") else inner.multi_modal_projector
    ).register_forward_pre_hook(weigh)
    with full_maps(sight.tower, keep):
        features = sight.features()
    handle.remove()
    base, other = sight.base(new), sight.logits(sight.embedded(new, features=features))
    return cut(base + strategy.gamma * (base - other), base, strategy.epsilon)


def described(sight, strategy, new, given):
    """CODE; PaliGemma's tokenizer puts no start token before a text."""
    if sight.kind == "paligemma" and "other" not in sight.kept:
        NAIVE["code"](sight, strategy, new, given)
        start = sight.columns[0]
        assert sight.kept["other"][start] == 1
        del sight.kept["other"][start]
    return NAIVE["code"](sight, strategy, new, given)


def silenced(sight, strategy, new, given):
    """The masked heads alone."""
    first = 0 if strategy.mask_prefill else len(sight.ids) - 1
    return sight.logits(sight.embedded(new), disabled(given["heads"], first, strategy.head_mask_mode))


ImageTextSight.own = {
    "decore": contrasted_heads,
    "random_heads": contrasted_heads,
    "masked_only": silenced,
    "hicd": contrasted_heads,
    "cgvlm": gazing,
    "avc": blind,
    "causalmm": counterfactual,
    "code": described,
}
