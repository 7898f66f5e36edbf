"""A run folder: new, resumed or refused, but never two runs in one."""

from __future__ import annotations

import importlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import DiskFull, RunFolderError
from .manifest import FILE, differences
from .records import SampleFiles, halved, write_atomic, write_json

METRICS = "metrics.json"
SUMMARY = "timings/summary.json"
_LOCK = ".lock"
_SHAPE = {
    **dict.fromkeys(("task.name", "model.name", "decoder.key", "decoder.kind", "scorer.name", "scorer.parser"), str),
    **dict.fromkeys(("task", "task.options", "decoder.params", "generation"), dict),
    **dict.fromkeys(("task.version", "n_samples"), int),
    **dict.fromkeys(("limit", "seed"), int | None),
    "margin_words": dict | None,
}
"""Fields of a manifest that are read again, and their kinds."""
LONGEST_NAME = 200
"""Bytes of a task's name, which files are named after."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a run folder.

    Raises:
        RunFolderError: the file is missing, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        # what is read is written again: no NaN, no numbers that became infinite, no lone surrogates
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except FileNotFoundError:
        raise RunFolderError(
            f"There is no {path.name} in {str(path.parent)!r}.", "Is it a run folder? `sightline run` makes them."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{str(path)!r} cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise RunFolderError(f"{str(path)!r} does not hold a JSON object.")
    return value


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a run folder, with all that scores and comparisons read of it.

    Raises:
        RunFolderError: there is none, or something is missing or of another kind.
    """
    held = read_json(folder / FILE)
    for path, kind in _SHAPE.items():
        value: Any = held
        for name in path.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, kind) or (path == "task.name" and not _is_file_name(str(value))):
            raise RunFolderError(
                f"{FILE} in {str(folder)!r} has {str(value)[:60]!r} as {path}.",
                "It is not as `sightline run` writes it. Run it again with run.resume=false.",
            )
    return held


def _is_file_name(text: str) -> bool:
    return Path(text).name == text and len(text.encode()) <= LONGEST_NAME


class RunFolder:
    """A folder in which one run is written.

    Args:
        path: the folder; made if need be.
        task: name of the task.
    """

    def __init__(self, path: Path, task: str):
        self.path = path
        self.samples = SampleFiles(path / "samples", task)

    def claim(self, same: Mapping[str, Any], resume: bool) -> dict[str, Any] | None:
        """Check that this run may be written here.

        Args:
            same: the identity of the run.
            resume: whether to go on with an unfinished run; otherwise what a run wrote here is removed.

        Returns:
            The manifest that is there, or None for a fresh folder.

        Raises:
            RunFolderError: the folder holds another run, or samples without a manifest.
        """
        if not resume:
            self._clear()
        if not (self.path / FILE).is_file():
            if self.samples.final.exists() or self.samples.parts():
                raise RunFolderError(
                    f"{str(self.path)!r} holds samples, but no manifest says what they are of.",
                    "Choose another run.dir, or start afresh with run.resume=false.",
                )
            return None
        held = read_json(self.path / FILE)
        found = differences(held, same)
        if found:
            more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
            raise RunFolderError(
                f"{str(self.path)!r} holds another run: {'; '.join(found[:3])}{more}.",
                "Choose another run.dir, or replace that run with run.resume=false.",
            )
        return held

    def write(self, manifest: Mapping[str, Any], config: str | None = None) -> None:
        """Write the manifest, and the resolved configuration as YAML."""
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / FILE, manifest)
            if config is not None:
                write_atomic(self.path / "config.yaml", config)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns an error of writing into one that says what to do.

        Raises:
            DiskFull: something cannot be written; what was written before is whole, and a rerun goes on from there.
        """
        try:
            yield
        except OSError as error:
            raise DiskFull(
                f"Cannot write to {str(self.path)!r}: {error.strerror or error}.",
                "What is answered is kept. Make room (or mend what is in the way), and run the same command again.",
            ) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this machine out while the run is written.

        Raises:
            RunFolderError: another process is writing here, or the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stream = (self.path / _LOCK).open("w")
        except OSError as error:
            raise RunFolderError(f"Cannot write to {str(self.path)!r}: {error}.", "Choose another run.dir.") from error
        with stream:
            fcntl = _fcntl()
            if fcntl is not None:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not os.path.samestat(os.fstat(stream.fileno()), (self.path / _LOCK).stat()):
                        raise OSError("it was taken away by the process that has just finished")
                except OSError as error:
                    raise RunFolderError(
                        f"Another process is writing to {str(self.path)!r}.", "Wait for it, or choose another run.dir."
                    ) from error
            try:
                yield
            finally:
                with suppress(OSError):
                    (self.path / _LOCK).unlink()

    def _clear(self) -> None:
        """Remove what a run writes, and nothing else."""
        self.samples.discard_parts()
        timings = sorted((self.path / "timings").glob("attempt-*.json"))
        for path in (self.samples.final, self.path / METRICS, self.path / SUMMARY, self.path / FILE, *timings):
            path.unlink(missing_ok=True)
            halved(path).unlink(missing_ok=True)


def is_complete(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is of a run that finished."""
    return manifest.get("status") == "complete"


def command_line(command: Sequence[str]) -> str:
    """The command as it is typed in a shell."""
    return shlex.join(command)


def _fcntl() -> Any:
    """The module that locks files, where the system has it."""
    try:
        return importlib.import_module("fcntl")
    except ImportError:
        return None
