"""`sightline bench --compile`: each contender beside itself with its decoder compiled in place and a static cache.

Eager and compiled runs of all contenders alternate within the same rounds, on one model: an eager run takes the
compiled code off the decoder, a compiled one puts it back. Compiling falls into the first call, which no round holds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from ...models.adapter import Adapter
from ..errors import UsageError
from ..listing import table
from .contenders import Clock, Contender
from .measure import Spread, Timed, ratios, spread, timed

STATIC = {"cache_implementation": "static", "disable_compile": True}
"""What a compiled contender gives `generate()`, which would else compile the whole model too, on accelerators."""
GRAPHS = 256
"""Graphs that one function may have: all contenders share the decoder's code, and torch gives up at 8."""
HEADER = (
    "", "eager, ms/token", "compiled, ms/token", "compiled / eager", "first call, s", "graphs", "breaks",
    "later graphs", "tokens changed",
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A contender as it is, and compiled.

    Attributes:
        eager, compiled: the two ways, with the same name.
    """

    eager: Contender
    compiled: Contender


@dataclass
class Compiled:
    """What was found about one contender.

    Attributes:
        eager, compiled: times; counts are not taken.
        first_call: seconds of the first compiled generation, compilation included.
        graphs: that it made.
        breaks: of these graphs, at what cannot be compiled.
        later: graphs made after it; 0 where shapes stay the same.
        changed: tokens that differ from the eager run's, of `tokens`.
        tokens: that each generated, all rows.
    """

    eager: Timed
    compiled: Timed
    first_call: float = 0.0
    graphs: int = 0
    breaks: int = 0
    later: int = 0
    changed: int = 0
    tokens: int = 0


def check_backend(name: str) -> None:
    """Refuse a backend that torch does not have.

    Raises:
        UsageError: there is none of this name.
    """
    if name not in torch.compiler.list_backends(exclude_tags=()):
        usual = ", ".join(["aot_eager", "eager", *torch.compiler.list_backends()])
        raise UsageError(f"--compile names {name!r}, which is no backend of torch.compile.", f"Known: {usual}.")


def compare(
    pairs: Sequence[Pair],
    adapter: Adapter,
    backend: str | Callable[..., Any],
    rounds: int,
    told: Callable[[str], None] = lambda line: None,
) -> list[Compiled]:
    """Time each contender eager and compiled, in turn.

    Args:
        pairs: greedy first.
        adapter: of the model; its decoder is as before afterwards.
        backend: of `torch.compile`, by name or a function.
        rounds: how often each is timed, after two runs to warm up.
        told: gets a line for each contender, and as each round ends.

    Raises:
        UsageError: the backend cannot compile here.
    """
    with _compiling(adapter, backend) as use:
        found = []
        for pair in pairs:
            told(f"compiling {pair.eager.name}")
            found.append(_warmed(pair, adapter, use))
        runs = [(pair, each, compiled) for pair, each in zip(pairs, found, strict=True) for compiled in (False, True)]
        for number in range(rounds):
            shift = number % len(runs)
            for pair, each, compiled in [*runs[shift:], *runs[:shift]]:
                use(compiled)
                before = _counted()
                into, contender = (each.compiled, pair.compiled) if compiled else (each.eager, pair.eager)
                into.rounds.append(timed(contender, adapter))
                each.later += _counted()[0] - before[0]
            told(f"round {number + 1} of {rounds}")
    return found


@contextmanager
def _compiling(adapter: Adapter, backend: str | Callable[..., Any]) -> Iterator[Callable[[bool], None]]:
    """Inside, the decoder has compiled code, which the function given turns on and off."""
    decoder: Any = adapter.decoder
    held = decoder._compiled_call_impl
    torch._dynamo.reset()
    decoder.compile(backend=backend)
    code = decoder._compiled_call_impl

    def use(compiled: bool) -> None:
        decoder._compiled_call_impl = code if compiled else None

    dynamo: Any = torch._dynamo  # a second to import, so not at the top
    failed: type[Exception] = dynamo.exc.BackendCompilerFailed
    try:
        with dynamo.config.patch(recompile_limit=GRAPHS, accumulated_recompile_limit=GRAPHS * 8):
            yield use
    except failed as error:
        raise UsageError(
            f"{backend} cannot compile here: {str(error).splitlines()[0]}",
            "The default, inductor, needs a C++ compiler (g++) for processors; --compile aot_eager needs none.",
        ) from error
    finally:
        decoder._compiled_call_impl = held
        torch._dynamo.reset()


def _warmed(pair: Pair, adapter: Adapter, use: Callable[[bool], None]) -> Compiled:
    """Both ways run: the eager one first, so that checks of the model and descriptions are made before compiling."""
    made = Compiled(Timed(pair.eager.name, {}), Timed(pair.compiled.name, {}))
    use(False)
    expected = _tokens(pair.eager, adapter)
    use(True)
    before, start = _counted(), time.perf_counter()
    found = _tokens(pair.compiled, adapter)
    made.first_call = time.perf_counter() - start
    middle = _counted()
    _tokens(pair.compiled, adapter)  # sizes seen to change are compiled once more, for any size
    made.graphs, made.breaks = middle[0] - before[0], middle[1] - before[1]
    made.later = _counted()[0] - middle[0]
    made.changed, made.tokens = int((found != expected).sum()), expected.numel()
    return made


def _tokens(contender: Contender, adapter: Adapter) -> Tensor:
    """What it generates, `[batch, new tokens]`."""
    clock = Clock(adapter.model.device)
    with torch.no_grad():
        found: Tensor = contender.run(StoppingCriteriaList([clock]))
    return found[:, -clock.tokens :]


def _counted() -> tuple[int, int]:
    """Graphs and graph breaks of this process so far."""
    counters: Any = torch._dynamo.utils.counters
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def shown(found: Sequence[Compiled]) -> str:
    """The table; ratios are medians over rounds, quartiles in brackets."""
    rows = []
    for each in found:
        ratio = ratios(each.compiled, each.eager, "each")
        rows.append((
            each.eager.name, _three(spread(each.eager, "each"), 1e3), _three(spread(each.compiled, "each"), 1e3),
            _three(ratio), f"{each.first_call:.1f}", str(each.graphs), str(each.breaks), str(each.later),
            f"{each.changed} of {each.tokens}",
        ))  # fmt: skip
    return table(HEADER, rows)


def as_json(found: Sequence[Compiled]) -> list[dict[str, Any]]:
    """Everything, each round included."""
    return [
        {
            **dataclasses.asdict(each),
            "compiled_to_eager": None if (one := ratios(each.compiled, each.eager, "each")) is None else vars(one),
        }
        for each in found
    ]


def _three(value: Spread | None, by: float = 1.0) -> str:
    if value is None:
        return "-"
    return f"{value.median * by:.3g} [{value.low * by:.3g}, {value.high * by:.3g}]"
