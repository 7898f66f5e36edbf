"""NQ-Swap (Longpre et al., arXiv 2109.05052): questions with a passage whose answer was swapped for another one.

One file with the hub's columns (pminervini/NQ-Swap): `question`, `org_context`, `org_answer` (a list), `sub_context`,
`sub_answer` (a list); `id` and `group` are read where they are there. Three ways to ask make three splits:

* `substituted`: after the swapped passage; right is what the passage says, `other` what was true before;
* `original`: after the passage as it was;
* `closed`: without a passage, from memory.

The prompt is an instruction, demonstrations, and `Context: ...`, `Question: ...`, `Answer:`, each on a line of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import files, hub, rows, texts
from .base import Dataset, Document, Task

CONTEXTS = ("substituted", "original", "closed")
LEAD = (
    "Answer the question with a few words from the given context.\n\n"
    "Context: The old mill of Thornby was built in 1874 and burned down in 1911.\n"
    "Question: when was the mill of thornby built\nAnswer: 1874\n\n"
    "Context: Maria Lund won the first race of the season ahead of Ida Holm.\n"
    "Question: who won the first race of the season\nAnswer: Maria Lund\n\n"
    "Context: The ferry to Skarn leaves from the western pier of Hallvik every morning.\n"
    "Question: where does the ferry to skarn leave from\nAnswer: the western pier of Hallvik\n\n"
    "Context: The band recorded the song with three guitars and a borrowed organ.\n"
    "Question: how many guitars were used to record the song\nAnswer: three\n\n"
)
"""An instruction and four demonstrations, for models that were not trained on the bare form. Written for this."""
CLOSED_LEAD = "Answer the question with a few words.\n\n"
_TEXTS, _LISTS = ("question", "org_context", "sub_context"), ("org_answer", "sub_answer")
REPOSITORY = "pminervini/NQ-Swap"
_LAYOUT = texts.Layout("NQ-Swap", ("dev", "validation"), ("nq_swap", "dev", "validation", "nqswap"))
_HINT = (
    "Give task.data=hub, or get pminervini/NQ-Swap from the hub (hf download --repo-type dataset) and give "
    "task.data=FOLDER; task=nq_swap_facts needs no download."
)


def load(options: Mapping[str, Any]) -> Dataset:
    """The questions of a folder, asked in the chosen ways.

    Raises:
        ConfigError: a way to ask is not known.
        DataError: the folder or the file is missing, or holds no row that can be read.
    """
    chosen = files.chosen("task.contexts", "context", options["contexts"], CONTEXTS)
    data = hub.place("nq_swap", REPOSITORY, options, "data file", _HINT)
    return read_folder(data, chosen, lead=LEAD, closed_lead=CLOSED_LEAD)


def read_folder(
    data: Path,
    contexts: Sequence[str],
    *,
    lead: str = "",
    closed_lead: str = "",
    world: Mapping[str, Any] | None = None,
) -> Dataset:
    """The file of a folder.

    Args:
        data: the folder.
        contexts: which of `CONTEXTS` to ask.
        lead: what stands before a passage.
        closed_lead: what stands before a question without one.
        world: what a generated file was made of.

    Raises:
        DataError: there is no file, or it holds no row that can be read.
    """
    found, sources = texts.read(data, _LAYOUT, _HINT)
    documents = [_document(split, row, lead, closed_lead) for split in contexts for row in found]
    held = hub.counted(sources, documents[: len(found)])
    return Dataset(tuple(documents), None, held, world, revision=hub.commit(data))


def prompt(question: str, passage: str | None) -> str:
    """A question after a passage, or without one."""
    before = "" if passage is None else f"Context: {passage}\n"
    return f"{before}Question: {question}\nAnswer:"


def _document(split: str, row: rows.Row, lead: str, closed_lead: str) -> Document:
    problem = rows.missing_text(row, _TEXTS) or rows.missing_texts(row, _LISTS)
    if problem is not None:
        return rows.broken(split, row, problem)
    held = row.fields
    passage = {"substituted": held["sub_context"], "original": held["org_context"], "closed": None}[split]
    right, other = ("sub_answer", "org_answer") if split == "substituted" else ("org_answer", "sub_answer")
    name = files.tag(held.get("id") or row.number)
    return Document(
        split,
        name,
        "",
        (closed_lead if passage is None else lead) + prompt(held["question"], passage),
        str(held[right][0]),
        group=files.tag(held.get("group") or name),
        gold={"answers": list(held[right]), "others": list(held[other])},
        context=passage or "",
    )


TASK = Task(
    name="nq_swap",
    version=1,
    title="NQ-Swap: does the answer follow a passage against memory? (own data, or the hub's)",
    load=load,
    options={"data": None, "contexts": ["substituted"], "revision": None},
    max_new_tokens=12,
    scorer="short_answers",
    parser="squad",
    places=frozenset({"data", "revision"}),
    about="text",
)
