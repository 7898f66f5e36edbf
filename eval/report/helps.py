"""Which decoder helps which model on which task: a row for each decoder, a column for each section."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .board import Entry, Section
from .headline import better, worse
from .tables import Cell, difference_cell
from .text import DASH, finite, number

if TYPE_CHECKING:
    from .write import View

UP, DOWN, LEVEL = "\u25b2", "\u25bc", "\u2248"


@dataclass(frozen=True)
class Helps:
    """The gains over greedy decoding in one generation mode.

    Attributes:
        caption: what it shows.
        heads: for each section its anchor, title and measure.
        rows: name, role, and a cell for each section.
    """

    caption: str
    heads: tuple[tuple[str, str, str], ...]
    rows: tuple[tuple[str, str, tuple[Cell, ...]], ...]


def helps(views: Sequence[View]) -> list[Helps]:
    """A table for each generation mode with strategies; nothing for a single section, whose leaderboard says it all."""
    if len(views) < 2:
        return []
    modes = dict.fromkeys(
        group.mode for view in views for group in view.section.groups if group.strategies and view.section.greedy
    )
    return [_helps(views, mode) for mode in modes]


def _helps(views: Sequence[View], mode: str) -> Helps:
    found: dict[tuple[str, str], list[list[Entry]]] = {}
    asked = [view for view in views if any(group.mode == mode and group.strategies for group in view.section.groups)]
    for at, view in enumerate(asked):
        for entry in _entries(view.section, mode):
            named = found.setdefault((entry.run.title, entry.role), [[] for _ in asked])
            named[at].append(entry)
    rows = [
        (title, role, tuple(_cell(view.section, each) for view, each in zip(asked, entries, strict=True)))
        for (title, role), entries in found.items()
    ]
    rows.sort(key=lambda row: (row[1] != "strategy", -sum(cell.tone == "good" for cell in row[2]), row[0].lower()))
    heads = tuple((view.id, view.title, _measure(view.section)) for view in asked)
    words = {"greedy": "each decoder decoding greedily", "sample": "each decoder sampling"}.get(mode, f"mode {mode}")
    marks = f"{UP} clearly better, {DOWN} clearly worse, {LEVEL} neither"
    return Helps(f"Change from greedy decoding, {words} ({marks})", heads, tuple(rows))


def _entries(section: Section, mode: str) -> list[Entry]:
    return [
        entry
        for group in section.groups
        if group.mode == mode
        for entry in group.entries
        if not entry.reference and entry.run is not section.greedy
    ]


def _measure(section: Section) -> str:
    return section.measure.heading + (", lower is better" if section.measure.better == "lower" else "")


def _cell(section: Section, entries: Sequence[Entry]) -> Cell:
    """The gain of the best of a decoder's settings, with its interval, what may be said of it, and what it costs."""
    tested = [entry for entry in entries if entry.against_greedy.value is not None]
    if not tested:
        return Cell(DASH, reason=entries[0].against_greedy.reason if entries else "not run")
    main = section.measure
    entry = max(tested, key=lambda each: main.gain(each.against_greedy.value or 0.0))
    gap = entry.against_greedy
    cell = difference_cell(gap, main, judged=True)
    sign = UP if better(gap, main) else DOWN if worse(gap, main) else LEVEL
    words = [cell.word, f"best of {len(tested)} settings" if len(tested) > 1 else "", price(entry)]
    return replace(
        cell,
        text=f"{sign}\u00a0{cell.text}",
        word=", ".join(word for word in words if word),
        order=main.gain(gap.value or 0.0),
    )


def cost(entry: Entry) -> tuple[float, str] | None:
    """What an entry costs beside greedy decoding, and in what: seconds, or rows where it was not timed."""
    beside = entry.run.timing.get("beside_greedy")
    ratio = finite(beside.get("ratio")) if isinstance(beside, dict) else None
    if ratio is not None and ratio > 0:
        return ratio, "time"
    rows = finite(entry.run.timing.get("rows_per_token"))
    return None if rows is None or rows <= 0 else (rows, "rows")


def price(entry: Entry) -> str:
    """`1.9\u00d7 time`; empty where it is not known."""
    found = cost(entry)
    return "" if found is None else f"{number(found[0], 1)}\u00d7\u00a0{found[1]}"
