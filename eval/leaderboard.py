"""Several runs that belong together, from one list, and the report over them.

A leaderboard is a YAML file in `conf/leaderboard/` (or any path); `eval.boards` reads it. The model is loaded once.
Runs that are complete are kept, so a stopped leaderboard goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import runner
from .boards import Board
from .config import compose_settings
from .records import write_json
from .report import ABOUT, write_report
from .score import score_run
from .settings import Settings
from .tasks import registry as tasks

GREEDY = "greedy"


def run_board(board: Board, overrides: Sequence[str], command: Sequence[str] = ()) -> tuple[Path, int]:
    """Make every run of a leaderboard, score it, and report over all.

    Captions are scored as they are and cut to the lengths of greedy decoding's, where the board has a greedy run of
    the same task.

    Args:
        board: what to run.
        overrides: put after those of the board, for every run (`run.root=FOLDER`, `run.limit=50`).
        command: the command line, kept in the manifests.

    Returns:
        The report, and the number of samples without an answer.

    Raises:
        SightlineError: a run's overrides cannot be read, or its decoder does not fit its task; found before the first
            run starts. Or a run cannot be made; runs made before it are kept.
    """
    root = f"run.root=runs/{board.name}"
    asked = [compose_settings([*board.common, root, *run, *overrides]) for run in board.runs]
    for settings, _ in asked:
        runner.settle(settings)
    asked.sort(key=lambda each: each[0].decoder.name != GREEDY)  # the lengths that captions are cut to come from it
    held: dict[Any, Any] = {}
    done: list[tuple[Settings, Path]] = []
    failed = 0
    with tqdm(asked, desc=board.name, unit="run", disable=not sys.stderr.isatty()) as bar:
        for settings, tree in bar:
            bar.set_postfix_str(f"{settings.task.name} {settings.decoder.name} {settings.generation.mode}")
            if settings.model not in held:
                held = {settings.model: runner.load_model(settings.model)}
            outcome = runner.run(settings, tree, command=command, parent=True, loaded=held[settings.model])
            score_run(outcome.folder, like=_reference(settings, done))
            failed += outcome.n_error
            done.append((settings, outcome.folder))
    folder = done[0][1].parent
    write_json(folder / ABOUT, {"name": board.name, "about": board.about})
    return write_report(folder).html, failed


def _reference(settings: Settings, done: Sequence[tuple[Settings, Path]]) -> Path | None:
    """The greedy run to whose lengths the captions of a run are cut; None for other answers, and where there is none.

    It must have asked the same images the same thing.
    """
    if tasks.get(settings.task.name).vocabulary is None:
        return None
    for other, folder in done:
        same = (other.model, other.task, other.prompt) == (settings.model, settings.task, settings.prompt)
        if other.decoder.name == GREEDY and same and other.run.limit == settings.run.limit:
            return folder
    return None
