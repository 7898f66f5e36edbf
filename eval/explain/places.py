"""Where image tokens lie in the image: the grid that attention to them is drawn on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

SHADE = 0.8
"""How much of the light is taken from where the model looked least."""


@dataclass(frozen=True)
class Grid:
    """Image tokens as rows and columns of the image.

    Attributes:
        rows, columns: of the grid; its tokens come row by row.
        box: left, top, width and height of what the grid covers, as fractions of the image.
    """

    rows: int
    columns: int
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def tokens(self) -> int:
        """How many tokens lie on it."""
        return self.rows * self.columns

    def spread(self, attention: Tensor) -> Tensor:
        """Attention by image token `[tokens or more]` as a map `[rows, columns]`.

        Of models that read an image as an overview and its parts, the overview, which comes first.
        """
        return attention[: self.tokens].reshape(self.rows, self.columns)


def image_grid(
    model: Any, inputs: Mapping[str, Any], tokens: int, image: Image.Image | None = None, processor: Any = None
) -> Grid | None:
    """The grid of one image's tokens; None where they have no place in the image, such as a Q-Former's queries.

    Args:
        model: as loaded by transformers.
        inputs: of one prompt with one image.
        tokens: how many image tokens the prompt has.
        image: as the processor was given it.
        processor: the model's own; where it crops the image, the grid covers what is left.
    """
    if tokens < 1 or "blip" in str(model.config.model_type):
        return None
    sizes = inputs.get("image_grid_thw")
    if sizes is not None:
        return _packed(model, sizes, tokens)
    side = _side(model, tokens)
    return None if side is None else Grid(side, side, _kept(image, processor))


def _packed(model: Any, sizes: Tensor, tokens: int) -> Grid | None:
    """The grid of patches that are packed with their number of rows and columns, `[images, 3]`."""
    merge = int(model.config.vision_config.spatial_merge_size)
    frames, rows, columns = (int(size) for size in sizes[0])
    found = Grid(rows // merge, columns // merge)
    return found if len(sizes) == frames == 1 and found.tokens == tokens else None


def _side(model: Any, tokens: int) -> int | None:
    """The side of a square of all image tokens, or of the overview that comes before an image's parts."""
    if getattr(model.config, "image_grid_pinpoints", None):
        vision = model.config.vision_config
        return int(vision.image_size) // int(vision.patch_size)
    side = math.isqrt(tokens)
    return side if side * side == tokens else None


def _kept(image: Image.Image | None, processor: Any) -> tuple[float, float, float, float]:
    """What a processor leaves of an image that it scales by the shorter side and crops: the middle."""
    reader = getattr(processor, "image_processor", None)
    size, crop = getattr(reader, "size", None) or {}, getattr(reader, "crop_size", None) or {}
    if image is None or not getattr(reader, "do_center_crop", False) or "shortest_edge" not in size:
        return (0.0, 0.0, 1.0, 1.0)
    scale = int(size["shortest_edge"]) / min(image.size)
    width = min(1.0, int(crop["width"]) / (image.width * scale))
    height = min(1.0, int(crop["height"]) / (image.height * scale))
    return ((1 - width) / 2, (1 - height) / 2, width, height)


def levels(weights: Tensor) -> Tensor:
    """Attention as levels, uint8 in its shape: 255 where it is strongest, 0 where it is weakest."""
    low, high = float(weights.min()), float(weights.max())
    if high <= low:
        return torch.full(weights.shape, 255, dtype=torch.uint8)
    return ((weights.float() - low) / (high - low) * 255).round().to(torch.uint8).cpu()


def lit(image: Image.Image, grid: Grid, weights: Tensor, side: int) -> Image.Image:
    """The image, at most `side` pixels wide and high, bright where the model looked and dark elsewhere.

    Args:
        image: RGB.
        grid: where the weights lie.
        weights: `[rows, columns]`, 0 or more.
        side: of the result.
    """
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    base = image.convert("RGB").resize(size, how)
    left, upper, wide, high = grid.box
    inner = (max(1, round(wide * size[0])), max(1, round(high * size[1])))
    light = Image.new("L", size)
    spread = Image.fromarray(levels(weights).numpy()).resize(inner, Image.Resampling.BICUBIC)
    light.paste(spread, (round(left * size[0]), round(upper * size[1])))
    return Image.composite(base, base.point(lambda value: value * (1 - SHADE)), light)
