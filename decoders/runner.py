"""What runs the branches of one generation beside the base: streams, and what both kinds of runner share.

A stream's prompt comes from its own evidence, every later column from the base, so that all streams read the same text.

* A *forked* stream shares the base's prefill: the prompt less its last token is run once for the base, its cache is
  copied, and the last token is run for all streams, edits from there on (a fork of the whole prompt would give no
  contrast at the first token).
* A *refined* stream is pending until the base's prompt has run; its prompt is then made from the base's probes, and it
  is run apart, with a cache that joins the others'.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ..models.adapter import Adapter
from ..models.attention import LayerState
from ..models.errors import UnsupportedMode
from .rows import columns_of, overlay, places_on, positions_of


@dataclass
class Stream:
    """The base or one branch, ready to run.

    Attributes:
        prompt: what enters the decoder of it (`Adapter.entering`), `[batch, length, width]`; None where that is the
            base's, or not known yet.
        mask: what it sees of its prompt, `[batch, length]`, 1 where seen.
        image: which columns of its prompt hold image tokens, `[batch, length]` of bool.
        fork: shares the base's prefill; its edits begin at the last prompt token.
        aside: its prompt has another length than the base's, or it sees other columns.
        refined: its prompt is made after the base's prompt has run; see `Branch.refined`.
        counted: padding mask that its positions follow where it sees less than that; None where that is `mask`.
        places: its positions in a family with several axes, `[axes, batch, length]`; None where they are counted.
    """

    prompt: Tensor | None
    mask: Tensor
    image: Tensor
    fork: bool = False
    aside: bool = False
    refined: Literal["prefill", "every_step"] | None = None
    counted: Tensor | None = None
    places: Tensor | None = None

    @property
    def pending(self) -> bool:
        """True while its prompt is not known."""
        return self.refined is not None and self.prompt is None

    def columns(self, base: Tensor, past: int, width: int) -> Tensor:
        """Its columns of a call with base columns `[rows, q, width]`; `width` is the length of the base's prompt."""
        if self.prompt is None:
            return base
        if self.prompt.shape[1] == width:
            return overlay(base, self.prompt, past)
        if past:
            return base
        own = self.prompt.to(base.device, base.dtype).repeat_interleave(base.shape[0] // self.prompt.shape[0], dim=0)
        return torch.cat([own, base[:, width:]], dim=1)

    def grown_mask(self, rows: int, generated: int) -> Tensor:
        """Its mask `[rows, length + generated]` once `generated` tokens have been fed back."""
        return _grown(self.mask, rows, generated)

    def positions(self, rows: int, generated: int, axes: int = 0) -> Tensor:
        """Position ids of the same columns, `[rows, columns]`; with `axes`, `[axes, rows, columns]`.

        Where a model wants an axis more than places have, the first is the counted one, as `generate()` makes it.
        """
        counted = positions_of(_grown(self.mask if self.counted is None else self.counted, rows, generated))
        if not axes:
            return counted
        if self.places is None:
            return counted.expand(axes, -1, -1)
        places = places_on(self.places.to(counted.device), rows, generated)
        return torch.cat([counted.expand(axes - len(places), -1, -1), places])


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
        self.refine: Callable[[Mapping[str, Any], Cache | None], None] | None = None
        """Fills in the prompts of pending streams from the base's prompt call, which has run, and its cache."""
        self.idle: Callable[[Tensor], bool] | None = None
        """Whether branches cannot matter at this step, from the base's last logits `[rows, vocab]`; None: they may."""
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
        """Logits `[rows, columns, vocab]` of each stream's last positions, base first, after the owner's forward.

        The base's alone where branches are left out of the step.
        """

    @abstractmethod
    def settle(self, cache: Cache, opened: Tensor, twin: int) -> None:
        """Give base and twin the newest keys and values of the one that was chosen.

        Args:
            cache: of the base.
            opened: rows where the twin was chosen, `[rows]` of bool.
            twin: number of the twin's stream.
        """

    def inner(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The decoder's keyword arguments for a call that the runner itself has made."""
        return kwargs

    def after(self, output: Any) -> Any:
        """The decoder's output for the call of `generate()`, once it has run."""
        return output

    def release(self, cache: Cache | None, rows: int) -> None:
        """Give the base's cache back with base rows alone, for a caller who keeps it."""
        if cache is not None:
            cache.__dict__.pop("reorder_cache", None)

    @property
    def asides(self) -> bool:
        """True if the masks of the streams differ."""
        return any(stream.aside for stream in self.streams)

    @property
    def longest(self) -> int:
        """Columns of the longest prompt."""
        return max(stream.mask.shape[1] for stream in self.streams)

    @property
    def pending(self) -> list[int]:
        """Streams whose prompts are not known yet."""
        return [place for place, stream in enumerate(self.streams) if stream.pending]

    def open_again(self, cache: Cache | None) -> None:
        """Forget the prompts that are to be made anew at this step."""
        for stream in self.streams:
            if stream.refined == "every_step":
                stream.prompt = None
                if cache is not None:
                    raise UnsupportedMode(
                        "A branch that is refreshed at every step has to run its whole prompt anew.",
                        "Generate with use_cache=False, or refresh at the prefill alone.",
                    )

    def last(self, hidden: Tensor, rows: int) -> Tensor:
        """The base's rows of what enters a layer, `[rows, columns, width]`: the positions that are contrasted."""
        return hidden[:rows, -self.columns :]

    def present(
        self,
        streams: Sequence[int],
        images: Sequence[Tensor],
        seen: int,
        *,
        spared: tuple[int, ...] = (),
        tail: tuple[int, ...] = (),
    ) -> None:
        """Tell the edited layers about the next call.

        Args:
            streams: those in the call, in row order.
            images: for every stream, image columns of its prompt, as the call lays them out.
            seen: columns of a row up to the end of the call.
            spared: for every stream the number of columns that edits leave alone.
            tail: streams that have but one column, behind those of the base.
        """
        shared: dict[tuple, Any] = {}
        for state in self.states.values():
            state.present, state.spared, state.image, state.seen = tuple(streams), spared, tuple(images), seen
            state.tail, state.shared = tail, shared

    @contextmanager
    def own_call(self) -> Iterator[None]:
        """Inside, the model is called by the runner and not by `generate()`; what probes read there is not kept."""
        before, self.busy = self.busy, True
        states = self.states.values()
        told = ("present", "image", "seen", "shared", "tail")
        kept = [(state, state.reading, {name: getattr(state, name) for name in told}) for state in states]
        try:
            with torch.no_grad():
                yield
        finally:
            self.busy = before
            for state, reading, before_call in kept:
                vars(state).update(before_call)
                state.reading = reading if state.probe else None

    def embedded(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call with embeddings in place of ids where a stream has columns of its own."""
        own = any(stream.prompt is not None or stream.refined for stream in self.streams)
        if kwargs.get("inputs_embeds") is not None or not own:
            return kwargs
        embeds = self.adapter.decoder.get_input_embeddings()(kwargs["input_ids"])
        return {**kwargs, "input_ids": None, "inputs_embeds": embeds}

    @abstractmethod
    def spared(self, past: int, cache: Cache | None) -> tuple[int, ...]:
        """Columns of a whole-sequence call that forked streams share with the base, stream by stream."""

    def check_whole_prompt(self, kwargs: Mapping[str, Any], what: str, held: int = 0) -> None:
        """Refuse a prefill in chunks, where `what` needs the prompt in one piece, behind what a cache held before."""
        given = held + columns_of(kwargs).shape[1]
        if given != self.width:
            raise UnsupportedMode(
                f"{what} needs the prompt in one piece and was given {given} of {self.width} tokens.",
                "Generate without prefill_chunk_size.",
            )

    def check_pieces(self, kwargs: Mapping[str, Any], past: int, cache: Cache | None) -> None:
        """Refuse a prefill in chunks where tokens of a prompt see later ones."""
        if cache is None or past:
            return
        if self.adapter.whole_prompt:
            self.check_whole_prompt(kwargs, "A prompt whose tokens all see each other")
        if self.adapter.whole_images and self.streams[0].image.any():
            self.check_whole_prompt(kwargs, "A prompt with images whose tokens all see each other")

    def check_aside(self, cache: Cache | None) -> None:
        """Refuse, for branches of another length, caches made for the base's length."""
        if cache is not None and cache.is_compileable and self.longest > self.width:
            raise UnsupportedMode(
                f"A branch of {self.longest} tokens does not fit a static cache made for {self.width}.",
                "Generate without cache_implementation='static'.",
            )


def _grown(mask: Tensor, rows: int, generated: int) -> Tensor:
    mask = mask.repeat_interleave(rows // mask.shape[0], dim=0)
    return torch.cat([mask, mask.new_ones(rows, generated)], dim=1)
