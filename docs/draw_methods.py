# ruff: noqa: RUF001 (formulas are set with Greek letters)
"""Draws one picture per method into docs/images/methods: what each row of the forward sees and edits, and the law.

python docs/draw_methods.py
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

Look = Literal["clear", "noised", "part", "hidden", "text", "none", "shuffled"]
FOLDER = Path(__file__).parent / "images" / "methods"
INK, FAINT, EDIT, PROBE, PAPER = "#1f2937", "#9ca3af", "#b42318", "#1d4ed8", "#ffffff"
GRID = ("#f59e0b", "#10b981", "#6366f1", "#f3f4f6", "#ef4444", "#f3f4f6", "#14b8a6", "#f59e0b", "#f3f4f6")


@dataclass(frozen=True)
class Row:
    """One stream: how its evidence looks, what is marked on its decoder, what stands beside it.

    Attributes:
        name: of the stream.
        image: what of the image it sees; `none` for methods about texts.
        words: the prompt as a few words; those in brackets are left out.
        heads: `edited`, `read` or `biased` marks on the decoder's attention heads; empty for none.
        note: one short line under the decoder.
    """

    name: str
    image: Look
    words: str
    heads: str = ""
    note: str = ""


PICTURES: dict[str, tuple[str, tuple[Row, ...], str]] = {
    "vcd": (
        "VCD",
        (Row("base", "clear", "question"), Row("branch", "noised", "question", "", "the image, noised")),
        "(1 + α) l − α l′, where l ≥ log β + max l",
    ),
    "avc": (
        "AVC",
        (
            Row("base", "clear", "question", "read", "attention on the image is read once"),
            Row("branch", "part", "question", "", "blind image tokens alone"),
        ),
        "(1 + α) l − α l′, where l ≥ log β + max l",
    ),
    "iava": (
        "IAVA (reconstruction)",
        (
            Row("base", "clear", "question", "read", "attention under two instructions"),
            Row("branch", "part", "question", "", "irrelevant image tokens alone"),
        ),
        "(1 + α) l − α l′, where l ≥ log β + max l",
    ),
    "code": (
        "CODE",
        (
            Row("base", "clear", "question"),
            Row("branch", "text", "question", "", "the model's own description in its place"),
        ),
        "(1 + α) l − α d, α = 1 − D(p, q), where p ≥ D max p",
    ),
    "causalmm": (
        "CausalMM",
        (
            Row("base", "clear", "question"),
            Row("vision", "shuffled", "question", "", "maps of the tower replaced"),
            Row("language", "clear", "question", "edited", "maps of the decoder replaced"),
        ),
        "(1 + 2γ) l − γ l_v − γ l_t, where l ≥ log ε + max l",
    ),
    "cgvlm": (
        "CG-VLM",
        (
            Row("base", "clear", "question", "", "one of four coalitions"),
            Row("image alone", "clear", "[question]"),
            Row("text alone", "noised", "question"),
            Row("neither", "noised", "[question]"),
            Row("boosted twin", "clear", "question", "biased", "lifted image keys; taken where the gate is open"),
        ),
        "gate: variance of l_vp − l_v − l_p + l_0 over the K likeliest tokens > k",
    ),
    "decore": (
        "DeCoRe",
        (
            Row("base", "none", "context and question"),
            Row("branch", "none", "context and question", "edited", "retrieval heads disabled, from the last token on"),
        ),
        "(1 + α) log p − α log q, α = entropy of p",
    ),
    "hicd": (
        "HICD",
        (
            Row("base", "none", "context and question"),
            Row("branch", "none", "context and question", "edited", "inducing heads attend to all alike"),
        ),
        "(1 + α) log p − α log q",
    ),
    "dagcd": (
        "DAGCD",
        (Row("base", "none", "context and question", "read", "detector heads are read at each step"),),
        "p + α H(p) U, U: share of flagged tokens of the context",
    ),
    "cad": (
        "CAD",
        (Row("base", "none", "context and question"), Row("branch", "none", "[context and] question")),
        "(1 + α) l − α l′",
    ),
    "dola": (
        "DoLa",
        (Row("base", "none", "question", "exit", "an early layer's logits; the one that disagrees most"),),
        "log p − log p_early, where p ≥ β max p",
    ),
}


def text(x: float, y: float, words: str, *, size: int = 13, fill: str = INK, weight: int = 400) -> str:
    """A line of text with its left end at (x, y)."""
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" font-weight="{weight}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", radius: float = 3) -> str:
    """A rounded rectangle."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" fill="{fill}" stroke="{stroke}"/>'


