"""Paired differences between two runs, from their sample files.

Both runs are looked at on the samples that both answered; images are resampled with all their questions, the same
draw for both. A run whose samples do not give the accuracy in its `metrics.json` is not compared.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecordError
from ..records import read_part, read_samples
from ..scoring.checks import LABELS, sample_id
from ..scoring.errors import ScoringError
from ..scoring.pope import COUNTS, RATES, ImageCounts, mean_rate, pooled_rate, pope_counts, pope_rates
from ..statistics import Bootstrap, Statistic, StatisticsError, auc_bootstrap, cluster_bootstrap, sign_flip_test
from .board import Difference
from .measures import Measure
from .runs import Run
from .text import clean

AUC_RESAMPLES = 1_000
_KEPT = ("key", "split", "doc_id", "image_id", "output", "label", "margin", "status")
_TOLERANCE = 1e-6

Record = dict[str, Any]
Samples = dict[tuple[str, str], Record]


class NotComparable(Exception):
    """Why two runs have no paired difference."""


class Pairs:
    """Compares runs; keeps the samples that it has read."""

    def __init__(self) -> None:
        self._read: dict[Path, _Answers | NotComparable] = {}
        self._done: dict[tuple[Path, Path, str, str], Difference] = {}

    def __call__(self, run: Run, other: Run, measure: Measure, split: str) -> Difference:
        """`run` minus `other` in one measure of one table.

        Args:
            run: the run whose gain is asked for.
            other: the run that it is held against; the same model and task.
            measure: a rate of yes/no questions, or `auc`.
            split: a split, `mean` over splits, or `pooled`.
        """
        asked = (run.folder, other.folder, measure.key, split)
        if asked not in self._done:
            try:
                self._done[asked] = self._paired(run, other, measure.key, split)
            except (NotComparable, ScoringError, StatisticsError) as error:
                self._done[asked] = self._unpaired(run, other, measure.key, split, clean(error))
        return self._done[asked]

    def _unpaired(self, run: Run, other: Run, key: str, split: str, reason: str) -> Difference:
        first, second = run.score(split, key).value, other.score(split, key).value
        value = None if first is None or second is None else first - second
        return Difference(value, reason=reason)

    def _paired(self, run: Run, other: Run, key: str, split: str) -> Difference:
        if key not in (*RATES, "auc"):
            raise NotComparable("paired intervals are made for yes/no tasks only")
        if run.parser != other.parser:
            raise NotComparable(f"the parsers differ: {run.parser or 'none'} and {other.parser or 'none'}")
        first, second = _common(self._answers(run, split), self._answers(other, split), run.parser)
        if key == "auc":
            return _area(first, second, split)
        return _rate(first, second, key, split)

    def _answers(self, run: Run, split: str) -> _Answers:
        if run.folder not in self._read:
            try:
                self._read[run.folder] = _read(run, split)
            except (NotComparable, ScoringError) as error:
                self._read[run.folder] = NotComparable(f"{run.name}: {error}")
        found = self._read[run.folder]
        if isinstance(found, NotComparable):
            raise found
        return found


@dataclass(frozen=True)
class _Answers:
    """Answers of one run, and how many of each image and split came out how."""

    samples: Samples
    counts: ImageCounts


def _read(run: Run, split: str) -> _Answers:
    """The answers of a run that did not fail, checked against its scores."""
    try:
        records = _records(run.folder / "samples")
    except (OSError, RecordError) as error:
        raise NotComparable(f"its samples cannot be read ({error})") from error
    samples = {sample_id(record): record for record in records}
    if not samples:
        raise NotComparable("there are no sample files with answers")
    counts = pope_counts(samples.values(), parser=run.parser)
    found = float(_statistic("accuracy", split, counts)(counts.counts.sum(axis=0)))
    stated = run.score(split, "accuracy").value
    if stated is not None and not abs(stated - found) <= _TOLERANCE:
        raise NotComparable("the samples do not give the accuracy in metrics.json; score the run again")
    return _Answers(samples, counts)


def _records(folder: Path) -> list[Record]:
    """The answered yes/no samples of the finished file, or of the parts where the run has not finished."""
    files = sorted(folder.glob("*.jsonl"))
    finished = [path for path in files if ".part-" not in path.name]
    found = [record for path in finished for record in read_samples(path)]
    found = found or [record for path in files for record in read_part(path)]
    kept = [record for record in found if record.status == "ok" and record.label in LABELS]
    return [{name: getattr(record, name) for name in _KEPT} for record in kept]


def _common(first: _Answers, second: _Answers, parser: str) -> tuple[_Answers, _Answers]:
    """Both runs cut down to the samples that both answered."""
    shared = first.samples.keys() & second.samples.keys()
    if not shared:
        raise NotComparable("the two runs share no answered sample")
    if any(_data(first.samples[key]) != _data(second.samples[key]) for key in shared):
        raise NotComparable("the two runs were asked about other data: labels or images differ")
    return _only(first, shared, parser), _only(second, shared, parser)


def _data(record: Record) -> tuple[Any, Any]:
    return record["label"], record["image_id"]


def _only(answers: _Answers, shared: Set[tuple[str, str]], parser: str) -> _Answers:
    if len(shared) == len(answers.samples):
        return answers
    samples = {key: record for key, record in answers.samples.items() if key in shared}
    return _Answers(samples, pope_counts(samples.values(), parser=parser))


_SUMMARIES = ("pooled", "mean", "all", "overall")


def _rate(first: _Answers, second: _Answers, key: str, split: str) -> Difference:
    statistic = _statistic(key, split, first.counts)
    result = cluster_bootstrap(first.counts.counts, statistic, versus=second.counts.counts)
    p = _p_value(first.counts, second.counts) if key == "accuracy" else None
    return _difference(result, p, len(first.samples))


def _statistic(key: str, split: str, counts: ImageCounts) -> Statistic:
    if split == "mean":
        return mean_rate(key)
    if split in _SUMMARIES:
        return pooled_rate(key)
    place = counts.splits.index(split) if split in counts.splits else 0
    return lambda sums: pope_rates(sums[..., place, :])[key]


def _p_value(first: ImageCounts, second: ImageCounts) -> float:
    """Sign-flip test at image level on the number of right answers."""
    right = [COUNTS.index("TP"), COUNTS.index("TN")]
    gaps = (first.counts - second.counts)[..., right].sum(axis=(1, 2))
    return sign_flip_test(gaps)


def _area(first: _Answers, second: _Answers, split: str) -> Difference:
    if split == "mean":
        raise NotComparable("the area under the curve is compared within a table, not for the mean of splits")
    keys = sorted(key for key in first.samples if split in (*_SUMMARIES, key[0]))
    pairs = [(first.samples[key], second.samples[key]) for key in keys]
    pairs = [(a, b) for a, b in pairs if None not in (a["margin"], b["margin"])]
    if not pairs:
        raise NotComparable("the samples carry no margins")
    scores = [[float(pair[side]["margin"]) for pair in pairs] for side in (0, 1)]
    if scores[0] == scores[1]:
        return Difference(0.0, 0.0, 0.0, n=len(pairs))
    labels = [a["label"] == "yes" for a, _ in pairs]
    images = [str(a["image_id"]) for a, _ in pairs]
    result = auc_bootstrap(scores[0], labels, images, versus=scores[1], n_resamples=AUC_RESAMPLES)
    return _difference(result, None, len(pairs))


def _difference(result: Bootstrap, p: float | None, n: int) -> Difference:
    if result.value is None:
        return Difference(None, reason="undefined on the samples that both runs answered", n=n)
    reason = "" if result.low is not None else "too few images for an interval"
    return Difference(result.value, result.low, result.high, p, n, reason)
