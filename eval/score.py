"""Scores a run folder without a model: `samples/*.jsonl` to `metrics.json`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError, IncompleteRun, ScoreError, unknown
from .folder import METRICS, is_complete, read_json
from .manifest import FILE
from .records import SampleFiles, SampleRecord, read_part, read_samples, write_json
from .scoring import PARSERS, ScoringError
from .scoring.pope import RATES, pope_counts, pope_rates, score_pope_parsers
from .statistics import StatisticsError, auc_bootstrap, cluster_bootstrap

SCHEMA = 1
DIGITS = 6
RESAMPLES = 2000
"""Bootstrap resamples for intervals."""
_SHOWN = ("accuracy", "f1", "precision", "recall", "yes_ratio", "auc", "unparsed_rate", "output_tokens")
_SIDE = ("accuracy", "f1", "yes_ratio", "unparsed_rate")
_MEAN, _POOLED = "mean", "pooled"

Record = dict[str, Any]
Table = dict[str, dict[str, Any]]
Scores = tuple[dict[str, Table], dict[str, Any]]


def score_run(folder: Path, *, parser: str | None = None, allow_partial: bool = False) -> dict[str, Any]:
    """Score a run and write its `metrics.json`.

    Args:
        folder: the run folder.
        parser: dialect that answers are read in; None = the task's.
        allow_partial: score what there is of a run that has not finished; the result is marked.

    Returns:
        What was written.

    Raises:
        RunFolderError: the folder holds no run.
        IncompleteRun: the run has not finished.
        ScoreError: its samples cannot be scored.
    """
    manifest = read_json(folder / FILE)
    if parser is not None and parser not in PARSERS:
        raise ConfigError(*unknown("parser", parser, PARSERS))
    partial = not is_complete(manifest)
    if partial and not allow_partial:
        raise IncompleteRun(
            f"The run in {str(folder)!r} has not finished.",
            "Run it again to go on, or score what there is with --allow-partial.",
        )
    records = _records(folder, manifest, partial)
    metrics = build_metrics(records, manifest, parser or manifest["scorer"]["parser"], partial)
    write_json(folder / METRICS, metrics)
    return metrics


def build_metrics(
    records: Sequence[SampleRecord], manifest: Mapping[str, Any], parser: str, partial: bool
) -> dict[str, Any]:
    """The content of `metrics.json`; the same records give the same content."""
    scorer = _scorer(manifest)
    try:
        tables, parsers = scorer([dataclasses.asdict(record) for record in records], parser)
    except (ScoringError, StatisticsError) as error:
        raise ScoreError(str(error)) from error
    ok = sum(record.status == "ok" for record in records)
    return {
        "schema": SCHEMA,
        "task": manifest["task"]["name"],
        "task_version": manifest["task"]["version"],
        "data": {name: value for name, value in manifest["task"]["options"].items() if name != "splits"},
        "parser": parser,
        "model": manifest["model"]["name"],
        "decoder": {name: manifest["decoder"][name] for name in ("key", "kind", "params")},
        "generation": manifest["generation"],
        "n": len(records),
        "n_ok": ok,
        "n_error": len(records) - ok,
        "n_images": len({record.image_id for record in records} - {""}),
        "partial": partial,
        "resamples": RESAMPLES,
        "tables": tables,
        "parsers": parsers,
        "notes": _notes(manifest, len(records), ok, partial),
    }


def _records(folder: Path, manifest: Mapping[str, Any], partial: bool) -> list[SampleRecord]:
    files = SampleFiles(folder / "samples", str(manifest["task"]["name"]))
    if partial:
        found = {record.key: record for path in files.parts() for record in read_part(path)}
        if not found:
            raise IncompleteRun(f"The run in {str(folder)!r} has no answer yet.", "Run it again to go on.")
        return sorted(found.values(), key=lambda record: (record.split, record.doc_id))
    if not files.final.is_file():
        raise IncompleteRun(f"{files.final.name} is missing in {str(folder)!r}.", "Run it again with run.resume=false.")
    records = read_samples(files.final)
    if len(records) != manifest["n_samples"]:
        raise ScoreError(
            f"{files.final.name} holds {len(records)} samples, and the run had {manifest['n_samples']}.",
            "Run it again with run.resume=false.",
        )
    return records


def _notes(manifest: Mapping[str, Any], n: int, ok: int, partial: bool) -> list[str]:
    notes = []
    if partial:
        notes.append(f"Partial: {n} of {manifest['n_samples']} samples; the run has not finished.")
    if manifest["limit"] is not None:
        notes.append(f"Limited to {manifest['limit']} images (run.limit, seed {manifest['seed']}).")
    if n > ok:
        notes.append(f"{n - ok} of {n} samples failed and are not scored.")
    margin = manifest.get("margin_words") or {}
    if not (margin.get("yes") and margin.get("no")):
        notes.append("The tokenizer has no single tokens for yes and no, so there is no margin and no AUC.")
    return notes


def _scorer(manifest: Mapping[str, Any]) -> Callable[[list[Record], str], Scores]:
    name = manifest["scorer"]["name"]
    if name not in SCORERS:
        raise ScoreError(*unknown("scorer", name, SCORERS))
    return SCORERS[name]


def score_yes_no(records: list[Record], parser: str) -> Scores:
    """Tables with intervals under `parser`, and plain values under every other parser.

    Rows that had no label to read are left out; `unparsed_rate` is always that of the strict parser, for others never
    abstain.
    """
    labelled = [record for record in records if record["label"] in ("yes", "no")]
    splits = list(dict.fromkeys(str(record["split"]) for record in labelled))
    every = score_pope_parsers(labelled)
    tables: dict[str, Table] = {}
    for name in (*splits, _MEAN, _POOLED):
        row, strict = _row(every[parser], name), _row(every["strict"], name)
        row["unparsed_rate"], row["output_tokens"] = strict.get("unparsed_rate"), row.get("mean_output_tokens")
        tables[name] = {metric: _value(row, metric) for metric in _SHOWN}
    if any(record["status"] == "ok" for record in labelled):
        _add_intervals(tables, labelled, parser)
    side = {
        other: {name: {metric: _rounded(_row(score, name)[metric]) for metric in _SIDE} for name in tables}
        for other, score in every.items()
        if other != parser
    }
    return tables, side


SCORERS: dict[str, Callable[[list[Record], str], Scores]] = {"pope": score_yes_no}


def _row(score: Mapping[str, Any], table: str) -> dict[str, Any]:
    """The row of a split, of the mean over splits, or of all answers together."""
    held = {_MEAN: "mean_of_splits", _POOLED: "pooled"}
    return dict(score[held[table]] if table in held else score["splits"][table])


def _value(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    value = row.get(metric)
    if value is None:
        reasons = row.get("undefined") or {}
        why = reasons.get("mean_output_tokens" if metric == "output_tokens" else metric)
        return {"value": None, "reason": str(why or "not defined on these answers")}
    count = row.get("n_margin" if metric == "auc" else "n")
    return {"value": _rounded(value), **({} if count is None else {"n": count})}


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
                bounds = _auc_bounds(ok, name)
            elif metric == "output_tokens":
                bounds = _bounds(_tokens(ok, held.images, held.splits), _statistic(name, held.splits, _ratio))
            else:
                bounds = _bounds(held.counts, _statistic(name, held.splits, _rate(metric)))
            table[metric] |= {"low": _rounded(bounds[0]), "high": _rounded(bounds[1])}


Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _statistic(table: str, splits: Sequence[str], of: Statistic) -> Statistic:
    """`[..., splits, counts] -> [...]` for a table, from a statistic of counts `[..., counts] -> [...]`."""
    if table == _MEAN:
        return lambda sums: of(sums).mean(axis=-1)
    if table == _POOLED:
        return lambda sums: of(sums.sum(axis=-2))
    place = list(splits).index(table)
    return lambda sums: of(sums[..., place, :])


def _rate(metric: str) -> Statistic:
    return lambda sums: pope_rates(sums)[metric]


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def _tokens(records: Sequence[Record], images: Sequence[str], splits: Sequence[str]) -> NDArray[np.float64]:
    """`[images, splits, 2]`: tokens and answers."""
    rows = {image: row for row, image in enumerate(images)}
    columns = {split: column for column, split in enumerate(splits)}
    sums = np.zeros((len(images), len(splits), 2))
    for record in records:
        sums[rows[record["image_id"]], columns[record["split"]]] += (record["n_output_tokens"], 1)
    return sums


def _bounds(sums: NDArray[np.float64], statistic: Statistic) -> tuple[float | None, float | None]:
    found = cluster_bootstrap(sums, statistic, n_resamples=RESAMPLES)
    return found.low, found.high


def _auc_bounds(records: Sequence[Record], table: str) -> tuple[float | None, float | None]:
    """The interval of an area; none for the mean of areas, whose splits would have to be drawn together."""
    if table == _MEAN:
        return None, None
    chosen = [r for r in records if r["margin"] is not None and table in (_POOLED, r["split"])]
    found = auc_bootstrap(
        [r["margin"] for r in chosen],
        [r["label"] == "yes" for r in chosen],
        [r["image_id"] for r in chosen],
        n_resamples=RESAMPLES,
    )
    return found.low, found.high


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), DIGITS) + 0.0
