"""Exactly what was run: facts that all runs share, facts of each run, and what makes runs incomparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .board import Section
from .runs import Run, Unread
from .tables import flags
from .text import count, plain

_FIRST = ("command", "identity", "started", "finished", "status", "seed", "limit")
_MUST_AGREE = ("model.fingerprint", "task.data", "task.options", "task.world", "prompt", "limit", "sightline")
_LONG = 1000


@dataclass(frozen=True)
class Fact:
    """A name of the manifest and its value."""

    name: str
    value: str


@dataclass(frozen=True)
class Provenance:
    """The manifests of all runs, told apart into what is common and what is not."""

    common: tuple[Fact, ...]
    runs: tuple[tuple[str, str, tuple[Fact, ...]], ...]


def provenance(sections: Sequence[Section]) -> Provenance:
    """The facts of every run."""
    runs = [run for section in sections for run in section.runs]
    flat = {run.folder: _flatten(run.manifest) for run in runs}
    names = sorted({name for facts in flat.values() for name in facts}, key=_place)
    common = [
        name
        for name in names
        if len(runs) > 1 and all(name in facts and facts[name] == flat[runs[0].folder][name] for facts in flat.values())
    ]
    each = []
    for section in sections:
        for group in section.groups:
            for entry in group.entries:
                if not entry.reference:
                    facts = flat[entry.run.folder]
                    own = tuple(Fact(name, facts[name]) for name in names if name in facts and name not in common)
                    each.append((entry.run.name, f"{entry.label}, {group.label}", own))
    return Provenance(tuple(Fact(name, flat[runs[0].folder][name]) for name in common), tuple(each))


def _place(name: str) -> tuple[int, str]:
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """`{"a": {"b": 1}, "c": [{"d": 2}]}` becomes `{"a.b": "1", "c.0.d": "2"}`; plain lists stay whole."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = {str(place): item for place, item in enumerate(value)}
    if not isinstance(value, dict):
        command = isinstance(value, list) and prefix == "command"
        text = " ".join(map(plain, value)) if command else plain(value)
        if len(text) > _LONG:
            text = f"{text[:_LONG]}\u2026 ({len(text):,} characters)"
        return {prefix: text}
    found: dict[str, str] = {}
    for key, item in value.items():
        found |= _flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def warnings(section: Section) -> list[str]:
    """What a reader of this section must know before any number of it."""
    found = []
    for group in section.groups:
        for entry in group.entries:
            marks = flags(entry.run)
            if marks and not entry.reference:
                found.append(f"{entry.label} ({group.label}): {', '.join(marks)}.")
    found += _differences(section.runs)
    if section.greedy is None:
        found.append("There is no greedy run: differences to greedy decoding are missing.")
    found += [
        f"{group.label} has no control beside its strategies." for group in section.groups if not group.best_control
    ]
    return found


def _differences(runs: Sequence[Run]) -> list[str]:
    found = []
    parsers = sorted({run.parser for run in runs})
    if len(parsers) > 1:
        found.append(f"The runs were scored with different parsers: {', '.join(parsers)}. Score them alike.")
    sizes = sorted({run.n for run in runs if not run.partial})
    if len(sizes) > 1:
        found.append(f"The runs differ in size: {', '.join(f'{size:,}' for size in sizes)} answers.")
    for name in _MUST_AGREE:
        values = {plain(held) for run in runs if (held := _at(run.manifest, name)) is not None}
        if len(values) > 1:
            found.append(f"The runs differ in `{name}` of their manifests; see what was run.")
    return found


def _at(manifest: dict[str, Any], name: str) -> Any:
    value: Any = manifest
    for key in name.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def left_out(unread: Sequence[Unread]) -> list[str]:
    """The folders that were not used."""
    if not unread:
        return []
    lines = [f"{count(len(unread), 'run folder')} left out:"]
    return lines + [f"{item.name}: {item.reason}." for item in unread]
