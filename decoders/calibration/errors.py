"""The errors of calibration files and of measuring them."""

from __future__ import annotations

from ...models.errors import SightlineError


class CalibrationMissing(SightlineError, FileNotFoundError):
    """A strategy needs a measurement of the model, and there is none."""

    __str__ = Exception.__str__


class CalibrationInvalid(SightlineError, ValueError):
    """A calibration file cannot be read, or says something impossible."""


class CalibrationMismatch(SightlineError, ValueError):
    """A calibration was made on another model than the one it is used with."""


class CalibrationFailed(SightlineError, RuntimeError):
    """The measurement found nothing to go by."""
