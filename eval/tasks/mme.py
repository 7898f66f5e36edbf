"""MME (Fu et al., arXiv 2306.13394): two yes/no questions on each image, the first with the answer yes.

Three layouts are read. Two lie below one folder with a subfolder of images for each subtask:

* `{subtask}.txt`, as the evaluation tool has them: image, question and answer, parted by tabs, one question a line;
* `{subtask}/NAME.txt` beside the image NAME (or `questions_answers_YN/NAME.txt` beside `images/`): question and answer;

the third is a copy of the hub's, lmms-lab/MME, with the images in the rows: `question_id` (shared by the two questions
of an image), `question`, `answer`, `category`.

Questions are asked as they stand; they end with "Please answer yes or no." A row that cannot be read costs one sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DataError
from ..scoring.mme import HALLUCINATION, SUBTASKS
from . import files, hub, rows
from .base import Dataset, Document, Source, Task
from .pope import ANSWERS

REPOSITORY = "lmms-lab/MME"
_COLUMNS = ("question_id", "question", "answer", "category")
_SUFFIXES = (".jpg", ".png", ".jpeg")
_HINT = (
    "MME is sent out by its authors (github.com/BradyFU/Awesome-Multimodal-Large-Language-Models); give "
    "task.data=FOLDER, the folder with a subfolder for each subtask, or task.data=hub, or a copy of lmms-lab/MME; "
    "task=mme_scenes needs no download."
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
    data = hub.place("mme", REPOSITORY, options, "subtasks", _HINT)
    paths = hub.shards(data, "test")
    if paths:
        return read_hub(data, paths, subtasks)
    read = [_read_subtask(data, subtask) for subtask in subtasks]
    return Dataset(tuple(document for found, _ in read for document in found), data, tuple(s for _, s in read))


def read_hub(data: Path, paths: Sequence[Path], subtasks: Sequence[str]) -> Dataset:
    """A copy of lmms-lab/MME; images are unpacked into the cache folder.

    Raises:
        DataError: a subtask is missing, a file cannot be read, or an image is asked about more than twice.
    """
    held = hub.unpack(data, paths, _COLUMNS, lambda fields: str(fields.get("question_id") or ""))
    asked: Counter[str] = Counter()
    read = []
    for row in held.rows:
        subtask, name = str(row.fields.get("category") or ""), str(row.fields.get("question_id") or f"row-{row.number}")
        asked[name] += 1
        read.append(_of_hub(row, subtask, f"{PurePosixPath(name).stem}-{asked[name]}"))
    found = [document for subtask in subtasks for document in read if document.split == subtask]
    for subtask in subtasks:
        if not any(document.split == subtask for document in found):
            raise DataError(f"There are no questions of {subtask} in {str(data)!r}.", _HINT)
        _check_pairs([document for document in found if document.split == subtask], f"{REPOSITORY} ({subtask})")
    strays = [document for document in read if document.split == ""]
    rows.refuse_twice([*found, *strays], REPOSITORY)
    return Dataset((*found, *strays), held.images, held.counted(read), revision=hub.commit(data))


def _of_hub(row: rows.Row, subtask: str, name: str) -> Document:
    """A row of the hub's; one of no known subtask has no split."""
    held = row.fields
    known = subtask in SUBTASKS
    problem = row.problem or rows.missing_text(row, ("image", "question", "answer"))
    problem = problem or (None if known else f"has the category {held.get('category')!r}")
    problem = problem or _problem([held["image"], held["question"], held["answer"]])
    if problem is not None:
        return rows.broken(subtask if known else "", row, problem)
    return Document(subtask, name, held["image"], held["question"], held["answer"].strip().lower())


def read_template(file: Path, subtask: str) -> tuple[list[Document], Source]:
    """One `{subtask}.txt`; image names as they stand there.

    Raises:
        DataError: it is empty, has no row that can be read, or asks about an image more than twice.
    """
    content = file.read_bytes()
    held = [(number, f"line {number}", fields) for number, fields in _lines(content)]
    documents = _documents(subtask, held, file.name)
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
    held = [row for stem, content in found for row in _rows_of_image(images, stem, content)]
    documents = _documents(subtask, held, f"{subtask}/*.txt")
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


def _documents(subtask: str, held: Iterable[Row], name: str) -> list[Document]:
    documents = [_document(subtask, *row) for row in held]
    if not documents:
        raise DataError(f"{name} holds no questions.", "Check the download: each image has two.")
    if _broken(documents) == len(documents):
        raise DataError(f"No row of {name} can be read; {documents[0].error}.", "Is it a file of MME?")
    _check_pairs(documents, name)
    return documents


def _check_pairs(documents: Sequence[Document], name: str) -> None:
    """Refuse more than two questions about an image."""
    asked = Counter(document.image for document in documents if not document.error)
    image, most = asked.most_common(1)[0] if asked else ("", 0)
    if most > 2:
        raise DataError(f"{name} asks about {image!r} {most} times.", "Each image of a subtask has two questions.")


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
    title="MME: two yes/no questions an image (own folder of subtasks, or the hub's)",
    load=load,
    options={"subtasks": list(HALLUCINATION), "data": None, "revision": None},
    max_new_tokens=16,
    scorer="mme",
    parser="official",
    answers=ANSWERS,
    places=frozenset({"data", "revision"}),
)
