"""What a report says of how hyper-parameters were chosen: the leaderboard's own words, and what the runs show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .board import Section
from .errors import ReportError
from .headline import listed
from .text import clean

ABOUT = "leaderboard.json"
"""The file that a leaderboard leaves beside its runs."""


def about(folder: Path) -> str:
    """What the leaderboard that made these runs says of them; empty where none did.

    Raises:
        ReportError: there is such a file, and it cannot be read.
    """
    file = folder / ABOUT
    if not file.is_file():
        return ""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))["about"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ReportError(f"{ABOUT} cannot be read.", "Delete it, or make the leaderboard again.") from error
    return clean(held).strip()


def same_parameters(found: Sequence[Section]) -> str:
    """Whether decoders have the same parameters in all tasks; nothing for a single one."""
    if len(found) < 2:
        return ""
    settings: dict[str, list[set[str]]] = {}
    for section in found:
        held: dict[str, set[str]] = {}
        for run in section.runs:
            held.setdefault(run.title, set()).add(json.dumps(run.params, sort_keys=True))
        for title, params in held.items():
            settings.setdefault(title, []).append(params)
    differing = [title for title, sets in settings.items() if any(params != sets[0] for params in sets)]
    if not differing:
        return "Each decoder has the same parameters in every section of this page."
    return f"Parameters are not the same in every section of this page for {listed(differing, 'and')}."