def image(x: float, y: float, look: Look) -> str:
    """The image as nine cells, as this stream sees it; a description is three lines."""
    if look == "none":
        return ""
    if look == "text":
        lines = [box(x + 4, y + 8 + 11 * k, 34 - 8 * (k == 2), 4, EDIT) for k in range(3)]
        return box(x, y, 42, 42, PAPER, EDIT) + "".join(lines)
    cells = []
    for k, colour in enumerate(GRID if look != "shuffled" else GRID[4:] + GRID[:4]):
        seen = look != "part" or k in (1, 6)
        cells.append(box(x + 14 * (k % 3), y + 14 * (k // 3), 13, 13, colour if seen else "#e5e7eb"))
    if look == "noised":
        dots = ((25.38 * k % 40, 17.17 * k % 40) for k in range(90))
        cells += [
            box(round(x + a, 1), round(y + b, 1), 2.4, 2.4, INK if int(a + b) % 2 else PAPER, radius=0) for a, b in dots
        ]
    frame = EDIT if look != "clear" else FAINT
    return (
        "".join(cells) + f'<rect x="{x - 2}" y="{y - 2}" width="45" height="45" fill="none" stroke="{frame}" rx="3"/>'
    )


def decoder(x: float, y: float, heads: str) -> str:
    """Four layers of six heads; those that the method touches are marked."""
    touched = {
        "edited": {(1, 2), (2, 4), (3, 1)},
        "read": {(1, 2), (2, 4), (3, 1)},
        "biased": {(1, h) for h in range(6)},
    }
    marks = touched.get(heads, set())
    colour = PROBE if heads == "read" else EDIT
    parts = [box(x - 6, y - 4, 92, 50, "#f9fafb", FAINT, 5)]
    for layer in range(4):
        for head in range(6):
            mark = (layer, head) in marks or (heads == "biased" and layer == 2)
            parts.append(box(x + 14 * head, y + 11 * layer, 10, 7, colour if mark else "#d1d5db", radius=2))
    if heads == "exit":
        parts.append(f'<path d="M{x + 90} {y + 14} h26" stroke="{EDIT}" stroke-width="2" marker-end="url(#edit)"/>')
    return "".join(parts)


def bars(x: float, y: float, shift: int) -> str:
    """Next-token logits as six bars."""
    heights = (18, 30, 12, 24, 8, 15)
    turned = heights[shift:] + heights[:shift]
    return "".join(
        box(x + 8 * k, y + 40 - h, 6, h, INK if shift == 0 else EDIT, radius=1) for k, h in enumerate(turned)
    )


def draw(title: str, rows: tuple[Row, ...], law: str) -> str:
    """The whole picture as SVG; it scales with the page."""
    step, top, width = 74, 46, 720
    height = top + step * len(rows) + 44
    seen = "; ".join(f"{row.name}: {row.note or row.words}" for row in rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'font-family="system-ui, sans-serif">',
        f"<title>{escape(title)}</title><desc>{escape(seen)}. {escape(law)}</desc>",
        f'<defs><marker id="end" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0 6 3 0 6z" fill="{FAINT}"/></marker><marker id="edit" viewBox="0 0 6 6" refX="5" refY="3" '
        f'markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0 6 3 0 6z" fill="{EDIT}"/></marker></defs>',
        box(0.5, 0.5, width - 1, height - 1, PAPER, "#e5e7eb", 8),
        text(20, 28, title, size=16, weight=600),
    ]
    for index, row in enumerate(rows):
        y = top + step * index
        parts += [text(20, y + 27, row.name, fill=INK if index == 0 else EDIT, weight=600), image(140, y, row.image)]
        at = 200 if row.image != "none" else 140
        left, _, rest = row.words.partition("]")
        gone = left.removeprefix("[") if row.words.startswith("[") else ""
        kept = rest.strip() if gone else row.words
        if gone:
            parts.append(f'<g text-decoration="line-through">{text(at, y + 27, gone, fill=FAINT)}</g>')
        parts.append(text(at + (7.2 * len(gone) + 4 if gone else 0), y + 27, kept))
        parts.append(f'<path d="M322 {y + 22} h28" stroke="{FAINT}" stroke-width="2" marker-end="url(#end)"/>')
        parts += [decoder(366, y, row.heads), bars(480, y, 0 if index == 0 else index % 5 + 1)]
        for line, words in enumerate(_wrapped(row.note, 26)):
            parts.append(text(540, y + 18 + 16 * line, words, size=12, fill="#4b5563"))
    parts.append(text(20, height - 18, law, size=14, fill=PROBE, weight=600))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _wrapped(words: str, width: int) -> list[str]:
    lines = [""]
    for word in words.split():
        lines = [*lines[:-1], f"{lines[-1]} {word}".strip()] if len(lines[-1]) + len(word) < width else [*lines, word]
    return lines


def main() -> None:
    """Write every picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for key, picture in PICTURES.items():
        (FOLDER / f"{key}.svg").write_text(draw(*picture))


if __name__ == "__main__":
    main()
