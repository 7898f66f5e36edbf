"""Tiny data sets in the hub's own formats: Parquet with images in the rows, and copies that know their commit."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

COMMIT = "a" * 40


def picture(shade: int, format: str = "PNG") -> bytes:
    """The bytes of a small image, another one for every shade."""
    held = io.BytesIO()
    Image.new("RGB", (12, 8), (shade % 256, shade // 256, 90)).save(held, format)
    return held.getvalue()


def parquet(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A Parquet file as the hub has it: `image` holds bytes and a path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), file)
    return file


def saved(folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """What `DatasetDict.save_to_disk` writes, images as the library's own feature."""
    held = {}
    for split, rows in splits.items():
        made = datasets.Dataset.from_list([dict(row) for row in rows])
        held[split] = made.cast_column("image", datasets.Image())
    datasets.DatasetDict(held).save_to_disk(str(folder))
    return folder


def noted(folder: Path, commit: str = COMMIT) -> Path:
    """The notes that `hf download --local-dir` leaves beside every file."""
    for path in [path for path in folder.rglob("*.parquet") if path.is_file()]:
        note = folder / ".cache" / "huggingface" / "download" / f"{path.relative_to(folder)}.metadata"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{commit}\nsome-etag\n1700000000.0\n")
    return folder


def cached(home: Path, repository: str, files: Mapping[str, bytes], commit: str = COMMIT) -> Path:
    """A repository in the hub's cache, as a download leaves it; hands back the snapshot."""
    folder = home / "hub" / f"datasets--{repository.replace('/', '--')}"
    for name, content in files.items():
        file = folder / "snapshots" / commit / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return folder / "snapshots" / commit
