"""Chooses a decoder's setting from a sweep over validation data.

A setting that was chosen on the data it is reported on says nothing, so runs on any other split are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ConfigError, IncompleteRun, ScoreError, UsageError, unknown
from .folder import METRICS, read_json
from .manifest import FILE
from .records import write_atomic

METRIC, TABLE = "accuracy", "mean"
_SAME = ("model", "task", "prompt", "generation", "limit")


@dataclass(frozen=True)
class Candidate:
    """One run of a sweep."""

    folder: Path
    key: str
    params: Mapping[str, Any]
    value: float
    held: Mapping[str, Any]


def candidates(folder: Path, metric: str = METRIC, table: str = TABLE) -> list[Candidate]:
    """The scored runs in and below a folder.

    Args:
        folder: the sweep's folder.
        metric: a metric of `metrics.json`.
        table: a split, `mean` (over the splits) or `pooled`.

    Raises:
        UsageError: there is no run.
        IncompleteRun: a run has not finished, or has no scores.
        ScoreError: a run was not made on validation data.
        ConfigError: the runs have no such table or metric.
    """
    manifests = sorted(folder.rglob(FILE))
    if not manifests:
        raise UsageError(f"There is no run in {str(folder)!r}.", "Make a sweep first: sightline run -m ...")
    return [_candidate(path.parent, metric, table) for path in manifests]


def choose(found: Sequence[Candidate], lowest: bool = False) -> dict[str, Candidate]:
    """The best candidate of each decoder; of equals, the one whose parameters come first in order.

    Args:
        found: the runs to choose from.
        lowest: whether less is better.

    Raises:
        ScoreError: runs of one decoder differ in more than its parameters.
    """
    groups: dict[str, list[Candidate]] = {}
    for candidate in found:
        groups.setdefault(candidate.key, []).append(candidate)
    for key, group in groups.items():
        for other in group[1:]:
            differing = [name for name in _SAME if other.held.get(name) != group[0].held.get(name)]
            if differing:
                raise ScoreError(
                    f"Runs of {key} differ in {', '.join(differing)}: {group[0].folder.name} and {other.folder.name}.",
                    "Keep one sweep per folder.",
                )
    sign = 1 if lowest else -1
    return {key: min(group, key=lambda c: (sign * c.value, _order(c.params))) for key, group in groups.items()}


def write(best: Candidate, folder: Path, metric: str = METRIC, table: str = TABLE) -> Path:
    """Write the setting as a choice of the decoder group: `FOLDER/decoder/KEY_tuned.yaml`.

    Use it with `sightline run --config-dir FOLDER decoder=KEY_tuned`.
    """
    path = folder / "decoder" / f"{best.key}_tuned.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    task = best.held["task"]
    head = f"# Chosen by `sightline tune`: {metric} ({table}) = {best.value:.4f} on {task['name']}, validation.\n"
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in (("key", best.key), *best.params.items())]
    write_atomic(path, head + "".join(lines))
    return path


def _candidate(folder: Path, metric: str, table: str) -> Candidate:
    held = read_json(folder / FILE)
    try:
        key, params, split = (
            held["decoder"]["key"],
            dict(held["decoder"]["params"]),
            held["task"]["options"].get("split"),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ScoreError(f"{FILE} of {folder.name} is not as `sightline run` writes it.", "Run it again.") from error
    if split != "validation":
        what = "a task without a validation split" if split is None else f"the split {split!r}"
        raise ScoreError(
            f"{folder.name} was made on {what}; settings are chosen on validation data only.",
            "Sweep with task=pope_scenes task.split=validation.",
        )
    if not (folder / METRICS).is_file():
        raise IncompleteRun(f"{folder.name} has no scores.", f"Finish it, then `sightline score {folder}`.")
    metrics = read_json(folder / METRICS)
    if metrics.get("partial", True):
        raise IncompleteRun(f"{folder.name} has not finished.", "Run the sweep again; it goes on where it stopped.")
    tables = metrics.get("tables")
    if not isinstance(tables, dict):
        raise ScoreError(f"{METRICS} of {folder.name} holds no tables.", f"Score it again: `sightline score {folder}`.")
    if table not in tables:
        raise ConfigError(*unknown("table", table, tables))
    if metric not in tables[table]:
        raise ConfigError(*unknown("metric", metric, tables[table]))
    value = tables[table][metric].get("value")
    if not isinstance(value, int | float):
        raise ScoreError(f"{folder.name} has no value of {metric}: {tables[table][metric].get('reason')}.")
    return Candidate(folder, key, params, float(value), held)


def _order(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)
