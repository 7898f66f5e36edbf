"""Columns and rows: pure functions that build a stream's inputs, join streams to one batch, and take results apart.

A *stream* is the base or one branch. Rows are ordered stream by stream: base rows first, branch k at k * n. Beam and
return-sequence expansion repeats each row of a stream in place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from ..models.adapter import Adapter
from ..models.attention import NAME
from ..models.versions import CACHE

PER_ROW = ("input_ids", "inputs_embeds", "attention_mask", "visual_pos_masks")
PER_IMAGE_TOKEN = ("visual_pos_masks", "deepstack_visual_embeds")


def repeat(value: Any, streams: int) -> Any:
    """`value` once per stream along its batch dimension: tensors, dicts of tensors; anything else stays."""
    if isinstance(value, Mapping):
        return {key: repeat(item, streams) for key, item in value.items()}
    return torch.cat([value] * streams) if isinstance(value, Tensor) else value


def repeat_call(kwargs: Mapping[str, Any], streams: int) -> dict[str, Any]:
    """The decoder's keyword arguments with every row once per stream, all streams seeing the same."""
    joined = {name: repeat(value, streams) if name in PER_ROW else value for name, value in kwargs.items()}
    positions = kwargs.get("position_ids")
    if positions is not None:  # batch is dimension 0, or 1 under M-RoPE; a batch of one serves all rows
        batch = 1 if positions.dim() == 3 else 0
        if positions.shape[batch] > 1 or rows_of(kwargs) == 1:
            joined["position_ids"] = torch.cat([positions] * streams, dim=batch)
    return joined


def rows_of(kwargs: Mapping[str, Any]) -> int:
    """Number of rows of a decoder call."""
    return columns_of(kwargs).shape[0]


def columns_of(kwargs: Mapping[str, Any]) -> Tensor:
    """The embeddings or ids of a decoder call, `[rows, columns, ...]`."""
    embeds = kwargs.get("inputs_embeds")
    return kwargs["input_ids"] if embeds is None else embeds


