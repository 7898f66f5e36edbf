"""From runs to a leaderboard: sections (model and task), groups (generation mode), rows and paired differences."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..statistics import holm
from .measures import Measure, main_measure, measure
from .runs import MODES, Run
from .text import parameters, plain

OVERALL = ("pooled", "mean", "all", "overall")
SPLITS = ("random", "popular", "adversarial")
LEVEL = 0.05
AUC = measure("auc")
_TASKS = {"pope": "POPE", "chair": "CHAIR", "mme": "MME", "amber": "AMBER", "nq": "NQ", "repope": "RePOPE"}
_MODE_LABELS = {"greedy": "Greedy decoding", "sample": "Sampling", "beam": "Beam search"}
_UNSET = object()
_NEUTRAL: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "length_penalty": 1.0, "max_new_tokens": None}


@dataclass(frozen=True)
class Difference:
    """A run minus another on the same samples, with a 95 % interval; without a value, the reason.

    `low`, `high` and `p` are None where only the point values are known.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    reason: str = ""
    other: str = ""
    adjusted: float | None = None

    @property
    def tested(self) -> bool:
        """Whether the pair was compared sample by sample."""
        return self.low is not None and self.high is not None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out, and still would after correction for many comparisons."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return False
        return self.adjusted is None or self.adjusted < LEVEL

    @property
    def corrected_away(self) -> bool:
        """Whether the interval leaves zero out but the corrected test does not."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high and not self.clear


Compare = Callable[[Run, Run, Measure, str], Difference]


@dataclass(frozen=True)
class Entry:
    """One row: a run, its name within its group, and what it gains over greedy and over the best control."""

    run: Run
    label: str
    reference: bool = False
    is_best_control: bool = False
    against_greedy: Difference = Difference(None)
    against_control: Difference = Difference(None)
    auc_gap: Difference = Difference(None)

    @property
    def role(self) -> str:
        """`strategy`, `control` or `reference`."""
        return "reference" if self.reference else "control" if self.run.is_control else "strategy"


@dataclass(frozen=True)
class Group:
    """The decoders of one generation mode, best first; references of other modes last."""

    label: str
    mode: str
    generation: dict[str, Any]
    entries: tuple[Entry, ...]
    best_control: Entry | None

    @property
    def strategies(self) -> list[Entry]:
        """The rows that are no controls."""
        return [entry for entry in self.entries if entry.role == "strategy"]


@dataclass(frozen=True)
class Section:
    """One model on one task."""

    model: str
    task: str
    task_version: str
    measure: Measure
    split: str
    splits: tuple[str, ...]
    groups: tuple[Group, ...]
    greedy: Run | None

    @property
    def task_title(self) -> str:
        """The task's name for readers."""
        return task_title(self.task)

    @property
    def runs(self) -> list[Run]:
        """Every run once, group by group."""
        return [entry.run for group in self.groups for entry in group.entries if not entry.reference]

    @property
    def yes_no(self) -> bool:
        """Whether the task asks for yes or no."""
        return any(run.score(self.split, "yes_ratio").value is not None for run in self.runs)


def task_title(task: str) -> str:
    """`pope_scenes` is read as `POPE scenes`."""
    words = task.replace("-", "_").split("_")
    return " ".join([_TASKS.get(words[0].lower(), words[0]), *words[1:]])


def sections(runs: Sequence[Run], compare: Compare) -> list[Section]:
    """The runs by task and model."""
    keys = sorted({(run.task, run.task_version, run.model) for run in runs})
    return [_section([run for run in runs if (run.task, run.task_version, run.model) == key], compare) for key in keys]


def _section(runs: list[Run], compare: Compare) -> Section:
    splits = _splits(runs)
    split = next((name for name in OVERALL if name in splits), splits[0])
    keys = {key for run in runs for key, score in run.tables.get(split, {}).items() if score.value is not None}
    main = main_measure(keys or {key for run in runs for table in run.tables.values() for key in table})
    settings = {_identity(run.generation): run.generation for run in runs}
    greedy = _plain(runs, "greedy")
    groups = [
        _group(settings[identity], identity, runs, (main, split), greedy, compare)
        for identity in sorted(settings, key=lambda item: (_rank(settings[item]), item))
    ]
    first = runs[0]
    return Section(
        first.model, first.task, first.task_version, main, split, splits, _correct(_told_apart(groups)), greedy
    )


def _splits(runs: list[Run]) -> tuple[str, ...]:
    found = {split for run in runs for split in run.tables}
    known = [split for split in (*SPLITS, "mean", "pooled") if split in found]
    summary = [split for split in known if split not in SPLITS]
    others = sorted(found - set(known))
    return (*(split for split in known if split in SPLITS), *others, *summary)


def _identity(generation: dict[str, Any]) -> str:
    return json.dumps(generation, sort_keys=True)


def _rank(generation: dict[str, Any]) -> int:
    mode = generation.get("mode")
    return MODES.index(mode) if mode in MODES else len(MODES)


