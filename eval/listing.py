"""Readable lists of what there is: models, decoders, tasks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from .. import decoders
from ..decoders import Strategy
from ..models import FAMILIES
from .config import choices, conf_folder
from .tasks import registry as tasks

_WIDE = 24
"""Characters of a text that are shown."""


def models() -> str:
    """The models of `conf/model`, and the families that are served."""
    rows = []
    for name in choices("model"):
        file = conf_folder() / "model" / f"{name}.yaml"
        fields: Any = OmegaConf.load(file)
        remark = file.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
        rows.append((name, str(fields.path or "model.path=..."), str(fields.dtype), remark))
    families = ", ".join(sorted(FAMILIES))
    return table(("model", "path", "dtype", ""), rows) + (
        f"\nImage-text families served: {families}. Text models: any decoder-only model of transformers.\n"
    )


def strategies() -> str:
    """Every decoder of the registry with its needs and parameters."""
    rows = []
    for name in decoders.names():
        cls = decoders.get(name)
        rows.append((name, cls.kind, _needs(cls), str(cls.max_branches), cls.mode or "any", _params(cls), _first(cls)))
    header = ("decoder", "kind", "needs", "branches", "mode", "parameters", "")
    return table(header, rows) + (
        "\nSet parameters with decoder.NAME=VALUE. A control is there to keep the strategies honest.\n"
    )


def benchmarks() -> str:
    """Every task of the registry with its options."""
    rows = []
    for name in tasks.names():
        task = tasks.get(name)
        options = ", ".join(f"{key}={_plain(value)}" for key, value in task.options.items())
        rows.append((name, str(task.version), options, task.title))
    return table(("task", "version", "options", ""), rows) + "\nSet options with task.NAME=VALUE.\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns set flush left under their names; the last one runs free."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    shown = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "".join(line.rstrip() + "\n" for line in shown)


def _needs(cls: type[Strategy]) -> str:
    named = {"image": cls.needs_image, "attention": cls.needs_attention, "processor": cls.needs_processor}
    needs = [name for name, needed in named.items() if needed]
    return ", ".join([*needs, *([f"calibration ({cls.calibrates})"] if cls.calibrates else [])]) or "-"


def _params(cls: type[Strategy]) -> str:
    return ", ".join(f"{spec.name}={_plain(spec.default)}" for spec in dataclasses.fields(cls)) or "-"


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
