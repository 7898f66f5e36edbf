"""Reading and writing calibration files: JSON, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import CalibrationInvalid, CalibrationMissing


def read(path: str | Path) -> Any:
    """What a calibration file holds.

    Raises:
        CalibrationMissing: there is no such file.
        CalibrationInvalid: it cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CalibrationMissing(
            f"There is no calibration file {str(path)!r}.", "Make it: sightline calibrate model=... what=... out=FILE."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationInvalid(f"{str(path)!r} is no calibration file: {error}.") from error


def write(path: str | Path, text: str) -> Path:
    """Write a file in one go; its folder is made. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path
