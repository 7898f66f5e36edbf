"""Where the training of tiny-qwen-vl begins: with what tiny-llava's language model knows of the world.

Words are carried over by their spelling, layers as they are; a merger is fitted under which an image token looks to
them as the patches of its cell did. Positions of three axes, one token for a cell, and another chat are left to learn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from ..scenes import world
from .vision import Features, vision_batch

SPACE = "\u0120"
"""How byte-level BPE writes a space."""
ROLES = {
    "<|im_start|>": "<s>",
    "<|im_end|>": "</s>",
    "<|endoftext|>": "<pad>",
    "<|vision_end|>": "\u010a",
    "user": "USER",
    "assistant": SPACE + "ASSISTANT",
}
"""Pieces of Qwen's chat, and those of LLaVA's that stand in their places."""


def like_pieces(piece: str, words: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> list[int]:
    """Ids in their vocabulary for a piece of ours: the same piece, an answer's first word with its space, or parts."""
    known = theirs.get_vocab()
    if piece in ROLES:
        return [known[ROLES[piece]]]
    spaced = SPACE + piece
    if piece[:1].isupper() and spaced in known:
        return [known[spaced]]
    if piece in known:
        return [known[piece]]
    return theirs.encode(words.convert_tokens_to_string([piece]), add_special_tokens=False)


@torch.no_grad()
def borrow_language(
    model: Any, words: PreTrainedTokenizerBase, llava: LlavaForConditionalGeneration, theirs: PreTrainedTokenizerBase
) -> None:
    """Copies LLaVA's layers, and the rows of its embeddings and of its head by what they spell; biases are 0.

    Args:
        model: a Qwen2.5-VL whose language model has the shape of LLaVA's.
        words: its tokenizer.
        llava: the model to begin with.
        theirs: its tokenizer.
    """
    ours, source = model.model.language_model, llava.model.language_model
    state = {name: value for name, value in source.state_dict().items() if "embed_tokens" not in name}
    missing, odd = ours.load_state_dict(state, strict=False)
    if odd or any(not name.endswith("bias") and "embed_tokens" not in name for name in missing):
        raise ValueError(f"The layers are not those of LLaVA: {odd or missing}.")
    for name, parameter in ours.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    pairs = [(ours.embed_tokens.weight, source.embed_tokens.weight), (model.lm_head.weight, llava.lm_head.weight)]
    for piece, place in words.get_vocab().items():
        rows = like_pieces(piece, words, theirs)
        for weight, other in pairs:
            weight[place] = other[rows].mean(dim=0)


@torch.no_grad()
def fit_merger(
    tower: Any, features: Features, llava: LlavaForConditionalGeneration, *, batches: int = 16, seed: int = 0
) -> float:
    """Sets the merger so that an image token stands for the mean of LLaVA's projected patches of its cell.

    Its first layer gives the leading directions d of what it is given, once as they are and once negated, and since
    GELU(d) - GELU(-d) = d, its second layer, by least squares, can do whatever a linear map of them can.

    Args:
        tower: the trained tower, whose merger is set.
        features: of the tower, patch by patch in reading order.
        llava: whose language model is to read the tokens.
        batches: how many batches of 64 loose scenes are looked at.
        seed: seeds the scenes.

    Returns:
        The share of the variance that is left.
    """
    merger = tower.merger
    first, second = merger.mlp[0], merger.mlp[2]
    given, wanted = (
        torch.cat(parts).double() for parts in zip(*_pairs(features, merger, llava, batches, seed), strict=True)
    )
    mean = given.mean(dim=0)
    directions = torch.linalg.svd(given - mean, full_matrices=False)[2][: first.out_features // 2]
    first.weight.copy_(torch.cat([directions, -directions]))
    centre = directions @ mean
    first.bias.copy_(torch.cat([-centre, centre]))
    hidden = nn.functional.gelu(given @ first.weight.double().T + first.bias.double())
    known = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
    gram = known.T @ known + 1e-3 * torch.eye(known.shape[1], dtype=known.dtype)
    fitted = torch.linalg.solve(gram, known.T @ wanted)
    second.weight.copy_(fitted[:-1].T)
    second.bias.copy_(fitted[-1])
    left = (known @ fitted - wanted).square().sum() / (wanted - wanted.mean(dim=0)).square().sum()
    return float(left)


def _pairs(
    features: Features, merger: Any, llava: LlavaForConditionalGeneration, batches: int, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """For batches of scenes: what the merger's first layer is given, and LLaVA's mean patches, `[cells, width]`."""
    found = []
    for step in range(batches):
        pixels = vision_batch(-2 - step, 64, world.GRID, seed)["pixels"]
        states = llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        patches = llava.model.multi_modal_projector(states[llava.config.vision_feature_layer][:, 1:])
        own = merger.ln_q(features(pixels))
        found.append((_by_cell(own).flatten(2).flatten(0, 1), _by_cell(patches).mean(dim=2).flatten(0, 1)))
    return found


def _by_cell(patches: Tensor) -> Tensor:
    """Patches in reading order, `[batch, 64, width]`, cell by cell: `[batch, 16, 4, width]`."""
    side = round(patches.shape[1] ** 0.5) // world.GRID
    cells = patches.unflatten(1, (world.GRID, side, world.GRID, side)).transpose(2, 3)
    return cells.flatten(1, 2).flatten(2, 3)
