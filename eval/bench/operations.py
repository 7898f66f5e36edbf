"""What one decode step does besides matrix products: operations that are launched, and reads that make the host wait.

A kernel costs its launch however little it works on, and a value that Python reads (`.item()`, `bool(tensor)`, a
boolean index) makes the host wait for the device. Both are counted, not timed: between two tokens of a `generate()`,
for plain greedy decoding and for each contender.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import StoppingCriteria, StoppingCriteriaList

from .contenders import Contender

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2", "is_nonzero")
"""Operations whose result the host has to see before it goes on."""
_LEAVING = {Tensor.tolist, Tensor.cpu, Tensor.numpy}
_VIEWS = (
    "view", "_unsafe_view", "transpose", "slice", "select", "unsqueeze", "squeeze", "expand", "t", "permute", "detach",
    "alias", "unbind", "split", "as_strided", "lift_fresh", "sym_size", "_reshape_alias", "split_with_sizes",
    "promote_types", "empty_like", "empty",
)  # fmt: skip
"""Operations that compute nothing: they say where numbers stand."""


@dataclass(frozen=True)
class Step:
    """One decode step.

    Attributes:
        launched: operations that compute, by name.
        waits: times the host waits for a value.
    """

    launched: Counter[str]
    waits: int

    @property
    def total(self) -> int:
        """All operations that compute."""
        return sum(self.launched.values())


class _Launched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.launched: Counter[str] = Counter()
        self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indexed = name in ("index", "index_put", "index_put_") and any(
            isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1]
        )
        self.waits += name in WAITING or indexed
        if name not in _VIEWS:
            self.launched[name] += 1
        return func(*args, **(kwargs or {}))

    def end_step(self) -> None:
        self.steps.append(Step(self.launched, self.waits))
        self.launched, self.waits = Counter(), 0


class _Read(TorchFunctionMode):
    def __init__(self, launched: _Launched):
        super().__init__()
        self._launched = launched

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._launched.waits += func in _LEAVING
        return func(*args, **(kwargs or {}))


class _Mark(StoppingCriteria):
    def __init__(self, launched: _Launched):
        self._launched = launched

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self._launched.end_step()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def decode_step(contender: Contender) -> Step:
    """The median decode step of a contender; tokens after the second one, where all that is made once has been made."""
    launched = _Launched()
    with torch.no_grad(), launched, _Read(launched):
        contender.run(StoppingCriteriaList([_Mark(launched)]))
    steps = launched.steps[2:]
    if not steps:
        raise ValueError("a step is counted from the third token on; generate three or more")
    middle = statistics.median_low([step.total for step in steps])
    found = next(step for step in steps if step.total == middle)
    return Step(found.launched, max(step.waits for step in steps))


def beside(found: Sequence[tuple[str, Step]], most: int = 6) -> list[tuple[str, str, str, str]]:
    """For each contender its operations, those above the first one's, waits, and which operations are more."""
    base = found[0][1]
    rows = []
    for name, step in found:
        more = step.launched - base.launched
        shown = ", ".join(f"{op} {count}" for op, count in more.most_common(most))
        rows.append(
            (name, str(step.total), f"{step.total - base.total:+d}", f"{step.waits - base.waits:+d}", shown or "-")
        )
    return rows
