"""MemoTrap on the world of facts: sayings that a small model knows by heart, and that shall end in another word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import memo_trap
from .base import Dataset, Task
from .facts_data import facts_folder


def load(options: Mapping[str, Any]) -> Dataset:
    """The sayings of a split; written on first use, then kept in the cache folder.

    Raises:
        ConfigError: the split is not known.
        DataError: the folder cannot be written or read.
    """
    folder, world = facts_folder(options["split"])
    return memo_trap.read_folder(folder, memo_trap.SUBTASKS[:1], world)


TASK = Task(
    name="memo_trap_facts",
    version=1,
    title="MemoTrap on invented sayings, no download",
    load=load,
    options={"split": "test"},
    max_new_tokens=1,
    scorer="memo_trap",
    parser="scores",
    about="text",
    scored=True,
)
