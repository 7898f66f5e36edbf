"""Between the two halves of InstructBLIP's training: a Q-Former whose outputs name the object of each cell, and a
projection under which they look to a language model as LLaVA's patches did."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import InstructBlipForConditionalGeneration, LlavaForConditionalGeneration

from ..scenes import world
from ..scenes.scene import draw_scene
from .instructed import InstructedPacker, query_features
from .loop import Batches, Progress, learning_rate
from .turns import draw_turns
from .vision import EMPTY, CellHeads, vision_batch

CELLS = world.GRID**2


def query_batch(packer: InstructedPacker, step: int, size: int, seed: int) -> dict[str, Tensor]:
    """Pixels of loose scenes, the labels of their cells, and for each an instruction that has nothing to do with it.

    Returns:
        `pixels` `[size, 3, 64, 64]`; `kinds`, `colours` and `contrast` `[size, 16]`; `instructions` and `words`
        `[size, words]`.
    """
    batch = vision_batch(step, size, world.GRID, seed)
    rng = world.generator("instructions", seed, step)
    turns = draw_turns(draw_scene("train", int(rng.randint(10**6)), seed=seed), rng)
    packed = packer.pack([[turns[rng.randint(len(turns))]] for _ in range(size)])
    return {**batch, "instructions": packed.instructions, "words": packed.words}


def cell_features(model: InstructBlipForConditionalGeneration, batch: dict[str, Tensor]) -> Tensor:
    """The Q-Former's outputs by cell, `[batch, 16, queries per cell * width]`: each cell has queries of its own."""
    with torch.no_grad():
        seen = model.vision_model(batch["pixels"]).last_hidden_state
    return query_features(model, seen, batch["instructions"], batch["words"]).unflatten(1, (CELLS, -1)).flatten(2)


@torch.no_grad()
def measure_queries(
    model: InstructBlipForConditionalGeneration, heads: CellHeads, packer: InstructedPacker, seed: int
) -> dict[str, float]:
    """Shares of cells that are named rightly: all, with an object, with a faint object (contrast below 40 %)."""
    batch = query_batch(packer, -1, 128, seed)
    kind, colour, _ = heads(cell_features(model, batch))
    right = kind.argmax(-1) == batch["kinds"]
    there = batch["kinds"] != EMPTY
    return {
        "cells": right.float().mean().item(),
        "objects": right[there].float().mean().item(),
        "faint": right[there & (batch["contrast"] < 40)].float().mean().item(),
        "colours": (colour.argmax(-1) == batch["colours"])[there].float().mean().item(),
    }


def train_queries(
    model: InstructBlipForConditionalGeneration,
    packer: InstructedPacker,
    *,
    steps: int,
    size: int,
    rate: float,
    seed: int,
    log: Callable[[dict], None],
) -> None:
    """Trains the Q-Former and its queries in place; the vision tower stays as it is.

    Args:
        model: the model, with a trained vision tower.
        packer: has the Q-Former's tokenizer.
        steps: number of steps.
        size: images a step.
        rate: the highest learning rate.
        seed: seeds scenes and instructions.
        log: is handed a record every 100 steps.
    """
    torch.manual_seed(seed)  # the heads are drawn here, after a stage that may have been left out
    config: Any = model.config
    heads = CellHeads(config.num_query_tokens // CELLS * config.qformer_config.hidden_size)
    parameters = [model.query_tokens, *model.qformer.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.02)
    progress = Progress("Q-Former", steps)
    for step, batch in Batches(lambda step: query_batch(packer, step, size, seed), 0, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, rate, warmup=60)
        loss = heads.loss(cell_features(model, batch), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.advance(loss=loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            figures = measure_queries(model, heads, packer, seed)
            log({"stage": "queries", "step": step + 1, "loss": loss.item(), **figures})
    progress.close()


@torch.no_grad()
def fit_projection(
    model: InstructBlipForConditionalGeneration,
    llava: LlavaForConditionalGeneration,
    packer: InstructedPacker,
    *,
    batches: int = 12,
    size: int = 64,
    seed: int = 0,
) -> float:
    """Sets the projection so that the queries of a cell stand for its patches, by least squares: each for the mean of
    as many of LLaVA's projected patches as fall to it, row by row.

    Args:
        model: the model, with a trained Q-Former.
        llava: whose language model is to read what is projected; its patches are a multiple of the cells.
        packer: has the Q-Former's tokenizer.
        batches, size: how many batches of how many scenes are looked at.
        seed: seeds scenes and instructions.

    Returns:
        The share of the variance that is left.
    """
    each = model.config.num_query_tokens // CELLS
    gram: Any = 0
    cross, squares, total, count = gram, gram, gram, 0
    for step in range(batches):
        batch = query_batch(packer, -2 - step, size, seed)
        features = cell_features(model, batch).unflatten(2, (each, -1)).flatten(0, 2).double()
        states = llava.model.vision_tower(batch["pixels"], output_hidden_states=True).hidden_states
        patches = llava.model.multi_modal_projector(states[llava.config.vision_feature_layer][:, 1:])
        side = math.isqrt(patches.shape[1]) // world.GRID
        grid = patches.unflatten(1, (world.GRID, side, world.GRID, side)).transpose(2, 3).flatten(1, 2)
        wanted = grid.flatten(2, 3).unflatten(2, (each, -1)).mean(3).flatten(0, 2).double()
        known = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        gram, cross = gram + known.T @ known, cross + known.T @ wanted
        squares, total, count = squares + wanted.square().sum(), total + wanted.sum(dim=0), count + len(wanted)
    fitted = torch.linalg.solve(gram + 1e-3 * torch.eye(len(gram), dtype=gram.dtype), cross)
    model.language_projection.weight.copy_(fitted[:-1].T)
    model.language_projection.bias.copy_(fitted[-1])
    left = squares - 2 * (fitted * cross).sum() + (fitted * (gram @ fitted)).sum()
    return float(left / (squares - total.square().sum() / count))
