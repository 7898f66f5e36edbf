"""Contenders in turn, round by round: medians, spread, and ratios to greedy decoding within the same round.

A shared machine is slower in one minute than in the next. So every round times every contender, in an order that moves
on by one from round to round, and a ratio is taken between two times of the same round before anything is averaged.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import StoppingCriteriaList

from ...models.adapter import Adapter
from .contenders import Clock, Contender, synchronize
from .counting import counted

_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass(frozen=True)
class Round:
    """One generation.

    Attributes:
        first: seconds to the first token; attaching, with all that is encoded for branches, included.
        each: seconds for each token after it; None where there is one token.
        memory: most memory held, in MB: of the CUDA allocator, else of the process; None where it cannot be told.
    """

    first: float
    each: float | None
    memory: float | None


@dataclass
class Timed:
    """All rounds of one contender.

    Attributes:
        name: of the contender.
        counts: see `Counts.summary`.
        once: forwards and seconds that the first call about an image takes beside later ones; None where none.
        rounds: in order.
    """

    name: str
    counts: dict[str, Any]
    once: dict[str, float] | None = None
    rounds: list[Round] = field(default_factory=list)


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more; quartiles by linear interpolation."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)


def measure(
    contenders: Sequence[Contender], adapter: Adapter, rounds: int, told: Callable[[str], None] = lambda line: None
) -> list[Timed]:
    """Time contenders in turn; the first one is what the others are held against.

    Args:
        contenders: greedy first.
        adapter: of the model.
        rounds: how often each is timed, after one run to warm up and one to count.
        told: gets a line as each round ends.
    """
    found = []
    for contender in contenders:
        told(f"warming up {contender.name}")
        found.append(_prepared(contender, adapter))
    for contender, each in zip(contenders, found, strict=True):
        if each.once:  # what it keeps per image went when the next contender was prepared
            _generate(contender, Clock(adapter.model.device))
    for number in range(rounds):
        shift = number % len(contenders)
        order = [*range(shift, len(contenders)), *range(shift)]
        for place in order:
            found[place].rounds.append(timed(contenders[place], adapter))
        told(f"round {number + 1} of {rounds}")
    return found


def counts(contender: Contender, adapter: Adapter) -> dict[str, Any]:
    """What a contender runs, see `Counts.summary`; what is kept per image, such as a description, is there already."""
    _generate(contender, Clock(adapter.model.device))
    with counted(adapter) as found:
        _generate(contender, Clock(adapter.model.device, found))
    return found.summary()


def _prepared(contender: Contender, adapter: Adapter) -> Timed:
    if contender.strategy is not None and contender.strategy.needs_attention:
        adapter.self_check()  # once per model and process, so it is nobody's price
    adapter.forget()
    with counted(adapter) as first:  # caches of kernels fill in this run, and so does what is kept per image
        _generate(contender, Clock(adapter.model.device, first))
    with counted(adapter) as later:
        _generate(contender, Clock(adapter.model.device, later))
    more = first.forwards("prefill") - later.forwards("prefill")
    once = None
    if more:
        kept = timed(contender, adapter)
        adapter.forget()
        once = {"forwards": float(more), "seconds": timed(contender, adapter).first - kept.first}
    return Timed(contender.name, later.summary(), once)


def timed(contender: Contender, adapter: Adapter) -> Round:
    """One generation on the clock."""
    device = adapter.model.device
    gc.collect()
    _forget_peak(device)
    clock = Clock(device)
    synchronize(device)
    start = time.perf_counter()
    _generate(contender, clock)
    synchronize(device)
    end = time.perf_counter()
    first = clock.first if clock.first is not None else end
    each = (end - first) / (clock.tokens - 1) if clock.tokens > 1 else None
    return Round(first - start, each, _peak(device))


def _generate(contender: Contender, clock: Clock) -> None:
    with torch.no_grad():
        contender.run(StoppingCriteriaList([clock]))


def ratios(of: Timed, beside: Timed, what: str) -> Spread | None:
    """Quotients of `first` or `each` within the same round; None where nothing was measured."""
    pairs = [(getattr(mine, what), getattr(its, what)) for mine, its in zip(of.rounds, beside.rounds, strict=True)]
    quotients = [mine / its for mine, its in pairs if mine is not None and its]
    return Spread.of(quotients) if quotients else None


def spread(of: Timed, what: str) -> Spread | None:
    """Median and quartiles of `first`, `each` or `memory`; None where nothing was measured."""
    values = [value for each in of.rounds if (value := getattr(each, what)) is not None]
    return Spread.of(values) if values else None


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _RESET.write_text("5")  # Linux: the most that was held starts anew from what is held now
    except OSError:
        return


def _peak(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) / 2**10
