"""Sample lines: their keys, their bytes, and the files they are written to and read from.

A line holds only what its key determines. Parts are appended to while a run goes on; a torn last line is what a kill
leaves behind and is dropped. The final file has one line per sample, in the order of the plan.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .errors import RecordError

KEY_VERSION = 1


@dataclass(frozen=True)
class SampleRecord:
    """One raw answer; docs/formats.md describes the fields. The order of fields is the order in the file.

    The last three belong to text tasks and are left out of lines that have none of them.
    """

    key: str
    task: str
    task_version: int
    split: str
    doc_id: str
    image_id: str
    prompt: str
    label: str | None
    output: str
    n_prompt_tokens: int
    n_output_tokens: int
    finish: str | None
    margin: float | None
    seed: int | None
    status: str
    error: str | None = None
    candidates: list[str] | None = None
    logprobs: list[float | None] | None = None
    gold: dict[str, Any] | None = None

    def line(self) -> str:
        """The JSON line, with its line end."""
        held = dataclasses.asdict(self)
        kept = {name: value for name, value in held.items() if value is not None or name not in _OF_TEXTS}
        return json.dumps(kept, ensure_ascii=False, allow_nan=False) + "\n"


_OF_TEXTS = ("candidates", "logprobs", "gold")
_FIELDS = tuple(spec.name for spec in dataclasses.fields(SampleRecord) if spec.name not in _OF_TEXTS)


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate, which no file takes
        return False


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _listed(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


_FITS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("key", "task", "split", "doc_id", "image_id", "prompt", "output", "status"), _is_text),
    **dict.fromkeys(("task_version", "n_prompt_tokens", "n_output_tokens"), _is_whole),
    **dict.fromkeys(("label", "finish", "error"), _optional(_is_text)),
    "margin": _optional(_is_number),
    "seed": _optional(_is_whole),
    "candidates": _optional(_listed(_is_text)),
    "logprobs": _optional(_listed(_optional(_is_number))),
    "gold": _optional(lambda value: isinstance(value, dict)),
}
"""Field -> whether a value from a file is one of its kind."""


def digest(content: Any) -> str:
    """sha256 (hex) of a JSON value; keys are sorted, so equal values have equal digests."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sample_seed(run_seed: int, image: str, prompt: str) -> int:
    """Seed of a sample's generator, below 2^48.

    It depends on the run's seed, the image's bytes (their sha256) and the prompt, on nothing else: splits that share a
    question share its answer, and decoders that are compared share their draws.
    """
    return int(digest([run_seed, image, prompt])[:12], 16)


def parse_line(line: str) -> SampleRecord:
    """The record of a line.

    Raises:
        RecordError: it is not JSON, or not a sample; a field of the wrong type makes it none.
    """
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {line[:60]!r}.") from error
    if not isinstance(value, Mapping) or any(name not in value for name in _FIELDS):
        raise RecordError(f"not a sample: {line[:60]!r}.")
    for name, fits in _FITS.items():
        if name in value and not fits(value[name]):
            raise RecordError(f"not a sample, for {name} is {str(value[name])[:60]!r}: {line[:60]!r}.")
    return SampleRecord(**{name: value[name] for name in (*_FIELDS, *(more for more in _OF_TEXTS if more in value))})


def read_part(path: Path) -> list[SampleRecord]:
    """The whole lines of a part; a line that was torn by a kill is left out, and so is everything that is no sample."""
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            found.append(parse_line(line.decode()))
        except (RecordError, UnicodeDecodeError):
            continue
    return found


def read_samples(path: Path) -> list[SampleRecord]:
    """The records of a finished file.

    Raises:
        RecordError: a line is not a sample; its number is named.
    """
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(parse_line(line.decode()))
        except (RecordError, UnicodeDecodeError) as error:
            raise RecordError(f"{path.name}, line {number}: {error}", "Run it again with run.resume=false.") from error
    return found


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that no reader, and no kill, ever sees half of it; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = halved(path)
    try:
        with part.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)


def halved(path: Path) -> Path:
    """Where `write_atomic` holds a file until it is whole; a kill may leave it behind."""
    return path.with_name(path.name + ".tmp")


def write_json(path: Path, value: Any) -> None:
    """A JSON value, indented, keys in their order, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


class SampleFiles:
    """The sample files of one task in a run folder.

    Args:
        folder: `RUN/samples`; made if need be.
        task: the task's name.
    """

    def __init__(self, folder: Path, task: str):
        self.folder = folder
        self.task = task
        self.final = folder / f"{task}.jsonl"
        self._stream: IO[bytes] | None = None

    def parts(self) -> list[Path]:
        """The parts of attempts that did not finish, oldest first."""
        return sorted(self.folder.glob(f"{self.task}.part-*.jsonl"))

    def answered(self) -> dict[str, SampleRecord]:
        """Key -> record of every sample that has an answer already; failures are not among them."""
        found = [record for path in self.parts() for record in read_part(path)]
        if self.final.is_file():
            found += read_part(self.final)
        return {record.key: record for record in found if record.status == "ok"}

    def append(self, records: Iterable[SampleRecord]) -> None:
        """Write records to this attempt's part, and hand them to the operating system at once.

        Raises:
            OSError: they cannot be written; the part ends where it did before.
        """
        if self._stream is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            numbers = [int(path.name.rsplit("-", 1)[1].split(".")[0]) for path in self.parts()]
            part = self.folder / f"{self.task}.part-{max(numbers, default=0) + 1:04d}.jsonl"
            self._stream = part.open("xb", buffering=0)
        whole = self._stream.tell()
        left = memoryview("".join(record.line() for record in records).encode())
        try:
            while left:
                left = left[self._stream.write(left) :]
        except OSError:
            self._stream.truncate(whole)
            self._stream.seek(whole)
            raise

    def close(self) -> None:
        """Close this attempt's part; safe to call twice."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def finish(self, records: Sequence[SampleRecord]) -> None:
        """Write the final file in the order given, then take the parts away."""
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.final, "".join(record.line() for record in records))
        self.discard_parts()

    def discard_parts(self) -> None:
        """Remove every part."""
        self.close()
        for path in self.parts():
            path.unlink()


def lines(records: Iterable[SampleRecord]) -> Iterator[dict[str, Any]]:
    """Records as plain mappings, as the scorers read them."""
    return (dataclasses.asdict(record) for record in records)
