"""Readable lists of what there is: models, decoders, tasks; and the decoders as the support matrix of the README."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from .. import decoders
from ..decoders import Strategy
from ..models import FAMILIES
from .config import choices, conf_folder
from .errors import UsageError
from .matrix import Matrix, load, picked, tabled
from .records import write_atomic
from .tasks import registry as tasks

if TYPE_CHECKING:
    from .tune import Candidate

_WIDE = 24
"""Characters of a text that are shown."""
WIDTH = 100
"""Columns of a terminal that lists keep to."""
BEGIN, END = "<!-- decoders: written by `make readme` -->", "<!-- end of decoders -->"
"""The marks between which a Markdown file holds the table of decoders."""
GROUPS = {
    "LLaVA": {"llava", "llava_next", "llava_onevision"},
    "InstructBLIP": {"instructblip"},
    "Qwen-VL": {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"},
    "PaliGemma": {"paligemma"},
    "other image-text models": set[str](),
    "text models": {"llama", "qwen3", "mistral_window"},
}
"""Families of the matrix under the headings of the README; the empty set holds those that no other names."""
_NAMED = set[str]().union(*GROUPS.values())
NEEDS = ("image", "context", "attention", "processor")
CAPABILITIES = ("kind", *NEEDS, "branches", "generation", "calibrates")


def models() -> str:
    """The models of `conf/model`, and the families that are served."""
    rows, below = [], []
    for name in choices("model"):
        file = conf_folder() / "model" / f"{name}.yaml"
        fields: Any = OmegaConf.load(file)
        rows.append((name, str(fields.path or "model.path=..."), str(fields.dtype)))
        below.append([file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")])
    families = ", ".join(sorted(FAMILIES))
    served = textwrap.fill(f"Image-text families served: {families}.", WIDTH, break_on_hyphens=False)
    return _blocks(("model", "path", "dtype"), rows, below) + (
        f"\n{served}\nOther image-text models of transformers: as far as they show their parts (docs/models.md).\n"
        "Text models: any decoder-only model of transformers.\n"
    )


def capabilities(cls: type[Strategy]) -> dict[str, str]:
    """What a decoder needs and does, by the names of `CAPABILITIES`; `-` for nothing."""
    needs = {
        "image": cls.needs_image,
        "context": cls.needs_context,
        "attention": cls.needs_attention,
        "processor": cls.needs_processor,
    }
    return {
        "kind": cls.kind,
        **{name: "yes" if needed else "-" for name, needed in needs.items()},
        "branches": str(cls.max_branches or "-"),
        "generation": cls.mode or "any",
        "calibrates": cls.calibrates or "-",
    }


def strategies() -> str:
    """Every decoder of the registry with its capabilities; what it does and its parameters below."""
    found = {name: decoders.get(name) for name in decoders.names()}
    rows = [(name, *capabilities(cls).values()) for name, cls in found.items()]
    below = [[_first(cls), _params(cls)] for cls in found.values()]
    return _blocks(("decoder", *CAPABILITIES), rows, below) + (
        "\nimage, context, attention, processor: what it needs; branches: rows beside the base row, at most.\n"
        "Set parameters with decoder.NAME=VALUE. A control is there to keep the strategies honest.\n"
    )


def matrix() -> str:
    """What each decoder needs, and in how many modes of `generate()` each kind of family has it, as Markdown."""
    held = load()
    heads = ("decoder", "", "kind", "needs", "branches", "calibration", *GROUPS)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in decoders.names():
        cls = decoders.get(name)
        found = capabilities(cls)
        needs = ", ".join(each for each in NEEDS if found[each] == "yes") or "-"
        own = (f"`{name}`", cls.title, found["kind"], needs, found["branches"], found["calibrates"])
        lines.append(f"| {' | '.join((*own, *(_share(held, name, group) for group in GROUPS.values())))} |")
    return "\n".join(lines) + "\n"


def _share(held: Matrix, decoder: str, group: Collection[str]) -> str:
    """`23 of 27`: modes in which every family of the group has the decoder, of those that plain decoding has there."""
    families = [name for name in held.families if name in group or (not group and name not in _NAMED)]
    if all(held.idle(decoder, family) for family in families):
        return "-"
    served = whole = 0
    for mode in held.modes:
        kinds = {held.outcome(decoder, family, mode)[0] for family in families} - {"n/a", "needs"}
        whole += bool(kinds)
        served += kinds == {"equal"}
    return f"{served} of {whole}"


def put_matrix(file: Path) -> None:
    """Write the table into a Markdown file, between its marks; raises as `put_between` does."""
    put_between(file, BEGIN, f"\n{matrix()}", END)


def put_between(file: Path, begin: str, table: str, end: str) -> None:
    """Put a table into a Markdown file, between two marks.

    Raises:
        UsageError: the file cannot be read or written, or has no such marks.
    """
    try:
        before, first, rest = file.read_text(encoding="utf-8").partition(begin)
        _, last, after = rest.partition(end)
        if not (first and last):
            raise UsageError(f"{str(file)!r} has no place for the table.", f"Mark it with {begin} and {end}.")
        write_atomic(file, f"{before}{begin}{table}{end}{after}")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{str(file)!r} cannot be read or written: {error}.") from error


def cells(
    held: Matrix,
    asked_decoders: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
) -> str:
    """How the cells of the matrix ended, modes down and families across; all where none are named.

    Raises:
        UsageError: there is no such decoder, family or mode.
    """
    chosen = picked(held.decoders, asked_decoders, "decoder")
    found = tabled(held, chosen, picked(held.families, families, "family"), picked(held.modes, modes, "mode"))
    notes = "".join(f"{f'[{number}]':<5}{note}\n" for number, note in enumerate(found.notes, 1))
    shown = "all decoders" if len(chosen) == len(held.decoders) else ", ".join(chosen)
    return (
        table(found.header, found.rows)
        + (f"\n{notes}" if notes else "")
        + f"\n{shown}; run on {held.date} by `{held.command}`. "
        + "Decoders that contrast images are refused by text models in every mode (MissingImage).\n"
    )


def put_page(file: Path, text: str) -> None:
    """Write a page.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        write_atomic(file, text)
    except OSError as error:
        raise UsageError(f"{str(file)!r} cannot be written: {error}.") from error


