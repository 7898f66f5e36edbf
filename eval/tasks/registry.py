"""The registry of tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, TaskCollision, UnknownTask, unknown
from . import (
    chair,
    chair_scenes,
    memo_trap,
    memo_trap_facts,
    mme,
    mme_scenes,
    nq_swap,
    nq_swap_facts,
    pope,
    pope_scenes,
    truthful_qa,
    truthful_qa_facts,
)
from .base import Dataset, Task

_TASKS: dict[str, Task] = {}


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
    return sorted(_TASKS)


def get(name: str) -> Task:
    """The task of that name.

    Raises:
        UnknownTask: there is none; names the nearest one and lists all.
    """
    if name not in _TASKS:
        raise UnknownTask(*unknown("task", name, _TASKS))
    return _TASKS[name]


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


_IMAGES = (chair.TASK, chair_scenes.TASK, mme.TASK, mme_scenes.TASK, pope.TASK, pope_scenes.TASK)
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
