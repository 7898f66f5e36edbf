"""Tables of TextVQA: soft accuracy of short answers about images, a check that ability does not drop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .counting import Counting, Ratio
from .score_tables import Record
from .scoring.vqa import soft_accuracy

VQA = "vqa"
"""How answers are compared: the only dialect there is."""


def _count(records: Sequence[Record], parser: str, brought: Any) -> list[float]:
    agreed = sum(soft_accuracy(record["output"], record["gold"]["answers"]) for record in records)
    return [agreed, float(len(records)), float(sum(record["n_output_tokens"] for record in records))]


TEXT_VQA = Counting(
    name="text_vqa",
    table="validation",
    measure="accuracy",
    kinds=("agreed", "n", "tokens"),
    count=_count,
    ratios=(
        Ratio("accuracy", ("agreed",), ("n",), fixed=True),
        Ratio("output_tokens", ("tokens",), ("n",)),
    ),
    parsers=(VQA,),
)
