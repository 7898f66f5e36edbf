"""What a run needs before its first answer: settled choices, the plan of its requests, its identity and its answerer.

All of it follows from the settings and the loaded model, so that a worker on another machine makes the same of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as hub_logging

from .. import decoders, models
from ..decoders import Strategy
from ..decoders.controls import Shift
from ..models import Loaded
from ..models.errors import UnsupportedModel
from . import manifest as manifests
from .answering import Answerer, Words
from .errors import ConfigError, UnfitDecoder
from .plan import Conditions, Plan, limited, make_plan, renderer, text_renderer
from .settings import GenerationSettings, ModelSettings, Settings
from .tasks import registry as tasks
from .tasks.base import Dataset, Task


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to begin.

    Attributes:
        same: the identity of the run.
        beside: facts for its manifest.
        plan: samples and requests.
    """

    same: dict[str, Any]
    beside: dict[str, Any]
    plan: Plan


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
    return decoders.approximated(strategy, settings.run.approximate), task, options


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


class Preparation:
    """The choices of a run put together with a loaded model.

    Args:
        settings: what to run.
        loaded: the model, if it is loaded already; otherwise it is, once everything else is known to be there.

    Raises:
        SightlineError: the choices do not fit each other or the model, or model or data cannot be had.
    """

    def __init__(self, settings: Settings, loaded: Loaded | None = None):
        self.settings = settings
        self.strategy, self.task, self.options = settle(settings)
        self.generation: GenerationSettings = settings.generation.settled(self.strategy.mode, self.task.max_new_tokens)
        if settings.run.threads is not None:
            torch.set_num_threads(settings.run.threads)
        self.dataset: Dataset = self.task.load(self.options)
        self.loaded = loaded = loaded or load_model(settings.model)
        if self.task.about == "image" and not loaded.adapter.image_inputs:
            raise UnsupportedModel(
                f"task={self.task.name} asks about images, and {settings.model.title} reads texts only.",
                "Use an image-text model such as tiny-llava, or a text task such as nq_swap_facts.",
            )
        self.words = Words.of(loaded, self.task.answers)

    @property
    def images(self) -> Path | None:
        """The folder with the images, on this machine."""
        return self.dataset.images

    def identity(self) -> dict[str, Any]:
        """Everything that decides the answers."""
        made = self.settings, self.task, self.options, self.dataset, self.loaded, self.strategy, self.generation
        return manifests.identity(*made)

    def answerer(self) -> Answerer:
        """The model with its decoder, ready to be asked."""
        run = self.settings.run
        return Answerer(self.loaded, self.strategy, self.generation, self.words, run.share, run.branching)

    def prepared(self, command: Sequence[str]) -> Prepared:
        """Identity, facts and plan; every image is read once, for its digest."""
        settings, same = self.settings, self.identity()
        conditions = Conditions(
            task=(self.task.name, self.task.version),
            model=same["model"],
            decoder=same["decoder"],
            generation=same["generation"],
            seed=settings.run.seed if self.generation.mode == "sample" else None,
        )
        render = text_renderer if self.task.about == "text" else renderer
        documents = limited(self.dataset.documents, settings.run.limit, settings.run.seed)
        plan = make_plan(self.dataset, documents, render(self.loaded.processor, settings.prompt.suffix), conditions)
        made = settings, self.loaded, self.strategy, self.task, plan, self.words, command, self.dataset
        return Prepared(same, manifests.facts(*made), plan)
