"""The report as CSV, one line per figure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence

from .board import Difference, Entry, Group, Section, generation_label
from .runs import Score
from .text import csv_text, finite

COLUMNS = (
    *("model", "task", "split", "generation", "decoder", "params", "metric", "value", "low", "high", "n"),
    *("kind", "partial", "reason", "run", "task_version", "data"),
)
GREEDY_CUT = "greedy_cut_to_this"
Figure = tuple[str, str, Score]


def long_form(found: Sequence[Section]) -> str:
    """Every score, parser score, paired difference and cost. Fractions stay fractions; an empty value has a reason."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for section in found:
        for group in section.groups:
            for entry in group.entries:
                if not entry.reference:
                    writer.writerows(_lines(section, group, entry))
    return file.getvalue()


def _lines(section: Section, group: Group, entry: Entry) -> Iterator[list[str]]:
    run = entry.run
    params, data = (json.dumps(held, ensure_ascii=False, sort_keys=True) for held in (run.params, section.data))
    for split, metric, score in _figures(section, entry):
        texts = [section.model, section.task, split, generation_label(group.generation, full=True), run.key, params]
        numbers = [_number(score.value), _number(score.low), _number(score.high), _number(score.n)]
        rest = [run.kind, "true" if run.partial else "false", score.reason, run.name]
        rest += [section.task_version, data]
        yield [*map(csv_text, texts), csv_text(metric), *numbers, *map(csv_text, rest)]


def _figures(section: Section, entry: Entry) -> Iterator[Figure]:
    run = entry.run
    for split in section.splits:
        for metric, score in run.tables.get(split, {}).items():
            yield split, metric, score
    for metric, score in run.like.items():
        yield GREEDY_CUT, metric, score
    for parser in sorted(run.parsers):
        for split, table in run.parsers[parser].items():
            for metric, score in table.items():
                yield split, f"{metric}@{parser}", score
    main = section.measure.key
    yield section.split, f"{main}_minus_greedy", _gap(entry.against_greedy)
    yield section.split, f"{main}_minus_best_control", _gap(entry.against_control)
    if section.scale.check is not None:
        yield section.scale.check_table, f"{section.scale.check_key}_minus_greedy", _gap(entry.second_look)
    yield from _cost(entry)


def _gap(gap: Difference) -> Score:
    return Score(gap.value, gap.low, gap.high, gap.n or None, gap.reason)


def _cost(entry: Entry) -> Iterator[Figure]:
    run = entry.run
    beside = run.timing.get("beside_greedy")
    ratio = beside.get("ratio") if isinstance(beside, dict) else None
    costs = {
        "time_ratio": ratio,
        "rows_per_token": run.timing.get("rows_per_token"),
        "forwards_per_token": run.timing.get("forwards_per_token"),
    }
    if run.timing.get("focus") is not None:
        costs["focus"] = run.timing["focus"]
    for name, value in costs.items():
        found = finite(value)
        yield "", name, Score(found, reason="" if found is not None else "not timed")
    yield "", "errors", Score(float(run.n_error), n=run.n)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(int(value)) if float(value).is_integer() else repr(value)
