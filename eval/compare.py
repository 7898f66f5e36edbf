"""Compares runs, sample by sample: which decoder did better on the same questions, and is that more than chance?

`compare` reads run folders, refuses those that were not asked the same, and holds every run against a baseline. Runs
that differ only in their seed form one arm. Holm's correction goes over all comparisons made, each kind of test for
itself: every other arm in every table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .compare_answers import Answers, NotComparable, on_common_ground, read_answers, refuse_other_samples
from .compare_paired import Arm, Gap, Pair
from .errors import IncompleteRun
from .folder import is_complete, read_manifest
from .statistics import holm

FILE = "manifest.json"
_SAME = (
    *("model.name", "model.fingerprint", "task.name", "task.version", "task.options", "task.data", "task.world"),
    *("prompt", "limit", "scorer.name"),
)
_HINT = "Compare runs of one model on one task, with the same data, prompt and run.limit; only the decoder and the "


@dataclass(frozen=True, eq=False)
class Contestant:
    """One arm with what names it: folders as they were given, and the settings that its runs share."""

    label: str
    folders: tuple[Path, ...]
    manifests: tuple[Mapping[str, Any], ...]
    arm: Arm

    @property
    def seeds(self) -> list[int]:
        """The seed of every run."""
        return [int(manifest.get("seed") or 0) for manifest in self.manifests]


@dataclass(frozen=True, eq=False)
class Comparison:
    """One contestant against the baseline.

    Attributes:
        run: the contestant.
        pair: contestant minus baseline.
        gaps: table -> measure -> difference.
        holm: (test, table, measure) -> p after Holm's correction; tests are `sign_flip` and `mcnemar`.
    """

    run: Contestant
    pair: Pair
    gaps: dict[str, dict[str, Gap]]
    holm: dict[tuple[str, str, str], float]


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Everything that `compare` found.

    Attributes:
        manifest: of the first run; task, data and model are the same for all.
        parser: the dialect that answers were read in.
        table, measure: what decides.
        baseline: the arm that the others are held against.
        found: the others, in the order given.
        n_samples, n_images: what all runs answered.
        n_left_out: samples that at least one run failed on.
        family: test -> number of comparisons that Holm's correction goes over.
    """

    manifest: Mapping[str, Any]
    parser: str
    table: str
    measure: str
    baseline: Contestant
    found: tuple[Comparison, ...]
    n_samples: int
    n_images: int
    n_left_out: int
    family: dict[str, int]


def compare(runs: Sequence[Path], *, baseline: Path | None = None, parser: str | None = None) -> Comparisons:
    """Hold runs against a baseline on the same samples. No model is needed.

    Args:
        runs: two or more run folders; runs that differ only in their seed are taken together.
        baseline: one of them, or another one; None = the first.
        parser: the dialect that answers are read in; None = the task's.

    Raises:
        NotComparable: there are fewer than two runs, or they differ in more than decoder, generation and seed.
        IncompleteRun: one of them has not finished.
        RunFolderError: one of them is no run folder.
    """
    folders = _ordered([Path(run) for run in runs], None if baseline is None else Path(baseline))
    manifests = [_manifest(folder) for folder in folders]
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        _refuse(folders[0], manifests[0], folder, manifest)
    rule = parser if parser is not None else str(manifests[0].get("scorer", {}).get("parser") or "")
    scorer = str(manifests[0].get("scorer", {}).get("name"))
    read = [
        read_answers(folder, manifest, str(folder), scorer, rule)
        for folder, manifest in zip(folders, manifests, strict=True)
    ]
    refuse_other_samples(read)
    answers = on_common_ground(read)
    first, *others = _contestants(folders, manifests, answers)
    found = _corrected([(other, Pair(other.arm, first.arm)) for other in others])
    n_samples = len(answers[0].records)
    return Comparisons(
        manifest=manifests[0],
        parser=rule,
        table=read[0].scale.table,
        measure=read[0].scale.measure,
        baseline=first,
        found=tuple(found),
        n_samples=n_samples,
        n_images=len({record.image_id for record in answers[0].records.values()}),
        n_left_out=len(read[0].records) + len(read[0].failed) - n_samples,
        family={test: sum(key[0] == test for item in found for key in item.holm) for test in ("sign_flip", "mcnemar")},
    )


