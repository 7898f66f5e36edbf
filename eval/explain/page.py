"""The page of an explanation: answer, reasons, attention on the image, and a table of every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from .. import pages
from ..report.text import clean, parameters
from .tables import as_data, chance, instead_of, visible

if TYPE_CHECKING:
    from .explanation import Explanation

STYLES = ("report/palette.css", "report/report.css", "explain/trace.css", "explain/explain.css")
SCRIPTS = ("explain/trace.js", "explain/explain.js")
SIDE = 640
"""Pixels of the longer side of the image in the page."""
SMALL = 200
"""Images below this are shown with their pixels sharp."""


@dataclass(frozen=True)
class Row:
    """One token of the table."""

    token: str
    cells: tuple[str, ...]
    ousted: str
    changed: bool


def as_page(told: Explanation) -> str:
    """The page as HTML."""
    image = told.image
    facts = [("Model", told.model), ("Decoder", told.title), ("Parameters", parameters(dict(told.params)))]
    facts += [("Tokens", f"{len(told.steps):,}"), ("Not the base's likeliest", f"{len(told.changed):,}")]
    heads, rows = rows_of(told)
    return pages.render(
        pages.environment(),
        "explain/explain.html",
        STYLES,
        SCRIPTS,
        title=clean(told.title),
        headline=headline(told),
        facts=[(name, clean(value)) for name, value in facts if value],
        image=None if image is None else thumbnail(image, SIDE),
        small=image is not None and max(image.size) < SMALL,
        prompt=visible(told.prompt, lines=True).strip(),
        answer=visible(told.answer, lines=True).strip(),
        plain=None if told.plain is None else visible(told.plain, lines=True).strip(),
        heads=heads,
        rows=rows,
        data=pages.data({"trace": as_data(told), "name": clean(told.title)}),
    )


def headline(told: Explanation) -> str:
    """What the decoder did, in a sentence."""
    changed, count = len(told.changed), len(told.steps)
    tokens = f"{count:,} token{'' if count == 1 else 's'}"
    if told.decoder == "greedy":
        return f"Greedy decoding chose {tokens}"
    what = f"{clean(told.title)} went against the base at {changed:,} of {tokens}"
    if told.plain is None:
        return what
    return what + (
        ", and the answer is greedy\u2019s" if told.plain == told.answer else ", and the answer is another one"
    )


def thumbnail(image: Image.Image, side: int) -> str:
    """The image as the address of itself, at most `side` pixels wide and high: small ones as they are."""
    if max(image.size) <= SMALL:
        return pages.data_uri(image.convert("RGB"), "PNG", optimize=True)
    shown = image.convert("RGB")
    shown.thumbnail((side, side), Image.Resampling.LANCZOS)
    return pages.data_uri(shown, "JPEG", quality=82)


def rows_of(told: Explanation) -> tuple[list[str], list[Row]]:
    """The headings of a table of all tokens, and its rows."""
    images = any(step.trace.image_attention is not None for step in told.steps)
    gates = any(step.trace.gate is not None for step in told.steps)
    names = sorted({name for step in told.steps for name in step.trace.numbers})
    heads = ["Base", *(clean(name).capitalize() for name in told.branches), "Decoded", "Kept", "Entropy"]
    heads += ["On the image"] * images + ["Gate"] * gates + [clean(name) for name in names] + ["Instead of"]
    rows = []
    for step in told.steps:
        trace, own = step.trace, step.chances
        cells = [chance(own.base), *map(chance, own.branches), *["\u2013"] * (len(told.branches) - len(own.branches))]
        cells += [chance(own.decoded), f"{trace.kept:,}", f"{trace.entropy:.2f}"]
        cells += [chance(trace.image_attention or 0.0)] * images
        cells += ["\u2013" if trace.gate is None else "open" if trace.gate else "shut"] * gates
        cells += [f"{trace.numbers[name]:.3g}" if name in trace.numbers else "\u2013" for name in names]
        rows.append(Row(visible(step.text), tuple(cells), instead_of(step), step.ousted is not None))
    return heads, rows
