"""Paired differences between two runs of a report: the comparison of `sightline compare`, one pair at a time.

Runs are compared on the samples that both answered. A run whose samples do not give the score in its `metrics.json` is
not compared.
"""

from __future__ import annotations

from pathlib import Path

from ...models.errors import SightlineError
from ..compare_answers import Answers, NotComparable, on_common_ground, read_answers
from ..compare_paired import Arm, Gap, Pair
from ..statistics import StatisticsError
from .board import Difference
from .measures import Measure
from .runs import Run
from .text import clean

_TOLERANCE = 1e-6


class Pairs:
    """Compares runs. Keeps what it has read and drawn, so that a run that is compared often is drawn once."""

    def __init__(self) -> None:
        self._read: dict[Path, Answers | NotComparable] = {}
        self._arms: dict[Answers, Arm] = {}
        self._pairs: dict[tuple[Path, Path], Pair | NotComparable] = {}

    def __call__(self, run: Run, other: Run, measure: Measure, table: str) -> Difference:
        """`run` minus `other` in one measure of one table.

        Args:
            run: the run whose gain is asked for.
            other: the run that it is held against; the same model, task and data.
            measure: what is compared.
            table: a split, a subtask, or what sums them up.
        """
        try:
            pair = self._pair(run, other)
            own = [record.split == table for record in pair.first.runs[0].records.values()]
            return _difference(pair.gap(table, measure.key), sum(own) or len(own))
        except (NotComparable, StatisticsError) as error:
            first, second = run.score(table, measure.key).value, other.score(table, measure.key).value
            value = None if first is None or second is None else first - second
            return Difference(value, reason=clean(getattr(error, "problem", error)).rstrip("."))

    def _pair(self, run: Run, other: Run) -> Pair:
        asked = (run.folder, other.folder)
        if asked not in self._pairs:
            try:
                answers = on_common_ground([self._answers(run), self._answers(other)])
                self._pairs[asked] = Pair(*(self._arm(found) for found in answers), exact=False)
            except NotComparable as error:
                self._pairs[asked] = error
        found = self._pairs[asked]
        if isinstance(found, NotComparable):
            raise found
        return found

    def _arm(self, answers: Answers) -> Arm:
        return self._arms.setdefault(answers, Arm([answers]))

    def _answers(self, run: Run) -> Answers:
        if run.folder not in self._read:
            try:
                self._read[run.folder] = _checked(run)
            except NotComparable as error:
                self._read[run.folder] = error
            except SightlineError as error:
                self._read[run.folder] = NotComparable(f"{run.name}: {error.problem}", error.hint)
        found = self._read[run.folder]
        if isinstance(found, NotComparable):
            raise found
        return found


def _checked(run: Run) -> Answers:
    """The answers of a run, which must give its scores."""
    answers = read_answers(run.folder, run.manifest, run.name, run.scorer, run.parser)
    scale, tally = answers.scale, answers.tally
    tables = scale.figures(tally.parts, tally.counts.sum(axis=0))
    for table in tables.keys() & {scale.table, *tally.parts}:
        stated = run.score(table, scale.measure).value
        found = tables[table][scale.measure]
        if stated is not None and not abs(stated - float(found)) <= _TOLERANCE:
            raise NotComparable(
                f"{run.name}: the samples do not give the {scale.measure} in metrics.json; score the run again."
            )
    return answers


def _difference(gap: Gap, n: int) -> Difference:
    return Difference(gap.value, gap.low, gap.high, gap.sign_flip, n, gap.reason)
