"""Runs a model on a task: documents to requests, requests to batches, batches to sample lines.

Images are decoded once: requests are taken in windows of whole images, and batched within a window by prompt length.
What goes wrong costs what it must and no more: a bad image its samples, a failing batch the requests in it that fail
alone too, lack of memory the batch size. Every batch is on disk before the next one starts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL.Image import Image
from tqdm import tqdm
from transformers.utils import logging as hub_logging

from .. import decoders, models
from ..decoders import Strategy
from ..decoders.controls import Shift
from ..models import Loaded
from ..models.errors import SightlineError, UnsupportedModel
from . import manifest as manifests
from .answering import Answerer, Words
from .errors import ConfigError, ImageError, RunFailed, UnfitDecoder
from .folder import SUMMARY, RunFolder, is_complete
from .images import locate, open_image
from .naming import run_path
from .plan import Conditions, Plan, Request, limited, make_plan, renderer, text_renderer
from .records import SampleRecord, write_json
from .settings import ModelSettings, Settings
from .tasks import registry as tasks
from .tasks.base import Dataset, Task
from .timing import Ledger, beside_greedy

WINDOW = 128
"""Requests whose images are held decoded at the same time."""
Ready = tuple[Request, Image | None]
"""A request with its decoded image; a text has none."""
PATIENCE = 16
"""A model that fails on this many requests before it answers one is taken to be broken."""


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
        loaded: a model that is loaded already.

    Raises:
        SightlineError: the run cannot be made as asked, before the first answer; or the model fails on everything.
        Interrupted: the user stopped it; running it again goes on.
    """
    strategy, task, options = settle(settings)
    generation = settings.generation.settled(strategy.mode, task.max_new_tokens)
    dataset = task.load(options)
    documents = limited(dataset.documents, settings.run.limit, settings.run.seed)
    if settings.run.threads is not None:
        torch.set_num_threads(settings.run.threads)
    loaded = loaded or load_model(settings.model)
    if task.about == "image" and not loaded.adapter.image_inputs:
        raise UnsupportedModel(
            f"task={task.name} asks about images, and {settings.model.title} reads texts only.",
            "Use an image-text model such as tiny-llava, or a text task such as nq_swap_facts.",
        )
    folder = RunFolder(run_path(settings, task, strategy, parent), task.name)
    with folder.locked():
        same = manifests.identity(settings, task, options, dataset, loaded, strategy, generation)
        held = folder.claim(same, settings.run.resume)
        conditions = Conditions(
            task=(task.name, task.version),
            model=same["model"],
            decoder=same["decoder"],
            generation=same["generation"],
            seed=settings.run.seed if generation.mode == "sample" else None,
        )
        render = text_renderer if task.about == "text" else renderer
        plan = make_plan(dataset, documents, render(loaded.processor, settings.prompt.suffix), conditions)
        words = Words.of(loaded, task.answers)
        beside = manifests.facts(settings, loaded, strategy, task, plan, words, command)
        job = Job(settings, task, dataset, strategy, Answerer(loaded, strategy, generation, words), plan, folder)
        return job.carry_out(manifests.build(same, beside), held, OmegaConf.to_yaml(OmegaConf.create(dict(config))))


def settle(settings: Settings) -> tuple[Strategy, Task, dict[str, Any]]:
    """The decoder, the task and its options that settings name, fit for each other; nothing is loaded.

    Raises:
        SightlineError: one of them does not exist, a value is wrong, or the decoder has no meaning for the task.
    """
    strategy = decoders.build(settings.decoder.name, dict(settings.decoder.params))
    task = tasks.get(settings.task.name)
    options = tasks.settle(task, settings.task.params)
    if isinstance(strategy, Shift) and not task.answers:
        raise UnfitDecoder(
            f"decoder={strategy.key} moves the margin between yes and no, and {task.name} does not ask for yes or no.",
            "Leave it out for this task, or choose a task of yes/no questions: pope_scenes, mme_scenes.",
        )
    samples = "sample" in (strategy.mode, settings.generation.mode)
    if task.scored and (samples or settings.generation.mode == "beam"):
        raise UnfitDecoder(
            f"{task.name} scores given answers and generates none, so nothing is drawn and there are no beams.",
            "Use generation=greedy and a decoder other than sample.",
        )
    return strategy, task, options


