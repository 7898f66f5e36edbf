"""Trains tiny-llama from nothing, or measures a trained one.

    python -m sightline.eval.training.tiny_llama --out models/tiny/tiny-llama
    python -m sightline.eval.training.tiny_llama --evaluate models/tiny/tiny-llama

The first makes a checkpoint that `LlamaForCausalLM.from_pretrained` loads, trained on the world of facts; it can be
stopped and goes on where it was. The second asks the checkpoint through `generate()` and writes `quality.json`.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from .loop import TrainLog
from .tiny_llama_loop import Recipe, train_text_model
from .tiny_llama_packing import GroupPacker
from .tiny_llama_quality import write_heads, write_quality
from .tiny_llama_words import LONGEST, build_tokenizer

LOG = "train_log.jsonl"
WIDTH = 128
ROWS = 576
"""Rows of the embeddings: the tokens, rounded up."""


def build_model(tokenizer: PreTrainedTokenizerBase, *, seed: int = 0) -> LlamaForCausalLM:
    """An untrained tiny-llama: 4 layers of 128, 8 heads in 4 groups, one matrix for words in and out."""
    torch.manual_seed(seed)
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=WIDTH,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        **tokens,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # of length 1: what a head copies then is a guess at the next token from the start
        model.get_input_embeddings().weight.normal_(0, WIDTH**-0.5)  # pyright: ignore[reportCallIssue]
    model.generation_config = GenerationConfig(**tokens)
    return model.eval()


def train(out: Path, work: Path, recipe: Recipe) -> None:
    """Trains and writes the checkpoint and its log.

    Args:
        out: the folder of the checkpoint.
        work: the folder for what a stopped training goes on from.
        recipe: what to train.
    """
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    state = work / "text.pt"
    if not state.exists():
        (work / LOG).unlink(missing_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=recipe.seed)

    def keep() -> None:
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        (out / LOG).write_bytes((work / LOG).read_bytes())

    packer = GroupPacker(tokenizer, LONGEST)
    train_text_model(model, packer, recipe, state=state, log=TrainLog(work / LOG), keep=keep)
    keep()


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m sightline.eval.training.tiny_llama", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, help="train, and write the checkpoint to this folder")
    what.add_argument("--evaluate", type=Path, metavar="FOLDER", help="measure this checkpoint: FOLDER/quality.json")
    parser.add_argument("--work", type=Path, help="folder for the state of the training (default: OUT.training)")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="steps (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seeds weights and texts (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads (%(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Trains or measures, as the arguments say."""
    given = arguments(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    if given.evaluate is not None:
        write_quality(given.evaluate)
        return
    recipe = Recipe(steps=given.steps, seed=given.seed)
    train(given.out, given.work or given.out.with_name(given.out.name + ".training"), recipe)
    write_heads(given.out)
    write_quality(given.out)


if __name__ == "__main__":
    main()
