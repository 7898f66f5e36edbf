"""Reads a leaderboard: which decoders are asked which tasks, in which generation modes.

    about: one or two sentences for the report
    common: [run.cost_requests=12]                  # overrides of every run
    models: [tiny-llava, tiny-qwen-vl]              # each is asked every task; without them, common or a task names one
    jobs: 2                                         # processes side by side, a thread each; 1 where it is left out
    tasks:                                          # the tasks, each with its own overrides
      pope_scenes: [run.limit=120]
    modes: [greedy, sample]                         # choices of the generation group
    decoders:                                       # one entry each: the choice and its parameters
      - {decoder: greedy, modes: [greedy]}
      - {decoder: vcd, alpha: 1.0}
      - {decoder: shift, delta: -1.5, tasks: [pope_scenes]}

Every decoder is asked every task in every mode under every model, unless its entry names fewer. In place of tasks,
modes and decoders, or beside them, `runs` may list the overrides of single runs.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .config import conf_folder
from .errors import ConfigError, unknown
from .settings import MODES

GROUP = "leaderboard"
_PARTS = ("about", "common", "jobs", "models", "tasks", "modes", "decoders", "runs")


@dataclass(frozen=True)
class Board:
    """A list of runs.

    Attributes:
        name: of the file.
        common: overrides of every run.
        runs: overrides of each run.
        about: what a reader of the report should know of the choices made here.
        jobs: processes that make runs side by side.
    """

    name: str
    common: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...]
    about: str = ""
    jobs: int = 1


def boards() -> list[str]:
    """The names of the packaged leaderboards."""
    return sorted(path.stem for path in (conf_folder() / GROUP).glob("*.yaml"))


def read_board(name: str) -> Board:
    """A leaderboard by packaged name or path.

    Raises:
        ConfigError: there is no such file, or it does not hold what the module's docstring shows.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else conf_folder() / GROUP / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(*unknown(GROUP, name, boards()))
    try:
        tree: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OmegaConfBaseException, YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        hint = "Mend it; conf/leaderboard/demo.yaml is one."
        raise ConfigError(f"{name!r}{where} is no YAML: {what}.", hint) from error
    if not isinstance(tree, dict) or not (tree.get("runs") or (tree.get("tasks") and tree.get("decoders"))):
        raise ConfigError(
            f"{name!r} is no leaderboard.",
            "It needs tasks and decoders, or a list of runs (see conf/leaderboard/demo.yaml).",
        )
    for part in tree:
        _one_of("part of a leaderboard", part, _PARTS)
    runs = (*_crossed(tree), *(_overrides("runs", run) for run in _list("runs", tree.get("runs"))))
    jobs = tree.get("jobs", 1)
    if type(jobs) is not int or jobs < 1:
        raise ConfigError(f"jobs must be a whole number from 1 on, got {jobs!r}.", "One process for each core will do.")
    about = " ".join(str(tree.get("about", "")).split())
    return Board(path.stem, _overrides("common", tree.get("common")), runs, about, jobs)


def _crossed(tree: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The runs of all decoders: task by task and model by model, so that a board that is stopped has whole ones."""
    asked = tree.get("tasks") or {}
    if not isinstance(asked, dict):
        raise ConfigError(f"tasks must map names to overrides, got {asked!r}.", "Such as pope_scenes: [run.limit=120].")
    modes = _chosen("mode", tree.get("modes") or ["greedy"], MODES)
    models = [(f"model={name}",) for name in _list("models", tree.get("models"))] or [()]
    entries = [_entry(entry, asked, modes) for entry in _list("decoders", tree.get("decoders"))]
    for (task, own), model, (overrides, its_tasks, its_modes) in product(asked.items(), models, entries):
        if task in its_tasks:
            for mode in its_modes:
                yield (f"task={task}", *_overrides(f"tasks.{task}", own), *model, *overrides, f"generation={mode}")


def _entry(entry: Any, asked: Collection[str], modes: list[str]) -> tuple[tuple[str, ...], list[str], list[str]]:
    """A decoder's overrides, and the tasks and modes that it is run in."""
    if not isinstance(entry, dict) or not isinstance(entry.get("decoder"), str):
        raise ConfigError(f"{entry!r} is no decoder.", "Write {decoder: vcd, alpha: 1.0}.")
    params = {name: value for name, value in entry.items() if name not in ("decoder", "tasks", "modes")}
    overrides = (f"decoder={entry['decoder']}", *(f"decoder.{name}={_word(params[name])}" for name in params))
    return (
        overrides,
        _chosen("task", entry.get("tasks", list(asked)), asked),
        _chosen("mode", entry.get("modes", modes), MODES),
    )


def _chosen(what: str, names: Any, known: Collection[str]) -> list[str]:
    """Names out of the known ones."""
    for name in _list(f"{what}s", names):
        _one_of(f"{what} on this leaderboard", name, known)
    return [str(name) for name in names]


def _one_of(what: str, name: object, known: Collection[str]) -> None:
    if name not in known:
        raise ConfigError(*unknown(what, name, known))


def _overrides(where: str, values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in _list(where, values))


def _list(where: str, values: Any) -> list[Any]:
    if values is not None and not isinstance(values, list):
        raise ConfigError(f"{where} must be a list, got {values!r}.", "See conf/leaderboard/demo.yaml.")
    return values or []


def _word(value: Any) -> str:
    """A parameter as an override has it."""
    return value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
