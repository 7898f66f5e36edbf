"""The report as JSON, and the fragment for a model card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .board import Difference, Entry, Section
from .helps import cost, price
from .markdown import table_of
from .runs import Score
from .tables import verdict
from .text import DASH, finite, parameters
from .text import markdown as safe

if TYPE_CHECKING:
    from .headline import Finding
    from .write import View

SCHEMA = 1


def as_json(views: Sequence[View], headline: Finding, choices: str, left_out: Sequence[str]) -> str:
    """Everything the page shows, as JSON: fractions stay fractions, and a value that is missing has a reason."""
    content = {
        "schema": SCHEMA,
        "headline": headline.title,
        "detail": headline.detail,
        "choices": choices,
        "left_out": list(left_out[1:]),
        "sections": [_section(view) for view in views],
    }
    return json.dumps(_defined(content), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _defined(value: Any) -> Any:
    """The same with null in place of numbers that are none: differences of scores that somebody has made too large."""
    if isinstance(value, dict):
        return {name: _defined(held) for name, held in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(held) for held in value]
    return finite(value) if isinstance(value, float) else value


def _section(view: View) -> dict[str, Any]:
    section = view.section
    return {
        "model": section.model,
        "task": section.task,
        "task_version": section.task_version,
        "data": section.data,
        "measure": {"metric": section.measure.key, "table": section.split, "better": section.measure.better},
        "finding": {"claim": view.finding.claim, "detail": view.finding.detail, "won": view.finding.won},
        "warnings": list(view.warnings),
        "groups": [
            {
                "generation": group.generation,
                "best_control": None if group.best_control is None else group.best_control.run.name,
                "entries": [_entry(section, entry) for entry in group.entries if not entry.reference],
            }
            for group in section.groups
        ],
    }


def _entry(section: Section, entry: Entry) -> dict[str, Any]:
    run, found = entry.run, cost(entry)
    return {
        "run": run.name,
        "decoder": run.key,
        "title": run.title,
        "label": entry.label,
        "role": entry.role,
        "params": run.params,
        "n": run.n,
        "errors": run.n_error,
        "partial": run.partial,
        "tables": {split: {key: _score(score) for key, score in table.items()} for split, table in run.tables.items()},
        "against_greedy": _gap(section, entry.against_greedy),
        "against_best_control": _gap(section, entry.against_control),
        "second_look": None if section.scale.check is None else _gap(section, entry.second_look),
        "cost": None if found is None else {"ratio": found[0], "of": found[1]},
        "parser": run.parser,
        "manifest": {
            name: run.manifest.get(name)
            for name in ("identity", "command", "seed", "versions", "git_commit", "sightline")
        },
    }


def _score(score: Score) -> dict[str, Any]:
    return {
        name: value for name, value in dataclasses.asdict(score).items() if value not in (None, "") or name == "value"
    }


def _gap(section: Section, gap: Difference) -> dict[str, Any]:
    held = {
        name: value for name, value in dataclasses.asdict(gap).items() if value not in (None, "") or name == "value"
    }
    return held | ({"verdict": verdict(gap, section.measure)[0]} if gap.tested else {})


HEADS = ("Task", "Measure", "Greedy", "Best control", "Best strategy", "To greedy", "To best control", "Cost")


def model_card(views: Sequence[View]) -> str:
    """A heading for each model, with the best strategy of each task beside greedy decoding and the best control."""
    models = dict.fromkeys(view.section.model for view in views)
    parts = [_card(model, [view for view in views if view.section.model == model]) for model in models]
    return "\n".join(parts)


def _card(model: str, views: Sequence[View]) -> str:
    rows = [_line(view) for view in views]
    versions = sorted({str(run.manifest.get("sightline", "")) for view in views for run in view.section.runs} - {""})
    of = f" {', '.join(versions)}" if versions else ""
    return (
        f"## Decoding against hallucination: {model}\n\n"
        f"Measured with sightline{of}. Differences are paired, sample by sample, with 95 % intervals resampled by "
        "image; better and worse hold after Holm's correction. The best control is picked on these data.\n\n"
        f"{table_of(HEADS, rows)}\n{''.join(map(_asked, views))}"
    )


def _asked(view: View) -> str:
    """What was asked, and the settings of the best strategy, as an item of a list."""
    told = f"- {safe(view.section.task_title)}: {safe(view.data.rstrip('.'))}."
    entry = view.finding.entry
    if entry is not None and entry.run.params:
        told += f" {safe(view.finding.name)}: {safe(parameters(entry.run.params))}."
    return told + "\n"


def _line(view: View) -> list[str]:
    section, found = view.section, view.finding
    main = section.measure
    lower = ", lower is better" if main.better == "lower" else ""
    greedy = "" if section.greedy is None else _shown(section, section.greedy.score(section.split, main.key))
    head = [section.task_title, main.heading + lower, greedy or DASH]
    if found.entry is None or found.group is None:
        return [*head, *[DASH] * 5]
    best = found.group.best_control
    control = DASH if best is None else f"{best.label}: {_shown(section, best.run.score(section.split, main.key))}"
    own = f"{found.name}: {_shown(section, found.entry.run.score(section.split, main.key))}"
    gaps = [_told(section, gap) for gap in (found.entry.against_greedy, found.entry.against_control)]
    return [*head, control, own, *gaps, price(found.entry) or DASH]


def _shown(section: Section, score: Score) -> str:
    if score.value is None:
        return DASH
    text = section.measure.show(score.value)
    if score.low is None or score.high is None:
        return text
    return f"{text} {section.measure.show_interval(score.low, score.high)}"


def _told(section: Section, gap: Difference) -> str:
    if gap.value is None:
        return DASH
    text = section.measure.show(gap.value, signed=True)
    if gap.low is None or gap.high is None:
        return f"{text}, not tested"
    return f"{text} {section.measure.show_interval(gap.low, gap.high, signed=True)}, {verdict(gap, section.measure)[0]}"
