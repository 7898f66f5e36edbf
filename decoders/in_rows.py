"""All streams as rows of one forward: the rule, for a second row costs little where weights have to be read anyway."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from ..models.adapter import Adapter
from ..models.attention import LayerState
from ..models.versions import CACHE
from .rows import (
    axes_of,
    base_rows,
    columns_of,
    join_caches,
    pad_left,
    pad_positions,
    reordering,
    repeat_call,
    rows_of,
    select_cache_rows,
    settle_newest,
    split_last,
    take_streams,
    takes_whole_mask,
)
from .runner import Runner, Stream


class RowsRunner(Runner):
    """All streams in one forward, but for the one prefill of streams that are refined."""

    def __init__(self, adapter: Adapter, streams: list[Stream], states: dict[int, LayerState]):
        super().__init__(adapter, streams, states)
        self._called: tuple[dict[str, Any], int, Cache | None] = ({}, 0, None)
        self._spare: Cache | None = None
        self._seen = 0
        self._images: list[Tensor] = []  # image columns of each stream, as rows are laid out
        self._grown: tuple[Tensor, Tensor] | None = None  # additive mask and positions of the latest token
        self._tail: tuple[int, ...] = ()  # streams whose last prompt token stands behind the base's prompt

    def before(self, kwargs: dict[str, Any], past: int, cache: Cache | None) -> dict[str, Any]:
        self.open_again(cache)
        self.check_pieces(kwargs, past, cache)
        kwargs = self.embedded(kwargs) if past == 0 else kwargs
        begins = self._called[2] is None  # a cache that the caller has filled has a past already
        self._called = kwargs, past, cache
        ready = [place for place, stream in enumerate(self.streams) if not stream.pending]
        joined = self._compose(ready, kwargs, past, cache)
        if cache is not None and begins:
            if self.pending:
                self.check_whole_prompt(kwargs, "A branch that depends on the prompt's attention")
                self._spare = copy.deepcopy(cache)
            if self.forks and self.width > 1:
                self.check_whole_prompt(kwargs, "A forked branch", past)
                joined = self._fork(joined, cache, ready)
            if not self.pending:
                self._widen_reorder(cache)
        first = [place for place in ready if place not in self._tail]
        self._announce(first, past + columns_of(kwargs).shape[1], spared=self.spared(past, cache), tail=self._tail)
        return joined

    def after(self, output: Any) -> Any:
        if self._tail:
            self._unfold(output)
        pending = self.pending
        if not pending or self.refine is None:
            return output
        ready = [place for place in range(len(self.streams)) if place not in pending]
        kwargs, past, cache = self._called
        with self.own_call():
            self.refine(kwargs, cache)
            call = {**self._compose(pending, kwargs, past, cache), CACHE: self._spare}
            self._announce(pending, past + columns_of(kwargs).shape[1])
            extra = self.adapter.decoder(**call)
        each = rows_of(kwargs)
        where = {place: start for start, place in enumerate([*ready, *pending])}
        order = torch.cat([torch.arange(each) + where[place] * each for place in range(len(self.streams))])
        if cache is not None:
            join_caches(cache, self._spare, order)
            self._widen_reorder(cache)
            self._spare = None
        hidden = torch.cat([output[0][:, -1:], extra[0][:, -1:]]).index_select(0, order.to(output[0].device))
        output["last_hidden_state"] = hidden
        return output

    def logits(self, output: Any, rows: int) -> tuple[Tensor, ...]:
        streams = output.logits[:, -self.columns :].split(rows)
        for name, value in output.items():
            if name != CACHE:
                output[name] = base_rows(value, rows)
        return streams

    def settle(self, cache: Cache, opened: Tensor, twin: int) -> None:
        rows = len(opened)
        places = slice(0, rows), slice(twin * rows, (twin + 1) * rows)
        settle_newest(cache, cache, opened, self._seen, places)

    def release(self, cache: Cache | None, rows: int) -> None:
        super().release(cache, rows)
        self._spare = None
        if cache is not None and len(self.streams) > 1 and rows:
            select_cache_rows(cache, torch.arange(rows))

    def spared(self, past: int, cache: Cache | None) -> tuple[int, ...]:
        if cache is not None or not self.forks:
            return ()
        return tuple(self.longest - 1 if stream.fork else 0 for stream in self.streams)

    def _widen_reorder(self, cache: Cache) -> None:
        cache.__dict__["reorder_cache"] = reordering(cache.reorder_cache, len(self.streams))

    def _announce(
        self, places: Sequence[int], columns: int, *, spared: tuple[int, ...] = (), tail: tuple[int, ...] = ()
    ) -> None:
        """`present` for rows laid out as this runner lays them out; `columns` are those of the base so far."""
        padding = self.longest - self.width if self.asides else 0
        self._seen = columns + padding
        if not self._images and self.states:
            wide = self.longest if self.asides else 0
            images = (stream.image for stream in self.streams)
            self._images = [
                nn.functional.pad(image, (wide - image.shape[1], 0)) if image.shape[1] < wide else image
                for image in images
            ]
        self.present(places, self._images, self._seen, spared=spared, tail=tail)

    def _compose(self, places: Sequence[int], kwargs: dict[str, Any], past: int, cache: Cache | None) -> dict[str, Any]:
        """One call for some of the streams."""
        streams = [self.streams[place] for place in places]
        if self.asides:
            return self._padded(streams, kwargs, past, cache)
        joined = repeat_call(kwargs, len(streams))
        if kwargs.get("inputs_embeds") is None or past >= self.width:
            return joined
        base = self.adapter.entering(kwargs)
        return self.adapter.entered(joined, torch.cat([each.columns(base, past, self.width) for each in streams]))

    def _padded(self, streams: list[Stream], kwargs: dict[str, Any], past: int, cache: Cache | None) -> dict[str, Any]:
        """Streams of different lengths: left-padded to the longest, each with its own mask and positions."""
        if past:
            return self._next(streams, kwargs, past, cache)
        base, rows = columns_of(kwargs), rows_of(kwargs)
        self.check_aside(cache)
        if cache is not None:
            self.check_whole_prompt(kwargs, "A branch of another length")
        generated = base.shape[1] - self.width
        width = self.longest + generated
        entering = self.adapter.entering(kwargs)
        each = [stream.columns(entering, past, self.width) for stream in streams]
        joined = self.adapter.entered(repeat_call(kwargs, len(streams)), pad_left(each, width))
        joined["attention_mask"] = self._masks(streams, rows, generated).to(base.device)
        joined["position_ids"] = self._positions(streams, rows, generated, axes_of(kwargs)).to(base.device)
        image = pad_left([s.image.repeat_interleave(rows // len(s.image), dim=0) for s in streams], self.longest)
        fresh = cache if self._spare is None else self._spare
        joined["attention_mask"] = self.adapter.prompt_mask(joined, image.to(base.device), fresh)
        return joined

    def _next(self, streams: list[Stream], kwargs: dict[str, Any], past: int, cache: Cache | None) -> dict[str, Any]:
        """`_padded` for a new token: masks and positions go on by one from those of the step before."""
        base, rows = columns_of(kwargs), rows_of(kwargs)
        joined = repeat_call({**kwargs, "attention_mask": None, "position_ids": None}, len(streams))
        generated = past + base.shape[1] - self.width
        if self._grown is None or self._grown[0].shape != (rows * len(streams), self.longest + generated - 1):
            hidden = self._masks(streams, rows, generated).to(base.device) == 0
            mask = torch.zeros(hidden.shape, dtype=self.adapter.model.dtype, device=base.device)
            mask = mask.masked_fill(hidden, -torch.inf)
            last = self._positions(streams, rows, generated, axes_of(kwargs))[..., -base.shape[1] :].to(base.device)
        else:
            mask, last = nn.functional.pad(self._grown[0], (0, 1)), self._grown[1] + 1
        self._grown = mask, last
        whole = takes_whole_mask(self.adapter, cache)
        joined["attention_mask"] = mask[:, None, None] if whole else (mask == 0).long()
        joined["position_ids"] = last
        return joined

    def _masks(self, streams: Sequence[Stream], rows: int, generated: int) -> Tensor:
        """Padding masks of all streams, `[rows of all, columns]`."""
        return pad_left([stream.grown_mask(rows, generated) for stream in streams], self.longest + generated)

    def _positions(self, streams: Sequence[Stream], rows: int, generated: int, axes: int) -> Tensor:
        """Position ids of the same columns; with `axes`, these come first."""
        first = self.adapter.first_position
        each = [stream.positions(rows, generated, axes) + first for stream in streams]
        return pad_positions(each, self.longest + generated)

    def last(self, hidden: Tensor, rows: int) -> Tensor:
        own = hidden[:rows, : hidden.shape[1] - len(self._tail)]
        return own[:, -self.columns :]

    def _unfold(self, output: Any) -> None:
        """After a call with a tail: every stream a row with its last column, and its keys and values in the cache."""
        (kwargs, _, cache), tail = self._called, self._tail
        each, hidden = rows_of(kwargs), output["last_hidden_state"]
        width = hidden.shape[1] - len(tail)
        ready = [place for place in range(len(self.streams)) if not self.streams[place].pending]
        first = [place for place in ready if place not in tail]

        def rows(place: int, tensor: Tensor, axis: int, start: int) -> Tensor:
            end = tensor.shape[axis] - len(tail)  # of the base's columns; the cache may hold more than the call
            if place in first:
                own = tensor[first.index(place) * each :][:each]
                return own.narrow(axis, start, end - start)
            newest = tensor[:each].narrow(axis, end + tail.index(place), 1)
            return torch.cat([tensor[:each].narrow(axis, start, end - 1 - start), newest], dim=axis)

        output["last_hidden_state"] = torch.cat([rows(place, hidden, 1, width - 1) for place in ready])
        if output.get("hidden_states") is not None:
            output["hidden_states"] = tuple(layer[:, :width] for layer in output["hidden_states"])
        assert cache is not None
        for layer in cache.layers:
            for name in ("keys", "values"):
                held = getattr(layer, name)
                setattr(layer, name, torch.cat([rows(place, held, 2, 0) for place in ready]))
        self._tail = ()

    def _tailed(self, joined: dict[str, Any], prefilled: Sequence[int], ready: Sequence[int]) -> dict[str, Any]:
        """The call of the streams that do not fork, with the last prompt token again for each stream that does."""
        self._tail = tuple(place for place in ready if place not in prefilled)
        more = len(self._tail)
        call = take_streams(joined, [ready.index(place) for place in prefilled], len(ready))
        for name in ("input_ids", "inputs_embeds"):
            if call.get(name) is not None:
                call[name] = torch.cat([call[name], *([call[name][:, -1:]] * more)], dim=1)
        call["position_ids"] = torch.cat([call["position_ids"], *([call["position_ids"][..., -1:]] * more)], dim=-1)
        for name in ("attention_mask", "visual_pos_masks"):
            if call.get(name) is not None:
                call[name] = nn.functional.pad(call[name], (0, more), value=int(name == "attention_mask"))
        return call

    def _tails(self, joined: Mapping[str, Any], cache: Cache) -> bool:
        """Whether forks fit into the prefill's own forward: caches that hold every column, masks for padding alone."""
        mask, positions = joined.get("attention_mask"), joined.get("position_ids")
        plain = mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)
        return plain and positions is not None and takes_whole_mask(self.adapter, cache)

    def _fork(self, joined: dict[str, Any], cache: Cache, ready: Sequence[int]) -> dict[str, Any]:
        prefilled = [place for place in ready if not self.streams[place].fork]
        if self._tails(joined, cache):
            return self._tailed(joined, prefilled, ready)
        first, last = split_last(joined)
        if columns_of(first).shape[1]:
            with self.own_call():
                self._announce(prefilled, self.width - 1)
                self.adapter.decoder(**take_streams(first, [ready.index(place) for place in prefilled], len(ready)))
        each = rows_of(joined) // len(ready)
        if isinstance(last["attention_mask"], Mapping):  # made for the whole prompt, and windows have moved on
            seen = [self.streams[place].grown_mask(each, 0) for place in ready]
            last["attention_mask"] = pad_left(seen, self.longest).to(columns_of(last).device)
        sources = [prefilled.index(place) if place in prefilled else 0 for place in ready]
        select_cache_rows(cache, torch.cat([torch.arange(each) + each * source for source in sources]))
        return last
