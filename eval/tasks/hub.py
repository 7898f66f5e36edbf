"""Data sets of the Hugging Face hub as they lie on a disk: which commit a copy is, its rows, and the images in them.

`task.data` is a local copy (a folder that `hf download` or `Dataset.save_to_disk` wrote) or `hub`, which fetches the
task's own repository, or takes it from the hub's cache, at `task.revision`. Images that lie in the rows, as bytes,
are unpacked once into the cache folder, so that from there on they are files like any other.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from PIL import Image

from ..errors import DataError
from ..images import FORMATS, file_digest
from . import files, rows
from .base import Document, Source

HUB = "hub"
LAYOUT = 1
"""The version of unpacked folders; another number makes old ones stale."""
_BATCH = 64
"""Rows that are held with their images at the same time."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}
NameOf = Callable[[Mapping[str, Any]], str]
"""Fields of a row -> its image's name, with or without a suffix; an empty one for a row without an image."""


@dataclass(frozen=True)
class Unpacked:
    """Rows of some files, and the folder with their images: each row's `image` is a name within it, or empty."""

    rows: tuple[rows.Row, ...]
    images: Path
    sources: tuple[Source, ...]

    def counted(self, documents: Sequence[Document]) -> tuple[Source, ...]:
        """The sources, told how many of their rows are broken; `documents` are the rows', in their order.

        Raises:
            DataError: not one row can be read.
        """
        return counted(self.sources, documents)


def counted(sources: Sequence[Source], documents: Sequence[Document]) -> tuple[Source, ...]:
    """Files told how many of their rows are broken; `documents` are the rows of all of them, in their order.

    Raises:
        DataError: not one row can be read.
    """
    broken = [document.error for document in documents if document.error]
    if len(broken) == len(documents):
        raise DataError(f"No row of {sources[0].file} can be read; {(broken or ['it is empty'])[0]}.")
    left, found = list(documents), []
    for source in sources:
        own, left = left[: source.rows], left[source.rows :]
        found.append(replace(source, broken=sum(document.error is not None for document in own)))
    return tuple(found)


def place(
    task: str, repository: str, options: Mapping[str, Any], holds: str, hint: str, only: Sequence[str] | None = None
) -> Path:
    """The folder that `task.data` means, which is of the commit that `task.revision` pins.

    Args:
        task: for messages.
        repository: what `task.data=hub` fetches.
        options: of the task: `data` and `revision`.
        holds: what is in the folder, for messages.
        hint: where the data is to be had.
        only: patterns of the files to fetch, where a task needs a part of a large repository; None = all.

    Raises:
        DataError: it is not set, not there, cannot be fetched, or of another commit.
    """
    revision = options.get("revision")
    if options["data"] == HUB:
        return _fetched(repository, revision, hint, only)
    folder = files.folder(task, "task.data", options["data"], holds, hint)
    held = commit(folder)
    if revision is not None and held != str(revision):
        raise DataError(
            f"task.data {str(folder)!r} is {f'of commit {held}' if held else 'of no known commit'}, and task.revision "
            f"asks for {str(revision)!r}.",
            f"Download that commit: hf download --repo-type dataset --revision {revision} {repository}.",
        )
    return folder


def commit(folder: Path) -> str | None:
    """The commit (40 hex digits) that a copy was made of, as the hub's own tools leave it beside the files.

    That is the name of the snapshot in the hub's cache, or what `hf download --local-dir` notes for every file; None
    where there is neither, or where files are of different commits.
    """
    for part in (folder.resolve(), *folder.resolve().parents):
        if part.parent.name == "snapshots" and _COMMIT.fullmatch(part.name):
            return part.name
    notes = folder / ".cache" / "huggingface" / "download"
    found = {_first_line(path) for path in notes.rglob("*.metadata")} if notes.is_dir() else set()
    (only,) = found if len(found) == 1 else ("",)
    return only if _COMMIT.fullmatch(only) else None


def shards(folder: Path, split: str, config: str = "") -> list[Path]:
    """The files of a split, in their order: Parquet as on the hub, or Arrow as `datasets` keeps it; empty for none.

    Known are `CONFIG/SPLIT-00000-of-00001.parquet` (`data` for the first configuration), `SPLIT/data-*.arrow` and
    `data-*.arrow` of `save_to_disk`, and `NAME-SPLIT-*.arrow` of the library's cache.
    """
    named = re.compile(rf"(?:.*[-_])?{re.escape(split)}(?:-\d{{5}}-of-\d{{5}}.*)?")
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix not in (".parquet", ".arrow") or not path.is_file() or inside.parts[0].startswith("."):
            continue
        saved = path.suffix == ".arrow" and path.name.startswith("data-")
        of_split = inside.parent.name in (split, "") if saved else named.fullmatch(path.stem) is not None
        if of_split and (not config or config in inside.parts[:-1]):
            found.append(path)
    return found