def benchmarks() -> str:
    """Every task of the registry with its options."""
    rows, below = [], []
    for name in tasks.names():
        task = tasks.get(name)
        rows.append((name, str(task.version)))
        below.append([task.title, ", ".join(f"{key}={_plain(value)}" for key, value in task.options.items())])
    return _blocks(("task", "version"), rows, below) + "\nSet options with task.NAME=VALUE.\n"


def settings_tried(found: Sequence[Candidate], best: Mapping[str, Candidate], metric: str) -> str:
    """The settings of a sweep, best first; parameters that a decoder has alike in all its runs stand below."""
    texts = []
    for key, chosen in best.items():
        tried = sorted((c for c in found if c.key == key), key=lambda c: abs(c.value - chosen.value))
        varied = [name for name in chosen.params if len({str(c.params.get(name)) for c in tried}) > 1]
        alike = {name: value for name, value in chosen.params.items() if name not in varied}
        rows = [
            (*(_plain(c.params.get(name)) for name in varied), f"{c.value:.4f}", "<- best" if c is chosen else "")
            for c in tried
        ]
        alike_text = ", ".join(f"{name}={_plain(value)}" for name, value in alike.items())
        texts.append(
            f"{key}\n{table((*varied, metric, ''), rows)}" + _indented(f"in all: {alike_text or 'nothing else'}")
        )
    return "\n".join(texts)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns set flush left under their names; the last one runs free."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(line.rstrip() + "\n" for line in shown)


def _blocks(header: Sequence[str], rows: Sequence[Sequence[str]], below: Sequence[Sequence[str]]) -> str:
    """A table with texts below each row, indented and within the width."""
    head, *lines = table(header, rows).splitlines(keepends=True)
    texts = ("".join(map(_indented, paragraphs)) for paragraphs in below)
    return head + "".join(line + text for line, text in zip(lines, texts, strict=True))


def _indented(text: str) -> str:
    margin = " " * 4
    return textwrap.fill(text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False) + "\n"


def _params(cls: type[Strategy]) -> str:
    return ", ".join(f"{spec.name}={_plain(spec.default)}" for spec in dataclasses.fields(cls)) or "no parameters"


def _plain(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "?"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    if isinstance(value, str) and len(value) > _WIDE:
        return value[:_WIDE].rstrip() + "..."
    return "null" if value is None else str(value)


def _first(cls: type[Strategy]) -> str:
    return re.sub(r"\s+", " ", (cls.__doc__ or "").strip().split("\n\n")[0])
