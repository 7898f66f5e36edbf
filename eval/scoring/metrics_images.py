"""AMBER, HallusionBench and VQA accuracy as ``evaluate.Metric`` classes; see ``metrics`` for POPE, CHAIR and MME.

from sightline.eval.scoring import VqaAccuracy
VqaAccuracy().compute(predictions=["two dogs"], references=[["2 dogs"] * 10])["accuracy"]   # 1.0
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from .amber import (
    AMBER_PARSERS,
    CAPTION_COUNTS,
    NOUNS,
    PARTS,
    SUMMED,
    TYPES,
    Answered,
    Associations,
    answer_counts,
    answers_published,
    caption_counts,
    captions_published,
    read_nouns,
)
from .errors import ScoringError, unknown_name
from .hallusion import COUNTS, HALLUSION_PARSERS, set_counts
from .vqa import soft_accuracy
from .yes_no import Parser, YesNo

_TEXT = datasets.Value("string")
_TEXTS = datasets.Sequence(_TEXT)


class Amber(evaluate.Metric):
    """AMBER's yes/no questions: accuracy, precision, recall and F1 of every part, and as the script prints them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Yes/no answers on existence, attributes and relations; the positive class is no (AMBER).",
            citation="Wang et al., AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination, 2023.",
            inputs_description="predictions: answers; references: yes or no; types: AMBER's types, or its parts; "
            f"parser: {', '.join(AMBER_PARSERS)}.",
            features=datasets.Features({"predictions": _TEXT, "references": _TEXT, "types": _TEXT}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride] - it names its inputs, as every Metric does
        self,
        *,
        predictions: Sequence[str],
        references: Sequence[str],
        types: Sequence[str],
        parser: str = "amber",
    ) -> dict[str, Any]:
        rule = _known("AMBER parser", parser, AMBER_PARSERS)
        pairs: dict[str, list[tuple[YesNo | None, str]]] = {}
        for answer, label, kind in zip(predictions, references, types, strict=True):
            part, gold = TYPES.get(kind, kind), _label(label)
            if part not in PARTS:
                raise unknown_name("part of AMBER", kind, (*PARTS, *TYPES))
            pairs.setdefault(part, []).append((rule.parse(answer, gold), gold))
        counts = {part: answer_counts(pairs[part]) for part in PARTS if part in pairs}
        summed = {name: [counts[part] for part in parts if part in counts] for name, parts in SUMMED.items()}
        rows = counts | {name: Answered(*map(sum, zip(*own, strict=True))) for name, own in summed.items() if own}
        found = {name: _rates(row) for name, row in rows.items()}
        return {"parser": parser, **found, "published": answers_published(counts)}


