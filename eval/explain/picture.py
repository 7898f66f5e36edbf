"""The picture of an explanation: a row for each token, with its probabilities and what it looked at."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from ..report.text import clean, parameters, shorten
from .drawing import Box, Drawing, Picture, Role, Text
from .places import lit
from .tables import chance, spoken

if TYPE_CHECKING:
    from ...decoders.tracing import Chances
    from .explanation import Explanation

WIDTH, MARGIN, LINE, THUMB = 920, 28, 20, 56
HEADER, LETTERS, NAMES = 128, 88, 54
_TOKEN, _BARS, _LOOKED = 64, 400, 792
_LONGEST = 250
_MOST = 200
"""Tokens that a picture shows."""


def draw(told: Explanation) -> Drawing:
    """The picture: answer and greedy's, the image with the mean attention on it, then token by token."""
    title = f"{clean(told.title)} on {clean(told.model)}, token by token"
    made = Drawing(WIDTH, 0, title, f"Answer: {clean(told.answer.strip())}")
    y = _header(told, made)
    for place in range(min(len(told.steps), _MOST)):
        made.marks.append(Box(MARGIN, y, WIDTH - 2 * MARGIN, 1, "rule"))
        y = _row(told, place, made, y)
    if len(told.steps) > _MOST:
        made.marks.append(Text(MARGIN, y + LINE, f"and {len(told.steps) - _MOST:,} tokens more", role="soft"))
        y += 2 * LINE
    made.height = y + MARGIN // 2
    return made


def _header(told: Explanation, made: Drawing) -> int:
    y, x = MARGIN, MARGIN
    if told.image is not None:
        shown = told.image if told.attention is None or told.grid is None else None
        if shown is None and told.grid is not None and told.attention is not None:
            shown = lit(told.image, told.grid, told.attention, HEADER * 2)
        assert shown is not None
        scale = HEADER / max(shown.size)
        width, height = shown.width * scale, shown.height * scale
        made.marks.append(Picture(x, y, width, height, shown))
        x += HEADER + 20
    text = [Text(x, y + 18, f"{clean(told.title)} on {clean(told.model)}", 20, bold=True)]
    settings = shorten(clean(parameters(dict(told.params))), LETTERS)
    greedy = [f"Greedy: {line}" if not at else line for at, line in enumerate(_wrapped(told.plain or "", 3))]
    blocks: list[tuple[Role, list[str]]] = [
        ("soft", [settings] if settings else []),
        ("soft", _wrapped(told.prompt, 2)),
        ("ink", _wrapped(told.answer, 4)),
        ("soft", greedy),
    ]
    lines: list[tuple[str, Role]] = [(line, role) for role, block in blocks for line in block]
    text += [Text(x, y + 42 + LINE * at, line, 14, role) for at, (line, role) in enumerate(lines)]
    made.marks += text
    bottom = max(y + (HEADER if told.image is not None else 0), round(text[-1].y)) + 24
    names = textwrap.wrap(f"probability: {', '.join(('base', *map(clean, told.branches), 'decoded'))}", NAMES)
    made.marks.append(Text(MARGIN, bottom, "chosen token", 12, "soft"))
    made.marks += [Text(_BARS, bottom + 15 * at, line, 12, "soft") for at, line in enumerate(names)]
    if any(step.trace.image_attention is not None for step in told.steps):
        made.marks.append(Text(WIDTH - MARGIN, bottom, "looked at", 12, "soft", right=True))
    return bottom + 15 * (len(names) - 1) + 8


def _wrapped(text: str, most: int) -> list[str]:
    lines = textwrap.wrap(clean(text.strip()), LETTERS)
    return lines if len(lines) <= most else [*lines[: most - 1], shorten(lines[most - 1] + "\u2026\u2026", LETTERS)]


def _row(told: Explanation, place: int, made: Drawing, y: int) -> int:
    step = told.steps[place]
    trace = step.trace
    changed = step.ousted is not None
    made.marks.append(Text(MARGIN, y + 20, str(place + 1), 12, "soft"))
    made.marks.append(Text(_TOKEN, y + 20, shorten(spoken(step.text), 26), 15, bold=changed))
    below = _bars(step.chances, made, _BARS, y + 8, "accent")
    if step.ousted is not None and trace.ousted_chances is not None:
        made.marks.append(Text(_TOKEN, below + 14, f"instead of {shorten(spoken(step.ousted), 26)}", 13, "bad"))
        below = _bars(trace.ousted_chances, made, _BARS, below + 3, "bad")
    notes = [f"{trace.kept:,} kept", f"entropy {trace.entropy:.2f}"]
    notes += [] if trace.gate is None else ["gate open" if trace.gate else "gate shut"]
    made.marks.append(Text(_TOKEN, max(below, y + 40) - 2 if not changed else below, ", ".join(notes), 12, "soft"))
    return max(_looked(told, place, made, y), below + 8, y + 46)


def _bars(held: Chances, made: Drawing, x: float, y: int, role: Role) -> int:
    """Bars one below the other, the last one what was decoded from; where they end."""
    for at, value in enumerate((held.base, *held.branches, held.decoded)):
        last = at == 1 + len(held.branches)
        made.marks.append(Box(x, y, max(1.0, value * _LONGEST), 9, role if last else "control"))
        made.marks.append(
            Text(x + value * _LONGEST + 6, y + 9, chance(value), 11, "ink" if last else "soft", bold=last)
        )
        y += 13
    return y


def _looked(told: Explanation, place: int, made: Drawing, y: int) -> int:
    """Attention on the image: the image where it has places, and the share in any case; where it ends."""
    share, shown = told.steps[place].trace.image_attention, told.attention_at(place)
    if share is None:
        return y
    if told.image is None or told.grid is None or shown is None:
        made.marks.append(Text(WIDTH - MARGIN, y + 20, chance(share), 12, "soft", right=True))
        return y + 30
    small = lit(told.image, told.grid, shown, THUMB)
    made.marks.append(Picture(WIDTH - MARGIN - small.width, y + 6, small.width, small.height, small))
    made.marks.append(Text(WIDTH - MARGIN - THUMB - 8, y + 20, chance(share), 12, "soft", right=True))
    return y + THUMB + 12
