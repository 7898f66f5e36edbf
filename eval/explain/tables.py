"""An explanation as text, as JSON, and in the short form that pages carry."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import torch

from ...decoders.tracing import Chances
from ..listing import table
from ..report.text import clean, shorten
from .places import levels

if TYPE_CHECKING:
    from .explanation import Explanation, Step

SCHEMA = 1
LARGEST = 16
"""Rows and columns of a map in a page; finer ones are averaged."""
_WIDE = 24


def chance(value: float) -> str:
    """`53 %`, `0.4 %`, `<0.1 %`."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return "<0.1\u00a0%"
    return f"{percent:.1f}\u00a0%" if 0 < percent < 9.95 else f"{percent:.0f}\u00a0%"


def spoken(text: str) -> str:
    """A token between quotes, what cannot be seen made visible."""
    return f"\u201c{visible(text)}\u201d"


def visible(text: str, lines: bool = False) -> str:
    """Text with what cannot be seen, or reorders it, named; line breaks as arrows, or kept."""
    if lines:
        return "\n".join(map(clean, text.split("\n")))
    return clean(text.replace("\n", "\u21b5"))


def as_text(told: Explanation) -> str:
    """Every token with its probabilities, for a terminal."""
    images = any(step.trace.image_attention is not None for step in told.steps)
    gates = any(step.trace.gate is not None for step in told.steps)
    head = ["", "token", "base", *told.branches, "decoded", "kept", "entropy"]
    head += ["image"] * images + ["gate"] * gates + ["instead of"]
    rows = []
    for place, step in enumerate(told.steps, 1):
        trace, own = step.trace, step.chances
        cells = [str(place), shorten(spoken(step.text), _WIDE), chance(own.base), *map(chance, own.branches)]
        cells += ["-"] * (len(told.branches) - len(own.branches))
        cells += [chance(own.decoded), f"{trace.kept:,}", f"{trace.entropy:.2f}"]
        cells += [_share(trace.image_attention)] * images + [_gate(trace.gate)] * gates
        rows.append([*cells, instead_of(step)])
    head_lines = [f"{clean(told.title)} on {clean(told.model)}: {clean(told.answer.strip())}"]
    if told.plain is not None:
        head_lines.append(f"Greedy decoding: {clean(told.plain.strip())}")
    return "\n".join(head_lines) + "\n\n" + table(head, rows)


def instead_of(step: Step) -> str:
    """`“kite” 52 % to 0 %`: the ousted token, its probability in the base and in what was decoded from."""
    ousted = step.trace.ousted_chances
    if step.ousted is None or ousted is None:
        return ""
    return f"{shorten(spoken(step.ousted), _WIDE)} {chance(ousted.base)} to {chance(ousted.decoded)}"


def _share(value: float | None) -> str:
    return "-" if value is None else chance(value)


def _gate(value: bool | None) -> str:
    return "-" if value is None else "open" if value else "shut"


def as_json(told: Explanation) -> dict[str, Any]:
    """Everything but the image; probabilities with six significant digits, maps as levels of 0 to 255."""
    grid = told.grid
    return {
        "schema": SCHEMA,
        "model": told.model,
        "decoder": {"key": told.decoder, "title": told.title, "params": dict(told.params)},
        "prompt": told.prompt,
        "answer": told.answer,
        "greedy": told.plain,
        "branches": list(told.branches),
        "grid": None if grid is None else {"rows": grid.rows, "columns": grid.columns, "box": list(grid.box)},
        "steps": [_step(told, place) for place in range(len(told.steps))],
    }


def _step(told: Explanation, place: int) -> dict[str, Any]:
    step = told.steps[place]
    trace, shown = step.trace, told.attention_at(place)
    ousted = None
    if trace.ousted_chances is not None:
        ousted = {"token": trace.ousted, "text": step.ousted, **_chances(trace.ousted_chances)}
    return {
        "token": trace.token,
        "text": step.text,
        **_chances(step.chances),
        "entropy": _short(trace.entropy),
        "kept": trace.kept,
        "gate": trace.gate,
        "ousted": ousted,
        "image_attention": None if trace.image_attention is None else _short(trace.image_attention),
        "image_map": None if shown is None else levels(shown).tolist(),
        "numbers": {name: _short(value) for name, value in trace.numbers.items()},
    }


def _chances(held: Chances) -> dict[str, Any]:
    return {
        "base": _short(held.base),
        "branches": [_short(value) for value in held.branches],
        "decoded": _short(held.decoded),
    }


def as_data(told: Explanation) -> dict[str, Any]:
    """The short form: what `trace.js` draws. Texts are made visible here, so that a page shows them as they are."""
    grid = told.grid
    size = None if grid is None else (min(grid.rows, LARGEST), min(grid.columns, LARGEST))
    return {
        "b": [clean(name) for name in told.branches],
        "g": None if grid is None or size is None else [*size, *(round(edge, 4) for edge in grid.box)],
        "s": [_short_step(told, place, size) for place in range(len(told.steps))],
    }


def _short_step(told: Explanation, place: int, size: tuple[int, int] | None) -> list[Any]:
    step = told.steps[place]
    trace, shown = step.trace, told.attention_at(place)
    ousted = None
    if step.ousted is not None and trace.ousted_chances is not None:
        ousted = [visible(step.ousted), *_list(trace.ousted_chances)]
    picture = None
    if shown is not None and size is not None:
        small = torch.nn.functional.adaptive_avg_pool2d(shown.float()[None, None], size)[0, 0]
        picture = base64.b64encode(levels(small).numpy().tobytes()).decode()
    share = None if trace.image_attention is None else round(trace.image_attention, 4)
    return [
        visible(step.text),
        *_list(step.chances),
        round(trace.entropy, 2),
        trace.kept,
        ousted,
        trace.gate,
        share,
        picture,
    ]


def _list(held: Chances) -> list[Any]:
    return [round(held.base, 5), [round(value, 5) for value in held.branches], round(held.decoded, 5)]


def _short(value: float) -> float:
    return float(f"{value:.6g}")
