"""POPE (Li et al., arXiv 2305.10355): is there a ... in the image? Three splits over the same images.

Two layouts are read:

* question files `{dataset}_pope_{split}.json` (or `_seem_`) beside a folder of images: JSON Lines or one JSON array,
  told apart by the first character that is not blank; each row has `question_id`, `image`, `text` and `label`.
  `dataset` is one of the authors', or any other whose files are there (`sightline build-pope` writes them);
* the hub's, lmms-lab/POPE, with the images in the rows: the configuration Full (a file for each split), or the default
  one (all splits together, told apart by `category`).

Texts are asked as they stand, misspellings of older copies ("imange") included. A row that cannot be read costs one
sample, not the run. The random file comes with 3,000 rows or, in older copies, 2,910: the manifest counts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...decoders.controls import NO, YES
from ..errors import ConfigError, DataError, unknown
from . import files, hub, rows
from .base import Dataset, Document, Source, Task

SPLITS = ("random", "popular", "adversarial")
DATASETS = ("coco", "aokvqa", "gqa")
REPOSITORY = "lmms-lab/POPE"
ANSWERS = {"yes": YES, "no": NO}
_COLUMNS = ("question_id", "question", "answer", "image_source", "category")
_FIELDS = {"question_id": "question_id", "image": "image", "text": "question", "label": "answer"}
_WHERE = {
    "coco": "the COCO val2014 images (cocodataset.org)",
    "aokvqa": "the COCO val2014 images (cocodataset.org)",
    "gqa": "the GQA images (cs.stanford.edu/people/dorarad/gqa)",
}


def load(options: Mapping[str, Any]) -> Dataset:
    """The questions of one data set, from its files or from a copy of the hub's.

    Raises:
        ConfigError: the data set or a split is not known.
        DataError: a folder is missing, or a file is missing, empty or contradicts itself.
    """
    name, splits = str(options["dataset"]), check_splits(options["splits"])
    hint = (
        "Get the question files from github.com/RUCAIBox/POPE (folder output) and "
        f"{_WHERE.get(name, 'its images')}, then give task.data=FOLDER and task.images=FOLDER; or, for coco, give "
        "task.data=hub, or a copy of lmms-lab/POPE as task.data=FOLDER; task=pope_scenes needs no download."
    )
    data = hub.place("pope", REPOSITORY, options, "question files", hint)
    there = {path.name.split("_pope_")[0] for path in data.glob("*_pope_*.json")}
    if name not in there | set(DATASETS):
        raise ConfigError(*unknown("task.dataset", name, there | set(DATASETS)))
    if name == "coco" and "coco" not in there and any(hub.shards(data, split) for split in ("test", *splits)):
        return read_hub(data, splits)
    images = files.folder("pope", "task.images", options["images"], "images", hint)
    return replace(read_folder(data, images, name, splits, hint), revision=hub.commit(data))


def read_hub(data: Path, splits: Sequence[str]) -> Dataset:
    """A copy of lmms-lab/POPE; images are unpacked into the cache folder.

    Raises:
        DataError: a split is missing, or a file cannot be read or contradicts itself.
    """
    apart = [path for split in splits for path in hub.shards(data, split)]
    whole = all(hub.shards(data, split) for split in splits)
    paths = apart if whole else hub.shards(data, "test")
    held = hub.unpack(data, paths, _COLUMNS, lambda fields: str(fields.get("image_source") or ""))
    read = [_document(*_of_hub(row)) for row in held.rows]
    found = [document for split in splits for document in read if document.split == split]
    absent = [split for split in splits if not any(document.split == split for document in found)]
    if absent:
        raise DataError(
            f"There are no questions of {absent[0]} in {str(data)!r}.", f"Is it a copy of {REPOSITORY}, with all files?"
        )
    strays = [document for document in read if document.split not in SPLITS]
    rows.refuse_twice([*found, *strays], REPOSITORY)
    return Dataset((*found, *strays), held.images, held.counted(read), revision=hub.commit(data))


def _of_hub(row: rows.Row) -> tuple[str, str, Any, str | None]:
    """Split, place, fields by the names of the question files, and problem of a row."""
    held = row.fields
    named = {name: held.get(theirs) for name, theirs in _FIELDS.items()}
    split = str(held.get("category") or "").strip().lower()
    problem = row.problem or (None if split in SPLITS else f"has the category {held.get('category')!r}")
    named["label"] = str(named["label"] or "").strip().lower()
    return split if split in SPLITS else "", f"row {row.number}", named, problem


def check_splits(value: Any) -> tuple[str, ...]:
    """The splits asked for, in the order of `SPLITS`; raises `ConfigError`."""
    return files.chosen("task.splits", "split", value, SPLITS)


def read_folder(
    data: Path, images: Path, name: str, splits: Iterable[str], hint: str = "", world: Mapping[str, Any] | None = None
) -> Dataset:
    """The files `{name}_pope_{split}.json` (or `{name}_pope_seem_{split}.json`) of a folder.

    Raises:
        DataError: a file is missing, empty or contradicts itself.
    """
    documents: list[Document] = []
    sources: list[Source] = []
    for split in splits:
        options = [data / f"{name}_pope_{split}.json", data / f"{name}_pope_seem_{split}.json"]
        file = next((path for path in options if path.is_file()), None)
        if file is None:
            raise DataError(f"There is no {options[0].name} in {str(data)!r}.", hint)
        read, source = read_file(file, split)
        documents += read
        sources.append(source)
    return Dataset(tuple(documents), images, tuple(sources), world)


def read_file(file: Path, split: str) -> tuple[list[Document], Source]:
    """One question file.

    Raises:
        DataError: it is empty, is no JSON at all, or two rows share a question id.
    """
    content = file.read_bytes()
    documents = [_document(split, place, row, problem) for place, row, problem in _rows(content, file.name)]
    if not documents:
        raise DataError(f"{file.name} holds no questions.", "Check the download: POPE's files have 3,000 rows each.")
    broken = [document for document in documents if document.error]
    if len(broken) == len(documents):
        raise DataError(f"No row of {file.name} can be read; {broken[0].error}.", "Is it a POPE question file?")
    seen: set[str] = set()
    for document in documents:
        if document.doc_id in seen:
            raise DataError(f"{file.name} holds question_id {document.doc_id} twice.", "Ids are unique within a file.")
        seen.add(document.doc_id)
    return documents, Source(file.name, files.sha256(content), len(documents), len(broken))


def _rows(content: bytes, name: str) -> Iterator[tuple[str, Any, str | None]]:
    """Place, value and problem of each row; a value is None where there is a problem."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    if content.lstrip()[:1] == b"[":
        try:
            held = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} starts as a JSON array but is none: {error}.", "Check the download.") from error
        for number, row in enumerate(held, start=1):
            yield f"row {number}", row, None
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        if len(line) > rows.MAX_ROW:
            yield f"line {number}", None, f"is longer than {rows.MAX_ROW:,} bytes"
            continue
        try:
            yield f"line {number}", json.loads(line), None
        except (ValueError, RecursionError):
            yield f"line {number}", None, "is not JSON"


