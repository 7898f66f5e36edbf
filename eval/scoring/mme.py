"""MME: two yes/no questions on each image, scored from the records of a run without a model.

Source: the MME evaluation tool, lmms-eval and VLMEvalKit, which differ in their parsers. For each subtask:

    acc = right questions / questions      acc+ = images with both right / images      score = 100 acc + 100 acc+

so that a subtask is worth 200, perception (ten subtasks) 2,000 and cognition (four) 800. An answer that is neither
yes nor no is wrong. Questions pair by subtask and image id, whatever their order; as long as an image has only one
scored question, acc+ and score are None. A model that gives one answer to everything has acc 0.5 and acc+ 0 in each
subtask, a score of 50: ``all_same_answer`` marks it.

A record needs ``key, split, doc_id, image_id, output, label, status``; ``split`` is the subtask.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .checks import Checked, Record, SampleId, check_label, check_records, sample_id
from .errors import ScoringError, unknown_name
from .yes_no import PARSERS, Parser, YesNo

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
HALLUCINATION = ("existence", "count", "position", "color")
GROUPS = {"perception": PERCEPTION, "cognition": COGNITION, "hallucination": HALLUCINATION}
SUBTASKS = PERCEPTION + COGNITION

COUNTS = ("right", "questions", "both_right", "images")


class MmeCounts(NamedTuple):
    """Counts by image, the input of the bootstraps in ``statistics`` (with ``strata``: within the subtask).

    Attributes:
        images: ``(subtask, image id)`` of each row, sorted; length C.
        subtasks: Names along the second axis; length T.
        strata: int64 ``[C]``, the place in ``subtasks`` of each row.
        counts: float64 ``[C, T, 4]``, the last axis in the order of ``COUNTS``.
    """

    images: tuple[tuple[str, str], ...]
    subtasks: tuple[str, ...]
    strata: NDArray[np.int64]
    counts: NDArray[np.float64]


def _first_four(text: str) -> YesNo | None:
    start = text[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def _official(answer: str, label: str) -> YesNo | None:
    return _first_four(answer.lower())


def _lmms_eval(answer: str, label: str) -> YesNo | None:
    text = answer.lower().strip().replace(".", "")
    if len(text) == 1:
        return "yes" if text == "y" else "no" if text == "n" else None
    return _first_four(text)


MME_PARSERS: dict[str, Parser] = {
    parser.name: parser
    for parser in (
        Parser("official", _official, "MME evaluation tool, calculation.py"),
        Parser("lmms_eval", _lmms_eval, "lmms-eval tasks/mme"),
        PARSERS["vlmevalkit"],
    )
}


def score_mme(
    records: Iterable[Record],
    *,
    parser: str | Parser = "official",
    expected: Iterable[SampleId] | None = None,
    allow_partial: bool = False,
) -> dict[str, Any]:
    """Score the answers of one run.

    Args:
        records: Records of the run, in any order; the result does not depend on it.
        parser: Name of a dialect in ``MME_PARSERS``, or a ``Parser``. Answers are not stripped before it.
        expected: Every ``(split, doc_id)`` of the task; None = completeness is not checked.
        allow_partial: Count missing samples (``n_missing``) instead of refusing them.

    Returns:
        ``scorer, parser, n, n_error, n_missing``; ``subtasks``: for each ``n, n_images, n_error, n_other, TP, FN,
        TN, FP, acc, acc_plus, score, precision, recall, all_same_answer, undefined`` (acc and acc+ fractions,
        precision and recall over answers that are yes or no, as the tool has them); ``totals``: for perception,
        cognition and hallucination ``score, max, subtasks, complete`` over the subtasks that are there;
        ``all_same_answer`` over all answers.

    Raises:
        ScoringError: A record is broken, there twice or missing; a subtask or parser name is no such; an image
            has more than two questions.
    """
    rule = _get(parser)
    checked = check_records(records, fields=("label",), expected=expected, allow_partial=allow_partial)
    rows = {subtask: _row(checked, subtask, rule) for subtask in _present(checked)}
    return {
        "scorer": "mme",
        "parser": rule.name,
        "n": len(checked.ok),
        "n_error": len(checked.errors),
        "n_missing": checked.n_missing,
        "subtasks": rows,
        "totals": {group: _total(rows, members) for group, members in GROUPS.items()},
        "all_same_answer": _all_same(_answers(checked.ok, rule)),
    }


def mme_counts(records: Iterable[Record], *, parser: str | Parser = "official") -> MmeCounts:
    """Counts by image for intervals and paired comparisons; images with one scored question have no ``both_right``.

    Raises:
        ScoringError: As ``score_mme``.
    """
    rule = _get(parser)
    checked = check_records(records, fields=("label",))
    subtasks = tuple(_present(checked))
    right = _right_by_image([record for record in checked.ok if _known(record)], rule)
    images = tuple(sorted(right))
    strata = np.array([subtasks.index(subtask) for subtask, _ in images], dtype=np.int64)
    counts = np.zeros((len(images), len(subtasks), len(COUNTS)))
    for row, image in enumerate(images):
        marks = right[image]
        whole = len(marks) == 2
        counts[row, strata[row]] = [sum(marks), len(marks), whole and all(marks), whole]
    return MmeCounts(images, subtasks, strata, counts)


def mme_scores(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores ``[..., T, 4] -> [..., T]`` of counts in the order of ``COUNTS``, 0 to 200; NaN where undefined."""
    right, questions, both, images = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * np.divide(right, questions) + 100 * np.divide(both, images)


