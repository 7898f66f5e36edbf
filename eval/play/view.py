"""Answers as HTML that is safe to put into the page, whatever a model says."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

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
            "odds": f"base {chance(step.chances.base)} against {chance(other.base)}, "
            f"decoded from {chance(step.chances.decoded)} against {chance(other.decoded)}",
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
