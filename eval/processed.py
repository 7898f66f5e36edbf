"""Pictures that are resized and normalised once, however many questions of a batch are about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

GRID = "image_grid_thw"
"""Frames, rows and columns of patches, where the patches of all images stand in one row."""


@contextmanager
def processed_once(processor: Any) -> Iterator[None]:
    """Inside, the image processor of `processor` works on each picture of a call once; the same object is the same one.

    Without effect where it gives other things than tensors with a row, or patches, for each picture.
    """
    pictures: Any = getattr(processor, "image_processor", None)
    if pictures is None:
        yield
        return
    plain = pictures.preprocess

    def preprocess(images: Any, *args: Any, **kwargs: Any) -> Any:
        places = first_places(images)
        if places is None:
            return plain(images, *args, **kwargs)
        numbers = sorted(set(places))
        made = plain([images[number] for number in numbers], *args, **kwargs)
        wanted = [numbers.index(place) for place in places]
        every = {name: repeated(name, made, wanted, len(numbers)) for name in made}
        if any(value is None for value in every.values()):
            return plain(images, *args, **kwargs)
        made.data.update(every)
        return made

    pictures.preprocess = preprocess
    try:
        yield
    finally:
        del pictures.preprocess


def first_places(images: Any) -> list[int] | None:
    """For each picture the place of its first occurrence; None where none comes twice, or they are no plain list."""
    if not isinstance(images, list) or not all(isinstance(each, Image) for each in images):
        return None
    first: dict[int, int] = {}
    places = [first.setdefault(id(each), place) for place, each in enumerate(images)]
    return places if len(first) < len(images) else None


def repeated(name: str, made: Any, wanted: Sequence[int], count: int) -> Tensor | None:
    """One output of an image processor for `wanted` pictures of `count`; None where it has no part for each."""
    value = made[name]
    if not isinstance(value, Tensor) or not value.dim():
        return None
    if GRID in made and name != GRID:
        sizes = made[GRID].prod(dim=-1).tolist()
        parts = value.split(sizes) if sum(sizes) == len(value) else ()
    else:
        parts = value.split(1)
    return torch.cat([parts[place] for place in wanted]) if len(parts) == count else None
