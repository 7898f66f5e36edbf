"""POPE: yes/no questions about objects, scored from the records of a run without a model.

Source: POPE ``evaluate.py`` (08d957b) for the counts and rates; the positive class is yes. With ``n`` scored
answers, ``P`` of them to yes questions:

    accuracy = (TP + TN) / n            precision = TP / (TP + FP)       recall = TP / P
    F1 = 2 TP / (TP + FP + P)           yes_ratio = (TP + FP) / n        unparsed_rate = unparsed / n

An answer that the parser cannot read is wrong: it lowers accuracy and, on a yes question, recall and F1, but is
neither TP, FP, TN nor FN. (lmms-eval drops such answers from precision and recall, and its ``pope_yes_ratio`` is
the share of yes *labels*; we keep neither.) Where the scripts divide by zero the value is None and ``undefined``
says why. ``auc`` is the area under the ROC curve of the yes-no margin: no parser and no threshold in it, so a
decoder that merely says yes less often does not raise it.

A record needs ``key, split, doc_id, image_id, output, label, status``; ``margin`` (logit of yes minus logit of
no) and ``n_output_tokens`` may be missing or None.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..statistics import roc_auc
from .checks import Checked, Record, SampleId, check_label, check_records, sample_id
from .errors import ScoringError
from .yes_no import PARSERS, Parser, YesNo, get_parser

Labels = Mapping[SampleId, str] | Mapping[str, str]

COUNTS = ("TP", "FP", "TN", "FN", "unparsed_yes", "unparsed_no")
RATES = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unparsed_rate")
AVERAGED = (*RATES, "auc", "mean_output_tokens")

_WHY_UNDEFINED = {
    "accuracy": "no answer was scored",
    "precision": "no answer was read as yes",
    "recall": "no question has the label yes",
    "f1": "no question has the label yes and no answer was read as yes",
    "yes_ratio": "no answer was scored",
    "unparsed_rate": "no answer was scored",
    "mean_output_tokens": "no record carries n_output_tokens",
}


class ImageCounts(NamedTuple):
    """Outcome counts by image and split, the input of the bootstraps in ``statistics``.

    Attributes:
        images: Image ids as strings, sorted; length C.
        splits: Split names, in the order of the score; length S.
        counts: float64 ``[C, S, 6]``, the last axis in the order of ``COUNTS``.
    """

    images: tuple[str, ...]
    splits: tuple[str, ...]
    counts: NDArray[np.float64]


def score_pope(
    records: Iterable[Record],
    *,
    parser: str | Parser = "pope_official",
    labels: Labels | None = None,
    expected: Iterable[SampleId] | None = None,
    allow_partial: bool = False,
) -> dict[str, Any]:
    """Score the answers of one run.

    Args:
        records: Records of the run, in any order; the result does not depend on it.
        parser: Name of a dialect in ``PARSERS``, or a ``Parser``. Answers are stripped before it.
        labels: Other gold labels, ``{(split, doc_id): label}`` or ``{doc_id: label}``, as RePOPE gives them:
            they replace the records' own, and samples without one are dropped.
        expected: Every ``(split, doc_id)`` of the task; None = completeness is not checked.
        allow_partial: Count missing samples (``n_missing``) instead of refusing them.

    Returns:
        ``scorer, parser, relabelled, n_dropped, n_missing``; ``splits``: a row for each split;
        ``mean_of_splits``: the plain mean of the rates over the splits; ``pooled``: the row of all answers. A
        row holds ``n, n_error, TP, FP, TN, FN, unparsed_yes, unparsed_no``, the rates as fractions, ``auc``,
        ``n_margin`` and ``mean_output_tokens``; an undefined value is None, with its reason in ``undefined``.

    Raises:
        ScoringError: A record is broken, there twice or missing; a label, margin or parser name is no such.
    """
    rule = get_parser(parser)
    checked, n_dropped = _checked(records, labels, expected, allow_partial)
    splits = _split_names(checked)
    rows = {split: _row(_of_split(checked, split), rule) for split in splits}
    return {
        "scorer": "pope",
        "parser": rule.name,
        "relabelled": labels is not None,
        "n_dropped": n_dropped,
        "n_missing": checked.n_missing,
        "splits": rows,
        "mean_of_splits": _mean_of_splits(rows),
        "pooled": _row(checked, rule),
    }


def score_pope_parsers(
    records: Iterable[Record],
    parsers: Iterable[str | Parser] = tuple(PARSERS),
    *,
    labels: Labels | None = None,
    expected: Iterable[SampleId] | None = None,
    allow_partial: bool = False,
) -> dict[str, dict[str, Any]]:
    """The same answers under several parsers, side by side: ``{parser name: score_pope result}``.

    Raises:
        ScoringError: As ``score_pope``.
    """
    kept, wanted = list(records), None if expected is None else list(expected)
    scores = (
        score_pope(kept, parser=parser, labels=labels, expected=wanted, allow_partial=allow_partial)
        for parser in parsers
    )
    return {score["parser"]: score for score in scores}


def pope_lines(
    records: Iterable[Record], *, parser: str | Parser = "pope_official", labels: Labels | None = None
) -> list[dict[str, Any]]:
    """One score line for each answer, sorted by sample: ``key, split, doc_id, parsed, gold, correct`` and names.

    Raises:
        ScoringError: As ``score_pope``.
    """
    rule = get_parser(parser)
    checked, _ = _checked(records, labels, None, False)
    lines = []
    for record in sorted(checked.ok, key=sample_id):
        parsed = _parse(record, rule)
        lines.append(
            {
                "key": record["key"],
                "scorer": "pope",
                "parser": rule.name,
                "split": record["split"],
                "doc_id": record["doc_id"],
                "image_id": record["image_id"],
                "parsed": parsed,
                "gold": record["label"],
                "correct": parsed == record["label"],
            }
        )
    return lines


def pope_counts(
    records: Iterable[Record], *, parser: str | Parser = "pope_official", labels: Labels | None = None
) -> ImageCounts:
    """Outcome counts by image and split, for intervals and paired comparisons.

    Resampling its first axis draws an image with all its questions in all splits, as splits share their images.

    Raises:
        ScoringError: As ``score_pope``.
    """
    rule = get_parser(parser)
    checked, _ = _checked(records, labels, None, False)
    splits = tuple(_split_names(checked))
    images = tuple(sorted({str(record["image_id"]) for record in checked.ok}))
    row_of = {image: row for row, image in enumerate(images)}
    counts = np.zeros((len(images), len(splits), len(COUNTS)))
    for record in checked.ok:
        place = row_of[str(record["image_id"])], splits.index(str(record["split"]))
        counts[(*place, _outcome(_parse(record, rule), record["label"]))] += 1
    return ImageCounts(images, splits, counts)


def pope_rates(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The rates of outcome counts, elementwise; NaN where undefined.

    Args:
        counts: ``[..., 6]``, the last axis in the order of ``COUNTS``; weighted sums are welcome.

    Returns:
        For each name in ``RATES`` an array ``[...]`` of fractions.
    """
    tp, fp, tn, fn, unparsed_yes, unparsed_no = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    n = tp + fp + tn + fn + unparsed_yes + unparsed_no
    positives = tp + fn + unparsed_yes
    parts = {
        "accuracy": (tp + tn, n),
        "precision": (tp, tp + fp),
        "recall": (tp, positives),
        "f1": (2 * tp, tp + fp + positives),
        "yes_ratio": (tp + fp, n),
        "unparsed_rate": (unparsed_yes + unparsed_no, n),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: np.divide(top, bottom) for name, (top, bottom) in parts.items()}


