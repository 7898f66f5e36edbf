"""Scorers whose every measure is a ratio of summed counts: said once, for tables of scores and for comparisons.

A `Counting` names the kinds of count, how records become counts, and the measures as sums of some counts over sums of
others. Counts are taken by cluster, what stands or falls together (an image, or a set of questions that are only right
together), and by part (a split, or a subtask); tables are parts, or sums of several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .compare_scales import Mark, Marks, Material, Scale, Tables, Tally, Unit, ratio
from .records import SampleRecord
from .score_tables import (
    Given,
    Record,
    Scorer,
    Scores,
    Table,
    add_bounds,
    auc,
    auc_bounds,
    bounds,
    entry,
    rounded,
    with_margin,
)
from .scoring.checks import check_records
from .statistics import Floats

AUC = "auc"
NOT_ANSWERED = "no answer was scored"


@dataclass(frozen=True)
class Ratio:
    """A measure.

    Attributes:
        name: in tables.
        top, bottom: kinds of count, whose sum over whose sum; a kind may be there twice.
        why: why it has no value where there is nothing below the line.
        n: kind that says how many things the figure is about; the first below the line where it is empty.
        fixed: whether what is below the line does not depend on the answers, so that clusters may be flipped.
    """

    name: str
    top: tuple[str, ...]
    bottom: tuple[str, ...]
    why: str = NOT_ANSWERED
    n: str = ""
    fixed: bool = False


@dataclass(frozen=True)
class Counting:
    """A scorer.

    Attributes:
        name: in `SCORERS` and manifests.
        table, measure, higher_is_better: what decides.
        kinds: of count.
        count: answered records of one cluster in one part, the parser's name, and what `brings` gave -> counts.
        ratios: the measures, in the order of tables.
        parts: in the order of tables; None = as the records have them.
        summed: further tables -> the parts that they take together; None = `{whole: every part}`.
        parsers: dialects, the first being the task's own.
        extras: those of them that need what may not be installed; they are not shown beside others.
        cluster: record -> what stands or falls together.
        brings: run folder and manifest -> what counting needs beside the records.
        right: record, parser's name, what `brings` gave -> whether it is right; None = there is no right and wrong.
        marked: the measure that counts right records.
        margins: whether answers are yes or no, with margins.
        more: the scored records by part, parser, what `brings` gave -> further entries of `metrics.json`.
        notes: manifest and records -> what a reader should know.
    """

    name: str
    table: str
    measure: str
    kinds: tuple[str, ...]
    count: Callable[[Sequence[Record], str, Any], Sequence[float]]
    ratios: tuple[Ratio, ...]
    parsers: tuple[str, ...]
    higher_is_better: bool = True
    parts: tuple[str, ...] | None = None
    summed: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    extras: tuple[str, ...] = ()
    cluster: Callable[[Mapping[str, Any]], str] = lambda record: str(record["image_id"])
    brings: Callable[[Path, Mapping[str, Any], str], Any] | None = None
    right: Callable[[Record, str, Any], bool] | None = None
    marked: str = ""
    margins: bool = False
    more: Callable[[Mapping[str, list[Record]], str, Any], dict[str, Any]] | None = None
    notes: Callable[[Mapping[str, Any], Sequence[Record]], list[str]] | None = None

    def tables(self, parts: Sequence[str]) -> dict[str, list[int]]:
        """Every table with the places of its parts."""
        found = {part: [at] for at, part in enumerate(parts)}
        for table, members in self.summed.items():
            places = [at for at, part in enumerate(parts) if members is None or part in members]
            if places and (members is None or len(members) > 1):
                found[table] = places
        return found

    def asks(self, record: Any) -> bool:
        """Whether a record is one of this scorer's: readable rows are."""
        held = record if isinstance(record, Mapping) else vars(record)
        return held["gold"] is not None or held["label"] in ("yes", "no")

    def parts_of(self, records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        """The parts that are there, in their order."""
        there = dict.fromkeys(str(record["split"]) for record in records)
        return tuple(there) if self.parts is None else tuple(part for part in self.parts if part in there)

    def tally(self, records: Sequence[Record], parser: str, brought: Any) -> Tally:
        """Counts `[clusters, parts, kinds]` of answered records."""
        parts = self.parts_of(records)
        groups: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            groups.setdefault((self.cluster(record), str(record["split"])), []).append(record)
        clusters = tuple(sorted({cluster for cluster, _ in groups}))
        row, column = ({name: at for at, name in enumerate(names)} for names in (clusters, parts))
        counts = np.zeros((len(clusters), len(parts), len(self.kinds)))
        for (cluster, part), own in groups.items():
            counts[row[cluster], column[part]] = self.count(own, parser, brought)
        return Tally(clusters, parts, counts)

    def figures(self, parts: Sequence[str], sums: Floats) -> Tables:
        """Every measure of every table, of counts `[..., parts, kinds]`."""
        found: Tables = {}
        for table, places in self.tables(parts).items():
            own = sums[..., places, :].sum(axis=-2)
            found[table] = {each.name: self._ratio(each, own) for each in self.ratios}
        return found

    def shares(self, tally: Tally) -> Tables:
        """What each cluster adds to the measures that clusters may be flipped in."""
        found: Tables = {}
        for table, places in self.tables(tally.parts).items():
            own = tally.counts[:, places].sum(axis=1)
            found[table] = {
                each.name: ratio(self._sum(own, each.top), self._sum(own.sum(axis=0), each.bottom))
                for each in self.ratios
                if each.fixed
            }
        return found

    def marks(self, records: Sequence[SampleRecord], parser: str, brought: Any) -> Marks:
        """Right or wrong, record by record."""
        if self.right is None:
            return {}
        parts = self.parts_of([vars(record) for record in records])
        tables = self.tables(parts)
        found: dict[Unit, Mark] = {}
        for record in records:
            place = parts.index(record.split)
            counting = frozenset(table for table, places in tables.items() if place in places)
            found[record.split, record.doc_id] = Mark(self.right(vars(record), parser, brought), counting, record)
        return {self.marked: found}

    def scale(self) -> Scale:
        """How runs of this scorer are compared."""
        return Scale(
            self.name,
            self.table,
            self.measure,
            self.asks,
            self._counted,
            self.figures,
            self.shares,
            lambda material: self.marks(material.records, material.parser or self.parsers[0], material.brought),
            self.parsers,
            self.table if self.margins else "",
        )

    @property
    def scorer(self) -> Scorer:
        """How runs are scored."""
        sides = {"higher_is_better": self.higher_is_better, "margins": self.margins}
        return Scorer(self.score, self.parsers, self.table, self.measure, **sides)

    def _counted(self, material: Material) -> Tally:
        return self.tally(material.lines, material.parser or self.parsers[0], material.brought)

    def score(self, given: Given) -> Scores:
        """Tables with intervals under the run's parser, and plain values under every other one.

        Raises:
            ScoringError: a record is broken, or what is needed beside the records cannot be had.
        """
        brought = None if self.brings is None else self.brings(given.folder, given.manifest, given.parser)
        asked = [record for record in given.records if self.asks(record)]
        records = [dict(record) for record in check_records(asked, fields=("gold", "label", "n_output_tokens")).ok]
        tables = self._tables(records, given.parser, brought)
        side = {}
        for parser in self.parsers:
            if parser != given.parser and parser not in self.extras:
                held = self.tally(records, parser, brought)
                values = self.figures(held.parts, held.counts.sum(axis=0))
                side[parser] = {t: {m: rounded(float(v)) for m, v in row.items()} for t, row in values.items()}
        by_part = {part: [r for r in records if r["split"] == part] for part in self.parts_of(records)}
        return Scores(
            tables,
            side,
            [] if self.notes is None else self.notes(given.manifest, records),
            {} if self.more is None else self.more(by_part, given.parser, brought),
        )

    def _tables(self, records: Sequence[Record], parser: str, brought: Any) -> dict[str, Table]:
        tally = self.tally(records, parser, brought)
        values = self.figures(tally.parts, tally.counts.sum(axis=0))
        found: dict[str, Table] = {}
        for table, places in self.tables(tally.parts).items():
            own = tally.counts[:, places].sum(axis=1)
            found[table] = {each.name: self._figure(own, each, values[table]) for each in self.ratios}
            if self.margins:
                parts = {tally.parts[at] for at in places}
                found[table][AUC] = _area([record for record in records if record["split"] in parts])
        return found

    def _figure(self, counts: Floats, each: Ratio, values: Mapping[str, Floats]) -> dict[str, Any]:
        """A measure of counts `[clusters, kinds]`, clusters resampled."""
        n = int(self._sum(counts.sum(axis=0), (each.n or each.bottom[0],)))
        figure = entry(float(values[each.name]), n, each.why)
        if figure["value"] is not None:
            statistic = partial(self._ratio, each)
            add_bounds(figure, *bounds(counts, statistic))
        return figure

    def _ratio(self, each: Ratio, sums: Floats) -> Floats:
        return ratio(self._sum(sums, each.top), self._sum(sums, each.bottom))

    def _sum(self, counts: Floats, kinds: Sequence[str]) -> Floats:
        return sum((counts[..., self.kinds.index(kind)] for kind in kinds), np.zeros(counts.shape[:-1]))


def _area(records: Sequence[Record]) -> dict[str, Any]:
    """The area under the ROC curve of the margins, with its interval."""
    known = with_margin(records)
    why = "all answers with a margin have the same label" if known else "no answer has a margin"
    figure = entry(auc(known), len(known), why)
    if figure["value"] is not None:
        add_bounds(figure, *auc_bounds(known))
    return figure
