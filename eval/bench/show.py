"""What was measured, as a table, as JSON and as a drawing."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from ..listing import table
from ..report.chart import nice_ticks
from .analytic import Predicted
from .measure import Spread, Timed, ratios, spread
from .subject import Subject

HEADER = (
    "", "ms/token", "x greedy", "first token, ms", "x greedy", "forwards", "rows", "prefill tokens", "images", "MB",
)  # fmt: skip
PREDICTED = (
    "", "ms/token", "x greedy", "first token, ms", "x greedy", "one word, x greedy", "forwards", "rows",
    "prefill tokens", "x memory",
)  # fmt: skip
WIDTH, LEFT, RIGHT, ROW, TOP, AXIS = 860, 190, 90, 34, 44, 46
"""Sizes of the drawing in pixels: whole, margins, height of a row, head and foot."""


def measured(found: Sequence[Timed]) -> str:
    """The table of a run; ratios are medians over rounds, quartiles in brackets."""
    rows = []
    for timed in found:
        counts, memory = timed.counts, spread(timed, "memory")
        rows.append((
            timed.name, _ms(spread(timed, "each")), _times(ratios(timed, found[0], "each")),
            _ms(spread(timed, "first")), _times(ratios(timed, found[0], "first")),
            _number(counts["forwards_per_token"]), _number(counts["rows_per_token"]),
            f"{counts['prefill_tokens']} in {counts['prefill_forwards']}", str(counts["image_encodes"]),
            "-" if memory is None else f"{memory.median:.0f}",
        ))  # fmt: skip
    once = [f"{t.name}: {t.once['forwards']:.0f} forwards, {t.once['seconds'] * 1e3:.0f} ms" for t in found if t.once]
    note = f"\nonce per image, not in the table: {'; '.join(once)}\n" if once else ""
    return table(HEADER, rows) + note


def counted(found: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The table without times."""
    rows = [
        (
            name, str(counts["prefill_forwards"]), str(counts["prefill_tokens"]), str(counts["image_encodes"]),
            _number(counts["forwards_per_token"]), _number(counts["rows_per_token"]),
        )
        for name, counts in found
    ]  # fmt: skip
    return table(("", "prefill forwards", "prefill tokens", "images", "forwards per token", "rows per token"), rows)


def predicted(found: Sequence[Predicted]) -> str:
    """The table of the analytic mode."""
    rows = []
    for each, to_greedy in zip(found, ratios_of(found), strict=True):
        rows.append((
            each.name, f"{each.token * 1e3:.2f}", f"{to_greedy['token']:.3f}", f"{each.first * 1e3:.1f}",
            f"{to_greedy['first']:.2f}", f"{to_greedy['word']:.2f}",
            _number(each.counts["forwards_per_token"]),
            _number(each.counts["rows_per_token"]),
            f"{each.counts['prefill_tokens']} in {each.counts['prefill_forwards']}", f"{to_greedy['memory']:.3f}",
        ))  # fmt: skip
    return table(PREDICTED, rows)


def ratios_of(found: Sequence[Predicted]) -> list[dict[str, Any]]:
    """Each contender's prices over the first one's: a later token, the first, a one-word answer (both), memory."""
    base = found[0]
    return [
        {
            "name": each.name,
            "counts": dict(each.counts),
            "token": each.token / base.token,
            "first": each.first / base.first,
            "word": (each.first + each.token) / (base.first + base.token),
            "memory": each.memory / base.memory,
        }
        for each in found
    ]


def markdown(text: str) -> str:
    """A table of ours as Markdown: columns are told apart by two spaces or more."""
    lines = text.split("\n\n", 1)[0].splitlines()
    starts = _starts(lines)
    cells = [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines]
    head, *rows = (f"| {' | '.join(line)} |" for line in cells)
    return "\n".join([head, "|---" * len(starts) + "|", *rows]) + "\n"


def _starts(lines: Sequence[str]) -> list[int]:
    """Columns of text at which a column of the table begins: behind two places that are blank in every line."""
    width = max(map(len, lines))
    blank = [all(line[place : place + 1] in ("", " ") for line in lines) for place in range(width)]
    return [0, *(place for place in range(2, width) if blank[place - 1] and blank[place - 2] and not blank[place])]


