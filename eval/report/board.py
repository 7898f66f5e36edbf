"""From runs to a leaderboard: sections (model, task, data), groups (generation mode), rows and paired differences."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..compare_captions import FREE, SAME_LENGTH
from ..compare_scales import MEAN, POOLED, SPLITS, TOTAL
from ..scoring.mme import SUBTASKS
from ..statistics import holm
from .measures import Measure, main_measure, measure
from .runs import MODES, Run
from .text import parameters, plain

CUT = "cut"
OVERALL = (MEAN, TOTAL, POOLED, "all", "overall", FREE)
LEVEL = 0.05
AUC = measure("auc")
_TASKS = {"pope": "POPE", "chair": "CHAIR", "mme": "MME", "amber": "AMBER", "repope": "RePOPE", "nq": "NQ"}
_TWO_WORDS = {"nq swap": "NQ-Swap", "memo trap": "MemoTrap", "truthful qa": "TruthfulQA"}
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
class Scale:
    """What decides in a section, and a second look at it that a cheap gain does not pass.

    Attributes:
        measure, table: what decides.
        check, check_table: the second look: for yes/no questions the area under the ROC curve, which a shift of the
            threshold leaves alone; for captions the deciding measure at the same length. None where there is none.
    """

    measure: Measure
    table: str
    check: Measure | None = None
    check_table: str = ""

    @property
    def check_label(self) -> str:
        """The heading of the second look."""
        assert self.check is not None
        return f"{self.check.label} at same length" if self.check_table == SAME_LENGTH else self.check.label

    @property
    def check_key(self) -> str:
        """Its name in the CSV."""
        assert self.check is not None
        return f"{self.check.key}_same_length" if self.check_table == SAME_LENGTH else self.check.key


@dataclass(frozen=True)
class Entry:
    """One row: a run, its name within its group, and what it gains over greedy and over the best control."""

    run: Run
    label: str
    reference: bool = False
    is_best_control: bool = False
    against_greedy: Difference = Difference(None)
    against_control: Difference = Difference(None)
    second_look: Difference = Difference(None)

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
    """One model on one task and one part of its data; `variant` tells it from others of that model and task."""

    model: str
    task: str
    task_version: str
    data: dict[str, Any]
    scale: Scale
    splits: tuple[str, ...]
    groups: tuple[Group, ...]
    greedy: Run | None
    variant: str = ""

    @property
    def measure(self) -> Measure:
        """What decides."""
        return self.scale.measure

    @property
    def split(self) -> str:
        """The table that decides."""
        return self.scale.table

    @property
    def task_title(self) -> str:
        """The task's name for readers."""
        return task_title(self.task) + (f" ({self.variant})" if self.variant else "")

    @property
    def runs(self) -> list[Run]:
        """Every run once, group by group."""
        return [entry.run for group in self.groups for entry in group.entries if not entry.reference]

    @property
    def yes_no(self) -> bool:
        """Whether the task asks for yes or no."""
        return any(run.score(self.split, "yes_ratio").value is not None for run in self.runs)

    @property
    def captions(self) -> bool:
        """Whether the task asks for captions."""
        return self.measure.key in ("CHAIRs", "CHAIRi")

    @property
    def subtasks(self) -> bool:
        """Whether the tables are MME's subtasks."""
        return self.measure.key == "score" and TOTAL in self.splits


def task_title(task: str) -> str:
    """`pope_scenes` is read as `POPE scenes`."""
    words = task.replace("-", "_").split("_")
    first = " ".join(words[:2]).lower()
    if first in _TWO_WORDS:
        return " ".join([_TWO_WORDS[first], *words[2:]])
    return " ".join([_TASKS.get(words[0].lower(), words[0]), *words[1:]])


def sections(runs: Sequence[Run], compare: Compare) -> list[Section]:
    """The runs by task, version, model and data: what differs in one of these never shares a leaderboard."""
    found: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.task, run.task_version, run.model, _identity(run.data)), []).append(run)
    made = [_section(found[key], compare) for key in sorted(found, key=lambda key: (_task_rank(key[0]), key))]
    return [replace(section, variant=_variant(section, made)) for section in made]


def _task_rank(task: str) -> int:
    """The place of a task's kind in `_TASKS`; unknown kinds come last."""
    kinds, kind = list(_TASKS), task.replace("-", "_").partition("_")[0].lower()
    return kinds.index(kind) if kind in kinds else len(kinds)


