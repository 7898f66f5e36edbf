"""Random numbers that are functions of what they are for: hashes of seeds and places, not a generator's next numbers.

The same number comes out whatever the batch, the padding, the cache or the order of calls. splitmix64 (Steele, Lea and
Flood, 2014) at each level, the stream of one level being the seeds of the next: seed, layer, head, query, key.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

GOLDEN, FIRST, SECOND = (number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""Constants of splitmix64, as signed numbers."""


def draw(
    seeds: Int[Tensor, " rows"],
    layer: int | Sequence[int],
    heads: int,
    queries: Int[Tensor, "rows q"],
    keys: Int[Tensor, "rows keys"],
) -> Float[Tensor, "*layers rows heads q keys"]:
    """Numbers between 0 and 1, both excluded, float32 (exact in every wider type): functions of the arguments alone.

    Args:
        seeds: one a row.
        layer: a number from 0, or several, which then come first in what is returned.
        heads: how many.
        queries, keys: positions.
    """
    return (_shift(bits(seeds, layer, heads, queries, keys), 41).float() + 0.5) / 2**23


def bits(
    seeds: Int[Tensor, " rows"],
    layer: int | Sequence[int],
    heads: int,
    queries: Int[Tensor, "rows q"],
    keys: Int[Tensor, "rows keys"],
) -> Int[Tensor, "*layers rows heads q keys"]:
    """64 random bits for each query and key."""
    layers = torch.tensor([layer] if isinstance(layer, int) else list(layer), device=seeds.device)
    of_layer = at(seeds, layers).T
    of_head = at(of_layer[0] if isinstance(layer, int) else of_layer, torch.arange(heads, device=seeds.device))
    of_query = at(of_head, queries[:, None])
    return at(of_query, keys[:, None, None])


def permutation(
    seeds: Int[Tensor, " rows"], layer: int, heads: int, size: int, first: int = 0
) -> Int[Tensor, "rows heads size"]:
    """An order of `size` entries for each row and head; `first` is the position of the map's first query."""
    places = torch.arange(size, device=seeds.device).expand(len(seeds), -1)
    found = bits(seeds, layer, heads, torch.full_like(places[:, :1], first), places)
    return found[:, :, 0].argsort(dim=-1, stable=True)


def at(seeds: Tensor, places: Tensor) -> Tensor:
    """Number `places` `[..., n]` of the stream of each seed `[...]`: `[..., n]`."""
    state = seeds[..., None] + (places + 1) * GOLDEN
    state = (state ^ _shift(state, 30)) * FIRST
    state = (state ^ _shift(state, 27)) * SECOND
    return state ^ _shift(state, 31)


def _shift(state: Tensor, places: int) -> Tensor:
    """Right shift that fills with zeros: torch's own repeats the sign."""
    return (state >> places) & (2 ** (64 - places) - 1)
