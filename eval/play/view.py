"""Answers as HTML that is safe to put into the page, whatever a model says."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from ...decoders.tracing import Chances
from .. import pages
from ..explain.page import rows_of
from ..explain.picture import draw
from ..explain.tables import chance, spoken, visible
from .stage import Said

_BRACES = {ord(character): f"&#{ord(character)};" for character in "{}$`"}
"""What the page's own templates would read."""
_STATES = {"waiting": "waits", "speaking": "speaks", "done": "done", "failed": "failed"}


def answers(said: Sequence[Said]) -> str:
    """All answers side by side, with the trace of those that are done."""
    made = pages.environment()
    text = made.get_template("play/answers.html").render(
        answers=[_answer(each) for each in said],
        speaking=next((each.title for each in said if each.state == "speaking"), ""),
        finished=all(each.state in ("done", "failed") for each in said),
    )
    return text.translate(_BRACES)


def problem(message: str) -> str:
    """What went wrong before any answer."""
    made = pages.environment()
    return made.get_template("play/problem.html").render(message=visible(message)).translate(_BRACES)


def styles() -> str:
    """The style sheet of the answers."""
    made = pages.environment()
    assert made.loader is not None
    return made.loader.get_source(made, "play/play.css")[0]


def _odds(branches: Sequence[str], own: Chances, other: Chances) -> str:
    """`base 10 % against 90 %, noised 1.2 % against 99 %, decoded from 99 % against 0.9 %`."""
    names = ("base", *branches[: len(own.branches)], "decoded from")
    pairs = zip((own.base, *own.branches, own.decoded), (other.base, *other.branches, other.decoded), strict=True)
    return ", ".join(f"{name} {chance(a)} against {chance(b)}" for name, (a, b) in zip(names, pairs, strict=True))


def _answer(said: Said) -> dict[str, Any]:
    told = said.told
    found: dict[str, Any] = {
        "title": visible(said.title),
        "state": said.state,
        "word": _STATES[said.state],
        "text": visible(said.text, lines=True).strip(),
        "problem": visible(said.problem),
        "told": told is not None,
    }
    if told is None:
        return found
    drawn = draw(told).svg()
    heads, rows = rows_of(told)
    changes = [
        {
            "token": spoken(step.text),
            "ousted": spoken(step.ousted or ""),
            "odds": _odds(told.branches, step.chances, other),
        }
        for step in told.changed
        if (other := step.trace.ousted_chances) is not None
    ]
    return found | {
        "picture": "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode(),
        "tokens": len(told.steps),
        "changes": changes,
        "heads": heads,
        "rows": rows,
    }