def _variant(section: Section, every: Sequence[Section]) -> str:
    """`validation, images 200`: the settings of the data in which sections of one model and task differ."""
    same = [other for other in every if (other.model, other.task) == (section.model, section.task)]
    words = [f"version {section.task_version}"] if len({other.task_version for other in same}) > 1 else []
    for key in dict.fromkeys(key for other in same for key in other.data):
        if len({plain(other.data.get(key)) for other in same}) > 1:
            value = section.data.get(key)
            words.append(value if isinstance(value, str) else f"{key} {plain(value)}")
    return ", ".join(words)


def _section(runs: list[Run], compare: Compare) -> Section:
    splits = _splits(runs)
    scale = _scale(runs, splits)
    settings = {_identity(run.generation): run.generation for run in runs}
    greedy = _plain(runs, "greedy")
    groups = [
        _group(settings[identity], identity, runs, scale, greedy, compare)
        for identity in sorted(settings, key=lambda item: (_rank(settings[item]), item))
    ]
    first = runs[0]
    return Section(
        model=first.model,
        task=first.task,
        task_version=first.task_version,
        data=first.data,
        scale=scale,
        splits=splits,
        groups=_correct(_told_apart(groups)),
        greedy=greedy,
    )


def _scale(runs: Sequence[Run], splits: Sequence[str]) -> Scale:
    """What the runs say decides; where they do not say, the mean over splits and the best known measure."""
    said = next((run.primary for run in runs if run.primary and run.primary.table in splits), None)
    if said is not None:
        table = said.table
        main = replace(measure(said.metric), better="higher" if said.higher_is_better else "lower")
    else:
        table = next((name for name in OVERALL if name in splits), splits[0])
        keys = {key for run in runs for key, score in run.tables.get(table, {}).items() if score.value is not None}
        main = main_measure(keys or {key for run in runs for table in run.tables.values() for key in table})
    if main.key in ("CHAIRs", "CHAIRi"):
        return Scale(main, table, main, SAME_LENGTH)
    if any(run.score(table, AUC.key).value is not None for run in runs):
        return Scale(main, table, AUC, POOLED if table == MEAN and POOLED in splits else table)
    return Scale(main, table)


def _splits(runs: Sequence[Run]) -> tuple[str, ...]:
    """Splits and subtasks in their order, then what sums them up."""
    found = dict.fromkeys(split for run in runs for split in run.tables)
    first = [split for split in (*SPLITS, *SUBTASKS, FREE, CUT) if split in found]
    last = [split for split in (MEAN, POOLED, TOTAL) if split in found]
    return (*first, *sorted(found.keys() - {*first, *last}), *last)


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
    scale: Scale,
    greedy: Run | None,
    compare: Compare,
) -> Group:
    own = [run for run in runs if _identity(run.generation) == identity]
    others = [_plain(runs, key) for key in ("greedy", "sample")]
    references = [run for run in others if run and _identity(run.generation) != identity]
    best = _best_control(own, scale)
    labels = _labels(own)
    entries = []
    for run in sorted(own, key=lambda run: _order(run, scale)) + references:
        entry = Entry(run, labels.get(run.folder, run.title), reference=run in references, is_best_control=run is best)
        entries.append(
            replace(
                entry,
                against_greedy=_against(run, greedy, "greedy decoding", scale.measure, scale.table, compare),
                against_control=_against(
                    run, best, labels[best.folder] if best else "", scale.measure, scale.table, compare
                ),
                second_look=_against(run, greedy, "greedy decoding", scale.check, scale.check_table, compare),
            )
        )
    winner = next((entry for entry in entries if entry.is_best_control), None)
    return Group(generation_label(generation), own[0].mode, generation, tuple(entries), winner)


def _order(run: Run, scale: Scale) -> tuple[bool, float, str, str, str]:
    value = run.score(scale.table, scale.measure.key).value
    return (value is None, -scale.measure.gain(value or 0.0), run.key, _identity(run.params), run.name)


def _best_control(runs: list[Run], scale: Scale) -> Run | None:
    """The control with the best value; a complete run goes before a partial one."""
    controls = [run for run in runs if run.is_control and run.score(scale.table, scale.measure.key).value is not None]
    return min(controls, key=lambda run: (run.partial, *_order(run, scale)), default=None)


def _against(
    run: Run, other: Run | None, label: str, measure: Measure | None, table: str, compare: Compare
) -> Difference:
    if measure is None:
        return Difference(None, reason="there is no second look at this measure")
    if other is None:
        return Difference(None, reason="there is no such run to compare with")
    if run is other:
        return Difference(None, reason="this is the run the others are compared with", other=label)
    return replace(compare(run, other, measure, table), other=label)


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
    """Holm's correction over the strategies of the section, for each of the comparisons that are tested."""
    for name in ("against_greedy", "against_control", "second_look"):
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
