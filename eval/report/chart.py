"""Geometry of the chart: one dot with its interval per decoder, a line at greedy decoding.

Horizontal places are percentages and vertical ones pixels, so that text keeps its size on every screen. The drawing
comes in two layouts, names beside the plot (`wide`) and above their line (`narrow`); the style sheet shows one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from .board import Entry, Section
from .measures import Measure
from .text import DASH, shorten

TOP, AXIS, HEAD = 30, 34, 40
EDGE = 10.0
"""Percent of the width that half a label above the plot may take."""


@dataclass(frozen=True)
class Layout:
    """Where things go: the plot's left and right edge in percent, row height in pixels, ticks, letters of a name."""

    name: str
    left: float
    right: float
    row: int
    ticks: int
    letters: int


WIDE = Layout("wide", 23.0, 82.0, 36, 7, 28)
NARROW = Layout("narrow", 2.0, 98.0, 52, 4, 30)


@dataclass(frozen=True)
class Mark:
    """One decoder: vertical place, horizontal places in percent, and its texts."""

    y: float
    x: float | None
    low: float | None
    high: float | None
    role: str
    label: str
    value: str
    interval: str
    title: str


@dataclass(frozen=True)
class Panel:
    """A generation mode: heading and rows."""

    y: float
    label: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Chart:
    """Everything that the template draws; `zero`: whether the axis holds it."""

    layout: Layout
    height: int
    top: int
    bottom: int
    panels: tuple[Panel, ...]
    ticks: tuple[tuple[float, str], ...]
    reference: float | None
    reference_label: str
    reference_anchor: str
    zero: bool
    axis: str
    description: str


def chart(section: Section, layout: Layout) -> Chart | None:
    """The chart of a section; None where no run has a value."""
    bounds = _bounds(section)
    if bounds is None:
        return None
    ticks = nice_ticks(*bounds, layout.ticks)
    low, high = min(bounds[0], ticks[0]), max(bounds[1], ticks[-1])

    def place(value: float) -> float:
        return round(layout.left + (value - low) / (high - low) * (layout.right - layout.left), 2)

    main, panels, y = section.measure, [], float(TOP)
    for group in section.groups:
        head, y = y, y + HEAD
        marks = []
        for entry in group.entries:
            marks.append(_mark(section, entry, layout, y, place))
            y += layout.row
        panels.append(Panel(head, group.label, tuple(marks)))
        y += 8
    greedy = section.greedy.score(section.split, main.key).value if section.greedy else None
    at = None if greedy is None else place(main.scaled(greedy))
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return Chart(
        layout,
        round(y) + AXIS,
        TOP,
        round(y),
        tuple(panels),
        tuple((place(tick), f"{tick:.{digits}f}") for tick in ticks),
        at,
        "" if greedy is None else f"greedy {main.show(greedy)}",
        _anchor(at, layout),
        low <= 0 <= high,
        main.heading,
        _description(section),
    )


def _anchor(at: float | None, layout: Layout) -> str:
    """How a label above the plot is set: in the middle, at the plot's edges towards its middle."""
    if at is None or layout.left + EDGE <= at <= layout.right - EDGE:
        return "middle"
    return "start" if at < layout.left + EDGE else "end"


def _bounds(section: Section) -> tuple[float, float] | None:
    values = []
    for group in section.groups:
        for entry in group.entries:
            score = entry.run.score(section.split, section.measure.key)
            values += [section.measure.scaled(end) for end in (score.value, score.low, score.high) if end is not None]
    if not values:
        return None
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or max(abs(high) * 0.05, 0.01)
    return low - room, high + room


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers within `low..high`, at least two and about `most` at most."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    if last - first < 1:
        first, last = math.floor(low / step), math.ceil(high / step)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _mark(section: Section, entry: Entry, layout: Layout, y: float, at: Callable[[float], float]) -> Mark:
    main: Measure = section.measure
    score = entry.run.score(section.split, main.key)
    label = f"{entry.label} (partial)" if entry.run.partial else entry.label
    ends = None if score.low is None or score.high is None else (score.low, score.high)
    centre = y + (layout.row / 2 if layout is WIDE else layout.row - 14)
    return Mark(
        centre,
        None if score.value is None else at(main.scaled(score.value)),
        None if ends is None else at(main.scaled(ends[0])),
        None if ends is None else at(main.scaled(ends[1])),
        entry.role,
        shorten(label, layout.letters),
        DASH if score.value is None else main.show(score.value),
        main.show_interval(*ends) if ends else "",
        f"{label}: {score.reason}" if score.value is None else _words(section, entry),
    )


def _words(section: Section, entry: Entry) -> str:
    main = section.measure
    score = entry.run.score(section.split, main.key)
    if score.value is None:
        return f"{entry.label}, {entry.role}: no value, {score.reason}"
    text = f"{entry.label}, {entry.role}: {main.show(score.value)}"
    if score.low is not None and score.high is not None:
        text += f" {main.show_interval(score.low, score.high)}"
    return text + (", partial run" if entry.run.partial else "")


def _description(section: Section) -> str:
    groups = [
        f"{group.label}: " + "; ".join(_words(section, entry) for entry in group.entries) for group in section.groups
    ]
    return f"{section.measure.heading} with 95 % intervals. " + ". ".join(groups) + "."