def load_model(model: ModelSettings) -> Loaded:
    """The model of these settings, on its device.

    Raises:
        ConfigError: there is no such device.
        SightlineError: the model is not to be had, or not served.
    """
    try:
        torch.device("cpu" if model.device == "auto" else model.device)
    except RuntimeError as error:
        raise ConfigError(f"model.device {model.device!r} is no device.", "Use auto, cpu, cuda or cuda:0.") from error
    with _quiet():
        return models.load(
            model.path,
            revision=model.revision,
            dtype=model.dtype,
            device=model.device,
            trust_remote_code=model.trust_remote_code,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars of transformers where the error stream is no terminal."""
    shown = hub_logging.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        hub_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hub_logging.enable_progress_bar()


@dataclass
class Job:
    """A run under way; `carry_out` sees it to its end."""

    settings: Settings
    task: Task
    dataset: Dataset
    strategy: Strategy
    answerer: Answerer
    plan: Plan
    folder: RunFolder

    def __post_init__(self) -> None:
        self.records: dict[str, SampleRecord] = {}
        self.batch_size = self.settings.run.batch_size
        self.failures = 0
        self.successes = 0

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
        self.folder.write(manifest, config)
        ledger = Ledger(self.folder.path / "timings")
        try:
            self._answer_all(pending, ledger)
        except KeyboardInterrupt as stop:
            raise Interrupted(len(self.records), len(self.plan.samples)) from stop
        finally:
            self.folder.samples.close()
        self._finish(manifest, ledger)
        return self._outcome(before)

    def _answer_all(self, pending: Sequence[Request], ledger: Ledger) -> None:
        with _bar(len(pending), self.settings.run.progress, self.strategy.key) as bar:
            for window in windows(pending):
                ready, failed = self._decode(window)
                self._keep(failed)
                bar.update(len(failed))
                for batch in self._batches(ready):
                    self._answer(batch, ledger)
                    bar.update(len(batch))

    def _decode(self, window: Sequence[Request]) -> tuple[list[Ready], list[tuple[Request, str]]]:
        """The requests of a window with their images, and those whose image is bad."""
        images: dict[str, Image | str | None] = {}
        ready, failed = [], []
        for request in window:
            if request.image not in images:
                images[request.image] = self._open(request.image)
            image = images[request.image]
            if isinstance(image, str):
                failed.append((request, image))
            else:
                ready.append((request, image))
        return ready, failed

    def _open(self, name: str) -> Image | str | None:
        if self.dataset.images is None:
            return None
        try:
            return open_image(locate(self.dataset.images, name))
        except ImageError as error:
            return f"ImageError: {error}"

    def _batches(self, ready: Sequence[Ready]) -> Iterator[list[Ready]]:
        """Batches of like length; the size is looked up each time, for it may have been halved meanwhile."""
        lengths = self.answerer.lengths([request.prompt for request, _ in ready]) if ready else []
        order = sorted(range(len(ready)), key=lambda place: lengths[place])
        start = 0
        while start < len(order):
            size = self.batch_size
            yield [ready[place] for place in order[start : start + size]]
            start += size

    def _answer(self, batch: Sequence[Ready], ledger: Ledger) -> None:
        """Answer a batch; halve it when memory runs out, take it apart when something else goes wrong."""
        requests = [request for request, _ in batch]
        try:
            answers, cost = self.answerer.ask(
                [request.prompt for request in requests],
                [image for _, image in batch],
                [request.seed for request in requests],
                [request.candidates for request in requests],
                [request.context for request in requests],
            )
        except SightlineError:
            raise
        except Exception as error:
            self._recover(batch, error, ledger)
            return
        self.successes += len(batch)
        done = zip(requests, answers, strict=True)
        self._write([planned.record(**vars(answer)) for request, answer in done for planned in request.samples])
        ledger.add(cost, len(batch))

    def _recover(self, batch: Sequence[Ready], error: Exception, ledger: Ledger) -> None:
        memory = out_of_memory(error)
        if memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            self._keep([(batch[0][0], f"{type(error).__name__}: {_first_line(error)}")])
            self.failures += 1
            if not self.successes and self.failures >= PATIENCE:
                raise RunFailed(
                    f"The first {self.failures} requests all failed, the last with {type(error).__name__}: "
                    f"{_first_line(error)}.",
                    "Set SIGHTLINE_DEBUG=1 to see where.",
                ) from error
            return
        size = max(1, len(batch) // 2) if memory else 1
        if memory:
            self.batch_size = min(self.batch_size, size)
        for start in range(0, len(batch), size):
            self._answer(batch[start : start + size], ledger)

    def _keep(self, failed: Sequence[tuple[Request, str]]) -> None:
        self._write([planned.failure(error) for request, error in failed for planned in request.samples])

    def _write(self, records: Sequence[SampleRecord]) -> None:
        if records:
            self.folder.samples.append(records)
            self.records.update((record.key, record) for record in records)

    def _finish(self, manifest: dict[str, Any], ledger: Ledger) -> None:
        """The final files; the manifest last, for it says that the others are there."""
        for planned in self.plan.samples:
            if planned.error is not None:
                self.records[planned.key] = planned.failure(planned.error)
        ordered = [self.records[planned.key] for planned in self.plan.samples]
        summary = ledger.summary(len(ordered), self._beside_greedy())
        write_json(self.folder.path / SUMMARY, summary)
        self.folder.samples.finish(ordered)
        errors = sum(record.status != "ok" for record in ordered)
        done = {"status": "complete", "finished": manifests.now(), "n_ok": len(ordered) - errors, "n_error": errors}
        self.folder.write({**manifest, **done})

    def _beside_greedy(self) -> dict[str, Any] | None:
        wanted = self.settings.run.cost_requests
        answered = (r for r in self.plan.requests if self.records[r.samples[0].key].status == "ok")
        ready, _ = self._decode([request for request, _ in zip(answered, range(wanted), strict=False)])
        return beside_greedy(self.answerer, ready, self.batch_size)

    def _outcome(self, before: int) -> Outcome:
        records = self.records
        errors = [
            planned.error or records[planned.key].error
            for planned in self.plan.samples
            if planned.key not in records or records[planned.key].status != "ok"
        ]
        return Outcome(self.folder.path, len(self.plan.samples), len(errors), errors[0] if errors else None, before)


def windows(requests: Sequence[Request], size: int = WINDOW) -> Iterator[list[Request]]:
    """The requests in order, cut between images into runs of at least `size` (the last one may be shorter)."""
    window: list[Request] = []
    for request in requests:
        if len(window) >= size and (not request.image or request.image != window[-1].image):
            yield window
            window = []
        window.append(request)
    if window:
        yield window


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the processor."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def _bar(total: int, progress: bool | str, label: str) -> tqdm:
    """A progress bar with rate and time left; nothing where the error stream is no terminal."""
    shown = sys.stderr.isatty() if progress == "auto" else bool(progress)
    return tqdm(total=total, desc=label, unit="request", disable=not shown, file=sys.stderr, dynamic_ncols=True)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
