"""Tables of HallusionBench: questions, figures and repeated questions, by category and over all.

A set holds figures that share their questions, so sets are what is resampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .counting import Counting, Ratio
from .score_tables import Record
from .scoring.hallusion import COUNTS, HALLUSION_PARSERS, set_counts

ALL = "all"
_MORE = ("yes", "unread", "tokens")
_INCOMPLETE = "a question or figure lacks an answer"


def _count(records: Sequence[Record], parser: str, brought: Any) -> list[float]:
    rule = HALLUSION_PARSERS[parser]
    said = [rule.parse(record["output"], record["label"]) for record in records]
    tokens = sum(record["n_output_tokens"] for record in records)
    return [*set_counts(records, rule), float(said.count("yes")), float(said.count(None)), float(tokens)]


def _right(record: Record, parser: str, brought: Any) -> bool:
    return HALLUSION_PARSERS[parser].parse(record["output"], record["label"]) == record["label"]


def _notes(manifest: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    if any(not record["gold"]["drawn"] for record in records):
        return []
    return ["Only questions with a figure were asked; published tables may count those without one too."]


HALLUSION = Counting(
    name="hallusion_bench",
    table=ALL,
    measure="aAcc",
    kinds=(*COUNTS, *_MORE),
    count=_count,
    ratios=(
        Ratio("aAcc", ("right",), ("n",), fixed=True),
        Ratio("qAcc", ("questions_right",), ("questions",), _INCOMPLETE, fixed=True),
        Ratio("fAcc", ("figures_right",), ("figures",), _INCOMPLETE, fixed=True),
        Ratio("yes_ratio", ("yes",), ("n",)),
        Ratio("unparsed_rate", ("unread",), ("n",)),
        Ratio("output_tokens", ("tokens",), ("n",)),
    ),
    parsers=tuple(HALLUSION_PARSERS),
    parts=("VD", "VS"),
    summed={ALL: None},
    cluster=lambda record: str(record["gold"]["set"]),
    right=_right,
    marked="aAcc",
    margins=True,
    notes=_notes,
)
