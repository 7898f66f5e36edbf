"""Paired differences between two arms of a comparison: the one implementation behind `compare` and the report.

An arm is one run, or several that differ only in their seed. Differences are the first arm minus the second, on the
same samples and under the same weights:

* **interval**: percentile bootstrap over images, both arms under one draw; with several seeds also over seeds (two
  levels, crossed: the images are the same for all seeds). Arms with the same seeds are drawn alike;
* **McNemar**, exact, on what only one of two runs got right. POPE's splits share questions: each counts once;
* **sign flip**: permutation of the signs of the differences of whole images, which share their questions' fate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .compare_answers import Answers, NotComparable
from .compare_scales import SPLITS, Mark, Marks, Tables
from .records import SampleRecord
from .statistics import (
    CONFIDENCE,
    RESAMPLES,
    Floats,
    McNemar,
    auc_bootstrap,
    discordant_pairs,
    mcnemar,
    roc_auc,
    sign_flip_test,
)

AUC = "auc"
AUC_RESAMPLES = 1_000
"""Fewer than elsewhere: every resample weighs every answer."""


@dataclass(frozen=True)
class Gap:
    """One measure in one table, in both arms, and the difference; None where undefined, with the reason.

    Attributes:
        first, second: the measure in each arm, its mean over seeds.
        value, low, high: first minus second, with its 95 % interval.
        sign_flip: p of the sign-flip test.
        mcnemar: the exact test; its `b` counts what only the first arm got right.
        reason: why a value, or the interval, is missing.
        spread: standard deviation over seeds in each arm; None for one run.
    """

    first: float | None
    second: float | None
    value: float | None
    low: float | None = None
    high: float | None = None
    sign_flip: float | None = None
    mcnemar: McNemar | None = None
    reason: str = ""
    spread: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True)
class Flip:
    """What only one of two runs got right: the record of each, the splits that count it, and what was wrong."""

    first: SampleRecord
    second: SampleRecord
    tables: tuple[str, ...]
    note: str = ""


class Arm:
    """One run, or several of one configuration that differ in their seed, on the same samples."""

    def __init__(self, runs: Sequence[Answers]) -> None:
        self.runs = sorted(runs, key=lambda run: run.seed)
        self.scale = self.runs[0].scale

    @cached_property
    def figures(self) -> Tables:
        """Every measure of every table, `[1 + B]`: the value, then the resamples."""
        return _mean_tables(self._each, self._weights)

    @cached_property
    def _each(self) -> list[Tables]:
        return [run.scale.figures(run.tally.parts, run.tally.draws) for run in self.runs]

    @cached_property
    def shares(self) -> Tables:
        """What each image adds to a measure, `[C]`, in the mean over seeds."""
        return _mean_tables([run.scale.shares(run.tally) for run in self.runs], [1 / len(self.runs)] * len(self.runs))

    @cached_property
    def marks(self) -> Marks:
        """Right or wrong, of a single run; nothing for several."""
        if len(self.runs) > 1:
            return {}
        run = self.runs[0]
        return self.scale.marks(run.material)

    @cached_property
    def _weights(self) -> Floats | list[float]:
        """`[S, 1 + B]`: the weight of each seed; decided by the seeds, so that equal seeds are drawn alike."""
        n = len(self.runs)
        if n == 1:
            return [1.0]
        random = np.random.default_rng([run.seed % 2**32 for run in self.runs])
        drawn = random.multinomial(n, [1 / n] * n, size=RESAMPLES) / n
        return np.concatenate([np.full((1, n), 1 / n), drawn]).T

    def spread(self, table: str, measure: str) -> float | None:
        """Standard deviation of a measure over seeds."""
        if len(self.runs) < 2:
            return None
        values = [float(tables[table][measure][0]) for tables in self._each]
        return _known(float(np.std(values, ddof=1)))


def _mean_tables(tables: Sequence[Tables], weights: Floats | Sequence[float]) -> Tables:
    return {
        table: {
            name: sum((held[table][name] * weight for held, weight in zip(tables, weights, strict=True)), np.zeros(1))
            for name in measures
        }
        for table, measures in tables[0].items()
    }


class Pair:
    """Two arms on the same samples: differences are the first minus the second.

    Args:
        first: answers of one or more runs, cut down to the samples that all of both arms answered.
        second: the arm that it is held against.
        exact: whether McNemar's test is made too.
    """

    def __init__(self, first: Arm, second: Arm, *, exact: bool = True) -> None:
        self.first, self.second, self.exact = first, second, exact
        if first.runs[0].tally.images != second.runs[0].tally.images:
            raise NotComparable("The runs were asked about other images.")
        self._gaps: dict[tuple[str, str], Gap] = {}

    @property
    def tables(self) -> list[str]:
        """Splits or subtasks, then what sums them up."""
        return list(self.first.figures)

    def measures(self, table: str) -> list[str]:
        """The measures of a table; the area under the ROC curve where samples carry a margin."""
        margins = bool(self.first.scale.whole) and any(
            record.margin is not None for record in self.first.runs[0].records.values()
        )
        return [*self.first.figures[table], *([AUC] if margins else [])]

    def gap(self, table: str, measure: str) -> Gap:
        """One measure of one table; computed once.

        Raises:
            NotComparable: there is no such table or measure.
        """
        asked = (table, measure)
        if asked not in self._gaps:
            if table not in self.first.figures or (measure != AUC and measure not in self.first.figures[table]):
                raise NotComparable(f"There is no paired comparison of {measure!r} in {table!r}.")
            self._gaps[asked] = self._area(table) if measure == AUC else self._gap(table, measure)
        return self._gaps[asked]

    def flips(self) -> tuple[list[Flip], list[Flip]]:
        """What only the first arm got right, and what only the second did; nothing for arms of several seeds."""
        if not (self.first.marks and self.second.marks):
            return [], []
        name = next(iter(self.first.marks))
        ours, theirs = self.first.marks[name], self.second.marks[name]
        found = [
            (mark.right, Flip(mark.record, theirs[unit].record, _named(mark), mark.note or theirs[unit].note))
            for unit, mark in ours.items()
            if mark.listed and mark.right != theirs[unit].right
        ]
        found.sort(key=lambda item: (item[1].first.image_id, item[1].first.split, item[1].first.doc_id))
        return [flip for right, flip in found if right], [flip for right, flip in found if not right]

    def _gap(self, table: str, measure: str) -> Gap:
        ours, theirs = self.first.figures[table][measure], self.second.figures[table][measure]
        first, second = _known(ours[0]), _known(theirs[0])
        spread = (self.first.spread(table, measure), self.second.spread(table, measure))
        if first is None or second is None:
            return Gap(first, second, None, reason="undefined on the samples that both answered", spread=spread)
        low, high = interval(ours[1:] - theirs[1:])
        return Gap(
            first,
            second,
            first - second,
            low,
            high,
            self._sign_flip(table, measure),
            self._mcnemar(table, measure),
            "" if low is not None else "too few images for an interval",
            spread,
        )

    def _sign_flip(self, table: str, measure: str) -> float | None:
        ours, theirs = (arm.shares.get(table, {}).get(measure) for arm in (self.first, self.second))
        return None if ours is None or theirs is None else sign_flip_test(ours - theirs)

    def _mcnemar(self, table: str, measure: str) -> McNemar | None:
        if not self.exact:
            return None
        ours, theirs = self.first.marks.get(measure), self.second.marks.get(measure)
        if not ours or not theirs:
            return None
        units = [unit for unit, mark in ours.items() if table in mark.tables]
        if not units:
            return None
        return mcnemar(*discordant_pairs([ours[u].right for u in units], [theirs[u].right for u in units]))

    def _area(self, table: str) -> Gap:
        """Area under the ROC curve of the margin."""
        whole = self.first.scale.whole
        if table not in (whole, *self.first.runs[0].tally.parts):
            return Gap(None, None, None, reason="areas are compared within a split, or over all answers")
        scores = [[_margins(run, table, whole) for run in arm.runs] for arm in (self.first, self.second)]
        known = np.all([~np.isnan(values) for side in scores for values in side], axis=0)
        records = [r for r in self.first.runs[0].records.values() if table in (whole, r.split)]
        records = [record for record, there in zip(records, known, strict=True) if there]
        labels = [record.label == "yes" for record in records]
        if len(set(labels)) < 2:
            return Gap(None, None, None, reason="the samples carry no margins of both labels")
        first, second = (float(np.mean([roc_auc(values[known], labels) or 0.0 for values in side])) for side in scores)
        if len(scores[0]) + len(scores[1]) > 2:
            return Gap(first, second, first - second, reason="no interval for areas over several seeds")
        ours, theirs = (side[0][known] for side in scores)
        if np.array_equal(ours, theirs):
            return Gap(first, second, 0.0, 0.0, 0.0)
        images = [record.image_id for record in records]
        found = auc_bootstrap(ours, labels, images, versus=theirs, n_resamples=AUC_RESAMPLES)
        return Gap(first, second, found.value, found.low, found.high)


def _named(mark: Mark) -> tuple[str, ...]:
    """The splits or subtasks that count something, without the tables that sum up."""
    return tuple(sorted(mark.tables & {mark.record.split, *SPLITS}))


def _margins(run: Answers, table: str, whole: str) -> Floats:
    """Margins `[n]`, NaN where a sample has none."""
    return np.array(
        [np.nan if r.margin is None else r.margin for r in run.records.values() if table in (whole, r.split)]
    )


def interval(draws: Floats) -> tuple[float | None, float | None]:
    """The ends of the 95 % interval of resampled values; None where none of them is defined."""
    finite: NDArray[np.float64] = draws[np.isfinite(draws)]
    if not len(finite):
        return None, None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
