"""NQ-Swap's question on the world of facts: after a passage that contradicts what a small model knows by heart.

Beside the swapped passages it asks after the original ones and without any, so that what a decoder costs there is seen.
Settings are chosen on `validation` and reported on `test`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import files, nq_swap
from .base import Dataset, Task
from .facts_data import facts_folder


def load(options: Mapping[str, Any]) -> Dataset:
    """The questions of a split; written on first use, then kept in the cache folder.

    Raises:
        ConfigError: the split or a way to ask is not known.
        DataError: the folder cannot be written or read.
    """
    chosen = files.chosen("task.contexts", "context", options["contexts"], nq_swap.CONTEXTS)
    folder, world = facts_folder(options["split"])
    return nq_swap.read_folder(folder, chosen, world=world)


TASK = Task(
    name="nq_swap_facts",
    version=1,
    title="NQ-Swap's question on invented facts, no download",
    load=load,
    options={"split": "test", "contexts": list(nq_swap.CONTEXTS)},
    max_new_tokens=6,
    scorer="short_answers",
    parser="squad",
    about="text",
)
