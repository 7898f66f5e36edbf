"""Reading the user's own JSON lines: whole files, and errors that name the line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import CalibrationInvalid, CalibrationMissing

T = TypeVar("T")


def read_lines(path: str | Path, read: Callable[[Mapping[str, Any]], T | None], example: str, must: str) -> list[T]:
    """What `read` makes of each line; blank lines are skipped.

    Args:
        path: of the file.
        read: from a JSON object to a value; None where it does not hold what it should.
        example: a line as it should be.
        must: what a line must have.

    Raises:
        CalibrationMissing: there is no such file.
        CalibrationInvalid: it holds nothing, or a line says something else; names the line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise CalibrationMissing(f"There is no file {str(path)!r}.", f"Give JSON lines such as {example}.") from error
    except (OSError, ValueError) as error:
        raise CalibrationInvalid(f"{str(path)!r} cannot be read: {error}.") from error
    found: list[T] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            found.append(_read(line, read, f"{path}, line {number}", must))
    if not found:
        raise CalibrationInvalid(f"{str(path)!r} is empty.", f"Give JSON lines such as {example}.")
    return found


def _read(line: str, read: Callable[[Mapping[str, Any]], T | None], where: str, must: str) -> T:
    try:
        held = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CalibrationInvalid(f"{where} is no JSON: {error}.") from error
    made = read(held) if isinstance(held, dict) else None
    if made is None:
        raise CalibrationInvalid(f"{where} must have {must}.")
    return made
