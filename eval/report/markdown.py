"""The report as GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .headline import Finding
from .overview import HEADS, Line
from .tables import Row, Table
from .text import markdown as safe
from .text import shorten

if TYPE_CHECKING:
    from .write import View


def markdown_report(
    views: Sequence[View],
    headline: Finding,
    choices: str,
    overview: Sequence[Line],
    left_out: Sequence[str],
    guide: Sequence[tuple[str, str]],
) -> str:
    """Headline, leaderboards, splits, parsers and the notes that explain them."""
    lines = [f"# {safe(headline.title)}", "", safe(headline.detail, start=True), ""]
    lines += [safe(choices, start=True), ""] if choices else []
    lines += _overview(overview)
    lines += _warning(left_out)
    for view in views:
        lines += [f"## {safe(view.title)}", ""]
        lines += [safe(f"Data: {view.data.rstrip('.')}.", start=True), ""] if view.data else []
        if len(views) > 1:
            lines += [f"**{safe(view.finding.title)}**", "", safe(view.finding.detail, start=True), ""]
        lines += _warning(["Read this first", *view.warnings] if view.warnings else [])
        lines += ["### Leaderboard", ""]
        lines += [line for table in view.boards for line in _table(table)]
        if view.parts:
            lines += [f"### {view.part_title}", ""]
            lines += [line for table in view.parts for line in _table(table)]
        if view.parsers:
            lines += ["### Parsers", ""]
            lines += [line for table in view.parsers for line in _table(table)]
    lines += ["## How to read this", ""]
    for heading, text in guide:
        lines += [f"**{safe(heading)}.** {safe(text)}", ""]
    return "\n".join(lines).rstrip() + "\n"


def _overview(lines: Sequence[Line]) -> list[str]:
    if not lines:
        return []
    found = [f"| {' | '.join(HEADS)} |", "| --- | --- | --- | ---: | ---: | ---: | --- |"]
    for line in lines:
        cells = [safe(cell.flat) for cell in line.cells]
        texts = [f"**{safe(line.title)}**", safe(line.strategy), safe(line.measure), *cells, safe(line.control)]
        found.append(f"| {' | '.join(texts)} |")
    return [*found, "", *(f"- **{safe(line.title)}**: {safe(line.claim)}" for line in lines), ""]


def _warning(items: Sequence[str]) -> list[str]:
    if not items:
        return []
    return ["> [!WARNING]", f"> **{safe(items[0])}**", ">", *(f"> - {safe(item)}" for item in items[1:]), ""]


def _table(table: Table) -> list[str]:
    heads = ["Decoder", "", *(safe(column.label) for column in table.columns)]
    lines = [f"**{safe(table.caption)}**", "", f"| {' | '.join(heads)} |"]
    lines.append("| --- | --- |" + " ---: |" * len(table.columns))
    lines += [_row(row) for row in table.rows]
    lines.append("")
    lines += [f"- \u2013 {safe(note)}" for note in table.notes]
    return [*lines, ""] if table.notes else lines


def _row(row: Row) -> str:
    name = f"**{safe(shorten(row.entry.label, 80))}**" if row.entry.role == "strategy" else safe(row.entry.label)
    if row.detail:
        name += f" ({safe(shorten(row.detail, 140))})"
    flags = "".join(f" **{safe(flag.upper())}**" for flag in row.flags)
    cells = [safe(cell.flat) for cell in row.cells]
    return f"| {' | '.join([name + flags, row.entry.role, *cells])} |"


def table_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table."""
    lines = [f"| {' | '.join(map(safe, heads))} |", "|" + " --- |" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(map(safe, row))} |" for row in rows)]) + "\n"
