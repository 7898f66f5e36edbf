"""All cells of the matrix, those that say something, and how one is run."""

from __future__ import annotations

import cache_modes
import loop_modes
from cells import IMAGES, STRATEGIES, Bench, Outcome
from families import FAMILIES
from modes import FORKS
from modes import MODES as ENTERED
from selection import Cell, pairwise
from sightline.models import errors

PARTS = (loop_modes, cache_modes)
MODES = {key: each for part in PARTS for key, each in ENTERED.items() if each.run.__module__ == part.__name__}
"""In the order in which they are written."""


def refused(strategy: str, family: str) -> type[errors.SightlineError] | None:
    """The error by which every mode is refused alike; None where modes differ.

    Strategies that contrast images meet families that take none, and strategies that share a prompt up to its last
    token one whose tokens see later ones.
    """
    if strategy in IMAGES and not FAMILIES[family].images:
        return errors.MissingImage
    return errors.UnsupportedMode if strategy in FORKS and FAMILIES[family].prefix else None


def idle(strategy: str, family: str) -> bool:
    """Whether every mode is refused alike."""
    return refused(strategy, family) is not None


def everything() -> list[Cell]:
    """Every cell, family by family."""
    return [(strategy, family, mode) for family in FAMILIES for strategy in STRATEGIES for mode in MODES]


def chosen() -> list[Cell]:
    """Cells that hold every pair."""
    return pairwise(list(STRATEGIES), list(FAMILIES), list(MODES), idle)


def run_cell(bench: Bench, strategy: str, family: str, mode: str) -> Outcome:
    """Run one cell.

    Raises:
        AssertionError: a promise does not hold; any other exception is a failure, too.
    """
    case = bench.case(strategy, family)
    error = refused(strategy, family)
    return case.refused(error) if error else MODES[mode].run(case)
