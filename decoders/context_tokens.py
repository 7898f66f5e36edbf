"""What strategies share that look at which tokens of a passage are attended to: DAGCD and its detector.

A passage is taken as its distinct token ids. Rows of a batch have different numbers of them, so tables are padded: a
padded entry has id 0 and count 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

FLOOR = 1e-8
"""Least value of a sum that is divided by; the reference's."""


class Distinct(NamedTuple):
    """The distinct tokens of each row's passage.

    Attributes:
        ids: ascending in each row, `[batch, distinct]`.
        inverse: for each column of the prompt the place of its id in `ids`, or `distinct` outside of the passage,
            `[batch, length]`.
        counts: how often each id stands in the passage, `[batch, distinct]`.
    """

    ids: Tensor
    inverse: Tensor
    counts: Tensor


def distinct(ids: Int[Tensor, "batch length"], context: Bool[Tensor, "batch length"]) -> Distinct:
    """The tables of the tokens that are marked as context; made once for each prompt."""
    rows = [
        row[marked].unique(return_inverse=True, return_counts=True) for row, marked in zip(ids, context, strict=True)
    ]
    width = max(len(values) for values, _, _ in rows)
    inverse = torch.full_like(ids, width)
    for row, (_, places, _) in enumerate(rows):
        inverse[row, context[row]] = places
    values, counts = (
        torch.stack([nn.functional.pad(row[part], (0, width - len(row[part]))) for row in rows]) for part in (0, 2)
    )
    return Distinct(values, inverse, counts)


def attention_ratio(
    attention: Float[Tensor, "batch heads length"],
    inverse: Int[Tensor, "batch length"],
    counts: Int[Tensor, "batch distinct"],
) -> Float[Tensor, "batch heads distinct"]:
    """How each head's attention on the passage is shared among its distinct tokens.

    A token that stands there several times counts with the mean over its places, so that frequent words are not
    favoured. Attention elsewhere is left out, and each head's shares add up to 1.

    Args:
        attention: of the newest query row on the prompt's columns.
        inverse, counts: of `Distinct`.
    """
    width = counts.shape[1]
    sums = attention.new_zeros(*attention.shape[:2], width + 1)
    sums = sums.scatter_add_(2, inverse[:, None].expand_as(attention), attention)[..., :width]
    mean = sums / counts.clamp(min=1)[:, None]
    return mean / mean.sum(dim=-1, keepdim=True).clamp(min=FLOOR)


def in_top(
    logits: Float[Tensor, "batch vocab"], ids: Int[Tensor, "batch distinct"], top_rank: int
) -> Bool[Tensor, "batch distinct"]:
    """Which of the ids are among the `top_rank` likeliest tokens; a tie with the last of these counts.

    An id is, exactly where its logit is no less than the `top_rank`-th largest one; logits do not underflow as
    probabilities do.
    """
    least = logits.topk(min(top_rank, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.gather(1, ids) >= least
