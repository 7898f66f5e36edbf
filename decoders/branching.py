"""How the branches of one generation run: as rows of the base's forward, or one after the other.

Both give the same tokens. Rows are the rule: one forward a token. Sequential passes suit devices that compute rather
than wait for memory (float32 on a CPU), and batches that would not fit beside their branches.
"""

from __future__ import annotations

from typing import Literal

from ..models.errors import UnsupportedMode
from .in_rows import RowsRunner
from .in_sequence import SequentialRunner
from .runner import Runner

Branching = Literal["rows", "sequential", "auto"]


def choose(branching: Branching) -> type[Runner]:
    """The runner for a wish; `auto` means rows, which cost about one forward wherever memory is the limit."""
    if branching not in ("rows", "sequential", "auto"):
        raise UnsupportedMode(f"branching must be rows, sequential or auto, got {branching!r}.", "Leave it at auto.")
    return SequentialRunner if branching == "sequential" else RowsRunner
