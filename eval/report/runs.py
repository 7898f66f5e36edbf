"""Reads run folders: `manifest.json`, `metrics.json` and `timings/summary.json`. No model, no sample is needed."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import decoders
from ...decoders.approximate import WORD
from ...models.errors import UnknownDecoder
from .errors import ReportError
from .text import clean, clean_tree, finite

RUN = "sightline run model=tiny-llava decoder=greedy task=pope_scenes"
MODES = ("greedy", "sample", "beam")
_NAMES = {
    "avc": "AVC",
    "causalmm": "CausalMM",
    "cgvlm": "CG-VLM",
    "code": "CODE",
    "cut_only": "Cut only",
    "dagcd": "DAGCD",
    "decore": "DeCoRe",
    "greedy": "Greedy",
    "hicd": "HICD",
    "iava": "IAVA",
    "masked_only": "Masked only",
    "random_heads": "Random heads",
    "sample": "Sampling",
    "shift": "Yes/no shift",
    "vcd": "VCD",
}


@dataclass(frozen=True)
class Score:
    """A value with its 95 % interval; without a value, the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Primary:
    """The figure that decides: table, measure, and which way is better."""

    table: str
    metric: str
    higher_is_better: bool


@dataclass(frozen=True)
class Run:
    """One scored run: one model, decoder, task and generation mode.

    `data` says which part of the task's data it is about. `like` holds the scores of greedy captions cut to the length
    of this run's.
    """

    folder: Path
    name: str
    model: str
    task: str
    task_version: str
    parser: str
    key: str
    kind: str
    params: dict[str, Any]
    generation: dict[str, Any]
    n: int
    n_ok: int
    n_error: int
    n_images: int
    partial: bool
    tables: dict[str, dict[str, Score]]
    parsers: dict[str, dict[str, dict[str, Score]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    manifest: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    primary: Primary | None = None
    scorer: str = ""
    decoder_title: str = ""
    like: dict[str, Score] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The decoder's name for readers."""
        return self.decoder_title or _NAMES.get(self.key, self.key)

    @property
    def mode(self) -> str:
        """`greedy`, `sample`, `beam` or another word of the generation settings."""
        return str(self.generation.get("mode", "unknown"))

    @property
    def is_control(self) -> bool:
        """Whether it is there to keep the strategies honest."""
        return self.kind == "control"

    def score(self, split: str, key: str) -> Score:
        """The score, or one that says why there is none."""
        table = self.tables.get(split)
        if table is None:
            return Score(None, reason=f"the run has no table {split}")
        return table.get(key) or Score(None, reason="not measured in this run")


@dataclass(frozen=True)
class Unread:
    """A run folder that could not be used, and why."""

    name: str
    reason: str


def find_runs(folder: Path) -> tuple[list[Run], list[Unread]]:
    """All scored runs in or below `folder`, by path, and the run folders that cannot be read.

    Raises:
        ReportError: the folder is missing, or no run in it has scores.
    """
    if not folder.is_dir():
        raise ReportError(f"{clean(folder)} is not a folder.", f"Make a run first: {RUN} run.dir=...")
    runs, unread = [], []
    for path in _run_folders(folder):
        name = clean(path.relative_to(folder).as_posix())
        try:
            runs.append(read_run(path, clean(folder.resolve().name) if name == "." else name))
        except _Unusable as error:
            unread.append(Unread(name, str(error)))
    if not runs:
        raise _nothing(folder, unread)
    return runs, unread


def _run_folders(folder: Path) -> list[Path]:
    found = []
    for root, folders, files in os.walk(folder):
        folders.sort()
        if "manifest.json" in files:
            found.append(Path(root))
            folders.clear()
    return sorted(found, key=lambda path: path.as_posix())


def _nothing(folder: Path, unread: list[Unread]) -> ReportError:
    where = clean(folder)
    if not unread:
        return ReportError(
            f"No run folder in {where}: none of its folders holds a manifest.json.",
            f"Make one with `{RUN} run.dir={where}/greedy`, then `sightline score run.dir={where}/greedy`.",
        )
    first = unread[0]
    return ReportError(
        f"No run in {where} has scores; {first.name}: {first.reason}.",
        f"Score a finished run with `sightline score run.dir={where}/{first.name}`.",
    )


class _Unusable(Exception):
    """One folder cannot be read; the others can."""


def read_run(folder: Path, name: str) -> Run:
    """One run folder.

    Args:
        folder: holds `manifest.json` and `metrics.json`, and `timings/summary.json` where it was timed.
        name: how the report calls the folder.
    """
    manifest = _read_object(folder / "manifest.json")
    metrics = _read_object(folder / "metrics.json")
    timing_file = folder / "timings" / "summary.json"
    timing = _read_object(timing_file) if timing_file.is_file() else {}
    decoder = _object(metrics, "decoder")
    unfinished = "status" in manifest and manifest["status"] != "complete"
    tables = {split: _scores(table, metrics) for split, table in _object(metrics, "tables").items()}
    if not any(tables.values()):
        raise _Unusable("metrics.json holds no table of scores")
    return Run(
        folder=folder,
        name=name,
        model=_word(metrics, "model"),
        task=_word(metrics, "task"),
        task_version=str(metrics.get("task_version", "")),
        parser=str(metrics.get("parser") or ""),
        key=_word(decoder, "key"),
        kind="control" if decoder.get("kind") == "control" else "strategy",
        params=_telling(_word(decoder, "key"), _object(decoder, "params")),
        generation=_generation(metrics.get("generation")),
        n=_whole(metrics, "n"),
        n_ok=_whole(metrics, "n_ok"),
        n_error=_whole(metrics, "n_error"),
        n_images=_whole(metrics, "n_images"),
        partial=bool(metrics.get("partial")) or unfinished,
        tables=tables,
        parsers=_parsers(metrics),
        notes=_notes(metrics.get("notes")),
        manifest=manifest,
        data=_object(metrics, "data"),
        primary=_primary(metrics.get("primary")),
        scorer=_scorer(manifest, metrics),
        decoder_title=str(decoder.get("title") or "").strip(),
        like=_scores(_like(metrics), metrics),
        timing=timing,
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _Unusable(f"{path.name} is missing; it is not scored yet") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _Unusable(f"{path.name} cannot be read ({clean(error)})") from error
    if not isinstance(value, dict):
        raise _Unusable(f"{path.name} is not a JSON object")
    return clean_tree(value)


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Unusable(f"`{key}` in metrics.json is not an object")
    return value


def _word(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value.strip():
        raise _Unusable(f"`{key}` is missing in metrics.json")
    return value.strip()


def _notes(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _primary(value: Any) -> Primary | None:
    if not isinstance(value, dict) or not all(isinstance(value.get(name), str) for name in ("table", "metric")):
        return None
    return Primary(value["table"], value["metric"], value.get("higher_is_better") is not False)


def _scorer(manifest: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The scorer that the manifest names, or the one that the task's name begins with."""
    held = manifest.get("scorer")
    named = held.get("name") if isinstance(held, dict) else None
    return str(named or _word(metrics, "task").lower().partition("_")[0])


def _like(metrics: dict[str, Any]) -> Any:
    """The table of greedy captions cut to this run's length."""
    held = metrics.get("like")
    return held.get("table") if isinstance(held, dict) else None


def _telling(key: str, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, those that are not the decoder's defaults first: they are what a reader asks for."""
    try:
        fields = dataclasses.fields(decoders.get(key.partition(WORD)[0]))
    except UnknownDecoder:
        return params
    defaults = {spec.name: spec.default for spec in fields}
    return dict(sorted(params.items(), key=lambda item: item[0] in defaults and defaults[item[0]] == item[1]))


def _whole(data: dict[str, Any], key: str) -> int:
    value = finite(data.get(key))
    return 0 if value is None else int(value)


def _generation(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"mode": str(value or "unknown")}


def _scores(table: Any, metrics: dict[str, Any]) -> dict[str, Score]:
    if not isinstance(table, dict):
        return {}
    return {key: _score(item, metrics) for key, item in table.items()}


def _score(item: Any, metrics: dict[str, Any]) -> Score:
    if not isinstance(item, dict):
        item = {"value": item}
    value, low, high = (finite(item.get(key)) for key in ("value", "low", "high"))
    n = finite(item.get("n"))
    if value is None:
        return Score(None, n=None if n is None else int(n), reason=str(item.get("reason") or "not defined"))
    return Score(value, low, high, _whole(metrics, "n_ok") if n is None else int(n))


def _parsers(metrics: dict[str, Any]) -> dict[str, dict[str, dict[str, Score]]]:
    return {
        parser: {split: _scores(table, metrics) for split, table in tables.items()}
        for parser, tables in _object(metrics, "parsers").items()
        if isinstance(tables, dict)
    }
