"""The streams one after the other: for devices that compute rather than wait for memory (float32 on a CPU)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from ..models.adapter import Adapter
from ..models.attention import LayerState
from ..models.versions import CACHE
from .deferring import Backlog
from .rows import axes_of, columns_of, layers_copied, rows_of, settle_newest, split_last
from .runner import Runner, Stream


class SequentialRunner(Runner):
    """The base's forward as it is, then one forward for each branch, each with a cache of its own."""

    def __init__(self, adapter: Adapter, streams: list[Stream], states: Mapping[int, LayerState]):
        super().__init__(adapter, streams, states)
        self.caches: list[Cache | None] = [None] * len(streams)
        self._called: dict[str, Any] = {}
        self._past = 0
        self._columns = 0
        self._last_only = False
        self._current = 0
        self._backlog = Backlog()
        self._beams = False

    def before(self, kwargs: dict[str, Any], past: int, cache: Cache | None) -> dict[str, Any]:
        self.open_again(cache)
        self.check_pieces(kwargs, past, cache)
        if self.asides and cache is not None and not past:
            self.check_whole_prompt(kwargs, "A branch of another length")
        self._past, self._columns, self._last_only = past, columns_of(kwargs).shape[1], False
        if self.pending:
            kwargs = self.embedded(kwargs)
            if cache is not None:
                self.check_whole_prompt(kwargs, "A branch that depends on the prompt's attention")
        self._called = kwargs
        self._announce(0)
        if cache is not None and self.caches[0] is None:
            self._start(cache)
            if self.forks and self.width > 1:
                self.check_whole_prompt(kwargs, "A forked branch", past)
                kwargs = self._fork(kwargs, cache)
        return kwargs

    def logits(self, output: Any, rows: int) -> tuple[Tensor, ...]:
        found = [output.logits[:, -self.columns :]]
        if self.pending and self.refine is not None:
            with self.own_call():
                self.refine(self._called, self.caches[0])
        if self._defers(found[0], rows):
            return tuple(found)
        for place in range(1, len(self.streams)):
            self._current = place
            with self.own_call():
                self._announce(place, spared=self.spared(self._past, self.caches[0]))
                found.append(self.adapter.owner.forward(**self.owner_kwargs).logits[:, -self.columns :])
            self._current = 0
        self._backlog.clear()
        return tuple(found)

    def _defers(self, base: Tensor, rows: int) -> bool:
        """Whether the branches miss this step; never under beams, which move rows while columns are missed."""
        cache = self.caches[0]
        beams = self._beams if cache is not None else rows != len(self.streams[0].mask)
        if self.idle is None or beams or not self._backlog.takes(self._called, cache) or not self.idle(base[:, -1]):
            return False
        self._backlog.add(self._called, cache)
        return True

    def settle(self, cache: Cache, opened: Tensor, twin: int) -> None:
        settle_newest(cache, self.caches[twin], opened, self._past + self._columns)

    def spared(self, past: int, cache: Cache | None) -> tuple[int, ...]:
        if cache is not None or not self.forks:
            return ()
        return tuple(self.width - 1 if stream.fork else 0 for stream in self.streams)

    def _announce(self, place: int, *, spared: tuple[int, ...] = ()) -> None:
        """`present` for one stream, in columns of its own."""
        seen = self._past + self._columns + self.streams[place].mask.shape[1] - self.width
        self.present((place,), [stream.image for stream in self.streams], seen, spared=spared)

    def _start(self, cache: Cache) -> None:
        """A cache of the same kind for every branch, reordered with the base's under beams."""
        self.caches = [cache, *(copy.deepcopy(cache) for _ in self.streams[1:])]
        reorders: list[Callable[..., Any]] = [each.reorder_cache for each in self.caches if each is not None]

        def reorder_all(beam_idx: Tensor) -> None:
            self._beams = True
            for reorder in reorders:
                reorder(beam_idx)

        cache.__dict__["reorder_cache"] = reorder_all

    def _fork(self, kwargs: dict[str, Any], cache: Cache) -> dict[str, Any]:
        first, last = split_last(kwargs)
        if columns_of(first).shape[1]:
            with self.own_call():
                self.adapter.decoder(**first)
        for place, stream in enumerate(self.streams):
            target = self.caches[place]
            if stream.fork and target is not None:
                target.layers = layers_copied(cache)
        self._last_only = True
        return self._windowed(last, 0)

    def _windowed(self, last: dict[str, Any], place: int) -> dict[str, Any]:
        """A call of the last prompt token with a padding mask in place of masks for windows, which have moved on."""
        if not isinstance(last["attention_mask"], Mapping):
            return last
        mask = self.streams[place].grown_mask(rows_of(last), 0)
        return {**last, "attention_mask": mask.to(columns_of(last).device)}

    def inner(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The decoder call of the current branch, made from the base's call repeated by the owner."""
        if not self._current:
            return kwargs
        stream, cache = self.streams[self._current], self.caches[self._current]
        # an owner that makes masks itself made them for a cache that the base has filled since
        kwargs = {**kwargs, CACHE: cache, "attention_mask": self._called.get("attention_mask")}
        if stream.fork and self._last_only:
            return self._windowed(split_last(kwargs)[1], self._current)
        if self._past == 0:
            kwargs = self.embedded(kwargs)
        kwargs = self._backlog.joined(kwargs)
        rows = rows_of(kwargs)
        if kwargs.get("inputs_embeds") is not None and self._past < self.width:
            entering = stream.columns(self.adapter.entering(kwargs), self._past, self.width)
            kwargs = self.adapter.entered(kwargs, entering)
        if stream.aside:
            self.check_aside(None if self._past else cache)
            generated, device = self._past + self._columns - self.width, columns_of(kwargs).device
            kwargs["attention_mask"] = stream.grown_mask(rows, generated).to(device)
            positions = stream.positions(rows, generated, axes_of(kwargs)).to(device) + self.adapter.first_position
            kwargs["position_ids"] = positions[..., -columns_of(kwargs).shape[1] :]
            if not self._past:
                image = stream.image.repeat_interleave(rows // len(stream.image), dim=0).to(device)
                kwargs["attention_mask"] = self.adapter.prompt_mask(kwargs, image, cache)
        return kwargs