def machine(device: torch.device) -> dict[str, Any]:
    """What it was measured on."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else "CPU"


def as_json(found: Sequence[Timed], subject: Subject, command: Sequence[str]) -> dict[str, Any]:
    """Everything: settings, machine, each round of each contender, and what the table shows."""
    model = subject.loaded.model
    return {
        "schema": 1,
        "command": list(command),
        "model": {
            "name": subject.loaded.name,
            "source": subject.loaded.source,
            "dtype": str(model.dtype).removeprefix("torch."),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        "machine": machine(model.device),
        "shape": {**dataclasses.asdict(subject.shape), "prompt_columns": subject.inputs["input_ids"].shape[1]},
        "contenders": [
            {
                "name": timed.name,
                "counts": timed.counts,
                "once_per_image": timed.once,
                "ms_per_token": _scaled(spread(timed, "each")),
                "ms_to_first": _scaled(spread(timed, "first")),
                "per_token_to_greedy": _scaled(ratios(timed, found[0], "each"), 1),
                "first_to_greedy": _scaled(ratios(timed, found[0], "first"), 1),
                "memory_mb": _scaled(spread(timed, "memory"), 1),
                "rounds": [dataclasses.asdict(each) for each in timed.rounds],
            }
            for timed in found
        ],
    }


def drawing(found: Sequence[Timed], title: str) -> str:
    """An SVG: each contender's time for a token as a multiple of greedy's, quartiles as a line."""
    shown = [(timed.name, value) for timed in found if (value := ratios(timed, found[0], "each")) is not None]
    most = max((value.high for _, value in shown), default=1.0)
    ticks = nice_ticks(0.0, most * 1.05, 7)
    top = max(ticks[-1], most * 1.05)
    height = TOP + ROW * len(shown) + AXIS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13" role="img"><title>{html.escape(title)}</title>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="16" y="24" font-weight="600">{html.escape(title)}</text>',
    ]

    def at(value: float) -> float:
        return round(LEFT + value / top * (WIDTH - LEFT - RIGHT), 1)

    foot = TOP + ROW * len(shown)
    for tick in ticks:
        stroke = "#444" if abs(tick - 1) < 1e-9 else "#ddd"
        parts.append(f'<line x1="{at(tick)}" x2="{at(tick)}" y1="{TOP}" y2="{foot}" stroke="{stroke}"/>')
        parts.append(f'<text x="{at(tick)}" y="{foot + 18}" text-anchor="middle" fill="#555">{tick:g}</text>')
    middle = at(top / 2)
    parts.append(
        f'<text x="{middle}" y="{foot + 38}" text-anchor="middle" fill="#555">time for a token, greedy = 1</text>'
    )
    for place, (name, value) in enumerate(shown):
        y = TOP + ROW * place + ROW / 2
        fill = "#888" if place == 0 or name.startswith(("naive", "guidance")) else "#1f6feb"
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{html.escape(name)}</text>')
        parts.append(f'<rect x="{LEFT}" y="{y - 8}" width="{at(value.median) - LEFT:.1f}" height="16" fill="{fill}"/>')
        parts.append(f'<line x1="{at(value.low)}" x2="{at(value.high)}" y1="{y}" y2="{y}" stroke="#111"/>')
        parts.append(f'<text x="{at(value.high) + 8}" y="{y + 4}">{value.median:.2f}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _ms(value: Spread | None) -> str:
    if value is None:
        return "-"
    middle, low, high = (f"{each:.0f}" if each >= 1000 else f"{each:.3g}"
                         for each in (1e3 * value.median, 1e3 * value.low, 1e3 * value.high))  # fmt: skip
    return f"{middle} [{low}, {high}]"


def _times(value: Spread | None) -> str:
    return "-" if value is None else f"{value.median:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}".rstrip("0").rstrip(".")


def _scaled(value: Spread | None, by: float = 1e3) -> dict[str, float] | None:
    if value is None:
        return None
    return {name: round(each * by, 5) for name, each in dataclasses.asdict(value).items()}
