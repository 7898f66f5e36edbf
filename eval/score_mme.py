"""Tables of MME: two questions an image in each subtask, and the total over subtasks.

The unit of chance is the image. Subtasks that ask about the same images (as on scenes) draw them together, subtasks
with images of their own draw theirs apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    auc,
    auc_bounds,
    bounds,
    entry,
    with_margin,
)
from .scoring.mme import MME_PARSERS, mme_counts, score_mme
from .scoring.yes_no import PARSERS as YES_NO_PARSERS
from .scoring.yes_no import Parser

TOTAL = "total"
PARSERS: dict[str, Parser] = {**MME_PARSERS, "strict": YES_NO_PARSERS["strict"]}
COUNTS = ("right", "questions", "both_right", "images", "yes", "other", "tokens")
_RATES = ("acc", "acc_plus", "score", "yes_ratio", "unparsed_rate")
_SHOWN = ("acc", "acc_plus", "score", "yes_ratio", "auc", "unparsed_rate", "output_tokens")
_PAIRED = ("acc_plus", "score")


@dataclass(frozen=True)
class Clusters:
    """Counts by image, the input of the bootstraps.

    Attributes:
        images: image ids, sorted; length C.
        subtasks: names along the second axis; length T.
        strata: of each image the subtasks that ask about it, joined; length C.
        counts: float64 `[C, T, 7]`, the last axis in the order of `COUNTS`.
    """

    images: tuple[str, ...]
    subtasks: tuple[str, ...]
    strata: tuple[str, ...]
    counts: NDArray[np.float64]


def score_pairs(given: Given) -> Scores:
    """Tables with intervals under the run's parser, and plain values under every other parser.

    Rows that had no label to read are left out, and their pairs are not whole. `unparsed_rate` is the share of answers
    that the parser finds neither yes nor no, which MME calls "other".
    """
    labelled = [record for record in given.records if record["label"] in ("yes", "no")]
    tables, same = _tables(labelled, PARSERS[given.parser])
    if any(record["status"] == "ok" for record in labelled):
        _add_intervals(tables, labelled, PARSERS[given.parser])
    side = {
        name: {table: {m: row[m]["value"] for m in _RATES} for table, row in _tables(labelled, rule)[0].items()}
        for name, rule in PARSERS.items()
        if name != given.parser
    }
    return Scores(tables, side, _notes(given.manifest, tables, same))


def mme_clusters(records: Sequence[Record], parser: Parser) -> Clusters:
    """Counts by image over all subtasks; failures are left out."""
    by_pair = mme_counts(records, parser=parser)
    images = tuple(sorted({image for _, image in by_pair.images}))
    row_of = {image: row for row, image in enumerate(images)}
    counts = np.zeros((len(images), len(by_pair.subtasks), len(COUNTS)))
    asked: dict[str, list[str]] = {image: [] for image in images}
    for (subtask, image), values in zip(by_pair.images, by_pair.counts, strict=True):
        counts[row_of[image], :, : values.shape[-1]] += values
        asked[image].append(subtask)
    for record in records:
        if record["status"] != "ok":
            continue
        said = parser.parse(record["output"], record["label"])
        place = row_of[str(record["image_id"])], by_pair.subtasks.index(record["split"])
        counts[place][-3:] += (said == "yes", said is None, record["n_output_tokens"])
    return Clusters(images, by_pair.subtasks, tuple("+".join(names) for names in asked.values()), counts)


def mme_rates(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The rates of counts, `[..., 7] -> [...]`; NaN where undefined."""
    right, questions, both, images, yes, other, tokens = np.moveaxis(counts, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        acc, acc_plus = right / questions, both / images
        shares = {"yes_ratio": yes / questions, "unparsed_rate": other / questions, "output_tokens": tokens / questions}
    return {"acc": acc, "acc_plus": acc_plus, "score": 100 * acc + 100 * acc_plus, **shares}


def table_statistic(table: str, subtasks: Sequence[str], metric: str) -> Statistic:
    """`[..., T, 7] -> [...]`: a rate of a subtask, or of all; the total's score is the sum of the subtasks'."""
    if table != TOTAL:
        place = list(subtasks).index(table)
        return lambda sums: mme_rates(sums[..., place, :])[metric]
    if metric == "score":
        return lambda sums: mme_rates(sums)["score"].sum(axis=-1)
    return lambda sums: mme_rates(sums.sum(axis=-2))[metric]


def _tables(records: Sequence[Record], parser: Parser) -> tuple[dict[str, Table], list[str]]:
    """Every table without intervals, and the subtasks in which every answer is the same."""
    rows: Mapping[str, Any] = score_mme(records, parser=parser)["subtasks"]
    clusters = mme_clusters(records, parser)
    sums = clusters.counts.sum(axis=0)
    tables: dict[str, Table] = {}
    for name in (*clusters.subtasks, TOTAL):
        asked = clusters.subtasks if name == TOTAL else (name,)
        undefined = _undefined([rows[subtask] for subtask in asked])
        counted = [sum(rows[subtask][size] for subtask in asked) for size in ("n", "n_images")]
        known = with_margin([record for record in records if record["split"] in asked])
        table: Table = {}
        for metric in _SHOWN:
            if metric == "auc":
                why = "all answers with a margin have the same label" if known else "no answer has a margin"
                table[metric] = entry(auc(known), len(known), why)
                continue
            value = float(table_statistic(name, clusters.subtasks, metric)(sums))
            why = undefined.get(metric)
            table[metric] = entry(None if why else value, counted[metric in _PAIRED], why)
        tables[name] = table
    return tables, [name for name in clusters.subtasks if rows[name]["all_same_answer"]]


def _undefined(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Why a metric has no value over these subtasks: acc+ needs every pair whole, the others one answer."""
    found = {metric: row["undefined"][metric] for row in rows for metric in _PAIRED if metric in row["undefined"]}
    if not any(row["n"] for row in rows):
        found |= dict.fromkeys(_SHOWN, "no answer was scored")
    return found


def _add_intervals(tables: dict[str, Table], records: Sequence[Record], parser: Parser) -> None:
    """Low and high of every value: bootstrap over images inside the subtasks that ask about them."""
    clusters = mme_clusters(records, parser)
    for name, table in tables.items():
        for metric, figure in table.items():
            if figure["value"] is None:
                continue
            if metric == "auc":
                chosen = [record for record in records if name in (TOTAL, record["split"])]
                found = auc_bounds(with_margin(chosen))
            else:
                statistic = table_statistic(name, clusters.subtasks, metric)
                found = bounds(clusters.counts, statistic, clusters.strata)
            add_bounds(figure, *found)


def _notes(manifest: Mapping[str, Any], tables: Mapping[str, Table], same: Sequence[str]) -> list[str]:
    notes = []
    if same:
        notes.append(f"Every answer is the same in {', '.join(same)}; that alone gives a subtask a score of 50.")
    absent = [name for name in manifest["task"]["options"].get("subtasks") or () if name not in tables]
    if absent:
        there = ", ".join(name for name in tables if name != TOTAL)
        notes.append(f"No question of {', '.join(absent)} was asked; the total is that of {there or 'nothing'}.")
    return notes