def overlay(base: Tensor, prompt: Tensor, past: int) -> Tensor:
    """Columns past .. past + q of a stream whose prompt is as long as the base's: its prompt, then the base's columns.

    Args:
        base: embeddings of the base call, `[rows, q, hidden]`.
        prompt: of the stream, `[batch, length, hidden]`; rows is a multiple of batch.
        past: columns that are in the cache already.
    """
    own = prompt[:, past : past + base.shape[1]].to(base.device, base.dtype)
    if own.shape[1] == 0:
        return base
    own = own.repeat_interleave(base.shape[0] // prompt.shape[0], dim=0)
    return torch.cat([own, base[:, own.shape[1] :]], dim=1)


def pad_left(streams: Sequence[Tensor], width: int) -> Tensor:
    """Streams `[rows, length_k, ...]` of different lengths as one batch of that width, zeros on the left."""

    def padded(stream: Tensor) -> Tensor:
        zeros = stream.new_zeros(stream.shape[0], width - stream.shape[1], *stream.shape[2:])
        return torch.cat([zeros, stream], dim=1)

    return torch.cat([padded(stream) for stream in streams])


def positions_of(mask: Tensor) -> Tensor:
    """Position ids `[rows, length]` under a padding mask, as `generate()` makes them."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


def pad_positions(streams: Sequence[Tensor], width: int) -> Tensor:
    """As `pad_left` for position ids, `[rows, length_k]` or `[axes, rows, length_k]`."""
    if streams[0].dim() == 2:
        return pad_left(streams, width)
    return pad_left([each.movedim(0, -1) for each in streams], width).movedim(-1, 0)


def axes_of(kwargs: Mapping[str, Any]) -> int:
    """How many axes the positions of a decoder call have; 0 where they are plain numbers."""
    positions = kwargs.get("position_ids")
    return len(positions) if positions is not None and positions.dim() == 3 else 0


def places_on(places: Tensor, rows: int, generated: int) -> Tensor:
    """Positions of several axes `[axes, batch, length]` for `rows` rows that have gone on by `generated` tokens."""
    places = places.repeat_interleave(rows // places.shape[1], dim=1)
    steps = torch.arange(1, generated + 1, device=places.device)
    return torch.cat([places, places[..., -1:] + steps], dim=-1)


def split_last(kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A prefill call in two: all columns but the last, and the last one alone (which must not be an image token)."""
    first, last = dict(kwargs), dict(kwargs)
    fixed = bool(getattr(kwargs.get(CACHE), "is_compileable", False))  # buffers may be as wide as a prompt
    width = None if fixed else columns_of(kwargs).shape[1]
    for name in ("input_ids", "inputs_embeds", "visual_pos_masks"):
        if isinstance(kwargs.get(name), Tensor):
            first[name], last[name] = kwargs[name][:, :-1], kwargs[name][:, -1:]
    if kwargs.get("position_ids") is not None:
        first["position_ids"], last["position_ids"] = kwargs["position_ids"][..., :-1], kwargs["position_ids"][..., -1:]
    first["attention_mask"] = _mask_part(kwargs.get("attention_mask"), width, last=False)
    last["attention_mask"] = _mask_part(kwargs.get("attention_mask"), width, last=True)
    last.update({name: None for name in PER_IMAGE_TOKEN if name in kwargs})
    return first, last


def _mask_part(mask: Any, width: int | None, *, last: bool) -> Any:
    """The mask of the first columns or the last one: 2-D `[rows, keys]`, 4-D `[rows, 1, q, keys]`, dicts of them."""
    if isinstance(mask, Mapping):
        return {key: _mask_part(item, width, last=last) for key, item in mask.items()}
    if not isinstance(mask, Tensor):
        return mask
    if mask.dim() == 2:
        return mask if last else mask[:, :-1]
    if last:
        return mask[:, :, -1:]
    return mask[:, :, :-1, :-1] if mask.shape[-1] == width else mask[:, :, :-1]  # a static buffer keeps its keys


def take_streams(kwargs: Mapping[str, Any], wanted: Sequence[int], streams: int) -> dict[str, Any]:
    """The rows of some streams of a joined call of `streams` streams."""
    each = rows_of(kwargs) // streams
    rows = torch.cat([torch.arange(stream * each, (stream + 1) * each) for stream in wanted])

    def pick(value: Any, batch: int = 0) -> Any:
        if isinstance(value, Mapping):
            return {key: pick(item) for key, item in value.items()}
        return value.index_select(batch, rows.to(value.device)) if isinstance(value, Tensor) else value

    taken = {name: pick(value) if name in PER_ROW else value for name, value in kwargs.items()}
    marked, features = kwargs.get("visual_pos_masks"), kwargs.get("deepstack_visual_embeds")
    if marked is not None and features is not None:  # one entry for each marked column, row after row
        owners = marked.nonzero()[:, 0]
        tokens = torch.cat([(owners == row).nonzero()[:, 0] for row in rows.to(owners.device)])
        taken["deepstack_visual_embeds"] = [each[tokens.to(each.device)] for each in features]
    positions = kwargs.get("position_ids")
    if positions is not None and positions.shape[(batch := 1 if positions.dim() == 3 else 0)] > 1:
        taken["position_ids"] = pick(positions, batch)
    return taken


def base_rows(value: Any, rows: int) -> Any:
    """The base's share of an output: tensors and (nested) tuples of tensors cut to the first `rows` rows."""
    if isinstance(value, Tensor):
        return value[:rows]
    if isinstance(value, (tuple, list)):
        return type(value)(base_rows(item, rows) for item in value)
    return value


def select_cache_rows(cache: Any, rows: Tensor) -> None:
    """Keep, repeat or reorder the rows of a cache in place: row i becomes what row `rows[i]` was."""
    for layer in cache.layers:
        for name in ("keys", "values"):
            tensor = getattr(layer, name, None)
            if isinstance(tensor, Tensor) and tensor.numel():
                setattr(layer, name, tensor.index_select(0, rows.to(tensor.device)))
        if hasattr(layer, "batch_size"):
            layer.batch_size = len(rows)


def reordering(reorder: Callable[..., Any], streams: int) -> Callable[[Tensor], Any]:
    """Beam search's cache reorder for all streams: row i of the base takes branch rows i + k * n along."""

    def reorder_all(beam_idx: Tensor) -> Any:
        offsets = torch.arange(streams, device=beam_idx.device)[:, None] * beam_idx.shape[0]
        return reorder((beam_idx[None] + offsets).flatten())

    return reorder_all


def join_caches(cache: Any, other: Any, order: Tensor) -> None:
    """Put the rows of `other`, a cache of the same kind that has seen as much, behind those of `cache`, in `order`."""
    for layer, more in zip(cache.layers, other.layers, strict=True):
        for name in ("keys", "values"):
            tensor = getattr(layer, name, None)
            if isinstance(tensor, Tensor) and tensor.numel():
                joined = torch.cat([tensor, getattr(more, name)])
                setattr(layer, name, joined.index_select(0, order.to(tensor.device)))
        if hasattr(layer, "batch_size"):
            layer.batch_size = len(order)


def layers_copied(cache: Any) -> Any:
    """The layers of a cache with tensors of their own.

    Quantised states that are no plain tensors cannot be copied, and need not be: they are replaced, never written to.
    """
    states = (value for layer in cache.layers for value in vars(layer).values() if isinstance(value, Tensor))
    return copy.deepcopy(cache.layers, {id(value): value for value in states if type(value) is not Tensor})


def takes_whole_mask(adapter: Adapter, cache: Any) -> bool:
    """Whether one additive mask `[rows, 1, 1, keys]` serves all layers of a decoder, so that none makes its own.

    True for scaled dot-product attention over caches that hold every column: no windows, no buffers of fixed size.
    """
    config: Any = adapter.decoder.config
    kinds = getattr(config, "layer_types", None)
    windows = ("sliding_window", "attention_chunk_size")
    whole = set(kinds) == {"full_attention"} if kinds else all(getattr(config, name, None) is None for name in windows)
    known = config._attn_implementation in ("sdpa", NAME)
    return whole and known and cache is not None and all(type(layer) is DynamicLayer for layer in cache.layers)


def settle_newest(
    base: Any, twin: Any, opened: Tensor, seen: int, places: tuple[slice, slice] = (slice(None), slice(None))
) -> None:
    """Give the newest keys and values of the chosen row to both of two caches.

    Args:
        base, twin: the caches; they may be the same one.
        opened: rows where the twin was chosen, `[rows]` of bool.
        seen: columns so far; a window that has moved on, or a growing cache, holds the newest one last.
        places: rows of base and twin in their caches.
    """
    groups: dict[Any, list[tuple[Tensor, Tensor]]] = {}
    for layer, other in zip(base.layers, twin.layers, strict=True):
        for name in ("keys", "values"):
            one, two = getattr(layer, name), getattr(other, name)
            column = min(seen, one.shape[2]) - 1
            newest = one[places[0], :, column], two[places[1], :, column]
            groups.setdefault((newest[0].shape, one.device), []).append(newest)
    for pairs in groups.values():  # all layers at once: a kernel of their own for each would cost more than the copy
        mine, its = (list(each) for each in zip(*pairs, strict=True))
        first = torch.stack(mine)
        chosen = torch.where(opened.to(first.device)[:, None, None], torch.stack(its), first).unbind()
        torch._foreach_copy_(mine + its, [*chosen, *chosen])  # pyright: ignore[reportPrivateImportUsage]
