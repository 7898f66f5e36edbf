"""What a decoder did, token by token: how sure the base was, what the contrast moved, where the model looked.

Nothing here runs unless a trace is asked for. A token is known one step after its scores, so each step is held until
the ids of the next one say what was chosen in which row; beams are followed by their ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..models.adapter import Adapter
from .plan import Plan


@dataclass(frozen=True)
class Chances:
    """Probability of one token, at temperature 1.

    Attributes:
        base: in the raw base.
        branches: in each branch.
        decoded: in what was decoded from, contrast and cut included.
    """

    base: float
    branches: tuple[float, ...]
    decoded: float


@dataclass(frozen=True)
class TokenTrace:
    """One generated token.

    Attributes:
        token: its id.
        entropy: of the raw base, in nats.
        kept: number of tokens that the cut left.
        chances: of the token.
        ousted: id of the base's likeliest token where another one was chosen, else None.
        ousted_chances: of that one.
        gate: whether the gate was open; None for strategies without one.
        image_attention: share of the last row's attention that lies on the image, mean over layers and heads; None for
            models without images.
        image_map: the same by image token, `[image tokens]`.
        numbers: what the strategy has to say (alpha, divergence, ...).
    """

    token: int
    entropy: float
    kept: int
    chances: Chances
    ousted: int | None = None
    ousted_chances: Chances | None = None
    gate: bool | None = None
    image_attention: float | None = None
    image_map: Tensor | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Moment:
    """One step of all rows, as the engine saw it.

    Attributes:
        base: raw logits `[rows, vocab]`.
        branches: the same of each branch.
        decoded: scores after contrast and cut.
        gate: rows where it was open, or None.
        numbers: name -> `[rows]`.
        attention: mean over layers and heads of the last row's attention, `[rows, keys]`, or None.
        image: which of these keys are image tokens.
    """

    base: Tensor
    branches: Sequence[Tensor]
    decoded: Tensor
    gate: Tensor | None
    numbers: Mapping[str, Tensor]
    attention: Tensor | None
    image: Tensor | None


class Tracer:
    """Collects moments and turns them into traces.

    Args:
        batch: prompts.
        width: columns of a prompt.
        end: ids that end a text, whose choice no later step shows.
    """

    def __init__(self, batch: int, width: int, end: Sequence[int]):
        self._batch = batch
        self._width = width
        self._end = list(end)
        self._moment: Moment | None = None
        self._held: Moment | None = None
        self._ids: list[list[int]] = []
        self._found: dict[tuple[int, tuple[int, ...]], TokenTrace] = {}

    def note(self, moment: Moment) -> None:
        """Take in a step; what it led to is not known yet."""
        self._moment = moment

    def chose(self, input_ids: Tensor) -> None:
        """Settle the step before: these ids `[rows, length]` are what the step in hand goes on from."""
        ids = input_ids[:, self._width :].tolist()
        if self._ids and self._held is not None:
            self._settle(self._held, ids)
        self._ids, self._held = ids, self._moment

    def traces(self, sequences: Tensor) -> list[list[TokenTrace]]:
        """The tokens of each sequence `[sequences, length]` that `generate()` gave back, up to its end token."""
        ids = sequences[:, self._width :].tolist()
        if self._held is not None:
            self._settle(self._held, ids)
        each = max(1, len(ids) // self._batch)
        found = []
        for place, row in enumerate(ids):
            keys = [(place // each, tuple(row[: length + 1])) for length in range(len(row))]
            trace = [self._found[key] for key in keys if key in self._found]
            ends = [length for length, token in enumerate(trace) if token.token in self._end]
            found.append(trace[: ends[0] + 1] if ends else trace)
        return found

    def _settle(self, moment: Moment, following: Sequence[Sequence[int]]) -> None:
        length = len(self._ids[0])
        each = max(1, len(self._ids) // self._batch)
        places = {(row // each, tuple(ids)): row for row, ids in reversed(list(enumerate(self._ids)))}
        share = max(1, len(following) // self._batch)
        wanted = {(row // share, tuple(ids[: length + 1])) for row, ids in enumerate(following) if len(ids) > length}
        wanted |= {(sample, (*ids, end)) for sample, ids in places for end in self._end}
        table = _Table(moment)
        for sample, ids in sorted(wanted):
            row = places.get((sample, ids[:-1]))
            if row is not None and (sample, ids) not in self._found:
                self._found[sample, ids] = table.token(row, ids[-1])


class _Table:
    """Probabilities of one moment, ready to be read."""

    def __init__(self, moment: Moment):
        self._moment = moment
        self._base = moment.base.log_softmax(-1)
        self._branches = [branch.log_softmax(-1) for branch in moment.branches]
        self._decoded = moment.decoded.log_softmax(-1)
        self._best = moment.base.argmax(-1).tolist()

    def token(self, row: int, token: int) -> TokenTrace:
        moment, best = self._moment, self._best[row]
        logs = self._base[row]
        entropy = float(-(logs.exp() * logs.clamp(min=-1e4)).sum())
        ousted = best if best != token else None
        attention, shown = None, None
        if moment.attention is not None and moment.image is not None:
            shown = moment.attention[row][moment.image[row]].float().cpu()
            attention = float(shown.sum())
        return TokenTrace(
            token=token,
            entropy=entropy,
            kept=int((moment.decoded[row] > -torch.inf).sum()),
            chances=self._chances(row, token),
            ousted=ousted,
            ousted_chances=None if ousted is None else self._chances(row, ousted),
            gate=None if moment.gate is None else bool(moment.gate[row]),
            image_attention=attention,
            image_map=shown,
            numbers={name: float(values[row]) for name, values in moment.numbers.items()},
        )

    def _chances(self, row: int, token: int) -> Chances:
        branches = tuple(float(branch[row, token].exp()) for branch in self._branches)
        return Chances(float(self._base[row, token].exp()), branches, float(self._decoded[row, token].exp()))


def traced(plan: Plan, adapter: Adapter, inputs: Mapping[str, Any]) -> Plan:
    """The plan with what a trace reads: attention of every layer where there are images, and hooks in any case."""
    images = adapter.image_inputs and bool(adapter.image_mask(inputs["input_ids"]).any())
    probes = tuple(range(adapter.layers)) if images else plan.probes
    return replace(plan, probes=probes, probed="steps", combines=True)
