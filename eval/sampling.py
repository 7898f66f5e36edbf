"""Sampling whose draws belong to the sample, not to the batch.

`generate(do_sample=True)` draws from one stream for the whole batch, so an answer depends on its neighbours. Here a
token is chosen by the Gumbel-max rule: with g_i = -log(-log(u_i)), u_i uniform, argmax(s_i + g_i) is distributed as
softmax(s). Each row has a generator of its own, on the CPU, that draws one u per word of the vocabulary and step: the
answer depends on the row's seed and scores alone, and two decoders that share a seed share their luck.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .settings import GenerationSettings

_TINY = 2.0**-60


class GumbelMax(LogitsProcessor):
    """Adds Gumbel noise to the scores, so that the best token is a draw from their softmax.

    Args:
        seeds: one per row.
    """

    def __init__(self, seeds: Sequence[int]):
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Noised scores `[batch, vocab]` in double precision; -inf stays -inf."""
        if scores.shape[0] != len(self._generators):
            raise ValueError(f"GumbelMax has {len(self._generators)} seeds for {scores.shape[0]} rows.")
        noise = torch.stack([gumbel(scores.shape[1], generator) for generator in self._generators])
        return scores.double() + noise.to(scores.device)


def gumbel(n: int, generator: torch.Generator) -> Tensor:
    """`[n]` draws of the standard Gumbel distribution, float64, finite."""
    uniform = torch.rand(n, generator=generator, dtype=torch.float64)
    return -torch.log(-torch.log(uniform.clamp(min=_TINY)))


def samplers(generation: GenerationSettings, seeds: Sequence[int]) -> list[LogitsProcessor]:
    """Temperature, top-k, top-p and the draw, in this order; for the end of the list, with `do_sample=False`.

    Args:
        generation: settled settings with `mode == "sample"`.
        seeds: one per row of the batch.
    """
    chain: list[LogitsProcessor] = []
    if generation.temperature != 1.0:
        chain.append(TemperatureLogitsWarper(generation.temperature))
    if generation.top_k > 0:
        chain.append(TopKLogitsWarper(top_k=generation.top_k))
    if generation.top_p < 1.0:
        chain.append(TopPLogitsWarper(top_p=generation.top_p))
    return [*chain, GumbelMax(seeds)]