def mme_total(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The statistic ``[..., T, 4] -> [...]``: the sum of the subtasks' scores, for the bootstraps."""
    return mme_scores(counts).sum(axis=-1)


def _get(parser: str | Parser) -> Parser:
    if isinstance(parser, Parser):
        return parser
    if parser not in MME_PARSERS:
        raise unknown_name("MME parser", parser, MME_PARSERS)
    return MME_PARSERS[parser]


def _known(record: Record) -> bool:
    """True for a record whose subtask and label are of MME; anything else raises."""
    if record["split"] not in SUBTASKS:
        raise unknown_name("MME subtask", record["split"], SUBTASKS)
    return bool(check_label(record))


def _present(checked: Checked) -> list[str]:
    """The subtasks of the records, in MME's order."""
    there = {record["split"] for record in checked.ok + checked.errors if _known(record)}
    return [subtask for subtask in SUBTASKS if subtask in there]


def _answers(records: Iterable[Record], parser: Parser) -> list[YesNo | None]:
    return [parser.parse(record["output"], record["label"]) for record in records]


def _all_same(answers: Sequence[YesNo | None]) -> bool:
    """Whether two or more answers are all the same yes or no."""
    return len(answers) > 1 and answers[0] is not None and len(set(answers)) == 1


def _right_by_image(records: Iterable[Record], parser: Parser) -> dict[tuple[str, str], list[bool]]:
    right: dict[tuple[str, str], list[bool]] = {}
    for record in records:
        marks = right.setdefault((str(record["split"]), str(record["image_id"])), [])
        marks.append(parser.parse(record["output"], record["label"]) == record["label"])
        if len(marks) > 2:
            raise ScoringError(
                f"Image {record['image_id']!r} of {record['split']!r} has more than two questions "
                f"(the third is {sample_id(record)}).",
                "Give every image of a subtask an id of its own, and score one run at a time.",
            )
    return right


def _row(checked: Checked, subtask: str, parser: Parser) -> dict[str, Any]:
    ok = [record for record in checked.ok if record["split"] == subtask]
    n_error = sum(record["split"] == subtask for record in checked.errors)
    marks = list(_right_by_image(ok, parser).values())
    answers = _answers(ok, parser)
    pairs = Counter(zip(answers, (record["label"] for record in ok), strict=True))
    tp, fn, tn, fp = pairs["yes", "yes"], pairs["no", "yes"], pairs["no", "no"], pairs["yes", "no"]
    paired = bool(marks) and not n_error and all(len(both) == 2 for both in marks)
    acc = _share(sum(map(sum, marks)), len(ok))
    acc_plus = _share(sum(map(all, marks)), len(marks)) if paired else None
    values = {
        "acc": acc,
        "acc_plus": acc_plus,
        "score": None if acc is None or acc_plus is None else 100 * acc + 100 * acc_plus,
        "precision": _share(tp, tp + fp),
        "recall": _share(tp, tp + fn),
    }
    return {
        "n": len(ok),
        "n_images": len(marks),
        "n_error": n_error,
        "n_other": answers.count(None),
        **{"TP": tp, "FN": fn, "TN": tn, "FP": fp},
        **values,
        "all_same_answer": _all_same(answers),
        "undefined": {name: _WHY_UNDEFINED[name] for name, value in values.items() if value is None},
    }


_WHY_UNDEFINED = {
    "acc": "no answer was scored",
    "acc_plus": "an image lacks one of its two answers",
    "score": "an image lacks one of its two answers",
    "precision": "no answer is yes",
    "recall": "no yes question was answered yes or no",
}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _total(rows: Mapping[str, Mapping[str, Any]], members: Sequence[str]) -> dict[str, Any]:
    there = [subtask for subtask in members if subtask in rows]
    scores = [rows[subtask]["score"] for subtask in there]
    return {
        "score": math.fsum(scores) if there and None not in scores else None,
        "max": 200 * len(there),
        "subtasks": there,
        "complete": len(there) == len(members),
    }
