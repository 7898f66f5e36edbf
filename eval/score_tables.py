"""What the scorers share: what they are given and give, entries of tables, and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .statistics import auc_bootstrap, cluster_bootstrap, roc_auc

DIGITS = 6
RESAMPLES = 2000
"""Bootstrap resamples for intervals."""

Record = dict[str, Any]
Table = dict[str, dict[str, Any]]
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Reference:
    """Another run on the same samples, whose captions say how long captions may be.

    Attributes:
        manifest: of that run.
        records: its samples.
    """

    manifest: Mapping[str, Any]
    records: Sequence[Record]


@dataclass(frozen=True)
class Given:
    """What a scorer is given.

    Attributes:
        folder: the run folder.
        manifest: what was run.
        records: its samples, failures among them.
        parser: dialect that answers are read in.
        like: the run whose lengths captions are cut to.
    """

    folder: Path
    manifest: Mapping[str, Any]
    records: list[Record]
    parser: str
    like: Reference | None = None


@dataclass(frozen=True)
class Scores:
    """What a scorer gives.

    Attributes:
        tables: name -> metric -> entry.
        parsers: other parser -> table -> metric -> plain value.
        notes: what a reader should know.
        more: further entries of `metrics.json`.
    """

    tables: dict[str, Table]
    parsers: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scorer:
    """How the answers of a kind of task are scored.

    Attributes:
        score: the scorer.
        parsers: the dialects it knows.
        table, metric, higher_is_better: the one figure that decides.
        captions: whether answers are captions, which may be cut to another run's lengths.
        texts: whether questions are about texts.
        margins: whether answers are yes or no, with margins.
    """

    score: Callable[[Given], Scores]
    parsers: Collection[str]
    table: str
    metric: str
    higher_is_better: bool = True
    captions: bool = False
    texts: bool = False
    margins: bool = False

    @property
    def primary(self) -> dict[str, Any]:
        """The figure that decides, as `metrics.json` names it."""
        return {"table": self.table, "metric": self.metric, "higher_is_better": self.higher_is_better}


def entry(value: float | None, n: int | None = None, reason: str | None = None) -> dict[str, Any]:
    """One figure of a table; a value that is not defined says why."""
    if value is None or math.isnan(value):
        return {"value": None, "reason": str(reason or "not defined on these answers")}
    return {"value": rounded(value), **({} if n is None else {"n": n})}


def add_bounds(figure: dict[str, Any], low: float | None, high: float | None) -> None:
    """Put the ends of its interval into a figure."""
    figure |= {"low": rounded(low), "high": rounded(high)}


def bounds(
    sums: NDArray[np.float64], statistic: Statistic, strata: Sequence[Any] | NDArray[Any] | None = None
) -> tuple[float | None, float | None]:
    """The 95 % interval of a statistic `[..., counts] -> [...]` of counts by image `[images, counts]`.

    Args:
        sums: counts by image; may have more axes than two.
        statistic: as `cluster_bootstrap` takes it.
        strata: `[images]` labels; images are drawn within their stratum.
    """
    found = cluster_bootstrap(sums, statistic, n_resamples=RESAMPLES, strata=strata)
    return found.low, found.high


def with_margin(records: Sequence[Record]) -> list[Record]:
    """The answered records that have a margin."""
    return [record for record in records if record["status"] == "ok" and record["margin"] is not None]


def auc(records: Sequence[Record]) -> float | None:
    """Area under the ROC curve of the margins; None where labels are all the same, or there is no margin."""
    return roc_auc(*_margins(records)) if records else None


def auc_bounds(records: Sequence[Record]) -> tuple[float | None, float | None]:
    """The interval of that area, images resampled."""
    scores, positives = _margins(records)
    found = auc_bootstrap(scores, positives, [record["image_id"] for record in records], n_resamples=RESAMPLES)
    return found.low, found.high


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """First count over second, `[..., 2] -> [...]`; NaN where undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def rounded(value: float | None) -> float | None:
    """Six decimals, never minus zero; None for what is not a number."""
    return None if value is None or math.isnan(value) else round(float(value), DIGITS) + 0.0


def _margins(records: Sequence[Record]) -> tuple[list[float], list[bool]]:
    return [record["margin"] for record in records], [record["label"] == "yes" for record in records]
