"""AMBER (Wang et al., arXiv 2311.07397): yes/no questions on 1,004 images, and captions of the same.

The authors' folder `data`: `annotations.json` (`id`, `type`, `truth`, and of captions `hallu`), `query/*.json` (`id`,
`image`, `query`), and for captions `relation.json` (word -> associated words) and `safe_words.txt` (one a line).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..scoring.amber import GENERATIVE, PARTS, TYPES
from . import files, rows
from .base import Dataset, Document, Source, Task
from .pope import ANSWERS

CAPTIONS = "captions"
_HINT = (
    "Get the folder data from github.com/junyangwang0410/AMBER, and the images as its page says, then give "
    "task.data=FOLDER and task.images=FOLDER."
)
_QUERIES = {
    True: ("query_generative.json", "query_all.json"),
    False: ("query_discriminative.json", "query_all.json"),
}


def load(options: Mapping[str, Any]) -> Dataset:
    """The yes/no questions of the chosen parts.

    Raises:
        ConfigError: a part is not known.
        DataError: a folder or file is missing, or contradicts itself.
    """
    parts = files.chosen("task.parts", "part", options["parts"], PARTS)
    documents, images, sources = _read("amber", options, generative=False)
    found = tuple(document for document in documents if document.split in parts or document.error)
    if not any(document.error is None for document in found):
        raise DataError(f"There is no question on {' or '.join(parts)} in {options['data']!r}.", _HINT)
    return Dataset(found, images, sources)


def load_captions(options: Mapping[str, Any]) -> Dataset:
    """A request for a caption of each image, and AMBER's lists of words.

    Raises:
        DataError: a folder or file is missing, or contradicts itself.
    """
    documents, images, sources = _read("amber_captions", options, generative=True)
    data = Path(options["data"]).expanduser()
    table, first = _json(data / "relation.json")
    if not isinstance(table, Mapping) or not all(_is_words(words) for words in table.values()):
        raise DataError("relation.json is no object of lists of words.", "Check the download.")
    second = _bytes(data / "safe_words.txt")
    safe = [line.strip() for line in second.decode("utf-8", "replace").splitlines() if line.strip()]
    words = {"associations": {word: list(held) for word, held in table.items()}, "safe": sorted(set(safe))}
    lists = Source("relation.json", first, len(table)), Source("safe_words.txt", files.sha256(second), len(safe))
    return Dataset(documents, images, (*sources, *lists), words=words)


def _read(
    task: str, options: Mapping[str, Any], generative: bool
) -> tuple[tuple[Document, ...], Path, tuple[Source, ...]]:
    """Documents of one kind, the folder of images, and the two files."""
    data = files.folder(task, "task.data", options["data"], "annotations and queries", _HINT)
    images = files.folder(task, "task.images", options["images"], "images", _HINT)
    notes, digest = _json(data / "annotations.json")
    known = _annotations(notes)
    file = next((data / "query" / name for name in _QUERIES[generative] if (data / "query" / name).is_file()), None)
    if file is None:
        raise DataError(f"There is no {_QUERIES[generative][0]} in the folder query of {str(data)!r}.", _HINT)
    read, content = rows.read_rows(file)
    make = _caption if generative else _question
    documents = [document for row in read if (document := make(row, known)) is not None]
    rows.refuse_twice(documents, file.name)
    if not documents:
        raise DataError(f"{file.name} asks nothing of this kind.", _HINT)
    sources = rows.source(file, content, documents, len(read)), Source("annotations.json", digest, len(notes))
    return tuple(documents), images, sources


def _annotations(notes: Any) -> dict[str, Mapping[str, Any]]:
    """Id -> annotation."""
    if not isinstance(notes, list) or not all(isinstance(note, Mapping) and "id" in note for note in notes):
        raise DataError("annotations.json is no list of objects with an id.", "Check the download.")
    found: dict[str, Mapping[str, Any]] = {}
    for note in notes:
        if str(note["id"]) in found:
            raise DataError(f"annotations.json holds the id {note['id']!r} twice.", "Check the download.")
        found[str(note["id"])] = note
    return found


def _question(row: rows.Row, known: Mapping[str, Mapping[str, Any]]) -> Document | None:
    """A yes/no question; None for a request for a caption."""
    problem, note = _problem(row, known)
    kind = str(note.get("type"))
    if problem is None and kind == GENERATIVE:
        return None
    if problem is None and kind not in TYPES:
        problem = f"has the type {kind!r}"
    if problem is None and note.get("truth") not in ("yes", "no"):
        problem = f"has the truth {note.get('truth')!r}, neither yes nor no"
    if problem is not None:
        return rows.broken(TYPES.get(kind, ""), row, problem)
    held = row.fields
    return Document(TYPES[kind], str(held["id"]), held["image"], held["query"], note["truth"])


def _caption(row: rows.Row, known: Mapping[str, Mapping[str, Any]]) -> Document | None:
    """A request for a caption; None for a yes/no question."""
    problem, note = _problem(row, known)
    if problem is None and note.get("type") != GENERATIVE:
        return None
    if problem is None and not (_is_words(note.get("truth")) and _is_words(note.get("hallu"))):
        problem = "has no lists of words as truth and hallu"
    if problem is not None:
        return rows.broken(CAPTIONS, row, problem)
    held = row.fields
    gold = {"truth": list(note["truth"]), "listed": list(note["hallu"])}
    return Document(CAPTIONS, str(held["id"]), held["image"], held["query"], None, gold=gold)


def _problem(row: rows.Row, known: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, Mapping[str, Any]]:
    """What is wrong with a row, and its annotation."""
    name = row.fields.get("id")
    note = known.get(str(name), {})
    problem = row.problem or rows.missing_text(row, ("image", "query"))
    if problem is None and not files.is_id(name):
        problem = "has no id"
    if problem is None and not note:
        problem = f"has the id {name!r}, which annotations.json does not know"
    return problem, note


def _is_words(value: Any) -> bool:
    plain = isinstance(value, Sequence) and not isinstance(value, str)
    return plain and all(isinstance(word, str) and word.strip() and files.is_text(word) for word in value)


def _json(file: Path) -> tuple[Any, str]:
    content = _bytes(file)
    try:
        return json.loads(content), files.sha256(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.name} is not JSON: {error}.", "Check the download.") from error


def _bytes(file: Path) -> bytes:
    if not file.is_file():
        raise DataError(f"There is no {file.name} in {str(file.parent)!r}.", _HINT)
    return file.read_bytes()


TASK = Task(
    name="amber",
    version=1,
    title="AMBER: existence, attributes and relations, yes or no (own files and images)",
    load=load,
    options={"data": None, "images": None, "parts": list(PARTS)},
    max_new_tokens=16,
    scorer="amber",
    parser="amber",
    answers=ANSWERS,
    places=frozenset({"data", "images"}),
)
CAPTION_TASK = Task(
    name="amber_captions",
    version=1,
    title="AMBER: words in captions that are not true of the image (own files and images)",
    load=load_captions,
    options={"data": None, "images": None},
    max_new_tokens=512,
    scorer="amber_captions",
    parser="portable",
    places=frozenset({"data", "images"}),
)
