"""Geometry of the charts of gain against cost: one panel for each section, a point with its interval per decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .board import Entry, Section
from .chart import nice_ticks
from .helps import cost
from .text import number, shorten

WIDTH, HEIGHT = 400, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 16, 40
_LETTER, _LINE, _NAME = 6.4, 14, 22
_STEPS = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)


@dataclass(frozen=True)
class Point:
    """One decoder: its place, the ends of its interval, and its name where there is room for it."""

    x: float
    y: float
    top: float | None
    bottom: float | None
    role: str
    title: str
    name: str = ""
    name_x: float = 0.0
    name_y: float = 0.0
    anchor: str = "start"


@dataclass(frozen=True)
class Tradeoff:
    """One panel; places in pixels of its own."""

    id: str
    title: str
    gain: str
    cost: str
    points: tuple[Point, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    zero: float
    description: str


def tradeoff(id: str, title: str, section: Section) -> Tradeoff | None:
    """The panel of a section; None where no decoder has both a gain and a cost."""
    held = [(entry, *found) for entry in _entries(section) if (found := cost(entry))]
    kinds = [kind for _, _, kind in held]
    if len(held) < 2:
        return None
    kind = "time" if kinds.count("time") == len(kinds) else "rows"
    if kind == "rows":
        held = [(entry, rows, "rows") for entry, _, _ in held if (rows := entry.run.timing.get("rows_per_token"))]
    return _panel(id, title, section, kind, [(entry, float(price)) for entry, price, _ in held])


def _entries(section: Section) -> list[Entry]:
    """Those of the first generation mode with strategies: a gain over greedy decoding by drawing is another matter."""
    shown = next((group for group in section.groups if group.strategies), None)
    return [
        entry
        for entry in (shown.entries if shown else ())
        if not entry.reference and entry.run is not section.greedy and entry.against_greedy.value is not None
    ]


def _panel(id: str, title: str, section: Section, kind: str, held: Sequence[tuple[Entry, float]]) -> Tradeoff:
    main = section.measure
    gains = [_gain(section, entry) for entry, _ in held]
    ends = [end for gain in gains for end in gain if end is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = (high - low) * 0.05 or 1.0
    ticks = nice_ticks(low - room, high + room, 5)
    low, high = min(low - room, ticks[0]), max(high + room, ticks[-1])
    dearest = max(1.0, *(price for _, price in held)) * 1.08
    cheapest = min(1.0, *(price for _, price in held)) / 1.08

    def across(price: float) -> float:
        share = (math.log(price) - math.log(cheapest)) / (math.log(dearest) - math.log(cheapest))
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def up(gain: float) -> float:
        return round(TOP + (high - gain) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    def end(of: float | None) -> float | None:
        return None if of is None else up(of)

    points = [
        Point(
            across(price), up(gain[0]), end(gain[2]), end(gain[1]),
            entry.role, _words(section, entry, price, kind),
        )
        for (entry, price), gain in zip(held, gains, strict=True)
    ]  # fmt: skip
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    better = "up is better" if main.better else "difference"
    return Tradeoff(
        id,
        title,
        f"gain over greedy in {main.label}{', points' if main.percent else ''} ({better})",
        "seconds over greedy\u2019s" if kind == "time" else "rows over greedy\u2019s",
        tuple(_named([entry.label for entry, _ in held], points)),
        _prices(cheapest, dearest, across),
        tuple((up(tick), number(tick, digits, signed=True)) for tick in ticks),
        up(0.0),
        "; ".join(point.title for point in points) + ".",
    )


def _gain(section: Section, entry: Entry) -> tuple[float, float | None, float | None]:
    """Value and ends of the gain in the unit that is shown, up being better."""
    gap, main = entry.against_greedy, section.measure
    value = main.scaled(main.gain(gap.value or 0.0))
    if gap.low is None or gap.high is None:
        return value, None, None
    ends = sorted(main.scaled(main.gain(end)) for end in (gap.low, gap.high))
    return value, ends[0], ends[1]


def _prices(cheapest: float, dearest: float, across: Callable[[float], float]) -> tuple[tuple[float, str], ...]:
    within = [step for step in _STEPS if cheapest <= step <= dearest]
    found: list[tuple[float, str]] = []
    for step in within:
        x = across(step)
        if not found or x - found[-1][0] > 34:
            found.append((x, f"{step:g}\u00d7"))
    return tuple(found)


def _words(section: Section, entry: Entry, price: float, kind: str) -> str:
    gap, main = entry.against_greedy, section.measure
    text = f"{entry.label}, {entry.role}: {main.show(gap.value or 0.0, signed=True)}"
    if gap.low is not None and gap.high is not None:
        text += f" {main.show_interval(gap.low, gap.high, signed=True)}"
    return f"{text}, {number(price, 2)}\u00d7 {kind}"


def _named(labels: Sequence[str], points: Sequence[Point]) -> list[Point]:
    """The points with names beside them where these cover nothing; best gains are named first."""
    taken = [(point.x - 7, point.y - 7, point.x + 7, point.y + 7) for point in points]
    order = sorted(range(len(points)), key=lambda at: (points[at].role != "strategy", points[at].y))
    found = list(points)
    for at in order:
        point, name = points[at], shorten(labels[at].partition(",")[0], _NAME)
        wide = len(name) * _LETTER
        for dx, dy, anchor in (
            (10, 4, "start"),
            (-10, 4, "end"),
            (10, -9, "start"),
            (10, 17, "start"),
            (-10, -9, "end"),
        ):
            x, y = point.x + dx, point.y + dy
            left = x if anchor == "start" else x - wide
            box = (left, y - _LINE + 3, left + wide, y + 3)
            inside = left >= LEFT and left + wide <= WIDTH - 2 and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM + 2
            if inside and not any(_cross(box, other) for other in taken):
                taken.append(box)
                found[at] = Point(**{**vars(point), "name": name, "name_x": x, "name_y": y, "anchor": anchor})
                break
    return found


def _cross(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
