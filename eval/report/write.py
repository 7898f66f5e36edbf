"""Writes `report.html`, and the same as Markdown, CSV, JSON and part of a model card, of all runs in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .. import pages
from ..records import write_atomic
from .board import Section, generation_label, sections, task_title
from .chart import NARROW, WIDE, Chart, chart
from .choices import about, same_parameters
from .errors import ReportError
from .exports import as_json, model_card
from .guide import guide
from .headline import Finding, finding, overall
from .helps import helps
from .longform import long_form
from .markdown import markdown_report
from .overview import overview
from .paired import Pairs
from .provenance import Fact, left_out, provenance, warnings
from .runs import Run, Unread, find_runs
from .tables import Table, by_part, leaderboard, one_split, parser_table, part_title, split_title
from .text import clean, plain, shorten, unbroken
from .tradeoff import tradeoff

GALLERY = "gallery.html"
"""The page of samples, to which there is a link where it lies in the same folder."""
STYLES = ("report/palette.css", "report/report.css")
SCRIPTS = ("report/report.js",)


class ReportPaths(NamedTuple):
    """Where the files are."""

    html: Path
    markdown: Path
    csv: Path
    json: Path
    card: Path


@dataclass(frozen=True)
class View:
    """One section with everything that is shown of it."""

    id: str
    title: str
    data: str
    split: str
    section: Section
    finding: Finding
    warnings: tuple[str, ...]
    charts: tuple[Chart, ...]
    boards: tuple[Table, ...]
    parts: tuple[Table, ...]
    part_title: str
    details: tuple[tuple[str, list[Table]], ...]
    parsers: tuple[Table, ...]
    notes: tuple[str, ...]


def write_report(folder: Path, out: Path | None = None) -> ReportPaths:
    """Report all runs in or below a folder. No model is needed; the same files give the same bytes.

    Args:
        folder: one run folder, or a folder that holds run folders at any depth.
        out: where the report goes; `folder` itself where left out.

    Raises:
        ReportError: there is no scored run, or the report cannot be written.
    """
    folder = Path(folder)
    target = folder if out is None else Path(out)
    runs, unread = find_runs(folder)
    found = sections(runs, Pairs())
    views = [_view(section, number) for number, section in enumerate(found, 1)]
    choices = " ".join(part for part in (about(folder), same_parameters(found)) if part)
    texts = {
        "report.html": _html(views, found, runs, unread, choices, (target / GALLERY).is_file()),
        "report.md": markdown_report(views, overall(found), choices, overview(views), left_out(unread), guide(found)),
        "report.csv": long_form(found),
        "report.json": as_json(views, overall(found), choices, left_out(unread)),
        "model_card.md": model_card(views),
    }
    for name, text in texts.items():
        _write(target / name, text)
    return ReportPaths(*(target / name for name in texts))


def _view(section: Section, number: int) -> View:
    several = len(section.groups) > 1
    parsers = [parser_table(section, group) for group in section.groups]
    return View(
        id=f"s{number}",
        title=f"{section.task_title} on {section.model}",
        data=_data(section),
        split=split_title(section.split),
        section=section,
        finding=finding(section),
        warnings=tuple(warnings(section)),
        charts=tuple(drawn for layout in (WIDE, NARROW) if (drawn := chart(section, layout))),
        boards=tuple(leaderboard(section, group) for group in section.groups),
        parts=tuple(table for group in section.groups if (table := by_part(section, group))),
        part_title=part_title(section),
        details=tuple((split_title(split), one_split(section, split, several)) for split in section.splits),
        parsers=tuple(table for table in parsers if table),
        notes=tuple(_run_notes(section)),
    )


def _data(section: Section) -> str:
    """`2,160 samples on 120 images; settings of the task: split test`."""
    asked = max(section.runs, key=lambda run: run.n)
    about = "images" if section.yes_no or section.captions or section.subtasks else "subjects"
    groups = f" on {asked.n_images:,} {about}" if asked.n_images else ""
    named = [(name.replace("_", " "), plain(value)) for name, value in section.data.items() if value is not None]
    settings = ", ".join(f"{name} {value}" for name, value in named)
    return f"{asked.n:,} samples{groups}" + (f"; settings of the task: {settings}" if settings else "")


def _run_notes(section: Section) -> list[str]:
    """What all runs note, and what some do with their names."""
    notes: dict[str, list[str]] = {}
    entries = [entry for group in section.groups for entry in group.entries if not entry.reference]
    for entry in entries:
        for note in entry.run.notes:
            notes.setdefault(note, []).append(entry.label)
    return [
        note if len(labels) == len(entries) else f"{', '.join(dict.fromkeys(labels))}: {note}"
        for note, labels in notes.items()
    ]


def _html(
    views: list[View], found: list[Section], runs: list[Run], unread: list[Unread], choices: str, gallery: bool
) -> str:
    made = pages.environment()
    made.filters |= {"shorten": shorten, "unbroken": unbroken}
    return pages.render(
        made,
        "report/report.html",
        STYLES,
        SCRIPTS,
        headline=overall(found),
        choices=choices,
        facts=_facts(found, runs),
        views=views,
        overview=overview(views),
        helps=helps(views),
        tradeoffs=[drawn for view in views if (drawn := tradeoff(view.id, view.title, view.section))],
        gallery=gallery,
        filters=_filters(found),
        left_out=left_out(unread),
        guide=guide(found),
        provenance=provenance(found),
    )


def _filters(found: Sequence[Section]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What tables can be filtered by: names with their choices; those with a single choice are left out."""
    models = sorted({section.model for section in found})
    tasks = {section.task: task_title(section.task) for section in found}
    modes = {group.mode: generation_label({"mode": group.mode}) for section in found for group in section.groups}
    kinds = [("strategy", "strategies"), ("control", "controls")]
    every = [
        ("Kind", kinds),
        ("Model", [(name, name) for name in models]),
        ("Task", list(tasks.items())),
        ("Mode", list(modes.items())),
    ]
    return [(name, choices) for name, choices in every if len(choices) > 1]


def _facts(found: Sequence[Section], runs: Sequence[Run]) -> list[Fact]:
    facts = [
        Fact("Models", ", ".join(sorted({section.model for section in found}))),
        Fact("Tasks", ", ".join(sorted({f"{section.task} v{section.task_version}" for section in found}))),
        Fact("Runs", f"{len(runs):,}"),
        Fact("Answers", f"{sum(run.n for run in runs):,}"),
        Fact("Images", f"{max(run.n_images for run in runs):,}"),
        Fact("Failed", f"{sum(run.n_error for run in runs):,}"),
        Fact("Intervals", "95 %, resampled by image"),
        Fact("Parser", ", ".join(sorted({run.parser for run in runs if run.parser}))),
    ]
    return [fact for fact in facts if fact.value]


def _write(path: Path, text: str) -> None:
    """Replaces the file in one step, so that nobody reads half a report."""
    try:
        write_atomic(path, text)
    except OSError as error:
        raise ReportError(
            f"{clean(path)} cannot be written ({clean(error.strerror)}).", "Name another folder with out=."
        ) from error
