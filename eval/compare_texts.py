"""How runs of text tasks are compared: means over samples, with what documents share drawn as one.

The measures are those of the scores; a sample whose measure is not defined counts in no mean.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import numpy as np

from .compare_scales import Mark, Marks, Material, Scale, Tables, Tally, Unit, ratio
from .records import SampleRecord
from .score_texts import BY_SCORES, MACRO, MC, MEMO, MICRO, SHORT, SQUAD, Measures
from .statistics import Floats


def _asks(record: SampleRecord) -> bool:
    return record.gold is not None


def _tally(material: Material, measures: Measures) -> Tally:
    """Counts `[groups, parts, 2 * measures]`: of each measure the sum, then of each the number of samples."""
    parts = tuple(dict.fromkeys(record.split for record in material.records))
    groups = tuple(dict.fromkeys(record.image_id for record in material.records))
    row, column = ({name: place for place, name in enumerate(names)} for names in (groups, parts))
    counts = np.zeros((len(groups), len(parts), 2 * len(measures)))
    for record, line in zip(material.records, material.lines, strict=True):
        values = [measure(line) for measure in measures.values()]
        known = [not math.isnan(value) for value in values]
        counts[row[record.image_id], column[record.split]] += [*np.where(known, values, 0), *known]
    asked: dict[str, set[str]] = {group: set() for group in groups}
    for record in material.records:
        asked[record.image_id].add(record.split)
    return Tally(groups, parts, counts, ["/".join(sorted(asked[group])) for group in groups])


def _figures(parts: Sequence[str], sums: Floats, measures: Measures, summed: Mapping[str, str]) -> Tables:
    """The tables of the parts, and of those that sum them up: all samples together, or the mean over parts."""
    m = len(measures)
    single = ratio(sums[..., :m], sums[..., m:])
    whole = sums.sum(axis=-2)
    tables = {part: _named(single[..., at, :], measures) for at, part in enumerate(parts)}
    ways = {MICRO: ratio(whole[..., :m], whole[..., m:]), MACRO: single.mean(axis=-2)}
    return tables | {table: _named(ways[way], measures) for table, way in summed.items()}


def _shares(tally: Tally, measures: Measures, summed: Mapping[str, str]) -> Tables:
    """What each group adds to each measure."""
    m = len(measures)
    values, n = tally.counts[..., :m], tally.counts[..., m:].sum(axis=0)
    single = ratio(values, n)
    tables = {part: _named(single[:, at], measures) for at, part in enumerate(tally.parts)}
    ways = {MICRO: ratio(values.sum(axis=1), n.sum(axis=0)), MACRO: single.mean(axis=1)}
    return tables | {table: _named(ways[way], measures) for table, way in summed.items()}


def _named(values: Floats, measures: Measures) -> dict[str, Floats]:
    """`[..., measures]` by name."""
    return {name: values[..., place] for place, name in enumerate(measures)}


def _marks(material: Material, measures: Measures, binary: Sequence[str], summed: Collection[str]) -> Marks:
    """A mark for each sample in the measures that are right or wrong."""
    found: Marks = {}
    for name in binary:
        own: dict[Unit, Mark] = {}
        for record, line in zip(material.records, material.lines, strict=True):
            tables = frozenset({record.split, *summed})
            own[record.split, record.doc_id] = Mark(measures[name](line) == 1, tables, record)
        found[name] = own
    return found


def _scale(
    name: str, table: str, measure: str, measures: Measures, binary: Sequence[str], parser: str, **summed: str
) -> Scale:
    return Scale(
        name,
        table,
        measure,
        _asks,
        partial(_tally, measures=measures),
        partial(_figures, measures=measures, summed=summed),
        partial(_shares, measures=measures, summed=summed),
        partial(_marks, measures=measures, binary=binary, summed=summed),
        (parser,),
    )


SHORT_ANSWERS = _scale("short_answers", "substituted", "em", SHORT, ("em", "subspan_em"), SQUAD)
MEMO_TRAP = _scale("memo_trap", MICRO, "accuracy", MEMO, ("accuracy",), BY_SCORES, **{MICRO: MICRO, MACRO: MACRO})
TRUTHFUL_QA = _scale("truthful_qa", "multiple_choice", "MC2", MC, ("MC1",), BY_SCORES)