def generation_label(generation: dict[str, Any], full: bool = False) -> str:
    """`Sampling, temperature 1.0`; settings that change nothing are left out unless all are asked for."""
    mode = str(generation.get("mode", "unknown"))
    shown = [
        f"{key.replace('_', ' ')} {plain(value)}"
        for key, value in generation.items()
        if key != "mode" and value is not None and (full or _NEUTRAL.get(key, _UNSET) not in (value, None))
    ]
    return ", ".join([_MODE_LABELS.get(mode, mode), *shown])


def _told_apart(groups: list[Group]) -> list[Group]:
    """The groups, all settings named where short labels would be the same."""
    labels = [group.label for group in groups]
    return [
        replace(group, label=generation_label(group.generation, full=True)) if labels.count(group.label) > 1 else group
        for group in groups
    ]


def _plain(runs: Sequence[Run], key: str) -> Run | None:
    found = [run for run in runs if run.is_control and run.key == key and run.mode == key]
    return min(found, key=lambda run: (run.partial, -run.n_ok, run.name)) if found else None


def _group(
    generation: dict[str, Any],
    identity: str,
    runs: list[Run],
    scale: tuple[Measure, str],
    greedy: Run | None,
    compare: Compare,
) -> Group:
    own = [run for run in runs if _identity(run.generation) == identity]
    others = [_plain(runs, key) for key in ("greedy", "sample")]
    references = [run for run in others if run and _identity(run.generation) != identity]
    best = _best_control(own, *scale)
    labels = _labels(own)
    entries = []
    for run in sorted(own, key=lambda run: _order(run, *scale)) + references:
        entry = Entry(run, labels.get(run.folder, run.title), reference=run in references, is_best_control=run is best)
        entries.append(
            replace(
                entry,
                against_greedy=_against(run, greedy, "greedy decoding", scale, compare),
                against_control=_against(run, best, labels[best.folder] if best else "", scale, compare),
                auc_gap=_against(run, greedy, "greedy decoding", (AUC, scale[1]), compare),
            )
        )
    winner = next((entry for entry in entries if entry.is_best_control), None)
    return Group(generation_label(generation), own[0].mode, generation, tuple(entries), winner)


def _order(run: Run, measure: Measure, split: str) -> tuple[bool, float, str, str, str]:
    value = run.score(split, measure.key).value
    return (value is None, -measure.gain(value or 0.0), run.key, _identity(run.params), run.name)


def _best_control(runs: list[Run], measure: Measure, split: str) -> Run | None:
    """The control with the best value; a complete run goes before a partial one."""
    controls = [run for run in runs if run.is_control and run.score(split, measure.key).value is not None]
    return min(controls, key=lambda run: (run.partial, *_order(run, measure, split)), default=None)


def _against(run: Run, other: Run | None, label: str, scale: tuple[Measure, str], compare: Compare) -> Difference:
    measure, split = scale
    if other is None:
        return Difference(None, reason="there is no such run to compare with")
    if run is other:
        return Difference(None, reason="this is the run the others are compared with", other=label)
    return replace(compare(run, other, measure, split), other=label)


def _labels(runs: list[Run]) -> dict[Any, str]:
    """A name for each run that no other of the group has: title, then parameters, seed and folder where they differ."""
    return {run.folder: _label(run, [other for other in runs if other.title == run.title]) for run in runs}


def _label(run: Run, same: list[Run]) -> str:
    differing = {
        key: value
        for key, value in run.params.items()
        if any(plain(other.params.get(key)) != plain(value) for other in same)
    }
    parts = [run.title] + ([parameters(differing)] if differing else [])
    same = [other for other in same if _identity(other.params) == _identity(run.params)]
    if len({plain(other.manifest.get("seed")) for other in same}) > 1:
        parts.append(f"seed {plain(run.manifest.get('seed'))}")
        same = [other for other in same if plain(other.manifest.get("seed")) == plain(run.manifest.get("seed"))]
    label = ", ".join(parts)
    return f"{label} ({run.name})" if len(same) > 1 else label


def _correct(groups: list[Group]) -> tuple[Group, ...]:
    """Holm's correction over the strategies of the section, for each of the two comparisons."""
    for name in ("against_greedy", "against_control"):
        family = [entry for group in groups for entry in group.strategies if getattr(entry, name).p is not None]
        adjusted = holm([getattr(entry, name).p for entry in family])
        table = {(entry.run.folder): value for entry, value in zip(family, adjusted, strict=True)}
        groups = [
            replace(group, entries=tuple(_adjust(entry, name, table) for entry in group.entries)) for group in groups
        ]
    return tuple(groups)


def _adjust(entry: Entry, name: str, table: dict[Any, float]) -> Entry:
    if entry.role != "strategy" or entry.run.folder not in table:
        return entry
    return replace(entry, **{name: replace(getattr(entry, name), adjusted=table[entry.run.folder])})