def unpack(folder: Path, paths: Sequence[Path], columns: Sequence[str], name_of: NameOf) -> Unpacked:
    """The rows of some files without their images, which are written into the cache folder, each once.

    Args:
        folder: what `paths` lie in; sources are named relative to it.
        paths: Parquet or Arrow files.
        columns: those to keep beside `image`.
        name_of: names a row's image.

    Returns:
        A row whose image is missing, has a name that would leave the folder, or shares it with another image says so.

    Raises:
        DataError: a file cannot be read, lacks a column, or the cache folder cannot be written.
    """
    digests = [file_digest(path) for path in paths]
    made_of = json.dumps([LAYOUT, digests, list(columns)])
    cache = importlib.import_module("..scenes.dataset", __package__).cache_folder() / "hub"
    target = cache / hashlib.sha256(made_of.encode()).hexdigest()[:20]
    try:
        if not (target / "rows.json").is_file():
            _write(target, paths, columns, name_of)
        held = json.loads((target / "rows.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{paths[0].name} cannot be unpacked: {error}.",
            f"Delete {str(target)!r}, or point SIGHTLINE_CACHE elsewhere.",
        ) from error
    found = tuple(rows.Row(number, fields, problem) for number, fields, problem in held["rows"])
    names = [path.relative_to(folder).as_posix() for path in paths]
    sizes: Sequence[int] = held["sizes"]
    sources = tuple(Source(*each) for each in zip(names, digests, sizes, strict=True))
    return Unpacked(found, target / "images", sources)


def table(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet or Arrow file, a few at a time, all columns or some; images as `{"bytes", "path"}`.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    try:
        held, batches = _opened(path)
        wanted = held if columns is None else list(columns)
        missing = [name for name in wanted if name not in held]
        if missing:
            raise DataError(f"{path.name} has no column {missing[0]!r}.", f"It has {', '.join(held) or 'none'}.")
        for batch in batches(wanted):
            yield from batch.to_pylist()
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path.name} cannot be read: {_shortly(error)}.", "Check the download.") from error


def _opened(path: Path) -> tuple[list[str], Callable[[list[str]], Iterator[Any]]]:
    """Names of the columns, and a function that gives batches of some of them."""
    if path.suffix == ".parquet":
        parquet = importlib.import_module("pyarrow.parquet").ParquetFile(path)
        return parquet.schema_arrow.names, lambda names: parquet.iter_batches(_BATCH, columns=names)
    held = importlib.import_module("datasets").Dataset.from_file(str(path))
    return held.column_names, lambda names: held.select_columns(names).with_format("arrow").iter(_BATCH)


def _write(target: Path, paths: Sequence[Path], columns: Sequence[str], name_of: NameOf) -> None:
    """Unpack into a folder that takes its name in one step, so that a stopped one leaves nothing half done."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        (part / "images").mkdir()
        kept: list[list[Any]] = []
        sizes: list[int] = []
        seen: dict[str, str] = {}
        for path in paths:
            before = len(kept)
            for fields in table(path, (*columns, "image")):
                kept.append([len(kept) + 1, *_kept(fields, part / "images", name_of, seen)])
            sizes.append(len(kept) - before)
        (part / "rows.json").write_text(json.dumps({"rows": kept, "sizes": sizes}), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        part.replace(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _kept(fields: dict[str, Any], images: Path, name_of: NameOf, seen: dict[str, str]) -> tuple[dict[str, Any], Any]:
    """A row without its image, whose name takes its place, and what is wrong with it."""
    image = fields.pop("image")
    plain = {name: value for name, value in fields.items() if _is_json(value)}
    name = name_of(plain)
    content = image.get("bytes") if isinstance(image, Mapping) else image
    if not name:
        return {**plain, "image": ""}, None
    if not isinstance(content, bytes) or not content:
        return {**plain, "image": ""}, "has no image in it"
    if not safe(name):
        return {**plain, "image": ""}, f"has the image name {name[:80]!r}, which leaves its folder"
    digest = hashlib.sha256(content).hexdigest()
    if seen.setdefault(name, digest) != digest:
        return {**plain, "image": ""}, f"has another image than the row before it that is named {name!r} too"
    name = _suffixed(name, content)
    file = images / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return {**plain, "image": name}, None


def safe(name: str) -> bool:
    """Whether a name with forward slashes stays below the folder it is put in, on any system."""
    parts = PurePosixPath(name).parts
    windows = PureWindowsPath(name)
    odd = any(character in name for character in '\\\0:*?"<>|') or any(ord(character) < 32 for character in name)
    long = any(len(part.encode("utf-8", "replace")) > 200 for part in parts)
    return bool(parts) and not (windows.anchor or ".." in parts or name.startswith("/") or odd or long)


def _suffixed(name: str, content: bytes) -> str:
    """The name with the suffix of its format, where it has none of an image's."""
    known = {".jpg", ".jpeg", *(f".{name.lower()}" for name in FORMATS), ".tif"}
    if PurePosixPath(name).suffix.lower() in known:
        return name
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return name + _SUFFIXES.get(str(image.format), f".{str(image.format).lower()}")
    except Exception:  # decoders raise errors of many kinds; the run says what is wrong with the image
        return name + ".bin"


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _first_line(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _fetched(repository: str, revision: Any, hint: str, only: Sequence[str] | None) -> Path:
    """The repository in the hub's cache, fetched if need be."""
    patterns = None if only is None else list(only)
    library = importlib.import_module("huggingface_hub")
    try:
        return Path(
            library.snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=patterns)
        )
    except Exception as error:  # of many kinds: no network, no such repository or commit, not in the cache
        raise DataError(f"{repository} cannot be had from the hub: {_shortly(error)}.", hint) from error


def _shortly(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200].rstrip(".") or type(error).__name__
