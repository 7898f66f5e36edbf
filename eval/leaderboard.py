"""Several runs that belong together, from one list, and the report over them.

A leaderboard is a YAML file in `conf/leaderboard/` (or any path); `eval.boards` reads it. The model is loaded once, or
once in each of `jobs` processes. Runs that are complete are kept, so a stopped leaderboard goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..models import Loaded
from . import runner
from .boards import Board
from .config import compose_settings
from .records import write_json
from .report import ABOUT, write_report
from .score import score_run
from .settings import Settings
from .tasks import registry as tasks

GREEDY = "greedy"
_HELD: dict[Any, Loaded] = {}


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
    bar = tqdm(_made(asked, command, board.jobs), board.name, len(asked), unit="run", disable=not sys.stderr.isatty())
    outcomes = {place: (folder, failed) for place, folder, failed in bar}
    done = [(settings, outcomes[place][0]) for place, (settings, _) in enumerate(asked)]
    for settings, made in done:
        score_run(made, like=_reference(settings, done))
    failed = sum(each for _, each in outcomes.values())
    folder = done[0][1].parent
    write_json(folder / ABOUT, {"name": board.name, "about": board.about})
    return write_report(folder).html, failed


def _made(asked: Sequence[tuple[Settings, Any]], command: Sequence[str], jobs: int) -> Iterator[tuple[int, Path, int]]:
    """Make the runs; each one's place, folder and number of samples without an answer, as they are done."""
    if jobs == 1:
        for place, (settings, tree) in enumerate(asked):
            yield place, *_make(settings, tree, command)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        places = {pool.submit(_make, *each, command): place for place, each in enumerate(asked)}
        try:
            for future in as_completed(places):
                yield places[future], *future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    """Processes that share a machine do best with a thread each."""
    torch.set_num_threads(1)


def _make(settings: Settings, tree: Any, command: Sequence[str]) -> tuple[Path, int]:
    """One run, on the model that this process holds, if it is the one that is asked for."""
    here = settings.run.where == "here"  # workers of a cluster load their own
    if here and settings.model not in _HELD:
        _HELD.clear()
        _HELD[settings.model] = runner.load_model(settings.model)
    outcome = runner.run(settings, tree, command=command, parent=True, loaded=_HELD[settings.model] if here else None)
    return outcome.folder, outcome.n_error


def _reference(settings: Settings, done: Sequence[tuple[Settings, Path]]) -> Path | None:
    """The greedy run to whose lengths the captions of another run are cut; None for other answers, or without one.

    It must have asked the same images the same thing.
    """
    if settings.decoder.name == GREEDY or tasks.get(settings.task.name).vocabulary is None:
        return None
    for other, folder in done:
        same = (other.model, other.task, other.prompt) == (settings.model, settings.task, settings.prompt)
        if other.decoder.name == GREEDY and same and other.run.limit == settings.run.limit:
            return folder
    return None
