"""TextVQA (Singh et al., CVPR 2019), validation: short answers that take reading text in images.

No test of hallucination: whether ability drops under a decoder. Two layouts are read: a copy of the hub's
(lmms-lab/textvqa: `question_id`, `image_id`, `question`, `answers`, and the images), and the authors'
`TextVQA_0.5.1_val.json` (`data`: a list of the same fields) beside a folder with `{image_id}.jpg`. Published figures
ask with prompt=lmms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DataError
from . import files, hub, rows
from .base import Dataset, Document, Source, Task

REPOSITORY = "lmms-lab/textvqa"
SPLIT = "validation"
_COLUMNS = ("question_id", "image_id", "question", "answers")
_HINT = (
    "Give task.data=hub, or a copy of lmms-lab/textvqa as task.data=FOLDER; or get TextVQA_0.5.1_val.json and the "
    "training images from textvqa.org and give task.data=FOLDER and task.images=FOLDER."
)


def load(options: Mapping[str, Any]) -> Dataset:
    """The validation questions.

    Raises:
        DataError: the folder or the file is missing, or holds no row that can be read.
    """
    data = hub.place("text_vqa", REPOSITORY, options, "questions", _HINT, [f"*{SPLIT}*"])
    paths = hub.shards(data, SPLIT)
    if paths:
        held = hub.unpack(data, paths, _COLUMNS, lambda fields: str(fields.get("image_id") or ""))
        documents = tuple(_document(row) for row in held.rows)
        found = Dataset(documents, held.images, held.counted(documents))
    else:
        images = files.folder("text_vqa", "task.images", options["images"], "images", _HINT)
        documents, source = _from_file(data)
        found = Dataset(documents, images, (source,))
    rows.refuse_twice(found.documents, REPOSITORY)
    return replace(found, revision=hub.commit(data))


def _from_file(data: Path) -> tuple[tuple[Document, ...], Source]:
    """The authors' file."""
    file = next(iter(sorted(data.glob("TextVQA*val.json"))), None)
    if file is None:
        raise DataError(f"There is no TextVQA_0.5.1_val.json in {str(data)!r}.", _HINT)
    content = file.read_bytes()
    try:
        held = json.loads(content)
        every = held["data"]
        if not isinstance(every, list) or not every:
            raise ValueError("`data` is no list of questions")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{file.name} cannot be read: {error}.", "Check the download.") from error
    found = []
    for number, fields in enumerate(every, start=1):
        row = rows.Row(number, fields) if isinstance(fields, Mapping) else rows.Row(number, {}, "is not an object")
        named = {**row.fields, "image": f"{row.fields.get('image_id')}.jpg"}
        found.append(_document(replace(row, fields=named)))
    return tuple(found), rows.source(file, content, found, len(found))


def _document(row: rows.Row) -> Document:
    held = row.fields
    problem = row.problem or rows.missing_text(row, ("question", "image")) or rows.missing_texts(row, ("answers",))
    name = held.get("question_id")
    if problem is None and not files.is_id(name):
        problem = "has no question_id"
    if problem is not None:
        return rows.broken(SPLIT, row, problem)
    question = held["question"].strip()
    return Document(
        SPLIT,
        str(name),
        held["image"],
        question[:1].upper() + question[1:],
        None,
        gold={"answers": list(held["answers"])},
    )


TASK = Task(
    name="text_vqa",
    version=1,
    title="TextVQA: reading text in images, a check of ability (own data, or the hub's)",
    load=load,
    options={"data": None, "images": None, "revision": None},
    max_new_tokens=16,
    scorer="text_vqa",
    parser="vqa",
    places=frozenset({"data", "images", "revision"}),
)
