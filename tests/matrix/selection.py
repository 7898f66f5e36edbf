"""Which cells are run by default: every pair of strategy, family and mode, in as few cells as a greedy choice finds.

A pair counts as covered by a cell that says something about it: an image strategy on a text model is refused whatever
the mode, so such a cell covers strategy and family alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import product

Cell = tuple[str, str, str]
"""Strategy, family, mode."""
Pair = tuple[str, str, str]
"""`strategy family`, `strategy mode` or `family mode`, and the two names."""


def pairs_of(cell: Cell, idle: bool) -> list[Pair]:
    """The pairs that a cell covers; an idle one covers strategy and family alone."""
    strategy, family, mode = cell
    covered = [("strategy family", strategy, family)]
    return covered if idle else [*covered, ("strategy mode", strategy, mode), ("family mode", family, mode)]


def pairwise(
    strategies: Sequence[str], families: Sequence[str], modes: Sequence[str], idle: Callable[[str, str], bool]
) -> list[Cell]:
    """Cells that cover every pair that any cell covers; the same ones each time.

    Args:
        idle: whether a strategy on a family ends alike in every mode.

    Strategies and modes are gone through; each of their pairs takes the family that covers most beside it, and of
    several such the one that was taken least.
    """
    every = list(product(strategies, families, modes))
    wanted = {pair for cell in every for pair in pairs_of(cell, idle(cell[0], cell[1]))}
    used: Counter[str] = Counter()
    chosen: list[Cell] = []

    def take(cells: Iterable[Cell]) -> None:
        def worth(cell: Cell) -> tuple[int, int]:
            new = sum(pair in wanted for pair in pairs_of(cell, idle(cell[0], cell[1])))
            return new, -used[cell[1]]

        best = max(cells, key=worth)
        if worth(best)[0]:
            chosen.append(best)
            used[best[1]] += 1
            wanted.difference_update(pairs_of(best, idle(best[0], best[1])))

    for strategy, mode in product(strategies, modes):
        if ("strategy mode", strategy, mode) in wanted:
            take((strategy, family, mode) for family in families if not idle(strategy, family))
    while wanted:
        kind, one, other = min(wanted)
        take(cell for cell in every if (kind, one, other) in pairs_of(cell, idle(cell[0], cell[1])))
    order = {name: place for place, name in enumerate([*families, *strategies, *modes])}
    return sorted(chosen, key=lambda cell: [order[cell[part]] for part in (1, 0, 2)])