def _ordered(runs: list[Path], baseline: Path | None) -> list[Path]:
    """Every folder once, the baseline first."""
    given = [*([baseline] if baseline else []), *runs]
    once = {folder.resolve(): folder for folder in reversed(given)}
    folders = list(dict.fromkeys(once[folder.resolve()] for folder in given))
    if len(folders) < 2:
        raise NotComparable("A comparison needs two different runs.", "Give two run folders or more.")
    return folders


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if not is_complete(manifest):
        raise IncompleteRun(f"The run in {str(folder)!r} has not finished.", "Run it again to go on, then compare.")
    return manifest


def _refuse(a: Path, first: Mapping[str, Any], b: Path, second: Mapping[str, Any]) -> None:
    """Refuse runs that differ in anything but decoder, generation and seed; all of it is named."""
    found = [text for name in _SAME for text in _differences(_at(first, name), _at(second, name), name)]
    if found:
        raise NotComparable(
            f"{str(a)!r} and {str(b)!r} cannot be compared: {'; '.join(found)}.",
            _HINT + "generation mode may differ.",
        )


def _at(manifest: Mapping[str, Any], name: str) -> Any:
    value: Any = manifest
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _differences(first: Any, second: Any, name: str) -> Iterator[str]:
    """`task.options.split is test in the first and validation in the second`."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in dict.fromkeys([*first, *second]):
            yield from _differences(first.get(key), second.get(key), f"{name}.{key}")
    elif first != second:
        yield f"{name} is {_short(first)} in the first and {_short(second)} in the second"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."


def _contestants(
    folders: Sequence[Path], manifests: Sequence[Mapping[str, Any]], answers: Sequence[Answers]
) -> list[Contestant]:
    """The arms, the baseline's first; where all runs differ only in their seed, each is an arm of its own."""
    groups: dict[str, list[int]] = {}
    for place, manifest in enumerate(manifests):
        groups.setdefault(_configuration(manifest), []).append(place)
    arms = list(groups.values()) if len(groups) > 1 else [[place] for place in range(len(folders))]
    labels = _labels([manifests[places[0]] for places in arms], [len(places) for places in arms])
    found = []
    for label, places in zip(labels, arms, strict=True):
        told_apart = label if labels.count(label) == 1 else f"{label} ({folders[places[0]]})"
        own = [(folders[at], manifests[at], answers[at]) for at in places]
        names, sheets, runs = zip(*own, strict=True)
        found.append(Contestant(told_apart, names, sheets, Arm(runs)))
    return found


def _configuration(manifest: Mapping[str, Any]) -> str:
    decoder = manifest["decoder"]
    return json.dumps([decoder["key"], decoder["params"], manifest["generation"]], sort_keys=True)


def _labels(manifests: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[str]:
    """`vcd alpha=1.0, sample, 3 seeds`: the decoder, and what sets it apart from the other arms."""
    modes = {str(manifest["generation"].get("mode")) for manifest in manifests}
    found = []
    for manifest, n in zip(manifests, seeds, strict=True):
        decoder, mode = manifest["decoder"], str(manifest["generation"].get("mode"))
        same = [other["decoder"]["params"] for other in manifests if other["decoder"]["key"] == decoder["key"]]
        words = [decoder["key"]]
        words += [
            f"{name}={value}"
            for name, value in decoder["params"].items()
            if any(other.get(name) != value for other in same)
        ]
        parts = [" ".join(words), *([mode] if len(modes) > 1 and mode != decoder["key"] else [])]
        found.append(", ".join([*parts, *([f"{n} seeds"] if n > 1 else [])]))
    return found


def _corrected(pairs: Sequence[tuple[Contestant, Pair]]) -> list[Comparison]:
    """The differences of every pair, with Holm's correction over all of them."""
    gaps = [
        {table: {name: pair.gap(table, name) for name in pair.measures(table)} for table in pair.tables}
        for _, pair in pairs
    ]
    adjusted: list[dict[tuple[str, str, str], float]] = [{} for _ in pairs]
    for test in ("sign_flip", "mcnemar"):
        family = [
            (place, (test, table, name), p)
            for place, tables in enumerate(gaps)
            for table, measures in tables.items()
            for name, gap in measures.items()
            if (p := p_value(gap, test)) is not None
        ]
        for (place, key, _), p in zip(family, holm([p for *_, p in family]), strict=True):
            adjusted[place][key] = p
    return [
        Comparison(run, pair, held, corrected)
        for (run, pair), held, corrected in zip(pairs, gaps, adjusted, strict=True)
    ]


def p_value(gap: Gap, test: str) -> float | None:
    """p of the sign-flip test, or of McNemar's."""
    if test == "sign_flip":
        return gap.sign_flip
    return None if gap.mcnemar is None else gap.mcnemar.p_value
