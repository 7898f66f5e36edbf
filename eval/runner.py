"""Runs a model on a task: what is to be asked goes to a crew, what comes back goes into the run folder.

A crew is one worker in this process or several on a cluster. This process alone writes the folder: every batch that
comes back is on disk before the next one is taken, whoever answered it, so that a kill at any moment costs no more
than what was under way, and nothing is ever written twice.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import OmegaConf
from tqdm import tqdm

from ..models import Loaded
from . import manifest as manifests
from .folder import SUMMARY, RunFolder, is_complete
from .naming import run_path
from .plan import Plan, Request
from .preparing import Preparation, Prepared, load_model, settle
from .records import SampleRecord
from .settings import Settings
from .timing import Ledger
from .worker import Done, Worker

__all__ = ["Crew", "Interrupted", "Job", "Outcome", "load_model", "run", "settle"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        folder: the run folder.
        n_samples: samples of the plan.
        n_error: those without an answer.
        first_error: what went wrong with the first of them.
        answered_before: samples that were there already.
    """

    folder: Path
    n_samples: int
    n_error: int
    first_error: str | None
    answered_before: int


class Interrupted(KeyboardInterrupt):
    """The user stopped a run; what is answered is kept.

    Args:
        done: samples answered so far.
        total: samples of the plan.
    """

    def __init__(self, done: int, total: int):
        super().__init__()
        self.done = done
        self.total = total


class Crew(Protocol):
    """Who answers: a `Worker`, or several behind one face."""

    def answers(self, requests: Sequence[Request]) -> Iterator[Done]:
        """Answer requests, in any order; each comes back once."""
        ...

    def beside_greedy(self, requests: Sequence[Request]) -> dict[str, Any] | None:
        """The decoder timed beside plain greedy decoding on these requests."""
        ...


def run(
    settings: Settings,
    config: Mapping[str, Any],
    *,
    command: Sequence[str] = (),
    parent: bool = False,
    loaded: Loaded | None = None,
) -> Outcome:
    """Carry out a run.

    Args:
        settings: what to run.
        config: the resolved configuration, kept in the folder.
        command: the command line, kept in the manifest.
        parent: `run.dir` is the parent of automatically named folders (a sweep).
        loaded: a model that is loaded already; workers of a cluster load their own.

    Raises:
        SightlineError: the run cannot be made as asked, before the first answer; the model fails on everything; or
            nothing can be written. What is answered is kept.
        Interrupted: the user stopped it; running it again goes on.
    """
    strategy, task, _ = settle(settings)
    folder = RunFolder(run_path(settings, task, strategy, parent), task.name)
    with _crew(settings, command, loaded) as (crew, prepared), folder.locked():
        held = folder.claim(prepared.same, settings.run.resume)
        job = Job(settings, crew, prepared.plan, folder)
        manifest = manifests.build(prepared.same, prepared.beside)
        return job.carry_out(manifest, held, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


@contextmanager
def _crew(settings: Settings, command: Sequence[str], loaded: Loaded | None) -> Iterator[tuple[Crew, Prepared]]:
    """Who answers, and what is to be asked."""
    if settings.run.where == "ray":
        opened = importlib.import_module(".ray_crew", __package__).opened
        with opened(settings) as crew:
            yield crew, crew.prepared(command)
        return
    made = Preparation(settings, loaded)
    yield Worker(made.answerer(), made.images, settings.run.batch_size), made.prepared(command)


@dataclass
class Job:
    """A run under way; `carry_out` sees it to its end."""

    settings: Settings
    crew: Crew
    plan: Plan
    folder: RunFolder

    def __post_init__(self) -> None:
        self.records: dict[str, SampleRecord] = {}

    def carry_out(self, manifest: dict[str, Any], held: dict[str, Any] | None, config: str) -> Outcome:
        """Answer what has no answer yet, write the final files, and say how it went."""
        keys = {planned.key for planned in self.plan.samples}
        self.records = {key: record for key, record in self.folder.samples.answered().items() if key in keys}
        before = len(self.records)
        pending = [
            request
            for request in self.plan.requests
            if any(planned.key not in self.records for planned in request.samples)
        ]
        if held is not None and is_complete(held) and not pending and self.folder.samples.final.is_file():
            return self._outcome(before)
        if held is not None:
            manifest = {**manifest, "started": held.get("started", manifest["started"])}
        try:
            self.folder.write(manifest, config)
            ledger = Ledger(self.folder.path / "timings")
            self._answer_all(pending, ledger)
            self._finish(manifest, ledger)
        except KeyboardInterrupt as stop:
            raise Interrupted(len(self.records), len(self.plan.samples)) from stop
        finally:
            self.folder.samples.close()
        return self._outcome(before)

    def _answer_all(self, pending: Sequence[Request], ledger: Ledger) -> None:
        label = self.settings.decoder.name
        with _bar(len(pending), self.settings.run.progress, label) as bar:
            for done in self.crew.answers(pending):
                with self.folder.writing():
                    self.folder.samples.append(done.records)
                    self.records.update((record.key, record) for record in done.records)
                    if done.answered:
                        ledger.add(done.cost, done.answered, done.peak_memory_mb)
                bar.update(done.requests)

    def _finish(self, manifest: dict[str, Any], ledger: Ledger) -> None:
        """The final files; the manifest last, for it says that the others are there."""
        for planned in self.plan.samples:
            if planned.error is not None:
                self.records[planned.key] = planned.failure(planned.error)
        ordered = [self.records[planned.key] for planned in self.plan.samples]
        beside = self._beside_greedy()
        with self.folder.writing():
            ledger.write_summary(self.folder.path / SUMMARY, len(ordered), beside)
            self.folder.samples.finish(ordered)
            errors = sum(record.status != "ok" for record in ordered)
            done = {"status": "complete", "finished": manifests.now(), "n_ok": len(ordered) - errors, "n_error": errors}
            self.folder.write({**manifest, **done})

    def _beside_greedy(self) -> dict[str, Any] | None:
        wanted = self.settings.run.cost_requests
        answered = (r for r in self.plan.requests if self.records[r.samples[0].key].status == "ok")
        return self.crew.beside_greedy([request for request, _ in zip(answered, range(wanted), strict=False)])

    def _outcome(self, before: int) -> Outcome:
        records = self.records
        errors = [
            planned.error or records[planned.key].error
            for planned in self.plan.samples
            if planned.key not in records or records[planned.key].status != "ok"
        ]
        return Outcome(self.folder.path, len(self.plan.samples), len(errors), errors[0] if errors else None, before)


def _bar(total: int, progress: bool | str, label: str) -> tqdm:
    """A progress bar with rate and time left; nothing where the error stream is no terminal."""
    shown = sys.stderr.isatty() if progress == "auto" else bool(progress)
    return tqdm(total=total, desc=label, unit="request", disable=not shown, file=sys.stderr, dynamic_ncols=True)
