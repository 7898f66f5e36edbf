"""Several runs that belong together, from one list, and the report over them.

A leaderboard is a YAML file in `conf/leaderboard/` (or any path): `common` overrides, and `runs`, a list of overrides
for each run. The model is loaded once. Runs that are complete are kept, so a stopped leaderboard goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm
from yaml import YAMLError

from . import runner
from .config import compose_settings, conf_folder
from .errors import ConfigError, unknown
from .report import write_report
from .score import score_run

GROUP = "leaderboard"


@dataclass(frozen=True)
class Board:
    """A list of runs.

    Attributes:
        name: of the file.
        common: overrides of every run.
        runs: overrides of each run.
    """

    name: str
    common: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...]


def boards() -> list[str]:
    """The names of the packaged leaderboards."""
    return sorted(path.stem for path in (conf_folder() / GROUP).glob("*.yaml"))


def read_board(name: str) -> Board:
    """A leaderboard by packaged name or path.

    Raises:
        ConfigError: there is no such file, or it does not hold `common` and `runs`.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else conf_folder() / GROUP / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(*unknown(GROUP, name, boards()))
    try:
        tree: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{name!r} is no YAML file.", str(error).splitlines()[0]) from error
    whole = isinstance(tree, dict) and set(tree) == {"common", "runs"} and tree["runs"]
    if not whole or not all(isinstance(run, list) for run in tree["runs"]):
        raise ConfigError(
            f"{name!r} is no leaderboard.",
            "It needs two lists: common (overrides of all runs) and runs (one list each).",
        )
    runs = tuple(tuple(str(value) for value in run) for run in tree["runs"])
    return Board(path.stem, tuple(str(value) for value in tree["common"] or ()), runs)


def run_board(board: Board, overrides: Sequence[str], command: Sequence[str] = ()) -> tuple[Path, int]:
    """Make every run of a leaderboard, score it, and report over all.

    Args:
        board: what to run.
        overrides: put after those of the board, for every run (`run.root=FOLDER`, `run.limit=50`).
        command: the command line, kept in the manifests.

    Returns:
        The report, and the number of samples without an answer.

    Raises:
        ConfigError: a run's overrides cannot be read; found before the first run starts.
        SightlineError: a run cannot be made; runs made before it are kept.
    """
    root = f"run.root=runs/{board.name}"
    asked = [compose_settings([*board.common, root, *run, *overrides]) for run in board.runs]
    held: dict[Any, Any] = {}
    failed, folders = 0, []
    with tqdm(asked, desc=board.name, unit="run", disable=not sys.stderr.isatty()) as bar:
        for settings, tree in bar:
            bar.set_postfix_str(f"{settings.decoder.name} {settings.generation.mode}")
            if settings.model not in held:
                held = {settings.model: runner.load_model(settings.model)}
            outcome = runner.run(settings, tree, command=command, parent=True, loaded=held[settings.model])
            score_run(outcome.folder)
            failed += outcome.n_error
            folders.append(outcome.folder)
    return write_report(folders[0].parent).html, failed
