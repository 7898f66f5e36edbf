"""Files of text benchmarks: every file of a split as the hub has it, or the one file that is named like the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..images import file_digest
from . import files, hub, rows
from .base import Source


@dataclass(frozen=True)
class Layout:
    """Where the rows of a task lie in a folder.

    Attributes:
        what: the benchmark's name, for messages.
        splits: the hub's names of the split; the first that has files is taken.
        config: the hub's configuration; a copy of that configuration alone need not have a folder of its name.
        others: configurations of the same repository, whose files are never taken.
        stems: parts of the name of a single file, for folders without the hub's layout.
    """

    what: str
    splits: Sequence[str]
    stems: Sequence[str]
    config: str = ""
    others: Sequence[str] = ()


def read(data: Path, layout: Layout, hint: str) -> tuple[list[rows.Row], tuple[Source, ...]]:
    """The rows of a folder, numbered through all files, and the files with their numbers of rows.

    Raises:
        DataError: there is no such file, or it cannot be read or holds no row.
    """
    for split in layout.splits:
        paths = (layout.config and hub.shards(data, split, layout.config)) or [
            path for path in hub.shards(data, split) if not set(path.relative_to(data).parts[:-1]) & set(layout.others)
        ]
        if paths:
            return _of_hub(data, paths)
    file = rows.find(data, layout.stems, layout.what, hint)
    found, content = rows.read_rows(file)
    return found, (Source(file.name, files.sha256(content), len(found)),)


def _of_hub(data: Path, paths: Sequence[Path]) -> tuple[list[rows.Row], tuple[Source, ...]]:
    found: list[rows.Row] = []
    sources = []
    for path in paths:
        before = len(found)
        found += [rows.Row(number, fields) for number, fields in enumerate(hub.table(path), start=before + 1)]
        sources.append(Source(path.relative_to(data).as_posix(), file_digest(path), len(found) - before))
    if not found:
        raise DataError(f"{sources[0].file} holds no rows.", "Check the download.")
    return found, tuple(sources)
