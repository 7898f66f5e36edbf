"""MemoTrap (Liu and Liu, 2023): instructions that a text known by heart tempts a model to disobey.

CSV files with the columns `prompt`, `classes` (a Python list of endings, as text) and `answer_index`, one for each
subtask, named like `1-proverb-ending.csv`; a column `group` is read where it is there. The hub's copy,
Albertmade/memo-trap, is one file with the same columns, the set of the Inverse Scaling prize; it is a subtask of its
own, which is asked only if it is named. Every ending is scored as a continuation of the prompt; right means that the
asked one is the likeliest. The instruction counts as the context that the ending shall be true to, as in CAD's paper.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import files, hub, rows, texts
from .base import Dataset, Document, Source, Task

SUBTASKS = ("proverb_ending", "proverb_translation", "hate_speech_ending", "history_of_science_qa")
PRIZE = "inverse_scaling"
"""The hub's copy."""
REPOSITORY = "Albertmade/memo-trap"
_LAYOUT = texts.Layout("the hub's MemoTrap", ("train", "test"), ("memo_trap", "memotrap", "train", "test"))
_HINT = (
    "Get the four CSV files from github.com/liujch1998/memo-trap and give task.data=FOLDER; or, for the hub's copy, "
    f"task.data=hub and task.subtasks=[{PRIZE}]; task=memo_trap_facts needs no download."
)


def load(options: Mapping[str, Any]) -> Dataset:
    """The chosen subtasks of a folder.

    Raises:
        ConfigError: a subtask is not known.
        DataError: the folder or a file is missing, or holds no row that can be read.
    """
    subtasks = files.chosen("task.subtasks", "subtask", options["subtasks"], (*SUBTASKS, PRIZE))
    data = hub.place("memo_trap", REPOSITORY, options, "CSV files", _HINT)
    return read_folder(data, subtasks)


def read_folder(data: Path, subtasks: Sequence[str], world: Mapping[str, Any] | None = None) -> Dataset:
    """The files of a folder.

    Raises:
        DataError: one is missing, or holds no row that can be read.
    """
    documents: list[Document] = []
    sources: list[Source] = []
    for subtask in subtasks:
        layout = _LAYOUT if subtask == PRIZE else texts.Layout(subtask.replace("_", " "), (), (subtask,))
        found, held = texts.read(data, layout, _HINT)
        read = [_document(subtask, row) for row in found]
        sources += hub.counted(held, read)
        documents += read
    return Dataset(tuple(documents), None, tuple(sources), world, revision=hub.commit(data))


def _document(subtask: str, row: rows.Row) -> Document:
    endings = _endings(row)
    problem = rows.missing_text(row, ("prompt",))
    if problem is None and (endings is None or len(set(endings)) < 2):
        problem = "has no two different endings in 'classes'"
    right = str(row.fields.get("answer_index", "")).strip()
    if problem is None and right not in map(str, range(len(endings or ()))):
        problem = f"has the answer_index {right[:40]!r}"
    if problem is not None or endings is None:
        return rows.broken(subtask, row, problem or "")
    place = int(right)
    return Document(
        subtask,
        str(row.number),
        "",
        row.fields["prompt"],
        endings[place].strip(),
        group=files.tag(row.fields.get("group") or f"{subtask}/{row.number}"),
        candidates=endings,
        gold={"true": [place], "best": place},
        context=instruction(row.fields["prompt"]),
    )


def instruction(prompt: str) -> str:
    """The part of a prompt that says what to do: up to its first colon before a blank; empty where it has none."""
    asked, colon, _ = prompt.partition(": ")
    return asked + colon.rstrip() if colon else ""


def _endings(row: rows.Row) -> tuple[str, ...] | None:
    """The endings as they are appended to the prompt; None where the cell holds no list of texts."""
    value = row.fields.get("classes")
    try:
        value = value if isinstance(value, list) else ast.literal_eval(str(value).strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    fits = isinstance(value, list) and all(
        isinstance(each, str) and each.strip() and files.is_text(each) for each in value
    )
    return tuple(value) if fits else None


TASK = Task(
    name="memo_trap",
    version=1,
    title="MemoTrap: is an instruction followed against a known text? (own CSV files, or the hub's)",
    load=load,
    options={"data": None, "subtasks": list(SUBTASKS), "revision": None},
    max_new_tokens=1,
    scorer="memo_trap",
    parser="scores",
    places=frozenset({"data", "revision"}),
    about="text",
    scored=True,
)
