"""Shared tensor algebra of the strategies: pure functions on `[batch, vocab]` logits, computed in at least float32.

All of them are shift-invariant: adding a constant to a row of logits changes the result by a constant at most, so raw
logits and log-probabilities give the same distribution.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

IMPOSSIBLE = 1e4
"""A branch logit this far below its row's maximum counts as impossible: exp(-1e4) is 0 in every float type."""


def widen(logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
    """The logits in float32; float64 stays."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def log_probs(logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
    """Log-probabilities; a row without a possible token stays at minus infinity and is not NaN."""
    return logits.log_softmax(dim=-1).masked_fill(logits == -torch.inf, -torch.inf)


def plausible(logits: Float[Tensor, "batch vocab"], beta: float) -> Bool[Tensor, "batch vocab"]:
    """Tokens with probability at least `beta` times that of the likeliest one; equality keeps.

    Args:
        logits: of the branch that is trusted (the base).
        beta: 0 keeps every token, 1 keeps the argmax (and its ties) alone.

    Source: adaptive plausibility constraint as in VCD's code, on raw logits: l_i >= log(beta) + max_j l_j.
    """
    if beta == 0:
        return torch.ones_like(logits, dtype=torch.bool)
    return logits >= math.log(beta) + logits.amax(dim=-1, keepdim=True)


def cut(scores: Float[Tensor, "batch vocab"], keep: Bool[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
    """The scores with every token that is not kept at minus infinity."""
    return scores.masked_fill(~keep, -torch.inf)


def extrapolate(
    base: Float[Tensor, "batch vocab"],
    branch: Float[Tensor, "batch vocab"],
    alpha: float | Float[Tensor, "batch 1"],
) -> Float[Tensor, "batch vocab"]:
    """Push the base away from the branch: (1 + alpha) * base - alpha * branch.

    A token that is impossible in the base stays so; one that is impossible in the branch alone counts as lying
    `IMPOSSIBLE` below the branch's best token, so that no difference is infinite or NaN. A row of the branch without a
    possible token has nothing to say: all its tokens count as equally likely.
    """
    top = branch.amax(dim=-1, keepdim=True)
    floor = top.masked_fill(top == -torch.inf, 0.0) - IMPOSSIBLE
    pushed = (1 + alpha) * base - alpha * branch.clamp(min=floor)
    return pushed.masked_fill(base == -torch.inf, -torch.inf)
