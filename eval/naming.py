"""Names of run folders: readable, and the same for the same settings, so that a rerun finds its answers."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from ..decoders import Approximate, Strategy
from .records import digest
from .settings import Settings
from .tasks.base import Task

_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")


def run_path(settings: Settings, task: Task, strategy: Strategy, parent: bool) -> Path:
    """Where a run is written.

    Args:
        settings: `run.dir` names the folder, otherwise `run.root` its parent.
        task, strategy: what is run.
        parent: `run.dir` too names the parent, as in a sweep.
    """
    if settings.run.dir and not parent:
        return Path(settings.run.dir).expanduser()
    return Path(settings.run.dir or settings.run.root).expanduser() / run_name(settings, task, strategy)


def run_name(settings: Settings, task: Task, strategy: Strategy) -> str:
    """`TASK-MODEL-DECODER[-PARAMETERS]-MODE-DIGEST`; parameters are those that differ from their defaults."""
    own = strategy.of if isinstance(strategy, Approximate) else strategy  # the key has the threshold
    defaults: dict[str, Any] = {
        spec.name: spec.default for spec in dataclasses.fields(own) if spec.default is not dataclasses.MISSING
    }
    changed = [
        f"{name}={_word(value)}"
        for name, value in own.params().items()
        if name not in defaults or value != defaults[name]
    ]
    mode = strategy.mode or settings.generation.mode
    parts = [task.name, settings.model.title, strategy.key, *changed, mode]
    readable = _UNSAFE.sub("_", "-".join(parts))[:120].strip(".-")
    return f"{readable}-{_fingerprint(settings, strategy)}"


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _fingerprint(settings: Settings, strategy: Strategy) -> str:
    """Eight digits of all settings that decide answers."""
    run = settings.run
    content = {
        "model": dataclasses.asdict(settings.model),
        "decoder": [strategy.key, strategy.params()],
        "task": [settings.task.name, dict(settings.task.params)],
        "prompt": dataclasses.asdict(settings.prompt),
        "generation": dataclasses.asdict(settings.generation),
        "run": [run.limit, run.seed],
    }
    return digest(content)[:8]
