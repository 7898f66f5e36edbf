"""HallusionBench (Guan et al., CVPR 2024): yes/no questions on figures, and on edited figures.

Two layouts are read: a copy of the hub's (lmms-lab/HallusionBench, split `image`), and the authors'
`HallusionBench.json` beside its folder of figures. Questions that come without a figure (the hub's split `non_image`)
ask the language model alone and are left out: there is nothing in them for decoding to hold on to.

`run.limit` counts sets: figures that share their questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from ..errors import DataError
from . import files, hub, rows
from .base import Dataset, Document, Task
from .pope import ANSWERS

REPOSITORY = "lmms-lab/HallusionBench"
CATEGORIES = ("VD", "VS")
_COLUMNS = ("category", "subcategory", "visual_input", "set_id", "figure_id", "question_id", "question", "gt_answer",
            "filename")  # fmt: skip
_HINT = (
    "Give task.data=hub, or a copy of lmms-lab/HallusionBench as task.data=FOLDER; or get HallusionBench.json and the "
    "figures from github.com/tianyi-lab/HallusionBench and give task.data=FOLDER and task.images=FOLDER."
)


def load(options: Mapping[str, Any]) -> Dataset:
    """The questions that come with a figure.

    Raises:
        DataError: the folder or the file is missing, contradicts itself, or holds no row that can be read.
    """
    data = hub.place("hallusion_bench", REPOSITORY, options, "questions", _HINT, ["*image*.parquet"])
    paths = [path for path in hub.shards(data, "image") if "non_image" not in path.relative_to(data).as_posix()]
    if paths:
        held = hub.unpack(data, paths, _COLUMNS, lambda fields: _name(fields.get("filename")))
        documents = _counted([_document(row) for row in held.rows])
        found = Dataset(documents, held.images, held.counted(documents))
    else:
        images = files.folder("hallusion_bench", "task.images", options["images"], "figures", _HINT)
        file = rows.find(data, ("hallusionbench", "hallusion_bench"), "HallusionBench", _HINT)
        read, content = rows.read_rows(file)
        drawn = [row for row in read if row.problem or row.fields.get("filename")]
        documents = _counted([_document(_with_image(row)) for row in drawn])
        found = Dataset(documents, images, (rows.source(file, content, documents, len(read)),))
    if not found.documents:
        raise DataError(f"No question in {str(data)!r} comes with a figure.", _HINT)
    rows.refuse_twice(found.documents, REPOSITORY)
    return replace(found, revision=hub.commit(data))


def _name(file: Any) -> str:
    """A figure's name below the folder: `VD/illusion/0_0.png` of `./hallusion_bench/VD/illusion/0_0.png`."""
    parts = PurePosixPath(str(file or "")).parts
    return "/".join(parts[1:] if parts[:1] == ("hallusion_bench",) else parts)


def _with_image(row: rows.Row) -> rows.Row:
    return replace(row, fields={**row.fields, "image": _name(row.fields.get("filename"))})


def _document(row: rows.Row) -> Document:
    held = row.fields
    category = str(held.get("category") or "")
    problem = row.problem or rows.missing_text(row, ("question", "image", "subcategory"))
    if problem is None and category not in CATEGORIES:
        problem = f"has the category {held.get('category')!r}"
    if problem is None and str(held.get("gt_answer")) not in ("0", "1"):
        problem = f"has the gt_answer {held.get('gt_answer')!r}, neither 0 nor 1"
    places = [str(held.get(name)).strip() for name in ("set_id", "figure_id", "question_id")]
    if problem is None and not all(place.isdigit() for place in places):
        problem = "has no whole numbers as set_id, figure_id and question_id"
    if problem is not None:
        return rows.broken(category if category in CATEGORIES else "", row, problem)
    of, figure, question = places
    name = f"{category}/{held['subcategory']}/{of}"
    return Document(
        category,
        f"{held['subcategory']}/{of}/{figure}/{question}",
        held["image"],
        held["question"],
        "yes" if str(held["gt_answer"]) == "1" else "no",
        group=name,
        gold={"set": name, "figure": figure, "question": question, "drawn": not (category == "VS" and figure == "0")},
    )


def _counted(documents: Sequence[Document]) -> tuple[Document, ...]:
    """The documents, told how many questions share their figure, and how many their question."""

    def shared(document: Document, name: str) -> tuple[str, str]:
        return document.group, str((document.gold or {}).get(name))

    sizes = {name: Counter(shared(document, name) for document in documents) for name in ("figure", "question")}
    return tuple(
        document
        if document.gold is None
        else replace(
            document,
            gold={
                **document.gold,
                "figure_size": sizes["figure"][shared(document, "figure")],
                "question_size": sizes["question"][shared(document, "question")],
            },
        )
        for document in documents
    )


TASK = Task(
    name="hallusion_bench",
    version=1,
    title="HallusionBench: yes/no on figures and edited figures, read by rules (own data, or the hub's)",
    load=load,
    options={"data": None, "images": None, "revision": None},
    max_new_tokens=64,
    scorer="hallusion_bench",
    parser="vlmevalkit",
    answers=ANSWERS,
    places=frozenset({"data", "images", "revision"}),
)
