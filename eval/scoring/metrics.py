"""POPE, CHAIR and MME as ``evaluate.Metric`` classes, over the same pure functions as the harness.

They are built in code, so nothing is looked up on a hub and no network is needed::

    from sightline.eval.scoring import Pope
    Pope().compute(predictions=["Yes", "No, it is not."], references=["yes", "yes"])["accuracy"]   # 0.5

Numbers only: the results leave out the per-caption details that ``score_chair`` gives.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import evaluate

from .chair import score_chair
from .errors import ScoringError
from .mme import score_mme
from .pope import score_pope
from .vocabulary import COCO, Vocabulary

_TEXT = datasets.Value("string")


class Pope(evaluate.Metric):
    """POPE over answers and gold labels; see ``score_pope`` for the values."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy, precision, recall, F1 and yes-ratio of yes/no answers about objects (POPE).",
            citation="Li et al., Evaluating Object Hallucination in Large Vision-Language Models, EMNLP 2023.",
            inputs_description="predictions: answers; references: yes or no; parser: name of a parser; margins: "
            "optional yes-no margin of each answer.",
            features=datasets.Features({"predictions": _TEXT, "references": _TEXT}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride] - it names its inputs, as every Metric does
        self,
        *,
        predictions: Sequence[str],
        references: Sequence[str],
        parser: str = "pope_official",
        margins: Sequence[float | None] | None = None,
    ) -> dict[str, Any]:
        scores = margins if margins is not None else [None] * len(predictions)
        if len(scores) != len(predictions):
            raise ScoringError(f"Got {len(scores)} margins for {len(predictions)} answers.", "Give one for each.")
        records = [
            _record(place, answer, label=_label(label), margin=margin)
            for place, (answer, label, margin) in enumerate(zip(predictions, references, scores, strict=True))
        ]
        return {"parser": parser} | score_pope(records, parser=parser)["pooled"]


class Chair(evaluate.Metric):
    """CHAIR over captions and the classes true of their images; see ``score_chair`` for the values."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of captions (CHAIRs) and of object words (CHAIRi) that are hallucinated.",
            citation="Rohrbach et al., Object Hallucination in Image Captioning, EMNLP 2018.",
            inputs_description="predictions: captions; references: lists of the classes true of each image; "
            "vocabulary: a Vocabulary, by default the 80 classes of COCO; trim_incomplete_sentence: bool.",
            features=datasets.Features({"predictions": _TEXT, "references": datasets.Sequence(_TEXT)}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride] - it names its inputs, as every Metric does
        self,
        *,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        vocabulary: Vocabulary = COCO,
        trim_incomplete_sentence: bool = False,
    ) -> dict[str, Any]:
        score = score_chair(
            [_record(place, caption) for place, caption in enumerate(predictions)],
            {str(place): list(classes) for place, classes in enumerate(references)},
            vocabulary=vocabulary,
            trim_incomplete_sentence=trim_incomplete_sentence,
        )
        return _without(score, ("scorer", "captions", "n_error", "n_missing"))


class Mme(evaluate.Metric):
    """MME over answers, gold labels, subtasks and image ids; see ``score_mme`` for the values."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="acc, acc+ and score of MME's subtasks, and their totals.",
            citation="Fu et al., MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models, 2023.",
            inputs_description="predictions: answers; references: yes or no; categories: subtask names; image_ids: "
            "the image of each question; parser: official, lmms_eval or vlmevalkit.",
            features=datasets.Features(
                {"predictions": _TEXT, "references": _TEXT, "categories": _TEXT, "image_ids": _TEXT}
            ),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride] - it names its inputs, as every Metric does
        self,
        *,
        predictions: Sequence[str],
        references: Sequence[str],
        categories: Sequence[str],
        image_ids: Sequence[str],
        parser: str = "official",
    ) -> dict[str, Any]:
        rows = enumerate(zip(predictions, references, categories, image_ids, strict=True))
        records = [
            _record(place, answer, label=_label(label), split=category, image_id=image)
            for place, (answer, label, category, image) in rows
        ]
        return _without(score_mme(records, parser=parser), ("scorer", "n_error", "n_missing"))


def _record(place: int, output: str, **fields: Any) -> dict[str, Any]:
    name = str(place)
    base = {"key": name, "split": "", "doc_id": name, "image_id": name, "output": output, "status": "ok"}
    return base | fields


def _label(label: str) -> str:
    return label.strip().lower()


def _without(score: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in score.items() if name not in set(names)}
