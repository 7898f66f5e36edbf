"""Tables of yes/no answers in splits that share their images, as POPE has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .score_tables import (
    Given,
    Record,
    Scores,
    Statistic,
    Table,
    add_bounds,
    auc_bounds,
    bounds,
    entry,
    ratio,
    rounded,
    with_margin,
)
from .scoring.pope import RATES, pope_counts, pope_rates, score_pope_parsers

MEAN, POOLED = "mean", "pooled"
_SHOWN = ("accuracy", "f1", "precision", "recall", "yes_ratio", "auc", "unparsed_rate", "output_tokens")
_SIDE = ("accuracy", "f1", "yes_ratio", "unparsed_rate")


def score_splits(given: Given) -> Scores:
    """Tables with intervals under the run's parser, and plain values under every other parser.

    Rows that had no label to read are left out; `unparsed_rate` is always that of the strict parser, for others never
    abstain.
    """
    labelled = [record for record in given.records if record["label"] in ("yes", "no")]
    splits = list(dict.fromkeys(str(record["split"]) for record in labelled))
    every = score_pope_parsers(labelled)
    tables: dict[str, Table] = {}
    for name in (*splits, MEAN, POOLED):
        row, strict = _row(every[given.parser], name), _row(every["strict"], name)
        row["unparsed_rate"], row["output_tokens"] = strict.get("unparsed_rate"), row.get("mean_output_tokens")
        tables[name] = {metric: _value(row, metric) for metric in _SHOWN}
    if any(record["status"] == "ok" for record in labelled):
        _add_intervals(tables, labelled, given.parser)
    side = {
        other: {name: {metric: rounded(_row(score, name)[metric]) for metric in _SIDE} for name in tables}
        for other, score in every.items()
        if other != given.parser
    }
    return Scores(tables, side)


def _row(score: Mapping[str, Any], table: str) -> dict[str, Any]:
    """The row of a split, of the mean over splits, or of all answers together."""
    held = {MEAN: "mean_of_splits", POOLED: "pooled"}
    return dict(score[held[table]] if table in held else score["splits"][table])


def _value(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    why = (row.get("undefined") or {}).get("mean_output_tokens" if metric == "output_tokens" else metric)
    return entry(row.get(metric), row.get("n_margin" if metric == "auc" else "n"), why)


def _add_intervals(tables: dict[str, Table], records: list[Record], parser: str) -> None:
    """Low and high of every value: bootstrap over images, which carry their questions in all splits."""
    ok = [record for record in records if record["status"] == "ok"]
    counts = {"": pope_counts(records, parser=parser), "unparsed_rate": pope_counts(records, parser="strict")}
    for name, table in tables.items():
        for metric in (*RATES, "output_tokens", "auc"):
            held = counts.get(metric, counts[""])
            if table[metric]["value"] is None:
                continue
            if metric == "auc":
                found = _auc_bounds(ok, name)
            elif metric == "output_tokens":
                found = bounds(_tokens(ok, held.images, held.splits), _statistic(name, held.splits, ratio))
            else:
                found = bounds(held.counts, _statistic(name, held.splits, _rate(metric)))
            add_bounds(table[metric], *found)


def _statistic(table: str, splits: Sequence[str], of: Statistic) -> Statistic:
    """`[..., splits, counts] -> [...]` for a table, from a statistic of counts `[..., counts] -> [...]`."""
    if table == MEAN:
        return lambda sums: of(sums).mean(axis=-1)
    if table == POOLED:
        return lambda sums: of(sums.sum(axis=-2))
    place = list(splits).index(table)
    return lambda sums: of(sums[..., place, :])


def _rate(metric: str) -> Statistic:
    return lambda sums: pope_rates(sums)[metric]


def _tokens(records: Sequence[Record], images: Sequence[str], splits: Sequence[str]) -> NDArray[np.float64]:
    """`[images, splits, 2]`: tokens and answers."""
    rows = {image: row for row, image in enumerate(images)}
    columns = {split: column for column, split in enumerate(splits)}
    sums = np.zeros((len(images), len(splits), 2))
    for record in records:
        sums[rows[record["image_id"]], columns[record["split"]]] += (record["n_output_tokens"], 1)
    return sums


def _auc_bounds(records: Sequence[Record], table: str) -> tuple[float | None, float | None]:
    """The interval of an area; none for the mean of areas, whose splits would have to be drawn together."""
    if table == MEAN:
        return None, None
    return auc_bounds(with_margin([record for record in records if table in (POOLED, record["split"])]))
