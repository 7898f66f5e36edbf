"""Answers in segments: which words are grounded in the evidence, which are hallucinated, and what is true."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from ..compare_answers import Answers
from ..explain.tables import visible
from ..records import SampleRecord
from ..scoring.chair import read_caption

Kind = Literal[0, 1, 2]
"""Of a segment: 0 says nothing of the evidence, 1 is grounded, 2 is hallucinated."""
Segment = tuple[Kind, str]
Unit = tuple[str, str, str]
"""Image, prompt and label: what several splits may share."""


def unit_of(record: SampleRecord) -> Unit:
    """What a sample asks."""
    return (str(record.image_id), record.prompt, str(record.label))


def verdicts(answers: Answers) -> dict[Unit, tuple[bool, str]]:
    """Whether each answer is right, and what was wrong in words; those of the scorer's first measure."""
    marks = answers.scale.marks(answers.material)
    first = marks.get(answers.scale.measure) or next(iter(marks.values()), {})
    return {unit_of(mark.record): (mark.right, mark.note) for mark in first.values() if mark.listed}


def segments(record: SampleRecord, answers: Answers) -> list[Segment]:
    """The answer in segments; their texts together are the answer, what cannot be seen in it made visible."""
    spans: list[tuple[int, int, Kind]] = []
    if answers.truth is not None and answers.vocabulary is not None:
        truth = answers.truth.get(str(record.image_id), ())
        words = read_caption(record.output, truth, answers.vocabulary)["words"]
        spans = [(*word["chars"], 2 if word["hallucinated"] else 1) for word in words]
    elif record.gold and "answers" in record.gold:
        spans = [*_found(record.output, record.gold["answers"], 1), *_found(record.output, record.gold["others"], 2)]
    return list(_cut(record.output, sorted(spans)))


def _found(text: str, words: Collection[str], kind: Kind) -> Iterator[tuple[int, int, Kind]]:
    for word in words:
        for match in re.finditer(re.escape(word), text, re.IGNORECASE):
            yield match.start(), match.end(), kind


def _cut(text: str, spans: Sequence[tuple[int, int, Kind]]) -> Iterator[Segment]:
    at = 0
    for start, end, kind in spans:
        if start < at:
            continue
        if start > at:
            yield 0, visible(text[at:start], lines=True)
        yield kind, visible(text[start:end], lines=True)
        at = end
    if at < len(text) or not spans:
        yield 0, visible(text[at:], lines=True)


def truth_of(record: SampleRecord, answers: Answers) -> str:
    """What is true, in words."""
    if answers.truth is not None:
        return ", ".join(sorted(answers.truth.get(str(record.image_id), ()))) or "nothing that has a name"
    gold: Mapping[str, Any] = record.gold or {}
    if "answers" in gold:
        return " or ".join(gold["answers"])
    return record.label or ""
