"""What a mode of the matrix is, and what its cells share. The modes are in `loop_modes.py` and `cache_modes.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cells import PLAIN, Case, Outcome, same

FORKS = {"decore", "random_heads", "masked_only", "cgvlm", "cgvlm+vcd", "avc+decore"}
"""Strategies with a branch that starts from the base's cache one position short."""
REFINED = {"avc", "iava", "avc+decore"}
"""Strategies with a branch that is made after the prompt has run."""
ASIDE = {"code", "cad", "cgvlm", "cgvlm+vcd"}
"""Strategies with a branch of another length."""
TWINS = {"cgvlm", "cgvlm+vcd"}
"""Strategies that write one row's keys and values into another's."""
SINGLE = PLAIN | {"cut_only", "shift", "dola", "dagcd"}
"""Strategies without a branch."""


@dataclass(frozen=True)
class Mode:
    """A mode of `generate()`.

    Attributes:
        title: for the table.
        shows: to what its cells are equal.
        run: runs a cell.
    """

    title: str
    shows: str
    run: Callable[[Case], Outcome]


MODES: dict[str, Mode] = {}


def mode(title: str, shows: str) -> Callable[[Callable[[Case], Outcome]], Callable[[Case], Outcome]]:
    """Enter a function into `MODES` under its own name."""

    def enter(run: Callable[[Case], Outcome]) -> Callable[[Case], Outcome]:
        MODES[run.__name__] = Mode(title, shows, run)
        return run

    return enter


def equal(detail: str) -> Outcome:
    """The outcome of a cell whose equality has been asserted."""
    return Outcome("equal", detail)


def missing(error: Exception) -> Outcome:
    """The outcome of a cell whose mode plain `generate()` has not here, for want of a device, a package, or at all."""
    text = " ".join(str(error).split())
    for sign, what in (("CUDA", "a GPU"), ("optimum-quanto", "optimum-quanto"), ("HQQ", "hqq")):
        if sign in text:
            return Outcome("needs", what)
    return Outcome("n/a", f"plain generate() raises {type(error).__name__}: {text[:100]}")


def still_is_plain(case: Case, mode: str, **settings: Any) -> str:
    """Assert that neutral parameters give what plain `generate()` gives in a mode, where that has the mode."""
    still = case.still()
    if still is None:
        return ""
    try:
        plain = case.tried(mode, **settings)
    except Exception as error:
        return f"; plain generate() raises {type(error).__name__}"
    same(still.run(**settings), plain)
    return "; neutral = plain"
