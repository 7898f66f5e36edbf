"""The matrix: every decoder x every family x every mode of `generate()`, and how each cell ended when it was last run.

The outcomes are data of the package (`matrix.json`), written by `make matrix`; nothing is run here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..decoders.registry import did_you_mean
from .errors import DataError, UsageError

FILE = Path(__file__).with_name("matrix.json")
SCHEMA = 1
KINDS = {
    "equal": "equal to what the mode is held against",
    "refused": "a declared error, before the first forward",
    "n/a": "there is no such prompt, or plain generate() has no such mode for the family",
    "needs": "the machine lacked something",
    "failed": "a promise did not hold",
}
"""How a cell may end; only the first four are promises kept."""
_MARKS = {"equal": "✓"}
_IMAGELESS = ("refused", "MissingImage")


@dataclass(frozen=True)
class Matrix:
    """How the cells ended.

    Attributes:
        date: of the run, ISO.
        command: that ran it.
        seconds: it took.
        versions: package -> version.
        decoders: keys; several that act together are joined by `+`.
        families: name -> the model's class.
        modes: key -> `title`, and `shows`, to what its cells are equal.
        outcomes: (kind, detail), numbered.
        cells: mode -> family -> number of the outcome of each decoder, in the order of `decoders`.
    """

    date: str
    command: str
    seconds: int
    versions: Mapping[str, str]
    decoders: Sequence[str]
    families: Mapping[str, str]
    modes: Mapping[str, Mapping[str, str]]
    outcomes: Sequence[tuple[str, str]]
    cells: Mapping[str, Mapping[str, Sequence[int]]]

    def outcome(self, decoder: str, family: str, mode: str) -> tuple[str, str]:
        """Kind and detail of a cell."""
        return self.outcomes[self.cells[mode][family][list(self.decoders).index(decoder)]]

    def idle(self, decoder: str, family: str) -> bool:
        """Whether the decoder contrasts images and the family has none, so that every cell is refused alike."""
        return all(self.outcome(decoder, family, mode) == _IMAGELESS for mode in self.modes)

    def counts(self) -> dict[str, int]:
        """Cells by how they ended."""
        numbers = [number for rows in self.cells.values() for row in rows.values() for number in row]
        kinds = [self.outcomes[number][0] for number in numbers]
        return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}


def load(file: Path = FILE) -> Matrix:
    """The matrix as it was last run.

    Raises:
        DataError: the file cannot be read, or is of another version.
    """
    try:
        held: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(file)!r} cannot be read: {error}.", "Run `make matrix`.") from error
    if held.pop("schema", None) != SCHEMA:
        raise DataError(f"{str(file)!r} is of another version.", "Run `make matrix`.")
    held.pop("counts", None)
    held["outcomes"] = [(kind, detail) for kind, detail in held["outcomes"]]
    return Matrix(**held)


def picked(known: Sequence[str] | Mapping[str, Any], asked: Sequence[str] | None, what: str) -> list[str]:
    """Those that were asked for, in the order of the matrix; all where none were.

    Raises:
        UsageError: there is no such one; names the nearest.
    """
    for name in asked or ():
        if name not in known:
            raise UsageError(
                f"The matrix has no {what} {name!r}.", f"{did_you_mean(name, known)}It has: {', '.join(known)}."
            )
    return [name for name in known if not asked or name in asked]


@dataclass(frozen=True)
class Table:
    """Modes down, families across.

    Attributes:
        header: of the columns.
        rows: a mode's title, and a mark for each family with the numbers of its notes.
        notes: what they say.
    """

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]


def tabled(
    matrix: Matrix,
    decoders: Sequence[str],
    families: Sequence[str],
    modes: Sequence[str],
    marks: Mapping[str, str] | None = None,
) -> Table:
    """Part of the matrix as a table.

    Args:
        marks: signs in place of kinds.
    """
    signs = marks or {}
    notes: dict[str, int] = {}

    def note(text: str) -> str:
        return f"[{notes.setdefault(text, len(notes) + 1)}]"

    def cell(family: str, mode: str) -> str:
        speaking = [decoder for decoder in decoders if not matrix.idle(decoder, family)] or decoders
        groups: dict[tuple[str, str], list[str]] = {}
        for decoder in speaking:
            kind, detail = matrix.outcome(decoder, family, mode)
            groups.setdefault((kind, "" if kind == "equal" else detail.partition(";")[0]), []).append(decoder)
        most = max(groups, key=lambda group: (group[0] == "failed", len(groups[group])))
        words = [signs.get(most[0], most[0])]
        for (kind, detail), those in groups.items():
            who = "" if len(groups) == 1 else f": {', '.join(those)}"
            if detail or (kind, detail) != most:
                words.append(note(f"{kind}{f' ({detail})' if detail else ''}{who}"))
        return " ".join(words)

    rows = [(matrix.modes[mode]["title"], *(cell(family, mode) for family in families)) for mode in modes]
    return Table(("mode", *families), rows, list(notes))


def markdown(matrix: Matrix) -> str:
    """The whole matrix as a page."""
    table = tabled(matrix, matrix.decoders, list(matrix.families), list(matrix.modes), _MARKS)
    counts, versions = matrix.counts(), ", ".join(f"{name} {version}" for name, version in matrix.versions.items())
    lines = [
        "# The matrix", "",
        "Every decoder x every family x every mode of `generate()`, run on small random models in float64.",
        f"Written by `{matrix.command}` on {matrix.date} in {matrix.seconds} s ({versions}); "
        f"`sightline matrix --decoder NAME` shows one decoder.", "",
        f"{sum(counts.values())} cells: {', '.join(f'{count} {kind}' for kind, count in counts.items())}.", "",
        *(f"* **{_MARKS.get(kind, kind)}** - {meaning}" for kind, meaning in KINDS.items() if kind in counts), "",
        "A cell stands for all decoders, those that contrast images left out where the family has none: there they are "
        "refused in every mode (`MissingImage`). Numbers are notes on decoders that differ.", "",
        f"| {' | '.join(table.header)} |", "|---" * len(table.header) + "|",
        *(f"| {' | '.join(row)} |" for row in table.rows), "",
        *(f"{number}. {text}" for number, text in enumerate(table.notes, 1)), "",
        "## What each mode is held against", "",
        "Runs are compared by their tokens and by the logits that led to them.", "",
        "| mode | equal to |", "|---|---|",
        *(f"| {mode['title']} | {mode['shows']} |" for mode in matrix.modes.values()), "",
        "Families: " + ", ".join(f"{name} (`{model}`)" for name, model in matrix.families.items()) + ".",
        "Decoders: " + ", ".join(f"`{name}`" for name in matrix.decoders) + ".",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
