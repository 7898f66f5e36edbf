"""How the branches of one generation run: as rows of the base's forward, or one after the other.

Both give the same tokens. Rows are the rule: one forward a token. Sequential passes suit devices that compute rather
than wait for memory (float32 on a CPU), and batches that would not fit beside their branches.

A stream's prompt comes from its own evidence, every later column from the base, so that all streams read the same text.
A *forked* stream shares the base's prefill: the prompt less its last token is run once for the base, its cache is
copied, and the last token is run for all streams, edits from there on (a fork of the whole prompt would give no
contrast at the first token).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..models.adapter import Adapter
from ..models.attention import LayerState
from ..models.errors import UnsupportedMode
from .rows import (
    base_rows,
    columns_of,
    overlay,
    pad_left,
    positions_of,
    reordering,
    repeat_call,
    rows_of,
    select_cache_rows,
    split_last,
    take_streams,
)

Branching = Literal["rows", "sequential", "auto"]


@dataclass
class Stream:
    """The base or one branch, ready to run.

    Attributes:
        prompt: its embeddings, `[batch, length, hidden]`; None where they are the base's.
        mask: padding mask of its prompt, `[batch, length]`, 1 where seen.
        fork: shares the base's prefill; its edits begin at the last prompt token.
        aside: its prompt has another length than the base's.
    """

    prompt: Tensor | None
    mask: Tensor
    fork: bool = False
    aside: bool = False

    def columns(self, base: Tensor, past: int, width: int) -> Tensor:
        """Its columns of a call with base columns `[rows, q, hidden]`; `width` is the length of the base's prompt."""
        if self.prompt is None:
            return base
        if not self.aside:
            return overlay(base, self.prompt, past)
        if past:
            return base
        own = self.prompt.to(base.device, base.dtype).repeat_interleave(base.shape[0] // self.prompt.shape[0], dim=0)
        return torch.cat([own, base[:, width:]], dim=1)

    def grown_mask(self, rows: int, generated: int) -> Tensor:
        """Its mask `[rows, length + generated]` once `generated` tokens have been fed back."""
        mask = self.mask.repeat_interleave(rows // self.mask.shape[0], dim=0)
        return torch.cat([mask, mask.new_ones(rows, generated)], dim=1)


class Runner(ABC):
    """Runs the branches of one generation beside the base.

    Args:
        adapter: the model family.
        streams: the base first.
        states: what each edited or probed layer does.
    """

    def __init__(self, adapter: Adapter, streams: list[Stream], states: Mapping[int, LayerState]):
        self.adapter = adapter
        self.streams = streams
        self.states = states
        self.width = streams[0].mask.shape[1]
        self.forks = any(stream.fork for stream in streams)
        self.asides = any(stream.aside for stream in streams)
        self.columns = 1
        """How many of the last positions are contrasted: one in generation, all that are scored in scoring."""
        self.busy = False
        """True while the runner itself calls the model: hooks let such calls pass."""
        self.owner_kwargs: dict[str, Any] = {}
        """How `generate()` called the owner for the step that runs."""

    @abstractmethod
    def before(self, kwargs: dict[str, Any], past: int, cache: Cache | None) -> dict[str, Any]:
        """The decoder's keyword arguments for this call."""

    @abstractmethod
    def logits(self, output: Any, rows: int) -> tuple[Tensor, ...]:
        """Logits `[rows, columns, vocab]` of each stream's last positions, base first, after the owner's forward."""

    def inner(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The decoder's keyword arguments for a call that the runner itself has made."""
        return kwargs

    def release(self, cache: Cache | None, rows: int) -> None:
        """Give the base's cache back with base rows alone, for a caller who keeps it."""
        if cache is not None:
            cache.__dict__.pop("reorder_cache", None)

    def present(self, streams: tuple[int, ...], *, spared: tuple[int, ...] = ()) -> None:
        """Tell the edited layers which streams the next call holds, and from which column on edits act."""
        for state in self.states.values():
            state.present, state.spared = streams, spared

    @contextmanager
    def own_call(self) -> Iterator[None]:
        """Inside, the model is called by the runner and not by `generate()`."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False

    def embedded(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call with embeddings in place of ids where a stream has columns of its own."""
        if kwargs.get("inputs_embeds") is not None or all(stream.prompt is None for stream in self.streams):
            return kwargs
        embeds = self.adapter.decoder.get_input_embeddings()(kwargs["input_ids"])
        return {**kwargs, "input_ids": None, "inputs_embeds": embeds}

    def spared(self, past: int, cache: Cache | None) -> tuple[int, ...]:
        """Columns of a whole-sequence call that forked streams share with the base, stream by stream."""
        if cache is not None or not self.forks:
            return ()
        longest = max(stream.mask.shape[1] for stream in self.streams)
        return tuple(longest - 1 if stream.fork else 0 for stream in self.streams)

    def check_whole_prompt(self, kwargs: Mapping[str, Any], what: str) -> None:
        """Refuse a prefill in chunks, where `what` needs the prompt in one piece."""
        given = columns_of(kwargs).shape[1]
        if given != self.width:
            raise UnsupportedMode(
                f"{what} needs the prompt in one piece and was given {given} of {self.width} tokens.",
                "Generate without prefill_chunk_size.",
            )


class RowsRunner(Runner):
    """All streams in one forward."""

    def before(self, kwargs: dict[str, Any], past: int, cache: Cache | None) -> dict[str, Any]:
        every = tuple(range(len(self.streams)))
        if past == 0:
            kwargs = self.embedded(kwargs)
        joined = self._padded(kwargs, past, cache) if self.asides else self._joined(kwargs, past)
        if cache is not None and not past:
            if self.forks and self.width > 1:
                self.check_whole_prompt(kwargs, "A forked branch")
                joined = self._fork(joined, cache)
            _replace_reorder(cache, reordering(cache.reorder_cache, len(self.streams)))
        self.present(every, spared=self.spared(past, cache))
        return joined

    def logits(self, output: Any, rows: int) -> tuple[Tensor, ...]:
        streams = output.logits[:, -self.columns :].split(rows)
        for name, value in output.items():
            if name != "past_key_values":
                output[name] = base_rows(value, rows)
        return streams

    def release(self, cache: Cache | None, rows: int) -> None:
        super().release(cache, rows)
        if cache is not None and len(self.streams) > 1 and rows:
            select_cache_rows(cache, torch.arange(rows))

    def _joined(self, kwargs: dict[str, Any], past: int) -> dict[str, Any]:
        joined = repeat_call(kwargs, len(self.streams))
        embeds = kwargs.get("inputs_embeds")
        if embeds is not None:
            joined["inputs_embeds"] = torch.cat([s.columns(embeds, past, self.width) for s in self.streams])
        return joined

    def _padded(self, kwargs: dict[str, Any], past: int, cache: Cache | None) -> dict[str, Any]:
        """Streams of different lengths: left-padded to the longest, each with its own mask and positions."""
        base, rows = columns_of(kwargs), rows_of(kwargs)
        if past == 0:
            self.check_whole_prompt(kwargs, "A branch of another length") if cache is not None else None
            _check_room(self.streams, cache)
        generated = past + base.shape[1] - self.width
        mask = pad_left([stream.grown_mask(rows, generated) for stream in self.streams]).to(base.device)
        joined = repeat_call(kwargs, len(self.streams))
        if kwargs.get("inputs_embeds") is not None:
            joined["inputs_embeds"] = pad_left([s.columns(base, past, self.width) for s in self.streams])
        joined["attention_mask"] = mask
        joined["position_ids"] = positions_of(mask)[:, -columns_of(joined).shape[1] :]
        return joined

    def _fork(self, joined: dict[str, Any], cache: Cache) -> dict[str, Any]:
        first, last = split_last(joined)
        prefilled = [place for place, stream in enumerate(self.streams) if not stream.fork]
        self.present(tuple(prefilled))
        with self.own_call(), torch.no_grad():
            self.adapter.decoder(**take_streams(first, prefilled, len(self.streams)))
        each = rows_of(joined) // len(self.streams)
        sources = [prefilled.index(place) if place in prefilled else 0 for place in range(len(self.streams))]
        select_cache_rows(cache, torch.cat([torch.arange(each) + each * source for source in sources]))
        return last


class SequentialRunner(Runner):
    """The base's forward as it is, then one forward for each branch, each with a cache of its own."""

    def __init__(self, adapter: Adapter, streams: list[Stream], states: Mapping[int, LayerState]):
        super().__init__(adapter, streams, states)
        self.caches: list[Cache | None] = [None] * len(streams)
        self._past = 0
        self._last_only = False
        self._current = 0

    def before(self, kwargs: dict[str, Any], past: int, cache: Cache | None) -> dict[str, Any]:
        self._past = past
        self._last_only = False
        self.present((0,))
        if cache is not None and not past:
            self._start(cache)
            if self.forks and self.width > 1:
                self.check_whole_prompt(kwargs, "A forked branch")
                kwargs = self._fork(kwargs, cache)
        return kwargs

    def logits(self, output: Any, rows: int) -> tuple[Tensor, ...]:
        found = [output.logits[:, -self.columns :]]
        for place in range(1, len(self.streams)):
            self._current = place
            spared = self.spared(self._past, self.caches[0])
            self.present((place,), spared=spared)
            with self.own_call(), torch.no_grad():
                found.append(self.adapter.owner.forward(**self.owner_kwargs).logits[:, -self.columns :])
            self._current = 0
        return tuple(found)

    def _start(self, cache: Cache) -> None:
        """A cache of the same kind for every branch, reordered with the base's under beams."""
        self.caches = [cache, *(copy.deepcopy(cache) for _ in self.streams[1:])]
        reorders: list[Callable[..., Any]] = [each.reorder_cache for each in self.caches if each is not None]

        def reorder_all(beam_idx: Tensor) -> None:
            for reorder in reorders:
                reorder(beam_idx)

        _replace_reorder(cache, reorder_all)

    def _fork(self, kwargs: dict[str, Any], cache: Cache) -> dict[str, Any]:
        first, last = split_last(kwargs)
        with self.own_call(), torch.no_grad():
            self.adapter.decoder(**first)
        for place, stream in enumerate(self.streams):
            if stream.fork:
                _copy_rows(cache, self.caches[place])
        self._last_only = True
        return last

    def inner(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The decoder call of the current branch, made from the base's call repeated by the owner."""
        if not self._current:
            return kwargs
        stream, cache = self.streams[self._current], self.caches[self._current]
        kwargs = {**kwargs, "past_key_values": cache}
        if stream.fork and self._last_only:
            return split_last(kwargs)[1]
        if self._past == 0:
            kwargs = self.embedded(kwargs)
        base, rows = columns_of(kwargs), rows_of(kwargs)
        if kwargs.get("inputs_embeds") is not None:
            kwargs["inputs_embeds"] = stream.columns(base, self._past, self.width)
        if stream.aside:
            if self._past == 0:
                _check_room(self.streams, cache)
            mask = stream.grown_mask(rows, self._past + base.shape[1] - self.width).to(base.device)
            kwargs["attention_mask"] = mask
            kwargs["position_ids"] = positions_of(mask)[:, -columns_of(kwargs).shape[1] :]
        return kwargs


def _replace_reorder(cache: Cache, reorder: Callable[[Tensor], Any]) -> None:
    """Let beam search's reorder of this cache do more; `Runner.release` takes it back."""
    cache.__dict__["reorder_cache"] = reorder


def _copy_rows(source: Cache, target: Cache | None) -> None:
    """Make `target`, which is empty and of the same kind, hold a copy of what `source` holds."""
    if target is not None:
        target.layers = copy.deepcopy(source.layers)


def _check_room(streams: list[Stream], cache: Cache | None) -> None:
    """Refuse a fixed-size cache that was made for the base's length when a branch is longer."""
    longest = max(stream.mask.shape[1] for stream in streams)
    if cache is not None and cache.is_compileable and longest > streams[0].mask.shape[1]:
        raise UnsupportedMode(
            f"A branch of {longest} tokens does not fit a static cache made for {streams[0].mask.shape[1]}.",
            "Generate without cache_implementation='static'.",
        )


def choose(branching: Branching) -> type[Runner]:
    """The runner for a wish; `auto` means rows, which cost about one forward wherever memory is the limit."""
    if branching not in ("rows", "sequential", "auto"):
        raise UnsupportedMode(f"branching must be rows, sequential or auto, got {branching!r}.", "Leave it at auto.")
    return SequentialRunner if branching == "sequential" else RowsRunner