class AmberCaptions(evaluate.Metric):
    """AMBER's captions: CHAIR, Cover, Hal and Cog, and as the script prints them."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Nouns of captions held against words that are true of the images and words often made up.",
            citation="Wang et al., AMBER: An LLM-free Multi-dimensional Benchmark for MLLMs Hallucination, 2023.",
            inputs_description="predictions: captions; references: true words of each image; listed: words that "
            "models make up for it; associations: an Associations; reader: portable or nltk.",
            features=datasets.Features({"predictions": _TEXT, "references": _TEXTS, "listed": _TEXTS}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride] - it names its inputs, as every Metric does
        self,
        *,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        listed: Sequence[Sequence[str]],
        associations: Associations,
        reader: str = "portable",
    ) -> dict[str, Any]:
        find = _known("reader of nouns", reader, NOUNS)
        sums = [0.0] * len(CAPTION_COUNTS)
        for caption, truth, known in zip(predictions, references, listed, strict=True):
            read = read_nouns(find(caption, associations), truth, known, associations)
            sums = [held + count for held, count in zip(sums, caption_counts(read, truth, known), strict=True)]
        wrong, nouns, covered, true, bad, captions, cog, inventions = sums
        found = {"CHAIR": _share(wrong, nouns), "Cover": _share(covered, true)}
        found |= {"Hal": _share(bad, captions), "Cog": _share(cog, inventions)}
        return {"reader": reader, **found, "n": len(predictions), "published": captions_published(sums)}


class HallusionBench(evaluate.Metric):
    """HallusionBench: right questions (aAcc), repeated questions (qAcc) and figures (fAcc), read by rules."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Yes/no questions on figures and edited figures: aAcc, qAcc and fAcc.",
            citation="Guan et al., HallusionBench: An Advanced Diagnostic Suite, CVPR 2024.",
            inputs_description="predictions: answers; references: yes or no; categories: VD or VS; set_ids, "
            "figure_ids, question_ids: as in the data, sets named apart by subcategory; every question of a set must "
            f"be there; parser: {', '.join(HALLUSION_PARSERS)}.",
            features=datasets.Features(
                {
                    **dict.fromkeys(("predictions", "references", "categories"), _TEXT),
                    **dict.fromkeys(("set_ids", "figure_ids", "question_ids"), _TEXT),
                }
            ),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride] - it names its inputs, as every Metric does
        self,
        *,
        predictions: Sequence[str],
        references: Sequence[str],
        categories: Sequence[str],
        set_ids: Sequence[str],
        figure_ids: Sequence[str],
        question_ids: Sequence[str],
        parser: str = "vlmevalkit",
    ) -> dict[str, Any]:
        rule: Parser = _known("HallusionBench parser", parser, HALLUSION_PARSERS)
        places = list(zip(categories, set_ids, figure_ids, question_ids, strict=True))
        if len(set(places)) < len(places):
            raise ScoringError("A question is there twice.", "Name the sets of every subcategory apart.")
        per_figure = Counter((category, of, figure) for category, of, figure, _ in places)
        per_question = Counter((category, of, question) for category, of, _, question in places)
        sets: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for (category, of, figure, question), output, label in zip(places, predictions, references, strict=True):
            gold = {"figure": figure, "question": question, "drawn": not (category == "VS" and figure == "0")}
            gold |= {"figure_size": per_figure[category, of, figure]}
            gold |= {"question_size": per_question[category, of, question]}
            sets.setdefault((category, of), []).append({"output": output, "label": _label(label), "gold": gold})
        columns = zip(*(set_counts(records, rule) for records in sets.values()), strict=True)
        own = dict(zip(COUNTS, map(sum, columns), strict=True)) if sets else dict.fromkeys(COUNTS, 0.0)
        found = {
            "aAcc": _share(own["right"], own["n"]),
            "qAcc": _share(own["questions_right"], own["questions"]),
            "fAcc": _share(own["figures_right"], own["figures"]),
        }
        return {"parser": parser, **found, "n": len(places)}


class VqaAccuracy(evaluate.Metric):
    """Soft accuracy of short answers against those of people, as VQA and TextVQA count it."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Mean agreement of short answers with those of ten people (VQA, TextVQA).",
            citation="Goyal et al., Making the V in VQA Matter, CVPR 2017.",
            inputs_description="predictions: answers; references: lists of people's answers.",
            features=datasets.Features({"predictions": _TEXT, "references": _TEXTS}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride] - it names its inputs, as every Metric does
        self, *, predictions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, Any]:
        agreed = sum(soft_accuracy(said, theirs) for said, theirs in zip(predictions, references, strict=True))
        return {"accuracy": _share(agreed, len(predictions)), "n": len(predictions)}


def _rates(counts: Answered) -> dict[str, float | int | None]:
    return {
        "accuracy": _share(counts.right, counts.n),
        "precision": _share(counts.right_no, counts.said_no),
        "recall": _share(counts.right_no, counts.label_no),
        "f1": _share(2 * counts.right_no, counts.said_no + counts.label_no),
        "n": counts.n,
    }


def _share(part: float, whole: float) -> float | None:
    """A ratio; None where there is nothing to divide by."""
    return part / whole if whole else None


def _known(what: str, name: str, options: Any) -> Any:
    if name not in options:
        raise unknown_name(what, name, options)
    return options[name]


def _label(label: str) -> str:
    found = label.strip().lower()
    if found not in ("yes", "no"):
        raise ScoringError(f"A reference is {label!r}.", 'References are "yes" or "no".')
    return found
