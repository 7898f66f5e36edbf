"""Rows of data files as mappings: JSON Lines, a JSON array, CSV and Parquet, told apart by their suffix."""

from __future__ import annotations

import csv
import importlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from . import files
from .base import Document, Source

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
MAX_ROW = 1 << 20
"""Bytes of a JSON line; a longer one is no question."""


@dataclass(frozen=True)
class Row:
    """One row: its number from 1, and its fields; `problem` says why there are none."""

    number: int
    fields: Mapping[str, Any]
    problem: str | None = None


def find(folder: Path, stems: Sequence[str], what: str, hint: str) -> Path:
    """The first file in a folder whose name, without case and with `-` as `_`, holds one of the stems.

    Raises:
        DataError: there is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    for stem in stems:
        for path in paths:
            if stem in path.stem.lower().replace("-", "_"):
                return path
    raise DataError(f"There is no file of {what} in {str(folder)!r}: none is named like {stems[0]!r}.", hint)


def read_rows(file: Path) -> tuple[list[Row], bytes]:
    """The rows of a file, and its content.

    Raises:
        DataError: it cannot be read at all, or holds no row.
    """
    content = file.read_bytes()
    try:
        rows = list(_READERS[file.suffix.lower()](content))
    except (ValueError, KeyError, csv.Error, RecursionError) as error:
        raise DataError(f"{file.name} cannot be read: {error}.", "Check the download.") from error
    if not rows:
        raise DataError(f"{file.name} holds no rows.", "Check the download.")
    return rows, content


def source(file: Path, content: bytes, documents: Sequence[Document], rows: int) -> Source:
    """The file as the manifest names it.

    Raises:
        DataError: not one of its rows can be read.
    """
    broken = [document for document in documents if document.error]
    if documents and len(broken) == len(documents):
        raise DataError(f"No row of {file.name} can be read; {broken[0].error}.", "Is it the right file?")
    return Source(file.name, files.sha256(content), rows, len(broken))


def refuse_twice(documents: Sequence[Document], name: str) -> None:
    """Refuse documents that share their id within a split, which no score could tell apart.

    Raises:
        DataError: two do.
    """
    seen: set[tuple[str, str]] = set()
    for document in documents:
        place = (document.split, document.doc_id)
        if place in seen:
            raise DataError(f"{name} holds {document.doc_id!r} of {document.split} twice.", "Ids are unique.")
        seen.add(place)


def broken(split: str, row: Row, problem: str) -> Document:
    """A row that costs one sample."""
    return Document(split, f"row-{row.number}", "", "", None, f"DataError: row {row.number} {problem}")


def missing_text(row: Row, names: Sequence[str]) -> str | None:
    """Why these fields are no texts; None where they are."""
    if row.problem is not None:
        return row.problem
    for name in names:
        value = row.fields.get(name)
        if not isinstance(value, str) or not value.strip() or not files.is_text(value):
            return f"has no readable {name!r}"
    return None


def missing_texts(row: Row, names: Sequence[str]) -> str | None:
    """Why these fields are no lists of texts; None where they are."""
    for name in names:
        values = row.fields.get(name)
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            return f"has no list {name!r}"
        if not all(isinstance(value, str) and value.strip() and files.is_text(value) for value in values):
            return f"has a {name!r} that holds something else than texts"
    return None


def _json_lines(content: bytes) -> Iterator[Row]:
    text = content.removeprefix(b"\xef\xbb\xbf")
    if text.lstrip()[:1] == b"[":
        for number, value in enumerate(json.loads(text), start=1):
            yield _row(number, value)
        return
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line.strip():
            continue
        if len(line) > MAX_ROW:
            yield Row(number, {}, f"is longer than {MAX_ROW:,} bytes")
            continue
        try:
            yield _row(number, json.loads(line))
        except (ValueError, RecursionError):
            yield Row(number, {}, "is not JSON")


def _row(number: int, value: Any) -> Row:
    return Row(number, value) if isinstance(value, Mapping) else Row(number, {}, "is not an object")


def _csv(content: bytes) -> Iterator[Row]:
    text = content.decode("utf-8-sig")
    for number, fields in enumerate(csv.DictReader(io.StringIO(text, newline="")), start=1):
        yield Row(number, {name: value for name, value in fields.items() if isinstance(name, str)})


def _parquet(content: bytes) -> Iterator[Row]:
    table = importlib.import_module("pyarrow.parquet").read_table(io.BytesIO(content))
    for number, fields in enumerate(table.to_pylist(), start=1):
        yield Row(number, fields)


_READERS = {".jsonl": _json_lines, ".json": _json_lines, ".csv": _csv, ".parquet": _parquet}
