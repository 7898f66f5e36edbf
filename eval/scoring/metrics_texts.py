"""The scorers of text tasks as ``evaluate.Metric`` classes: short answers, MemoTrap, TruthfulQA.

Candidates come with their summed log-probabilities, minus infinity (or None) where a cut rules one out::

    from sightline.eval.scoring import TruthfulQa
    TruthfulQa().compute(predictions=[[-1.0, -2.0, -3.0]], references=[0], true=[[0, 1]])["MC1"]   # 1.0
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import datasets
import evaluate

from .choices import Truthfulness, accuracies, chosen_right, truthfulness
from .errors import ScoringError
from .short_answers import exact_match, subspan_match

_TEXT = datasets.Value("string")
_SCORES = datasets.Sequence(datasets.Value("float64"))
_PLACE = datasets.Value("int64")


class ShortAnswers(evaluate.Metric):
    """Exact and sub-span matches of the first line with a right answer, after SQuAD's normalisation (NQ-Swap)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Exact match (em) and sub-span match (subspan_em) of short answers.",
            citation="Rajpurkar et al., SQuAD, EMNLP 2016; Longpre et al., Entity-Based Knowledge Conflicts, 2021.",
            inputs_description="predictions: answers; references: lists of right answers.",
            features=datasets.Features({"predictions": _TEXT, "references": datasets.Sequence(_TEXT)}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride] - it names its inputs, as every Metric does
        self, *, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, Any]:
        pairs = list(zip(predictions, references, strict=True))
        em, part = ([match(said, right) for said, right in pairs] for match in (exact_match, subspan_match))
        return {"em": _mean(em), "subspan_em": _mean(part), "n": len(pairs)}


class MemoTrap(evaluate.Metric):
    """MemoTrap: whether the asked ending is the likeliest, by subtask, over all and as the mean of the subtasks."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of instructions followed against a text known by heart.",
            citation="Liu and Liu, The MemoTrap Dataset, 2023.",
            inputs_description="predictions: log-probabilities of the endings; references: place of the asked one; "
            "subtasks: their names.",
            features=datasets.Features({"predictions": _SCORES, "references": _PLACE, "subtasks": _TEXT}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride] - it names its inputs, as every Metric does
        self, *, predictions: Sequence[Sequence[float | None]], references: Sequence[int], subtasks: Sequence[str]
    ) -> dict[str, Any]:
        rows = zip(subtasks, predictions, references, strict=True)
        marks = [(subtask, chosen_right(_scores(scores), right)) for subtask, scores, right in rows]
        return {**accuracies(marks), "n": len(marks)}


class TruthfulQa(evaluate.Metric):
    """TruthfulQA, multiple choice: MC1, MC2 and MC3."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Whether true answers are likelier than false ones: MC1, MC2 and MC3.",
            citation="Lin et al., TruthfulQA: Measuring How Models Mimic Human Falsehoods, ACL 2022.",
            inputs_description="predictions: log-probabilities of the candidates; references: place of the best "
            "answer; true: places of all true ones.",
            features=datasets.Features(
                {"predictions": _SCORES, "references": _PLACE, "true": datasets.Sequence(_PLACE)}
            ),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride] - it names its inputs, as every Metric does
        self, *, predictions: Sequence[Sequence[float | None]], references: Sequence[int], true: Sequence[Sequence[int]]
    ) -> dict[str, Any]:
        rows = zip(predictions, references, true, strict=True)
        found = [_truth(_scores(scores), best, right) for scores, best, right in rows]
        return {
            "MC1": _mean([each.mc1 for each in found]),
            "MC2": _mean([each.mc2 for each in found if not math.isnan(each.mc2)]),
            "MC3": _mean([each.mc3 for each in found]),
            "n": len(found),
        }


def _truth(scores: Sequence[float], best: int, true: Sequence[int]) -> Truthfulness:
    if best not in true or not all(0 <= place < len(scores) for place in true):
        raise ScoringError(
            f"The best answer {best} of the true ones {list(true)} is none of {len(scores)} candidates.",
            "Places count from 0, and the best answer is one of the true ones.",
        )
    false = [score for place, score in enumerate(scores) if place not in true]
    return truthfulness([scores[place] for place in true], false, list(true).index(best))


def _scores(row: Sequence[float | None]) -> list[float]:
    return [-math.inf if score is None else float(score) for score in row]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
