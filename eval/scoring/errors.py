"""The error of the scoring layer, and the one kind of it that is told apart."""

import difflib
from collections.abc import Iterable


class ScoringError(ValueError):
    """Answers that cannot be scored honestly: what is wrong, then what to do about it.

    Args:
        problem: One sentence that names the record or the argument at fault and quotes its value.
        advice: One sentence that says how to get a score.
    """

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem} {advice}")
        self.problem = problem
        self.advice = advice


class WordsMissing(ScoringError):
    """A dialect of captions needs a library or data that are not installed: no fault of what is read."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> ScoringError:
    """The error for a name outside a closed list; it names the nearest spelling and the whole list."""
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return ScoringError(f"Unknown {kind} {name!r}.", f"{guess}Known: {', '.join(names)}.")
