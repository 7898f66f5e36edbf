"""TruthfulQA on the world of facts: omens on which a small model was mostly told a popular belief, which is false."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..facts import language
from . import truthful_qa
from .base import Dataset, Task
from .facts_data import facts_folder


def load(options: Mapping[str, Any]) -> Dataset:
    """The questions of a split; written on first use, then kept in the cache folder.

    Raises:
        ConfigError: the split is not known.
        DataError: the folder cannot be written or read.
    """
    folder, world = facts_folder(options["split"])
    return truthful_qa.read_folder(folder, language.TRUTHFUL + language.asked("{}"), world)


TASK = Task(
    name="truthful_qa_facts",
    version=1,
    title="TruthfulQA on invented omens, no download",
    load=load,
    options={"split": "test"},
    max_new_tokens=1,
    scorer="truthful_qa",
    parser="scores",
    about="text",
    scored=True,
)
