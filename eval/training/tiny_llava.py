"""Trains tiny-llava from nothing, or measures a trained one.

    python -m sightline.eval.training.tiny_llava --out models/tiny/tiny-llava
    python -m sightline.eval.training.tiny_llava --evaluate models/tiny/tiny-llava

The first makes a checkpoint that `LlavaForConditionalGeneration.from_pretrained` loads, in two stages: a vision tower
that names the object of each cell, then, with the tower frozen, a language model on captions and questions. It can be
stopped and goes on where it was. The second asks the checkpoint through `generate()` and writes `quality.json`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from ..scenes import world
from .chat import VOCABULARY, build_llava_processor
from .language_model import Recipe, train_language_model
from .loop import TrainLog
from .packing import Packer
from .quality import write_quality
from .vision import clip_features, train_tower

logger = logging.getLogger(__name__)

PATCH = 8
VISION_LAYER = -1
"""The hidden states that the projector reads: the last ones."""
LOG = "train_log.jsonl"


@dataclass(frozen=True)
class Plan:
    """All that decides what is trained, apart from the world: the same plan gives the same model on one machine."""

    seed: int = 0
    vision_steps: int = 1100
    vision_images: int = 48
    vision_rate: float = 1.5e-3
    language: Recipe = field(default_factory=Recipe)


def build_model(processor: LlavaProcessor, *, seed: int = 0) -> LlavaForConditionalGeneration:
    """An untrained tiny-llava: a CLIP tower of 3 layers, a Llama of 4 layers, both 128 wide."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision = CLIPVisionConfig(
        image_size=world.SIZE,
        patch_size=PATCH,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=64,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        **tokens,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=processor.image_token_id,
        image_seq_length=(world.SIZE // PATCH) ** 2,
        vision_feature_layer=VISION_LAYER,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
        **tokens,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(**tokens)
    return model.eval()


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Writes a checkpoint in the hub's layout."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def train(out: Path, work: Path, plan: Plan) -> None:
    """Trains and writes the checkpoint, its log and its quality.

    Args:
        out: the folder of the checkpoint.
        work: the folder for what a stopped training goes on from.
        plan: what to train.
    """
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    tower_file, state = work / "tower.safetensors", work / "language.pt"
    if not tower_file.exists():
        (work / LOG).unlink(missing_ok=True)
    log = TrainLog(work / LOG)
    processor = build_llava_processor(PATCH)
    model = build_model(processor, seed=plan.seed)
    tower = model.model.vision_tower
    if not tower_file.exists():
        train_tower(
            tower,
            clip_features(tower, VISION_LAYER),
            steps=plan.vision_steps,
            size=plan.vision_images,
            rate=plan.vision_rate,
            seed=plan.seed,
            log=log,
        )
        save_file(tower.state_dict(), tower_file)
    tower.load_state_dict(load_file(tower_file))
    tower.requires_grad_(False)
    packer = Packer(processor.tokenizer, model.config.image_seq_length)

    def keep() -> None:
        save(model, processor, out)
        (out / LOG).write_bytes((work / LOG).read_bytes())

    train_language_model(model, packer, plan.language, state=state, log=log, keep=keep)
    keep()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m sightline.eval.training.tiny_llava", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="train, and write the checkpoint to this folder")
    what.add_argument("--evaluate", type=Path, metavar="FOLDER", help="measure this checkpoint: FOLDER/quality.json")
    parser.add_argument("--work", type=Path, help="folder for the state of the training (default: OUT.training)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="steps of the language model (%(default)s)")
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
    plan = Plan(given.seed, given.vision_steps, language=Recipe(steps=given.steps, seed=given.seed))
    train(given.out, given.work or given.out.with_name(given.out.name + ".training"), plan)
    write_quality(given.out)


if __name__ == "__main__":
    main()
