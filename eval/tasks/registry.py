"""The registry of tasks: our own and those of other packages.

Another package registers through the entry-point group `sightline.tasks`, each entry naming a `Task`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from ..errors import ConfigError, TaskCollision, UnknownTask, unknown
from . import (
    amber,
    chair,
    chair_scenes,
    hallusion_bench,
    memo_trap,
    memo_trap_facts,
    mme,
    mme_scenes,
    nq_swap,
    nq_swap_facts,
    pope,
    pope_scenes,
    text_vqa,
    truthful_qa,
    truthful_qa_facts,
)
from .base import Dataset, Task

GROUP = "sightline.tasks"
_TASKS: dict[str, Task] = {}
_loaded_plugins = False


def register(task: Task) -> Task:
    """Make a task known under its name.

    Raises:
        TaskCollision: another task has that name.
    """
    held = _TASKS.setdefault(task.name, task)
    if held is not task:
        raise TaskCollision(f"The name {task.name!r} belongs to the task {held.title!r}.", "Choose another one.")
    return task


def names() -> list[str]:
    """All names, sorted."""
    _load_plugins()
    return sorted(_TASKS)


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        UnknownTask: there is none; names the nearest one and lists all.
    """
    _load_plugins()
    if name not in _TASKS:
        raise UnknownTask(*unknown("task", name, _TASKS))
    return _TASKS[name]


def _load_plugins() -> None:
    global _loaded_plugins
    if not _loaded_plugins:
        _loaded_plugins = True
        for entry in entry_points(group=GROUP):
            register(entry.load())


def load(task: Task, options: Mapping[str, Any]) -> Dataset:
    """The data of a task, with defaults for the options that are not given.

    Raises:
        ConfigError: the task has no such option.
        DataError: the data is missing, empty or contradicts itself.
    """
    return task.load(settle(task, options))


def settle(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the task's defaults filled in; raises `ConfigError` for one that it does not have."""
    for name in options:
        if name not in task.options:
            raise ConfigError(*unknown("setting", f"task.{name}", [f"task.{known}" for known in task.options]))
    return {**task.options, **options}


_IMAGES = (
    amber.TASK,
    amber.CAPTION_TASK,
    chair.TASK,
    chair_scenes.TASK,
    hallusion_bench.TASK,
    mme.TASK,
    mme_scenes.TASK,
    pope.TASK,
    pope_scenes.TASK,
    text_vqa.TASK,
)
_TEXTS = (
    nq_swap.TASK,
    nq_swap_facts.TASK,
    memo_trap.TASK,
    memo_trap_facts.TASK,
    truthful_qa.TASK,
    truthful_qa_facts.TASK,
)
for _task in (*_IMAGES, *_TEXTS):
    register(_task)