def _document(split: str, place: str, row: Any, problem: str | None) -> Document:
    problem = problem or _problem(row)
    if problem is None:
        return Document(split, str(row["question_id"]), row["image"], row["text"], row["label"])
    known = isinstance(row, Mapping) and isinstance(row.get("image"), str) and files.is_text(row["image"])
    return Document(
        split, place.replace(" ", "-"), row["image"] if known else "", "", None, f"DataError: {place} {problem}"
    )


def _problem(row: Any) -> str | None:
    """Why a row cannot be asked; None where it can."""
    if not isinstance(row, Mapping):
        return "is not an object"
    for name in ("question_id", "image", "text", "label"):
        if name not in row:
            return f"has no {name!r}"
    if not files.is_id(row["question_id"]):
        return "has a question_id that is neither a number nor text"
    for name in ("image", "text"):
        if not isinstance(row[name], str) or not row[name].strip() or not files.is_text(row[name]):
            return f"has no readable {name!r}"
    if row["label"] not in ("yes", "no"):
        return f"has the label {row['label']!r}, neither yes nor no"
    return None


TASK = Task(
    name="pope",
    version=1,
    title="POPE: objects in real images, yes or no (own question files and images, or the hub's)",
    load=load,
    options={"dataset": "coco", "data": None, "images": None, "splits": list(SPLITS), "revision": None},
    max_new_tokens=64,
    answers=ANSWERS,
    places=frozenset({"data", "images", "revision"}),
)
