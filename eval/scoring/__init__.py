"""Scores of saved answers: pure functions of records, without a model.

Every scorer is an ``evaluate.Metric`` class too: ``Pope``, ``Chair``, ``Mme``, ``Amber``, ``AmberCaptions``,
``HallusionBench``, ``VqaAccuracy``, ``ShortAnswers``, ``MemoTrap``, ``TruthfulQa``. That library takes seconds to
import, so they are loaded when first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .chair import (
    CaptionCounts,
    build_ground_truth,
    chair_counts,
    chair_rate,
    chair_rates,
    cut_caption,
    cut_like,
    read_caption,
    score_chair,
    trim_caption,
)
from .checks import check_records, sample_id
from .errors import ScoringError
from .mme import MME_PARSERS, MmeCounts, mme_counts, mme_scores, mme_total, score_mme
from .pope import (
    ImageCounts,
    mean_rate,
    pooled_rate,
    pope_counts,
    pope_lines,
    pope_rates,
    score_pope,
    score_pope_parsers,
)
from .vocabulary import COCO, Mention, Reading, Token, Vocabulary, tokenize
from .yes_no import PARSERS, Parser, get_parser

if TYPE_CHECKING:
    from .metrics import Chair, Mme, Pope
    from .metrics_images import Amber, AmberCaptions, HallusionBench, VqaAccuracy
    from .metrics_texts import MemoTrap, ShortAnswers, TruthfulQa

_METRICS = {
    "Amber": "metrics_images",
    "AmberCaptions": "metrics_images",
    "Chair": "metrics",
    "HallusionBench": "metrics_images",
    "MemoTrap": "metrics_texts",
    "Mme": "metrics",
    "Pope": "metrics",
    "ShortAnswers": "metrics_texts",
    "TruthfulQa": "metrics_texts",
    "VqaAccuracy": "metrics_images",
}
"""Class -> module."""

__all__ = [
    "COCO",
    "MME_PARSERS",
    "PARSERS",
    "Amber",
    "AmberCaptions",
    "CaptionCounts",
    "Chair",
    "HallusionBench",
    "ImageCounts",
    "MemoTrap",
    "Mention",
    "Mme",
    "MmeCounts",
    "Parser",
    "Pope",
    "Reading",
    "ScoringError",
    "ShortAnswers",
    "Token",
    "TruthfulQa",
    "Vocabulary",
    "VqaAccuracy",
    "build_ground_truth",
    "chair_counts",
    "chair_rate",
    "chair_rates",
    "check_records",
    "cut_caption",
    "cut_like",
    "get_parser",
    "mean_rate",
    "mme_counts",
    "mme_scores",
    "mme_total",
    "pooled_rate",
    "pope_counts",
    "pope_lines",
    "pope_rates",
    "read_caption",
    "sample_id",
    "score_chair",
    "score_mme",
    "score_pope",
    "score_pope_parsers",
    "tokenize",
    "trim_caption",
]


def __getattr__(name: str) -> Any:
    if name in _METRICS:
        return getattr(importlib.import_module(f".{_METRICS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
