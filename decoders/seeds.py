"""Seeds that belong to a sample and not to its place in a batch: from the sample's own bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from .plan import Request


def seed_of(image: Tensor, seed: int) -> int:
    """A seed in [0, 2^63) from the bytes of one image's pixels (in float32) and the user's seed."""
    pixels = image.detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(pixels.numpy().tobytes() + str(seed).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seeds_of(images: Iterable[Tensor], seed: int) -> Int[Tensor, " images"]:
    """One seed for each of `images`."""
    return torch.tensor([seed_of(image, seed) for image in images], dtype=torch.long)


def row_seeds(request: Request, seed: int) -> Int[Tensor, " batch"]:
    """A seed for each prompt of a batch, from the pixels of all its images."""
    name = request.adapter.image_inputs[0]
    return seeds_of((row[name] for row in request.adapter.images_of(request.inputs)), seed)


def prompt_seeds(request: Request, seed: int) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """A seed for each prompt of a batch, from its ids and its images, and how many tokens it has; without padding.

    Crops that only fill up the batch (all zero) do not count.
    """
    ids, mask = request.inputs["input_ids"], request.inputs.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    prompts = [row[seen.bool()] for row, seen in zip(ids, mask, strict=True)]
    seeds = [seed] * len(prompts)
    adapter = request.adapter
    given = bool(adapter.image_inputs) and request.inputs.get(adapter.image_inputs[0]) is not None
    for place, own in enumerate(adapter.images_of(request.inputs) if given else []):
        for image in adapter.split_images(own):
            crops = image[image.flatten(1).any(dim=1)] if image.dim() > 3 else image
            seeds[place] = seed_of(crops, seeds[place])
    seeds = [seed_of(prompt, own) for prompt, own in zip(prompts, seeds, strict=True)]
    return torch.tensor(seeds), torch.tensor([len(prompt) for prompt in prompts])
