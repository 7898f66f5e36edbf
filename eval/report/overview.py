"""The findings of all sections in one table, one line each; shown where there are several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .headline import control_name
from .tables import Cell, difference_cell, score_cell
from .text import DASH

if TYPE_CHECKING:
    from .write import View

HEADS = ("Task", "Best strategy", "Measure", "Value", "To greedy", "To best control", "Best control")


@dataclass(frozen=True)
class Line:
    """One section: its anchor and title, the finding, the strategy it is about, and what it gains."""

    id: str
    title: str
    claim: str
    strategy: str
    measure: str
    cells: tuple[Cell, ...]
    control: str


def overview(views: Sequence[View]) -> list[Line]:
    """A line for each section; nothing for a single one, whose finding is the headline."""
    return [_line(view) for view in views] if len(views) > 1 else []


def _line(view: View) -> Line:
    section, found = view.section, view.finding
    main = section.measure
    better = {"lower": ", lower is better"}.get(main.better or "", "")
    if found.entry is None or found.group is None:
        return Line(view.id, view.title, found.claim, DASH, main.label, (Cell(DASH),) * 3, DASH)
    entry = found.entry
    cells = (
        score_cell(entry.run.score(section.split, main.key), main),
        difference_cell(entry.against_greedy, main, judged=True),
        difference_cell(entry.against_control, main, judged=True),
    )
    name = control_name(found.group)
    return Line(view.id, view.title, found.claim, found.name, main.heading + better, cells, name)
