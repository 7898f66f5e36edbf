"""The presets of papers in `conf/experiment/`, as a list for a terminal and as a table for docs/papers.md."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from .config import choices, conf_folder
from .errors import UsageError
from .listing import WIDTH, put_between
from .reported import SECTION, Reported, reported

PREFIX = "paper_"
BEGIN, END = "<!-- presets: written by `sightline presets --into docs/papers.md` -->", "<!-- end of presets -->"
"""The marks between which a Markdown file holds the table."""
_FEW = 5
"""Tables whose numbers are all shown."""


@dataclass(frozen=True)
class Preset:
    """One file.

    Attributes:
        name: the choice of the group `experiment`.
        choices: group -> choice.
        about: its first comment.
        paper: the numbers beside it.
    """

    name: str
    choices: dict[str, str]
    about: str
    paper: Reported

    @property
    def numbers(self) -> tuple[str, str]:
        """The measure that most rows have, and its numbers by decoder: `("accuracy of random", "vcd 87.73")`."""
        rows = self.paper.rows
        if not rows:
            return "-", "none"
        held = Counter(metric for row in rows for metric in row.values)
        metric = held.most_common(1)[0][0]
        tables = list(dict.fromkeys(row.table for row in rows if metric in row.values))
        shown = tables if len(tables) <= _FEW else tables[:_FEW]
        numbers = {(row.decoder, row.table): row.values.get(metric) for row in rows}
        found = []
        for decoder in self.paper.decoders:
            values = [numbers.get((decoder, name)) for name in shown]
            found.append(f"{decoder} {'/'.join('-' if value is None else f'{value:g}' for value in values)}")
        more = "" if shown == tables else f" and {len(tables) - len(shown)} more"
        return f"{metric} of {'/'.join(shown)}{more}", "; ".join(found)


def presets() -> list[Preset]:
    """All of them, by name."""
    return [_read(conf_folder() / "experiment" / f"{name}.yaml") for name in choices("experiment") if _is_paper(name)]


def as_text() -> str:
    """The list that `sightline presets` prints."""
    blocks = []
    for each in presets():
        measure, numbers = each.numbers
        below = [each.about, f"{measure}: {numbers}" if each.paper.rows else f"no number: {each.paper.missing}"]
        margin = " " * 4
        shown = (textwrap.fill(text, WIDTH, initial_indent=margin, subsequent_indent=margin) for text in below)
        blocks.append("\n".join([f"{each.name}  ({each.paper.paper})", *shown]) + "\n")
    how = "\nsightline run experiment=NAME task.data=... task.images=..., then sightline compare RUN --reported\n"
    return "".join(blocks) + how


def markdown() -> str:
    """The same as a Markdown table."""
    heads = ("`experiment=`", "model", "task, prompt, generation", "measure", "reported")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for each in presets():
        asked = ", ".join(f"`{each.choices[group]}`" for group in ("task", "prompt", "generation"))
        cells = (f"`{each.name}`", f"`{each.choices['model']}`", asked, *each.numbers)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def put(file: Path) -> None:
    """Write the table into a Markdown file, between its marks; raises as `put_between` does."""
    put_between(file, BEGIN, f"\n\n{markdown()}\n", END)


def _is_paper(name: str) -> bool:
    return name.startswith(PREFIX)


def _read(file: Path) -> Preset:
    held: Any = OmegaConf.to_container(OmegaConf.load(file))
    chosen = {str(key).rpartition("/")[2]: str(choice) for entry in held["defaults"] for key, choice in entry.items()}
    comments = [line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
    found = reported(held[SECTION])
    if found is None:
        raise UsageError(f"{file.name} holds no numbers of a paper.")
    return Preset(file.stem, chosen, _sentence(comments[1:]), found)


def _sentence(comments: Sequence[str]) -> str:
    return " ".join(line.removeprefix("# ") for line in comments).partition(" Needs ")[0]
