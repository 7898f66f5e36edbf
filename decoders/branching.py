"""How the branches of one generation run: as rows of the base's forward, or one after the other.

Both give the same tokens. Rows are the rule: one forward a token, which costs about what one row does wherever reading
the weights is what takes time. Sequential passes suit batches that would not fit beside their branches, and processors
whose kernels for one row of half precision are much better than those for two: there `auto` measures, once.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import torch

from ..models.errors import UnsupportedMode
from .in_rows import RowsRunner
from .in_sequence import SequentialRunner
from .runner import Runner

Branching = Literal["rows", "sequential", "auto"]


SIDE = 2048
"""Of the matrix that is measured: 8 MB of half precision, more than most caches of a core hold."""
TRIES = 25


def choose(branching: Branching, device: torch.device, dtype: torch.dtype) -> type[Runner]:
    """The runner for a wish.

    `auto` is rows on accelerators, and in float32 and float64, where the same configuration shall give the same bytes
    and not those of a stopwatch. In half precision on a processor it is what `rows_pay` measures.
    """
    if branching not in ("rows", "sequential", "auto"):
        raise UnsupportedMode(f"branching must be rows, sequential or auto, got {branching!r}.", "Leave it at auto.")
    if branching == "auto" and device.type == "cpu" and dtype in (torch.bfloat16, torch.float16):
        return RowsRunner if rows_pay(dtype) else SequentialRunner
    return SequentialRunner if branching == "sequential" else RowsRunner


@cache
def rows_pay(dtype: torch.dtype) -> bool:
    """Whether two rows through a weight take no longer than one row twice on this processor; milliseconds, once."""
    weight = torch.ones(SIDE, SIDE, dtype=dtype)
    one, two = (torch.ones(rows, 1, SIDE, dtype=dtype) for rows in (1, 2))
    found = [(_seconds(one, weight), _seconds(two, weight)) for _ in range(TRIES)]  # in turn: noise falls on both alike
    fastest_one, fastest_two = map(min, zip(*found[1:], strict=True))  # what disturbs a machine only ever adds
    return fastest_two <= 2 * fastest_one


def _seconds(rows: torch.Tensor, weight: torch.Tensor) -> float:
    start = time.perf_counter()
    torch.nn.functional.linear(rows, weight)
    return time.perf_counter() - start
