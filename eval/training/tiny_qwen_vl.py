"""Trains tiny-qwen-vl from nothing, or measures a trained one.

    python -m sightline.eval.training.tiny_qwen_vl --out models/tiny/tiny-qwen-vl
    python -m sightline.eval.training.tiny_qwen_vl --evaluate models/tiny/tiny-qwen-vl

The first makes a checkpoint that `Qwen2_5_VLForConditionalGeneration.from_pretrained` loads, in tiny-llava's two
stages: a vision tower with windowed attention that names the object of each cell, then, with the tower's blocks frozen,
merger and language model on captions and questions, at Qwen's positions of three axes. The second stage begins where
tiny-llava ended (`borrowed`). It can be stopped and goes on where it was. The second asks the checkpoint through
`generate()` and writes `quality.json`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlavaForConditionalGeneration,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from ...models.auto import SHIPPED
from ...models.qwen_vl_processor import image_only_processor
from ..scenes import world
from .borrowed import borrow_language, fit_merger
from .chat import MEAN, STD, VOCABULARY, Chat, build_tokenizer
from .language_model import Recipe, train_language_model
from .loop import TrainLog
from .packing import Packed, Packer
from .quality import write_quality
from .vision import Features, train_tower

logger = logging.getLogger(__name__)

PATCH, MERGE, FRAMES = 8, 2, 2
"""Pixels per side of a patch, patches per side of an image token, and frames of a patch: a still image counts twice."""
SIDE = world.SIZE // (PATCH * MERGE)
"""Image tokens per side: one for each cell."""
LOG = "train_log.jsonl"
CHAT = Chat(
    lead="<|im_start|>user\n<|vision_start|>",
    image="<|image_pad|>",
    turn="<|vision_end|>{}<|im_end|>\n<|im_start|>assistant\n",
    gap="",
    start="",
    end="<|im_end|>",
    pad="<|endoftext|>",
    others=("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"),
)
"""Qwen's turns without a system prompt."""
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Images stand where the message has them."""


RECIPE = Recipe(steps=1000, stop=300, rate=8e-4, warmup=50, attributes_from=0, measure_every=100, save_every=50)


@dataclass(frozen=True)
class Plan:
    """All that decides what is trained, apart from the world: the same plan gives the same model on one machine."""

    seed: int = 0
    vision_steps: int = 1100
    vision_images: int = 48
    vision_rate: float = 1.5e-3
    language: Recipe = field(default_factory=lambda: RECIPE)


def build_processor() -> ProcessorMixin:
    """Qwen2.5-VL's processor for scenes, without videos: every image is scaled to some 4096 pixels."""
    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": world.SIZE**2, "longest_edge": world.SIZE**2},
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=FRAMES,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    kind: Any = image_only_processor("qwen2_5_vl")
    return kind(image_processor=images, tokenizer=build_tokenizer(CHAT), chat_template=TEMPLATE)


