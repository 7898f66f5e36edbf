"""The errors of the harness: one type per cause, under the library's root, each with advice."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from ..models.errors import SightlineError


class ConfigError(SightlineError, ValueError):
    """A setting that does not exist, has the wrong type or is out of range."""


class UsageError(SightlineError, ValueError):
    """A command line that cannot be understood."""


class UnknownTask(SightlineError, KeyError):
    """No task is registered under this name."""

    __str__ = Exception.__str__


class TaskCollision(SightlineError):
    """Two tasks ask for the same name."""


class DataError(SightlineError, ValueError):
    """The data of a task is missing, empty or contradicts itself."""


class TooFewObjects(DataError):
    """A data set, or one image of it, holds too few objects for the questions that a builder makes."""


class UnfitDecoder(SightlineError, ValueError):
    """A decoder that has no meaning for the answers of a task."""


class ImageError(SightlineError, ValueError):
    """One image cannot be used; costs its samples, not the run."""


class RunFolderError(SightlineError):
    """A run folder holds something else than what is to be written there, or is in use."""


class RecordError(SightlineError, ValueError):
    """A file of samples cannot be read."""


class IncompleteRun(SightlineError):
    """A run has not finished, so its scores would be of a part."""


class ScoreError(SightlineError, ValueError):
    """The samples of a run cannot be scored."""


class RunFailed(SightlineError, RuntimeError):
    """The model fails on everything it is asked; going on would only write errors."""


class DeviceLost(SightlineError, RuntimeError):
    """The GPU failed in a way that this process does not recover from; another one can go on."""


class WorkersLost(SightlineError, RuntimeError):
    """No worker of a cluster is left to go on with a run, or none could be started."""


class JobFailed(SightlineError, RuntimeError):
    """A job of a sweep could not be sent to where it should run, or ended there without a result."""


class MissingPackage(SightlineError, ImportError):
    """An optional package is needed and not installed."""


class DiskFull(SightlineError, RuntimeError):
    """What a run has found out cannot be written; what was written before is whole."""


def unknown(what: str, name: object, known: Iterable[str]) -> tuple[str, str]:
    """Problem and hint for a name that is not known.

    Returns:
        ("There is no WHAT 'NAME'.", "Did you mean 'X'? Known: X, Y.")
    """
    options = sorted(known)
    near = get_close_matches(str(name), options, n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return f"There is no {what} {str(name)!r}.", f"{guess}Known: {', '.join(options) or 'none'}."
