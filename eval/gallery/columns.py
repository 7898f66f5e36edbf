"""From runs to what the gallery shows: sections, their decoders, and one sample for each thing that was asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ...models.errors import SightlineError
from ..compare_answers import Answers, NotComparable, read_answers
from ..config import from_config
from ..records import SampleRecord
from ..report.board import Difference, Entry, Section, sections
from ..report.runs import Run
from ..settings import Settings
from ..tasks import registry as tasks
from ..tasks.base import Dataset, Document
from .marking import Unit, unit_of, verdicts


@dataclass(frozen=True, eq=False)
class Column:
    """One run with its answers.

    Attributes:
        entry: the run, its name among the others, its role.
        mode: the generation mode's name.
        answers: as comparisons read them.
        records: what was asked -> the answered record.
        verdicts: what was asked -> whether it is right, and what was wrong.
        failed: what has no answer.
    """

    entry: Entry
    mode: str
    answers: Answers
    records: dict[Unit, SampleRecord]
    verdicts: dict[Unit, tuple[bool, str]]

    @property
    def run(self) -> Run:
        """The run."""
        return self.entry.run

    def right(self, unit: Unit) -> bool | None:
        """Whether the answer is right; None where there is none, or nothing to judge it by."""
        return self.verdicts[unit][0] if unit in self.verdicts else None


@dataclass(frozen=True, eq=False)
class Wall:
    """One model on one task: columns, and what was asked.

    Attributes:
        section: of the report.
        columns: the baseline first.
        units: what was asked, in the order of the task.
        splits: what was asked -> splits that ask it.
        documents: what was asked -> the question as the task has it, where its data are there.
        dataset: the task's data; None where they are not there.
        note: why images are missing, or columns; empty where nothing is.
    """

    section: Section
    columns: tuple[Column, ...]
    units: tuple[Unit, ...]
    splits: dict[Unit, list[str]]
    documents: dict[Unit, Document] = field(default_factory=dict)
    dataset: Dataset | None = None
    note: str = ""

    @property
    def baseline(self) -> Column:
        """What the others are held against: greedy decoding where it was run."""
        return self.columns[0]

    @property
    def kind(self) -> str:
        """`captions`, `yes_no` or `texts`."""
        if self.section.captions:
            return "captions"
        return "yes_no" if self.section.yes_no else "texts"


def walls(runs: Sequence[Run]) -> list[Wall]:
    """The sections of a report, with the answers of their runs; sections without any are left out."""
    found = [_wall(section) for section in sections(runs, lambda *_: Difference(None))]
    return [wall for wall in found if wall is not None]


def _wall(section: Section) -> Wall | None:
    columns, notes = [], []
    for group in section.groups:
        for entry in group.entries:
            if not entry.reference:
                try:
                    columns.append(_column(entry, group.label))
                except SightlineError as error:
                    notes.append(f"{entry.label} is left out: {error.problem}")
    if not columns:
        return None
    columns.sort(key=lambda column: (column.run is not section.greedy, column.entry.role != "control"))
    units: dict[Unit, list[str]] = {}
    for column in columns:
        for record in column.answers.records.values():
            splits = units.setdefault(unit_of(record), [])
            if record.split not in splits:
                splits.append(record.split)
    dataset, problem = _data(columns[0].run)
    documents = {} if dataset is None else _documents(dataset, columns)
    notes += [problem] if problem else []
    return Wall(section, tuple(columns), tuple(units), units, documents, dataset, " ".join(notes))


def _column(entry: Entry, mode: str) -> Column:
    run = entry.run
    answers = read_answers(run.folder, run.manifest, run.name, run.scorer, run.parser)
    if not answers.records:
        raise NotComparable("it has no answers.")
    records = {unit_of(record): record for record in answers.records.values()}
    return Column(entry, mode, answers, records, verdicts(answers))


def settings_of(run: Run) -> Settings:
    """The settings a run was made with.

    Raises:
        SightlineError: its `config.yaml` is missing, or says something that is refused.
    """
    try:
        return from_config(OmegaConf.create(OmegaConf.to_container(OmegaConf.load(run.folder / "config.yaml"))))[0]  # type: ignore[arg-type]
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise NotComparable(f"The config.yaml of {run.name} cannot be read.") from error


def _data(run: Run) -> tuple[Dataset | None, str]:
    """The data that a run was asked, or the reason why they cannot be shown."""
    asked: dict[str, Any] = run.manifest.get("task") or {}
    try:
        task = tasks.get(run.task)
        options = dict(asked.get("options") or {})
        if (run.folder / "config.yaml").is_file():
            options |= {name: value for name, value in settings_of(run).task.params.items() if name in task.places}
        dataset = tasks.load(task, options)
    except SightlineError as error:
        return None, f"Images are missing: {error.problem}"
    hashes = {source.file: source.sha256 for source in dataset.sources}
    if any(hashes.get(source.get("file")) != source.get("sha256") for source in asked.get("data") or ()):
        return None, "Images are missing: the data of the task are not those of the run."
    return dataset, ""


def _documents(dataset: Dataset, columns: Iterable[Column]) -> dict[Unit, Document]:
    named = {(document.split, document.doc_id): document for document in dataset.documents}
    return {
        unit_of(record): named[place]
        for column in columns
        for place, record in column.answers.records.items()
        if place in named
    }


def telling(wall: Wall, count: int) -> list[Unit]:
    """The samples that tell most: those where decoders change what is right, then what is wrong, then any.

    Args:
        count: at most so many.
    """

    def rank(unit: Unit) -> tuple[int, int, int]:
        base = wall.baseline.right(unit)
        others = [column.right(unit) for column in wall.columns[1:]]
        changed = sum(right is not None and right != base for right in others)
        return (-min(changed, 1), -int(base is False), -changed)

    order = {unit: place for place, unit in enumerate(wall.units)}
    return sorted(wall.units, key=lambda unit: (*rank(unit), order[unit]))[:count]
