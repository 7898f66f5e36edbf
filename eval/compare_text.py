"""A comparison as text for a terminal, and as JSON for everything else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .compare import Comparison, Comparisons, Contestant
from .compare_paired import AUC_RESAMPLES, Flip, Gap
from .report.measures import Measure, measure
from .report.text import MINUS, clean, count, shorten
from .statistics import FLIPS, RESAMPLES

SCHEMA = 1
SHOWN = 20
"""Flipped samples on the terminal; the JSON has all."""
LEVEL = 0.05
_BREAKS = re.compile(r".*(?:[\n>\]]|: )", re.DOTALL)
_TAIL = re.compile(r"\n|<| [A-Z]+:")


def as_json(found: Comparisons) -> dict[str, Any]:
    """The whole comparison; docs/compare.md describes the fields."""
    task = found.manifest["task"]
    arms = [found.baseline, *(item.run for item in found.found)]
    main = measure(found.measure)
    return {
        "schema": SCHEMA,
        "model": found.manifest["model"]["name"],
        "task": task["name"],
        "task_version": task["version"],
        "data": {name: value for name, value in task.get("options", {}).items() if name != "splits"},
        "parser": found.parser or None,
        "primary": {"table": found.table, "metric": found.measure, "higher_is_better": main.better == "higher"},
        "n_samples": found.n_samples,
        "n_images": found.n_images,
        "n_left_out": found.n_left_out,
        "resamples": RESAMPLES,
        "auc_resamples": AUC_RESAMPLES,
        "flips": FLIPS,
        "holm": found.family,
        "runs": [_arm_json(arm) for arm in arms],
        "baseline": found.baseline.label,
        "comparisons": [_comparison_json(found, item) for item in found.found],
    }


def _arm_json(arm: Contestant) -> dict[str, Any]:
    manifest = arm.manifests[0]
    return {
        "label": arm.label,
        "folders": [folder.as_posix() for folder in arm.folders],
        "decoder": {name: manifest["decoder"].get(name) for name in ("key", "kind", "params")},
        "generation": manifest["generation"],
        "seeds": arm.seeds,
    }


def _comparison_json(found: Comparisons, item: Comparison) -> dict[str, Any]:
    fixed, broken = item.pair.flips()
    ask = questions(record.prompt for record in item.pair.first.runs[0].records.values())
    return {
        "run": item.run.label,
        "verdict": verdict(found, item),
        "tables": {
            table: {name: _gap_json(item, table, name, gap) for name, gap in gaps.items()}
            for table, gaps in item.gaps.items()
        },
        "fixed": [_flip_json(flip, ask) for flip in fixed],
        "broken": [_flip_json(flip, ask) for flip in broken],
    }


def _gap_json(item: Comparison, table: str, name: str, gap: Gap) -> dict[str, Any]:
    held: dict[str, Any] = {"run": gap.first, "baseline": gap.second, "difference": gap.value}
    held |= {"low": gap.low, "high": gap.high}
    if gap.reason:
        held["reason"] = gap.reason
    if gap.spread != (None, None):
        held["sd_over_seeds"] = {"run": gap.spread[0], "baseline": gap.spread[1]}
    if gap.sign_flip is not None:
        held["sign_flip"] = {"p": gap.sign_flip, "p_holm": item.holm["sign_flip", table, name]}
    if gap.mcnemar is not None:
        test = gap.mcnemar
        held["mcnemar"] = {"fixed": test.b, "broken": test.c, "p": test.p_value, "mid_p": test.mid_p}
        held["mcnemar"]["p_holm"] = item.holm["mcnemar", table, name]
    return held


def _flip_json(flip: Flip, ask: Callable[[str], str]) -> dict[str, Any]:
    return {
        "image": flip.first.image_id,
        "question": ask(flip.first.prompt),
        "label": flip.first.label,
        "tables": list(flip.tables),
        "baseline": flip.second.output,
        "run": flip.first.output,
        **({"note": flip.note} if flip.note else {}),
    }


def verdict(found: Comparisons, item: Comparison) -> str:
    """`better`, `worse` or `no clear difference` in the deciding measure; `identical` where nothing differs."""
    gap, main = item.gaps[found.table][found.measure], measure(found.measure)
    if gap.value is None or gap.low is None or gap.high is None:
        return "not tested"
    if gap.value == gap.low == gap.high == 0 and not any(item.pair.flips()):
        return "identical"
    p = item.holm.get(("sign_flip", found.table, found.measure))
    if gap.low <= 0 <= gap.high or (p is not None and p >= LEVEL):
        return "no clear difference"
    return "better" if main.gain(gap.value) > 0 else "worse"


def questions(prompts: Iterable[str]) -> Callable[[str], str]:
    """A function that takes the chat template off a prompt: what all prompts share, up to whole lines or turns."""
    held = sorted(set(prompts))
    if len(held) < 2:
        return lambda prompt: clean(prompt)
    start, end = _shared(held), _shared(sorted(prompt[::-1] for prompt in held))[::-1]
    head = _BREAKS.match(start)
    tail = _TAIL.search(end)
    left, right = head.end() if head else 0, len(end) - tail.start() if tail else 0
    return lambda prompt: clean(prompt[left : len(prompt) - right]).strip()


def _shared(texts: Sequence[str]) -> str:
    """How all of some sorted texts begin."""
    first, last = texts[0], texts[-1]
    return first[: next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def as_text(found: Comparisons) -> str:
    """Tables for a terminal: the deciding measure with its tests, all differences, and the first flipped samples."""
    task = found.manifest["task"]
    parts = [
        f"{task['name']} v{task['version']} on {found.manifest['model']['name']}: {found.n_images:,} images, "
        f"{found.n_samples:,} samples" + (f", answers read by {found.parser}" if found.parser else "")
    ]
    if found.n_left_out:
        parts.append(f"{count(found.n_left_out, 'sample')} left out: not every run answered")
    arms = [("baseline", found.baseline), *(("run", item.run) for item in found.found)]
    rows = [(role, arm.label, _settings(arm), " ".join(map(str, arm.folders))) for role, arm in arms]
    parts.append(columns(rows, flush="llll"))
    for item in found.found:
        parts += ["", *_comparison_text(found, item)]
    parts += ["", _legend(found)]
    return "\n".join(part.rstrip("\n") for part in parts).replace(MINUS, "-") + "\n"


def _settings(arm: Contestant) -> str:
    """Every parameter, and the generation mode."""
    manifest = arm.manifests[0]
    words = [f"{name}={value}" for name, value in manifest["decoder"]["params"].items()]
    return " ".join([*words, f"({manifest['generation'].get('mode')})"])


def _comparison_text(found: Comparisons, item: Comparison) -> list[str]:
    title = f"{clean(item.run.label)} against {clean(found.baseline.label)}: {verdict(found, item)}"
    parts = [title, "=" * min(len(title), 100), "", _decision(found, item), "", _differences(item), ""]
    fixed, broken = item.pair.flips()
    if len(item.run.folders) > 1 or len(found.baseline.folders) > 1:
        return [*parts, "Flipped samples are listed for single runs only: compare two of them."]
    ask = questions(record.prompt for record in item.pair.first.runs[0].records.values())
    for what, flips in (("Fixed: only the run is right", fixed), ("Broken: only the baseline is right", broken)):
        more = f"; the first {SHOWN}" if len(flips) > SHOWN else ""
        parts.append(f"{what} ({len(flips):,}{more})")
        parts += [_flip_text(flip, ask) for flip in flips[:SHOWN]]
    return parts


def _decision(found: Comparisons, item: Comparison) -> str:
    """The deciding measure of every table, with both tests."""
    main = measure(found.measure)
    marks = next(iter(item.pair.first.marks), "")
    several = len(item.run.folders) > 1 or len(found.baseline.folders) > 1
    heads = [main.heading, "baseline", "run", "difference", "95 % interval", "sign flip", "(Holm)"]
    rows = [heads + (["SD base", "SD run"] if several else ["fixed", "broken", "McNemar", "(Holm)"])]
    for table, gaps in item.gaps.items():
        gap = gaps[found.measure]
        row = [table, _value(gap.second, main), _value(gap.first, main), _value(gap.value, main, True)]
        row += [_interval(gap, main), _p(gap.sign_flip), _p(item.holm.get(("sign_flip", table, found.measure)))]
        test = gaps[marks].mcnemar if marks in gaps else None
        if several:
            row += [_value(gap.spread[1], main), _value(gap.spread[0], main)]
        elif test is None:
            row += ["-"] * 4
        else:
            row += [str(test.b), str(test.c), _p(test.p_value), _p(item.holm.get(("mcnemar", table, marks)))]
        rows.append(row)
    return columns(rows, flush="l")


def _differences(item: Comparison) -> str:
    """All measures in all tables; the longer list goes down."""
    tables = list(item.gaps)
    names = list(dict.fromkeys(name for gaps in item.gaps.values() for name in gaps))
    cells = {(table, name): _cell(item.gaps[table].get(name), measure(name)) for table in tables for name in names}
    if len(names) >= len(tables):
        rows = [("Difference", *tables)]
        rows += [(measure(name).heading, *(cells[table, name] for table in tables)) for name in names]
    else:
        rows = [("Difference", *(measure(name).heading for name in names))]
        rows += [(table, *(cells[table, name] for name in names)) for table in tables]
    return columns(rows, flush="l")


def _flip_text(flip: Flip, ask: Callable[[str], str]) -> str:
    """One line; three for captions, whose instruction is always the same."""
    said = [clean(record.output).strip() or "(nothing)" for record in (flip.second, flip.first)]
    if flip.first.label is None:
        lines = [f"  {clean(flip.first.image_id)}  {flip.note}", *(f"    {shorten(text, 110)}" for text in said)]
        return "\n".join(lines)
    where = f"  [{', '.join(flip.tables)}]" if flip.tables else ""
    short = " -> ".join(shorten(text, 60) for text in said)
    return f"  {clean(flip.first.image_id)}  {shorten(ask(flip.first.prompt), 70)}  {short}{where}"


def _legend(found: Comparisons) -> str:
    sizes = " and ".join(
        f"{n} {name}"
        for name, n in (("sign-flip", found.family["sign_flip"]), ("McNemar", found.family["mcnemar"]))
        if n
    )
    corrected = f" Holm: corrected over {sizes} tests." if sizes else ""
    return (
        f"Run minus baseline. Intervals: {RESAMPLES:,} paired resamples of images ({AUC_RESAMPLES:,} for the AUC). "
        f"Sign flip: permutation over images, {FLIPS:,} flips. McNemar: exact, on what only one run got right."
        f"{corrected}"
    )


def _value(value: float | None, item: Measure, signed: bool = False) -> str:
    return "-" if value is None else item.show(value, signed)


def _interval(gap: Gap, item: Measure) -> str:
    return "-" if gap.low is None or gap.high is None else item.show_interval(gap.low, gap.high, True)


def _cell(gap: Gap | None, item: Measure) -> str:
    if gap is None or gap.value is None:
        return "-"
    return f"{item.show(gap.value, True)} {_interval(gap, item)}"


def _p(p: float | None) -> str:
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def columns(rows: Sequence[Sequence[str]], flush: str = "l") -> str:
    """Rows in columns; `flush` says which are set to the left (l), all further ones go to the right."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in cleaned) for at in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if flush[at : at + 1] == "l" else cell.rjust(width) for at, (cell, width) in row)
        for row in ([*enumerate(zip(line, widths, strict=True))] for line in cleaned)
    ]
    return "".join(line.rstrip() + "\n" for line in lines)