def pooled_rate(metric: str) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The statistic ``[..., S, 6] -> [...]``: ``metric`` of all splits' counts together."""
    return lambda sums: pope_rates(sums.sum(axis=-2))[metric]


def mean_rate(metric: str) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The statistic ``[..., S, 6] -> [...]``: the plain mean of ``metric`` over the splits."""
    return lambda sums: pope_rates(sums)[metric].mean(axis=-1)


def _checked(
    records: Iterable[Record], labels: Labels | None, expected: Iterable[SampleId] | None, allow_partial: bool
) -> tuple[Checked, int]:
    """The records with the gold labels to use, and how many samples other labels drop."""
    checked = check_records(records, fields=("label",), expected=expected, allow_partial=allow_partial)
    everything = checked.ok + checked.errors
    if labels is None:
        for record in everything:
            check_label(record)
        return checked, 0
    _refuse_ambiguous(everything, labels)
    relabelled = Checked(_relabelled(checked.ok, labels), _relabelled(checked.errors, labels), checked.n_missing)
    return relabelled, len(everything) - len(relabelled.ok) - len(relabelled.errors)


def _refuse_ambiguous(records: Sequence[Record], labels: Labels) -> None:
    by_pair = {isinstance(name, tuple) for name in labels}
    if True in by_pair and False in by_pair:
        raise ScoringError(
            "The labels mix (split, doc_id) and doc_id as their keys.", "Key all of them by (split, doc_id)."
        )
    doc_ids = {str(record["doc_id"]) for record in records}
    if False in by_pair and len(doc_ids) < len(records):
        raise ScoringError(
            "Labels by doc_id alone are ambiguous here: two splits number their questions alike.",
            "Key the labels by (split, doc_id).",
        )


def _relabelled(records: Sequence[Record], labels: Labels) -> list[Record]:
    by_name: dict[Any, str] = dict(labels.items())
    kept: list[Record] = []
    for record in records:
        identity = sample_id(record)
        label = by_name.get(identity, by_name.get(identity[1]))
        if label is not None:
            kept.append({**record, "label": label})
            check_label(kept[-1])
    return kept


def _parse(record: Record, parser: Parser) -> YesNo | None:
    return parser.parse(record["output"].strip(), record["label"])


def _outcome(parsed: YesNo | None, gold: str) -> int:
    """Place in ``COUNTS`` of a prediction for a gold label."""
    if parsed is None:
        return COUNTS.index(f"unparsed_{gold}")
    return COUNTS.index(("T" if parsed == gold else "F") + ("P" if parsed == "yes" else "N"))


def _split_names(checked: Checked) -> list[str]:
    return sorted({str(record["split"]) for record in checked.ok + checked.errors})


def _of_split(checked: Checked, split: str) -> Checked:
    return Checked(
        [record for record in checked.ok if str(record["split"]) == split],
        [record for record in checked.errors if str(record["split"]) == split],
        0,
    )


def _row(checked: Checked, parser: Parser) -> dict[str, Any]:
    outcomes = [_outcome(_parse(record, parser), record["label"]) for record in checked.ok]
    counts = np.bincount(np.asarray(outcomes, dtype=np.int64), minlength=len(COUNTS))
    row: dict[str, Any] = {"n": len(checked.ok), "n_error": len(checked.errors)}
    row |= {name: int(count) for name, count in zip(COUNTS, counts, strict=True)}
    rates = {name: float(value) for name, value in pope_rates(counts.astype(np.float64)).items()}
    row |= {name: None if math.isnan(value) else value for name, value in rates.items()}
    row["mean_output_tokens"] = _mean_tokens(checked.ok)
    undefined = {name: why for name, why in _WHY_UNDEFINED.items() if row[name] is None}
    row["auc"], row["n_margin"], why = _margin_auc(checked.ok)
    row["undefined"] = undefined | ({"auc": why} if why else {})
    return row


def _mean_tokens(records: Sequence[Record]) -> float | None:
    lengths = [record["n_output_tokens"] for record in records if record.get("n_output_tokens") is not None]
    return sum(lengths) / len(lengths) if lengths else None


def _margin_auc(records: Sequence[Record]) -> tuple[float | None, int, str | None]:
    """Area, number of records with a margin, and the reason where there is no area."""
    with_margin = [record for record in records if record.get("margin") is not None]
    for record in with_margin:
        if math.isnan(record["margin"]):
            raise ScoringError(
                f"Sample {sample_id(record)} has a margin that is not a number.",
                "Record null where neither yes nor no has a finite score.",
            )
    if not with_margin:
        return None, 0, "no record carries a margin"
    area = roc_auc([record["margin"] for record in with_margin], [record["label"] == "yes" for record in with_margin])
    reason = None if area is not None else "all records with a margin have the same label"
    return area, len(with_margin), reason


def _mean_of_splits(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = {"n_splits": len(rows), "undefined": {}}
    for name in AVERAGED:
        absent = [split for split, row in rows.items() if row[name] is None]
        if rows and not absent:
            means[name] = sum(row[name] for row in rows.values()) / len(rows)
        else:
            means[name] = None
            means["undefined"][name] = f"undefined in {', '.join(absent)}" if absent else "there is no split"
    return means