def build_model(processor: Any, *, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """An untrained tiny-qwen-vl: a windowed tower of 3 layers and a decoder of 4, both 128 wide."""
    torch.manual_seed(seed)
    token = processor.tokenizer.convert_tokens_to_ids
    vision = {
        "depth": 3,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        "window_size": world.SIZE // 2,
        "fullatt_block_indexes": [2],
        "out_hidden_size": 128,
    }
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        "bos_token_id": None,
        "eos_token_id": token(CHAT.end),
        "pad_token_id": token(CHAT.pad),
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token(CHAT.image),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    ends = [token(CHAT.end), token(CHAT.pad)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=token(CHAT.pad))
    return model.eval()


def patches_of(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels as the image processor hands them to the model.

    Args:
        pixels: `[batch, 3, 64, 64]`.

    Returns:
        The patches of all images, those of one image token together, `[batch * 64, 3 * frames * 8 * 8]`, and the
        grids (frames, rows, columns) in patches, `[batch, 3]`.
    """
    cells = pixels.unflatten(3, (SIDE, MERGE, PATCH)).unflatten(2, (SIDE, MERGE, PATCH))
    cells = cells.permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :].expand(*[-1] * 6, FRAMES, -1, -1)
    grid = torch.tensor([[1, SIDE * MERGE, SIDE * MERGE]]).expand(len(pixels), -1)
    return cells.flatten(5).flatten(0, 4), grid


class Beside(nn.Module):
    """Puts the patches of an image token side by side, where the merger would join them: `[n * 4, d] -> [n, 4 * d]`."""

    def forward(self, states: Tensor) -> Tensor:
        """The states of the patches of each token in one row."""
        return states.reshape(-1, MERGE**2 * states.shape[-1])


def qwen_features(tower: nn.Module) -> Features:
    """What the merger is given, patches in reading order; the tower itself undoes the order of its windows."""

    def features(pixels: Tensor) -> Tensor:
        patches, grid = patches_of(pixels)
        merger, tower.merger = tower.merger, Beside()
        try:
            tokens = tower(patches, grid_thw=grid).pooler_output
        finally:
            tower.merger = merger
        states = tokens.reshape(len(pixels), SIDE, SIDE, MERGE, MERGE, -1)
        return states.transpose(2, 3).reshape(len(pixels), (SIDE * MERGE) ** 2, -1)

    return features


def positions_of(packed: Packed, image: Tensor) -> Tensor:
    """Qwen's positions of packed sequences: frame, row and column in an image, three equal numbers elsewhere.

    Args:
        packed: sequences with one image of `SIDE x SIDE` tokens in front.
        image: where the image tokens are, `bool[batch, length]`.

    Returns:
        `int64[3, batch, length]`: the text after the image goes on one past the longer side of its grid.
    """
    tokens = SIDE**2
    first = image.int().argmax(1, keepdim=True)
    place = packed.positions - first
    text = packed.positions - (tokens - SIDE) * (place >= tokens)
    rows, columns = first + place.div(SIDE, rounding_mode="floor"), first + place.remainder(SIDE)
    axes = [first.expand_as(place), rows, columns]
    return torch.stack([torch.where(image, axis, text) for axis in axes])


def qwen_hidden(model: Any, pixels: Tensor, packed: Packed) -> Tensor:
    """The last hidden states of the packed sequences, `[batch, length, hidden]`: what the model's own forward computes
    for each turn alone."""
    qwen = model.model
    patches, grid = patches_of(pixels)
    image = packed.ids == model.config.image_token_id
    features = qwen.visual(patches, grid_thw=grid).pooler_output
    embedded = qwen.get_input_embeddings()(packed.ids).masked_scatter(image[..., None], features)
    outputs = qwen.language_model(
        inputs_embeds=embedded,
        attention_mask={"full_attention": packed.mask},
        position_ids=positions_of(packed, image),
        use_cache=False,
    )
    return outputs.last_hidden_state


def save(model: Qwen2_5_VLForConditionalGeneration, processor: Any, folder: Path) -> None:
    """Writes a checkpoint in the hub's layout; the stock processor finds what videos need in the second file."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)


def train(out: Path, work: Path, plan: Plan, llava: Path = SHIPPED / "tiny-llava") -> None:
    """Trains and writes the checkpoint and its log.

    Args:
        out: the folder of the checkpoint.
        work: the folder for what a stopped training goes on from.
        plan: what to train.
        llava: the checkpoint whose language model is the beginning.
    """
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    tower_file, state = work / "tower.safetensors", work / "language.pt"
    if not tower_file.exists():
        (work / LOG).unlink(missing_ok=True)
    log = TrainLog(work / LOG)
    processor: Any = build_processor()
    model = build_model(processor, seed=plan.seed)
    tower: Any = model.model.visual
    if not tower_file.exists():
        train_tower(
            tower,
            qwen_features(tower),
            steps=plan.vision_steps,
            size=plan.vision_images,
            rate=plan.vision_rate,
            seed=plan.seed,
            log=log,
        )
        save_file(tower.state_dict(), tower_file)
    tower.load_state_dict(load_file(tower_file))
    tower.requires_grad_(False)
    tower.merger.requires_grad_(True)
    if not state.exists():
        source = LlavaForConditionalGeneration.from_pretrained(llava).eval()
        borrow_language(model, processor.tokenizer, source, AutoTokenizer.from_pretrained(llava))
        left = fit_merger(tower, qwen_features(tower), source, seed=plan.seed)
        log({"stage": "merger", "step": 0, "unexplained": left})
    packer = Packer(processor.tokenizer, SIDE**2, chat=CHAT)

    def keep() -> None:
        save(model, processor, out)
        (out / LOG).write_bytes((work / LOG).read_bytes())

    train_language_model(model, packer, plan.language, state=state, log=log, keep=keep, hidden_of=qwen_hidden)
    keep()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m sightline.eval.training.tiny_qwen_vl", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="train, and write the checkpoint to this folder")
    what.add_argument("--evaluate", type=Path, metavar="FOLDER", help="measure this checkpoint: FOLDER/quality.json")
    parser.add_argument("--work", type=Path, help="folder for the state of the training (default: OUT.training)")
    parser.add_argument("--steps", type=int, default=RECIPE.stop, help="steps of the language model (%(default)s)")
    parser.add_argument("--vision-steps", type=int, default=Plan.vision_steps, help="steps of the tower (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seeds weights and scenes (%(default)s)")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Trains or measures, as the arguments say."""
    given = arguments(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    if given.evaluate is not None:
        write_quality(given.evaluate)
        return
    plan = Plan(given.seed, given.vision_steps, language=replace(RECIPE, stop=given.steps, seed=given.seed))
    train(given.out, given.work or given.out.with_name(given.out.name + ".training"), plan)
    write_quality(given.out)


if __name__ == "__main__":
    main()
