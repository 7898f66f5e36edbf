"""POPE (Li et al., arXiv 2305.10355): is there a ... in the image? Three splits over the same images.

Question files are JSON Lines or one JSON array, told apart by the first character that is not blank; each row has
`question_id`, `image`, `text` and `label`. Texts are asked as they stand, misspellings of older copies ("imange")
included. A row that cannot be read costs one sample, not the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...decoders.controls import NO, YES
from ..errors import ConfigError, DataError, unknown
from . import files
from .base import Dataset, Document, Source, Task

SPLITS = ("random", "popular", "adversarial")
DATASETS = ("coco", "aokvqa", "gqa")
ANSWERS = {"yes": YES, "no": NO}
_WHERE = {
    "coco": "the COCO val2014 images (cocodataset.org)",
    "aokvqa": "the COCO val2014 images (cocodataset.org)",
    "gqa": "the GQA images (cs.stanford.edu/people/dorarad/gqa)",
}


def load(options: Mapping[str, Any]) -> Dataset:
    """The question files of one data set.

    Raises:
        ConfigError: the data set or a split is not known.
        DataError: a folder is missing, or a file is missing, empty or contradicts itself.
    """
    name = options["dataset"]
    if name not in DATASETS:
        raise ConfigError(*unknown("task.dataset", name, DATASETS))
    hint = (
        f"Get the question files from github.com/RUCAIBox/POPE (folder output) and {_WHERE[name]}, then give "
        "task.data=FOLDER and task.images=FOLDER; task=pope_scenes needs no download."
    )
    data = files.folder("pope", "task.data", options["data"], "question files", hint)
    images = files.folder("pope", "task.images", options["images"], "images", hint)
    return read_folder(data, images, name, check_splits(options["splits"]), hint)


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
            rows = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} starts as a JSON array but is none: {error}.", "Check the download.") from error
        for number, row in enumerate(rows, start=1):
            yield f"row {number}", row, None
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
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
    if isinstance(row["question_id"], bool) or not isinstance(row["question_id"], int | str):
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
    title="POPE: objects in real images, yes or no (own question files and images)",
    load=load,
    options={"dataset": "coco", "data": None, "images": None, "splits": list(SPLITS)},
    max_new_tokens=64,
    answers=ANSWERS,
    places=frozenset({"data", "images"}),
)
