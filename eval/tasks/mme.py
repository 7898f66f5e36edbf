"""MME (Fu et al., arXiv 2306.13394): two yes/no questions on each image, the first with the answer yes.

Two layouts are read, below one folder with a subfolder of images for each subtask:

* `{subtask}.txt`, as the evaluation tool has them: image, question and answer, parted by tabs, one question a line;
* `{subtask}/NAME.txt` beside the image NAME (or `questions_answers_YN/NAME.txt` beside `images/`): question and answer.

Questions are asked as they stand; they end with "Please answer yes or no." A row that cannot be read costs one sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..scoring.mme import HALLUCINATION, SUBTASKS
from . import files
from .base import Dataset, Document, Source, Task
from .pope import ANSWERS

_SUFFIXES = (".jpg", ".png", ".jpeg")
_HINT = (
    "MME is sent out by its authors (github.com/BradyFU/Awesome-Multimodal-Large-Language-Models); give "
    "task.data=FOLDER, the folder with a subfolder for each subtask; task=mme_scenes needs no download."
)
Row = tuple[str, str, list[str]]
"""Id, place for messages, and fields: image, question, answer."""


def load(options: Mapping[str, Any]) -> Dataset:
    """The questions of the chosen subtasks.

    Raises:
        ConfigError: a subtask is not known.
        DataError: a folder or a subtask is missing, empty or contradicts itself.
    """
    subtasks = files.chosen("task.subtasks", "subtask", options["subtasks"], SUBTASKS)
    data = files.folder("mme", "task.data", options["data"], "subtasks", _HINT)
    read = [_read_subtask(data, subtask) for subtask in subtasks]
    return Dataset(tuple(document for found, _ in read for document in found), data, tuple(s for _, s in read))


def read_template(file: Path, subtask: str) -> tuple[list[Document], Source]:
    """One `{subtask}.txt`; image names as they stand there.

    Raises:
        DataError: it is empty, has no row that can be read, or asks about an image more than twice.
    """
    content = file.read_bytes()
    rows = [(number, f"line {number}", fields) for number, fields in _lines(content)]
    documents = _documents(subtask, rows, file.name)
    return documents, Source(file.name, files.sha256(content), len(documents), _broken(documents))


def _read_subtask(data: Path, subtask: str) -> tuple[list[Document], Source]:
    """A subtask in whichever layout it is there."""
    template, folder = data / f"{subtask}.txt", data / subtask
    if not folder.is_dir():
        raise DataError(f"There is no folder {subtask!r} in {str(data)!r}.", _HINT)
    images = folder / "images" if (folder / "images").is_dir() else folder
    below = images.relative_to(data).as_posix()
    if template.is_file():
        documents, source = read_template(template, subtask)
        return [_moved(document, below) for document in documents], source
    texts = folder / "questions_answers_YN" if (folder / "questions_answers_YN").is_dir() else folder
    found = [(path.stem, path.read_bytes()) for path in sorted(texts.glob("*.txt"))]
    rows = [row for stem, content in found for row in _rows_of_image(images, stem, content)]
    documents = _documents(subtask, rows, f"{subtask}/*.txt")
    content = b"".join(stem.encode("utf-8", "surrogateescape") + b"\0" + text + b"\0" for stem, text in found)
    source = Source(f"{subtask}/*.txt", files.sha256(content), len(documents), _broken(documents))
    return [_moved(document, below) for document in documents], source


def _rows_of_image(images: Path, stem: str, content: bytes) -> Iterator[Row]:
    there = (stem + suffix for suffix in _SUFFIXES if (images / (stem + suffix)).is_file())
    image = next(there, stem + _SUFFIXES[0])
    for number, fields in _lines(content):
        yield f"{stem}-{number}", f"{stem}.txt, line {number}", [image, *fields]


def _lines(content: bytes) -> Iterator[tuple[str, list[str]]]:
    """Number and tab-separated fields of each line that is not blank; undecodable bytes become surrogates."""
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield str(number), line.rstrip("\r").split("\t")


def _documents(subtask: str, rows: Iterable[Row], name: str) -> list[Document]:
    documents = [_document(subtask, *row) for row in rows]
    if not documents:
        raise DataError(f"{name} holds no questions.", "Check the download: each image has two.")
    if _broken(documents) == len(documents):
        raise DataError(f"No row of {name} can be read; {documents[0].error}.", "Is it a file of MME?")
    asked = Counter(document.image for document in documents if not document.error)
    image, most = asked.most_common(1)[0]
    if most > 2:
        raise DataError(f"{name} asks about {image!r} {most} times.", "Each image of a subtask has two questions.")
    return documents


def _document(subtask: str, number: str, place: str, fields: Sequence[str]) -> Document:
    problem = _problem(fields)
    if problem is None:
        return Document(subtask, number, fields[0], fields[1], fields[2].strip().lower())
    return Document(subtask, number, "", "", None, f"DataError: {place} {problem}")


def _problem(fields: Sequence[str]) -> str | None:
    """Why a row cannot be asked; None where it can. A fourth field, the response of an answered file, is let be."""
    if not 3 <= len(fields) <= 4:
        return f"has {len(fields)} fields, not image, question and answer"
    if not all(field.strip() and files.is_text(field) for field in fields[:2]):
        return "has no readable image or question"
    if fields[2].strip().lower() not in ("yes", "no"):
        return f"has the answer {fields[2].encode('ascii', 'backslashreplace').decode()!r}, neither Yes nor No"
    return None


def _moved(document: Document, below: str) -> Document:
    """The document with its image's name relative to the data folder."""
    if document.error:
        return document
    return Document(document.split, document.doc_id, f"{below}/{document.image}", document.text, document.label)


def _broken(documents: Iterable[Document]) -> int:
    return sum(document.error is not None for document in documents)


TASK = Task(
    name="mme",
    version=1,
    title="MME: two yes/no questions an image (own folder of subtasks)",
    load=load,
    options={"subtasks": list(HALLUCINATION), "data": None},
    max_new_tokens=16,
    scorer="mme",
    parser="official",
    answers=ANSWERS,
    places=frozenset({"data"}),
)
