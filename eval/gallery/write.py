"""Writes `gallery.html`: the samples of all runs in a folder, side by side, in one file that needs no network."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ...models import Loaded
from ...models.errors import SightlineError
from .. import pages
from ..errors import ImageError
from ..explain.page import SMALL, thumbnail
from ..explain.tables import visible
from ..images import locate, open_image
from ..records import write_atomic
from ..report.runs import Run, find_runs
from ..report.text import clean
from ..runner import load_model
from ..settings import ModelSettings
from . import traces
from .columns import Column, Wall, settings_of, telling, walls
from .marking import Unit, segments, truth_of

FILE = "gallery.html"
TRACED = 12
"""Samples of each task that are decoded again to show why words changed."""
SIDE = 320
"""Pixels of the longer side of an image."""
STYLES = ("report/palette.css", "report/report.css", "explain/trace.css", "gallery/gallery.css")
SCRIPTS = ("explain/trace.js", "gallery/gallery.js")


class GalleryError(SightlineError, ValueError):
    """There is nothing to show, or the page cannot be written."""

    __str__ = Exception.__str__


def write_gallery(folders: Sequence[Path], out: Path | None = None, traced: int = TRACED) -> Path:
    """Show the samples of runs side by side.

    Args:
        folders: run folders, or folders that hold run folders.
        out: the file; `gallery.html` in the first folder where left out.
        traced: samples of each task to trace, for which models are loaded; 0 shows the traces there are.

    Raises:
        GalleryError: no run has answers, or the page cannot be written.
        ReportError: there is no scored run.
        SightlineError: a model cannot be loaded.
    """
    runs: dict[Path, Run] = {}
    for folder in folders:
        runs |= {run.folder.resolve(): run for run in find_runs(Path(folder))[0]}
    found = walls(list(runs.values()))
    if not found:
        raise GalleryError("None of the runs has answers to show.", "Name a folder of finished runs.")
    chosen = {id(wall): telling(wall, traced) for wall in found}
    notes = _trace(found, chosen) if traced else {}
    target = out or Path(folders[0]) / FILE
    album = _Album()
    held = [_section(wall, album, notes.get(id(wall), "")) for wall in found]
    page = pages.render(
        pages.environment(),
        "gallery/gallery.html",
        STYLES,
        SCRIPTS,
        titles=[section["title"] for section in held],
        counts=[len(section["samples"]) for section in held],
        runs=len(runs),
        sections=[pages.data(section) for section in held],
        images=pages.data(album.images),
    )
    try:
        write_atomic(target, page)
    except OSError as error:
        raise GalleryError(
            f"{clean(target)} cannot be written ({clean(error.strerror)}).", "Name another file with --out."
        ) from error
    return target


def _trace(found: Sequence[Wall], chosen: dict[int, list[Unit]]) -> dict[int, str]:
    """Trace the chosen samples of every wall; what went wrong, by wall."""
    able = [(wall, column) for wall in found if not traces.traceable(wall) for column in wall.columns]
    notes: dict[int, list[str]] = {}
    loaded: dict[ModelSettings, Loaded] = {}
    total = sum(len(chosen[id(wall)]) for wall, _ in able)
    with tqdm(total=total, desc="tracing", unit="answer", disable=not sys.stderr.isatty()) as bar:
        for wall, column in able:
            try:
                model = settings_of(column.run).model
                if model not in loaded:
                    loaded.clear()
                    loaded[model] = load_model(model)
                changed = traces.make(wall, column, chosen[id(wall)], loaded[model], bar.update)
            except SightlineError as error:
                notes.setdefault(id(wall), []).append(f"{column.entry.label} is not traced: {error.problem}")
                continue
            if changed:
                other = (
                    f"{changed} answers of {column.entry.label} came out otherwise than in the run, and have no trace."
                )
                notes.setdefault(id(wall), []).append(other)
    return {wall: " ".join(told) for wall, told in notes.items()}


@dataclass
class _Album:
    """Images of the page, each once."""

    images: list[list[Any]] = field(default_factory=list)
    places: dict[Path, int | None] = field(default_factory=dict)

    def place(self, path: Path) -> int | None:
        """The number of an image; None where it cannot be read."""
        if path not in self.places:
            try:
                image = open_image(path)
                self.places[path] = len(self.images)
                self.images.append([thumbnail(image, SIDE), image.width, image.height, int(max(image.size) < SMALL)])
            except ImageError:
                self.places[path] = None
        return self.places[path]


@dataclass
class _Table:
    """Values of the page, each once."""

    values: list[Any] = field(default_factory=list)
    places: dict[Any, int] = field(default_factory=dict)

    def place(self, key: Any, value: Any) -> int:
        """The number of a value."""
        if key not in self.places:
            self.places[key] = len(self.values)
            self.values.append(value)
        return self.places[key]


def _section(wall: Wall, album: _Album, note: str) -> dict[str, Any]:
    texts, held = _Table(), _Table()
    known = [traces.kept(column) for column in wall.columns]
    units = _in_order(wall, known)
    samples = [_sample(wall, unit, known, album, texts, held) for unit in units]
    return {
        "title": clean(f"{wall.section.task_title} on {wall.section.model}"),
        "kind": wall.kind,
        "note": clean(" ".join(part for part in (wall.note, note) if part)),
        "decoders": [_decoder(column) for column in wall.columns],
        "texts": texts.values,
        "traces": held.values,
        "samples": samples,
    }


def _in_order(wall: Wall, known: Sequence[dict[str, Any]]) -> list[Unit]:
    """Samples with reasons first, those that tell most before the others; then the rest as the task has them."""

    def traced(unit: Unit) -> bool:
        pairs = zip(wall.columns, known, strict=True)
        return any(unit in column.records and column.records[unit].key in held for column, held in pairs)

    first = [unit for unit in telling(wall, len(wall.units)) if traced(unit)]
    there = set(first)
    return [*first, *(unit for unit in wall.units if unit not in there)]


def _decoder(column: Column) -> list[str]:
    return [column.entry.label, column.entry.role, column.mode]


def _sample(
    wall: Wall, unit: Unit, known: Sequence[dict[str, Any]], album: _Album, texts: _Table, held: _Table
) -> list[Any]:
    """`[image, name, splits, question, truth, answers]`; an answer is `[text, right, note, trace]` or null."""
    document = wall.documents.get(unit)
    first = next(column for column in wall.columns if unit in column.records)
    record = first.records[unit]
    image = None
    if document is not None and wall.dataset is not None and wall.dataset.images is not None:
        try:
            image = album.place(locate(wall.dataset.images, document.image))
        except ImageError:
            image = None
    answers = [_answer(column, unit, traced, texts, held) for column, traced in zip(wall.columns, known, strict=True)]
    question = visible(record.prompt if document is None else document.text, lines=True)
    truth = texts.place(("truth", unit), visible(truth_of(record, first.answers)))
    name = clean(record.image_id or record.doc_id)
    return [image, name, ", ".join(wall.splits[unit]), texts.place(question, question), truth, answers]


def _answer(column: Column, unit: Unit, traced: dict[str, Any], texts: _Table, held: _Table) -> list[Any] | None:
    record = column.records.get(unit)
    if record is None:
        return None
    parts = segments(record, column.answers)
    value = parts[0][1] if len(parts) == 1 and parts[0][0] == 0 else [list(part) for part in parts]
    right, note = column.verdicts.get(unit, (None, ""))
    trace = traced.get(record.key)
    place = None if trace is None else held.place((column.run.folder, record.key), trace)
    return [texts.place(tuple(parts), value), None if right is None else int(right), clean(note), place]
