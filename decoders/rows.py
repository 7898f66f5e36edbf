"""Branches as rows of one forward: pure functions that join a branch's inputs to the base's and take results apart.

Rows are ordered stream by stream: base rows first, branch k at k * n. Everything of the decoder's keyword arguments
that has a batch goes along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

PER_ROW = ("input_ids", "attention_mask", "visual_pos_masks")


def repeat(value: Any, streams: int) -> Any:
    """`value` once per stream along its batch dimension: tensors, dicts of tensors; None stays None."""
    if isinstance(value, Mapping):
        return {key: repeat(item, streams) for key, item in value.items()}
    return torch.cat([value] * streams) if isinstance(value, Tensor) else value


def repeat_positions(positions: Tensor | None, streams: int) -> Tensor | None:
    """Position ids of all streams: batch is dimension 0, or 1 for M-RoPE `[3 or 4, batch, length]`; 1 row is shared."""
    if positions is None:
        return None
    batch = 1 if positions.dim() == 3 else 0
    return positions if positions.shape[batch] == 1 else torch.cat([positions] * streams, dim=batch)


def join(kwargs: dict[str, Any], branches: Sequence[Tensor | None], past: int) -> dict[str, Any]:
    """The decoder's keyword arguments with every branch beside the base.

    Args:
        kwargs: of the base call; `inputs_embeds` or `input_ids` is `[rows, q, ...]`.
        branches: prompt embeddings of each branch, `[batch, prompt, hidden]`, or None where the branch sees the base's
            own inputs (edits only). Beam and return-sequence expansion repeats each row in place.
        past: number of columns that are in the cache already; 0 also when there is no cache.

    Returns:
        New keyword arguments for `(1 + branches) * rows` rows. Prompt columns come from the branch, all later ones from
        the base, so chunked prefill and decoding without a cache need nothing special.
    """
    streams = 1 + len(branches)
    joined = dict(kwargs)
    for name in PER_ROW:
        if name in joined:
            joined[name] = repeat(joined[name], streams)
    joined["position_ids"] = repeat_positions(kwargs.get("position_ids"), streams)
    embeds = kwargs.get("inputs_embeds")
    if embeds is not None:
        parts = [
            embeds,
            *(embeds if branch is None else _columns(branch, embeds, past) for branch in branches),
        ]
        joined["inputs_embeds"] = torch.cat(parts)
    return {name: value for name, value in joined.items() if name in kwargs}


def _columns(branch: Tensor, embeds: Tensor, past: int) -> Tensor:
    """Columns past .. past + q of the branch: its prompt where the prompt reaches, the base's embeddings after it."""
    rows, q_len, _ = embeds.shape
    prompt = branch[:, past : past + q_len].to(embeds.device, embeds.dtype)
    if prompt.shape[1] == 0:
        return embeds
    prompt = prompt.repeat_interleave(rows // branch.shape[0], dim=0)
    return torch.cat([prompt, embeds[:, prompt.shape[1] :]], dim=1)


def base_rows(value: Any, rows: int) -> Any:
    """The base's share of an output: tensors and (nested) tuples of tensors cut to the first `rows` rows."""
    if isinstance(value, Tensor):
        return value[:rows]
    if isinstance(value, (tuple, list)):
        return type(value)(base_rows(item, rows) for item in value)
    return value


def reordering(reorder: Any, streams: int) -> Any:
    """Beam search's cache reorder for all streams: row i of the base takes branch rows i + k * n along."""

    def reorder_all(beam_idx: Tensor) -> Any:
        offsets = torch.arange(streams, device=beam_idx.device)[:, None] * beam_idx.shape[0]
        return reorder((beam_idx[None] + offsets).flatten())

    return reorder_all
