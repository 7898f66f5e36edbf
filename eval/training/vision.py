"""The first half of the training: a vision tower that can name the object of each cell."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from numpy.random import RandomState
from torch import Tensor, nn
from transformers import CLIPVisionModel, PreTrainedModel

from ..scenes import world
from ..scenes.scene import Placed, Scene
from .chat import normalise
from .loop import Batches, Progress, learning_rate, stack

logger = logging.getLogger(__name__)

EMPTY = len(world.KINDS)
"""The class of a cell that holds no object; the kinds are 0 to 11."""
OCCUPIED = 0.45


class CellHeads(nn.Module):
    """Linear heads for what is in the cell that a patch belongs to, and which cell that is. Thrown away afterwards."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.kind = nn.Linear(width, EMPTY + 1)
        self.colour = nn.Linear(width, len(world.COLOURS))
        self.place = nn.Linear(width, world.GRID**2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`[batch, patches, width]` -> scores of kind, colour and cell, `[batch, patches, 13 | 6 | 16]`."""
        return self.kind(features), self.colour(features), self.place(features)

    def loss(self, features: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """The cross-entropy of the kinds, and half those of colours and cells; colours count in full cells only."""
        kind, colour, place = (scores.flatten(0, 1) for scores in self(features))
        side = math.isqrt(features.shape[1])
        cells = patches_of_cells(torch.arange(world.GRID**2), side).repeat(len(features))
        loss = nn.functional.cross_entropy(kind, batch["kinds"].flatten())
        loss = loss + 0.5 * nn.functional.cross_entropy(colour, batch["colours"].flatten())
        return loss + 0.5 * nn.functional.cross_entropy(place, cells)


def loose_scene(rng: RandomState, name: str) -> Scene:
    """A scene without pairs or order, so that the tower learns to see and no prior: every cell on its own."""
    objects = []
    for cell in range(world.GRID**2):
        if rng.random_sample() < OCCUPIED:
            kind, colour = (
                world.KINDS[rng.randint(EMPTY)],
                list(world.COLOURS)[rng.randint(len(world.COLOURS))],
            )
            contrast = int(rng.randint(world.CONTRAST[0], world.CONTRAST[1] + 1))
            objects.append(Placed(kind, colour, *divmod(cell, world.GRID), contrast))
    return Scene(name, tuple(objects), int(rng.randint(world.BACKGROUND[0], world.BACKGROUND[1] + 1)))


def cell_labels(scene: Scene) -> tuple[Tensor, Tensor]:
    """The kind (12 where empty) and the colour (-100 where empty) of each cell: two `int64[16]`."""
    kinds = torch.full((world.GRID**2,), EMPTY)
    colours = torch.full((world.GRID**2,), -100)
    for item in scene.objects:
        cell = item.row * world.GRID + item.col
        kinds[cell] = world.KINDS.index(item.kind)
        colours[cell] = list(world.COLOURS).index(item.colour)
    return kinds, colours


def patches_of_cells(labels: Tensor, side: int) -> Tensor:
    """Labels of cells `[..., 16]` as labels of patches `[..., side * side]`, both in reading order."""
    grid = labels.unflatten(-1, (world.GRID, world.GRID))
    scale = side // world.GRID
    return grid.repeat_interleave(scale, -1).repeat_interleave(scale, -2).flatten(-2)


def vision_batch(step: int, size: int, side: int, seed: int) -> dict[str, Tensor]:
    """Pixels `[size, 3, 64, 64]` and labels of patches `[size, side * side]` of the scenes of one step."""
    rng = world.generator("vision", seed, step)
    scenes = [loose_scene(rng, f"vision/{seed}/{step}/{row}") for row in range(size)]
    kinds, colours = zip(*map(cell_labels, scenes), strict=True)
    return {
        "pixels": torch.from_numpy(normalise(stack(scenes))),
        "kinds": patches_of_cells(torch.stack(kinds), side),
        "colours": patches_of_cells(torch.stack(colours), side),
        "contrast": patches_of_cells(torch.stack([_contrasts(scene) for scene in scenes]), side),
    }


def _contrasts(scene: Scene) -> Tensor:
    contrasts = torch.zeros(world.GRID**2, dtype=torch.int64)
    for item in scene.objects:
        contrasts[item.row * world.GRID + item.col] = item.contrast
    return contrasts


Features = Callable[[Tensor], Tensor]
"""From pixels `[batch, 3, 64, 64]` to what the projector is given, in reading order: `[batch, patches, width]`."""


def clip_features(tower: CLIPVisionModel, layer: int) -> Features:
    """The features of a CLIP tower: one layer's hidden states without the class token."""
    return lambda pixels: tower(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]


@torch.no_grad()
def measure_tower(features: Features, heads: CellHeads, side: int, seed: int) -> dict[str, float]:
    """Shares of patches whose cell is named rightly: all, with an object, with a faint object (contrast below 40 %)."""
    batch = vision_batch(-1, 128, side, seed)
    kind, colour, _ = heads(features(batch["pixels"]))
    right = kind.argmax(-1) == batch["kinds"]
    there = batch["kinds"] != EMPTY
    faint = there & (batch["contrast"] < 40)
    return {
        "cells": right.float().mean().item(),
        "objects": right[there].float().mean().item(),
        "faint": right[faint].float().mean().item(),
        "empty": right[~there].float().mean().item(),
        "colours": (colour.argmax(-1) == batch["colours"])[there].float().mean().item(),
    }


def train_tower(
    tower: PreTrainedModel,
    features: Features,
    *,
    steps: int,
    size: int,
    rate: float,
    seed: int,
    log: Callable[[dict], None],
) -> None:
    """Trains the tower in place.

    Args:
        tower: the vision tower, with `hidden_size` and `patch_size` in its config.
        features: what the language model will see of the tower.
        steps: number of steps.
        size: images a step.
        rate: the highest learning rate.
        seed: seeds the scenes.
        log: is handed a record every 100 steps.
    """
    config: Any = tower.config
    side, width = world.SIZE // config.patch_size, config.hidden_size
    heads = CellHeads(width)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.02)
    progress = Progress("vision tower", steps)
    tower.train()
    for step, batch in Batches(lambda step: vision_batch(step, size, side, seed), 0, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, rate, warmup=60)
        loss = heads.loss(features(batch["pixels"]), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        progress.advance(loss=loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            tower.eval()
            log(
                {
                    "stage": "vision",
                    "step": step + 1,
                    "loss": loss.item(),
                    **measure_tower(features, heads, side, seed),
                }
            )
            tower.train()
    progress.close()
    tower.eval()
