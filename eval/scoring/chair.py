"""CHAIR: objects that a caption names and the image does not hold, scored without a model.

Source: A. Rohrbach et al., "Object Hallucination in Image Captioning", EMNLP 2018, as its script and OPERA's port
count it; recall as OPERA, precision and F1 as PAI. With W(c) the object words of caption c (repeats count), N(c)
their distinct classes and G the classes true of the image:

    CHAIRi = sum #{w in W(c): class not in G} / sum |W(c)|      (pooled over captions)
    CHAIRs = share of captions with at least one such word
    recall = sum |N(c) & G| / sum |G|           precision = sum |N(c) & G| / sum |N(c)|
    F1 = 2 sum |N(c) & G| / (sum |N(c)| + sum |G|)              mean_length = mean words, punctuation included

Lower CHAIR is better, but a decoder that stops early "wins": read recall and length beside it. All values are
fractions. Where the scripts divide by zero the value is None; where they take an unknown image id for an image
without objects (so that every word counts as hallucinated), we raise.

A record needs ``key, split, doc_id, image_id, output, status``; ``finish`` and ``n_output_tokens`` may be missing.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .checks import Record, SampleId, check_records, sample_id
from .errors import ScoringError
from .vocabulary import COCO, Vocabulary

Truth = Mapping[Any, Collection[str]]

COUNTS = ("hallucinated", "words", "caption_hallucinated", "captions", "matched", "named", "true", "length")
RATES = ("CHAIRs", "CHAIRi", "recall", "precision", "f1", "mean_length")

_WHY_UNDEFINED = {
    "CHAIRs": "no caption was scored",
    "CHAIRi": "no caption names an object",
    "recall": "no image has a true object",
    "precision": "no caption names an object",
    "f1": "no caption names an object and no image has one",
    "mean_length": "no caption was scored",
    "share_cut_off": "no record says how it finished",
    "mean_output_tokens": "no record carries n_output_tokens",
}


class CaptionCounts(NamedTuple):
    """Counts by image, the input of the bootstraps in ``statistics``.

    Attributes:
        images: Image ids as strings, sorted; length C.
        counts: float64 ``[C, 8]``, the last axis in the order of ``COUNTS``.
    """

    images: tuple[str, ...]
    counts: NDArray[np.float64]


def read_caption(caption: str, truth: Collection[str], vocabulary: Vocabulary = COCO) -> dict[str, Any]:
    """What one caption names, against the classes true of its image.

    Returns:
        ``words``: a list of ``{word, class, tokens: [start, end], chars: [start, end], hallucinated}`` in the
        order of the caption (tokens of ``tokenize(caption)``, characters of the caption); ``hallucinated``: the
        places in ``words`` of hallucinated ones; ``named``, ``missed``, ``gt``: sorted classes; ``CHAIRs`` 0 or 1;
        ``CHAIRi``: 0.0 without object words, as in the scripts; ``recall``: None without true objects; ``length``.

    Raises:
        ScoringError: A true class is not a class of the vocabulary.
    """
    foreign = sorted(set(truth) - set(vocabulary.classes))
    if foreign:
        raise ScoringError(
            f"The ground truth holds {foreign[0]!r}, which is no class of the vocabulary {vocabulary.name!r}.",
            "Build the ground truth with the vocabulary that you score with.",
        )
    mentions, length = vocabulary.read(caption)
    hallucinated = [place for place, mention in enumerate(mentions) if mention.cls not in truth]
    named = {mention.cls for mention in mentions}
    return {
        "words": [
            {
                "word": mention.word,
                "class": mention.cls,
                "tokens": [mention.start, mention.end],
                "chars": [mention.char_start, mention.char_end],
                "hallucinated": mention.cls not in truth,
            }
            for mention in mentions
        ],
        "hallucinated": hallucinated,
        "named": sorted(named),
        "missed": sorted(set(truth) - named),
        "gt": sorted(set(truth)),
        "CHAIRs": int(bool(hallucinated)),
        "CHAIRi": len(hallucinated) / len(mentions) if mentions else 0.0,
        "recall": len(named & set(truth)) / len(set(truth)) if truth else None,
        "length": length,
    }


def score_chair(
    records: Iterable[Record],
    truth: Truth,
    *,
    vocabulary: Vocabulary = COCO,
    trim_incomplete_sentence: bool = False,
    expected: Iterable[SampleId] | None = None,
    allow_partial: bool = False,
) -> dict[str, Any]:
    """Score the captions of one run.

    Args:
        records: Records of the run, in any order; the result does not depend on it.
        truth: ``{image id: classes}``, as ``build_ground_truth`` gives it; ids compare exactly (1 is not "1").
        vocabulary: The word table, the same as the ground truth's.
        trim_incomplete_sentence: Drop what follows the last full stop, for captions cut by a token limit.
        expected: Every ``(split, doc_id)`` of the task; None = completeness is not checked.
        allow_partial: Count missing samples (``n_missing``) instead of refusing them.

    Returns:
        ``scorer, variant, vocabulary, trimmed, n, n_error, n_missing``; the rates as fractions and
        ``mean_length``; ``n_words, n_hallucinated``; ``share_cut_off`` (captions that hit the token limit) and
        ``mean_output_tokens``; ``undefined``: a reason for each None; ``captions``: for each caption, sorted by
        sample, ``key, split, doc_id, image_id`` and what ``read_caption`` returns.

    Raises:
        ScoringError: A record is broken, there twice or missing, or an image has no ground truth.
    """
    checked = check_records(records, expected=expected, allow_partial=allow_partial)
    ok = sorted(checked.ok, key=sample_id)
    captions = [_caption_line(record, truth, vocabulary, trim_incomplete_sentence) for record in ok]
    counts = np.array([_counts(line) for line in captions], dtype=np.float64).reshape(-1, len(COUNTS))
    sums = counts.sum(axis=0)
    values = _values(sums, ok)
    return {
        "scorer": "chair",
        "variant": vocabulary.variant,
        "vocabulary": vocabulary.name,
        "trimmed": trim_incomplete_sentence,
        "n": len(ok),
        "n_error": len(checked.errors),
        "n_missing": checked.n_missing,
        **values,
        "n_words": int(sums[COUNTS.index("words")]),
        "n_hallucinated": int(sums[COUNTS.index("hallucinated")]),
        "undefined": {name: why for name, why in _WHY_UNDEFINED.items() if values[name] is None},
        "captions": captions,
    }


def chair_counts(captions: Iterable[Mapping[str, Any]]) -> CaptionCounts:
    """Counts by image of the ``captions`` of a score, for intervals and paired comparisons."""
    lines = list(captions)
    images = tuple(sorted({str(line["image_id"]) for line in lines}))
    row_of = {image: row for row, image in enumerate(images)}
    counts = np.zeros((len(images), len(COUNTS)))
    for line in lines:
        counts[row_of[str(line["image_id"])]] += _counts(line)
    return CaptionCounts(images, counts)


def chair_rates(counts: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The rates of counts, elementwise; NaN where undefined.

    Args:
        counts: ``[..., 8]``, the last axis in the order of ``COUNTS``; weighted sums are welcome.

    Returns:
        For each name in ``RATES`` an array ``[...]``: fractions, and words for ``mean_length``.
    """
    by_name = dict(zip(COUNTS, np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0), strict=True))
    matched, named, true = by_name["matched"], by_name["named"], by_name["true"]
    parts = {
        "CHAIRs": (by_name["caption_hallucinated"], by_name["captions"]),
        "CHAIRi": (by_name["hallucinated"], by_name["words"]),
        "recall": (matched, true),
        "precision": (matched, named),
        "f1": (2 * matched, named + true),
        "mean_length": (by_name["length"], by_name["captions"]),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        return {name: np.divide(top, bottom) for name, (top, bottom) in parts.items()}


def chair_rate(metric: str) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """The statistic ``[..., 8] -> [...]`` of one rate, for the bootstraps."""
    return lambda sums: chair_rates(sums)[metric]


def build_ground_truth(
    instances: Iterable[Mapping[str, Any]],
    captions: Iterable[Mapping[str, Any]] = (),
    *,
    vocabulary: Vocabulary = COCO,
) -> dict[Hashable, list[str]]:
    """The classes true of each image: those annotated, and those that its reference captions name.

    Args:
        instances: COCO instance files as parsed JSON: ``categories``, ``annotations`` with ``image_id`` and
            ``category_id`` (crowds count), and ``images`` (those without annotation hold nothing).
        captions: COCO caption files as parsed JSON; none = instances only, which is stricter.
        vocabulary: Maps category names and caption words to classes.

    Returns:
        ``{image id: sorted classes}``, image ids as the files have them.

    Raises:
        ScoringError: An annotation's category is not listed, or its name is no word of the vocabulary.
    """
    found: dict[Hashable, set[str]] = {}
    for file in instances:
        names = {category["id"]: category["name"] for category in file["categories"]}
        for image in file.get("images", ()):
            found.setdefault(image["id"], set())
        for annotation in file["annotations"]:
            cls = vocabulary.class_of.get(names.get(annotation["category_id"], ""))
            if cls is None:
                raise ScoringError(
                    f"Category {annotation['category_id']!r} "
                    f"({names.get(annotation['category_id'])!r}) is no word of {vocabulary.name!r}.",
                    "Take the instance files that belong to the vocabulary.",
                )
            found.setdefault(annotation["image_id"], set()).add(cls)
    for file in captions:
        for image in file.get("images", ()):
            found.setdefault(image["id"], set())
        for annotation in file["annotations"]:
            mentions = vocabulary.read(annotation["caption"]).mentions
            found.setdefault(annotation["image_id"], set()).update(mention.cls for mention in mentions)
    return {image: sorted(classes) for image, classes in found.items()}


def trim_caption(caption: str) -> str:
    """The caption up to its last full stop; a caption without one stays whole."""
    end = caption.rfind(".")
    return caption if end < 0 else caption[: end + 1]


def cut_caption(caption: str, n_words: int) -> str:
    """The first ``n_words`` blank-separated words of a caption, spacing as it was; shorter captions stay whole.

    Raises:
        ScoringError: ``n_words`` is negative.
    """
    if n_words < 0:
        raise ScoringError(f"Cannot cut a caption to {n_words} words.", "Give a number from 0 on.")
    words = caption.split()
    if len(words) <= n_words:
        return caption
    end = 0
    for word in words[:n_words]:
        end = caption.index(word, end) + len(word)
    return caption[:end]


def cut_like(records: Iterable[Record], reference: Iterable[Record]) -> list[dict[str, Any]]:
    """The control "greedy cut to the same length": each caption cut to the words of the reference's.

    Args:
        records: Captions to cut, such as greedy's.
        reference: Captions of the decoder under test, on the same samples.

    Returns:
        Copies of the records. A record that failed, or whose reference failed, is left as it is.

    Raises:
        ScoringError: A sample is not in the reference.
    """
    outputs = {sample_id(record): record for record in reference}
    cut = []
    for record in records:
        other = outputs.get(sample_id(record))
        if other is None:
            raise ScoringError(
                f"Sample {sample_id(record)} has no caption to be cut like.", "Compare runs on the same samples."
            )
        both = record["status"] == other["status"] == "ok"
        output = cut_caption(record["output"], len(other["output"].split())) if both else record["output"]
        cut.append({**record, "output": output})
    return cut


def _caption_line(record: Record, truth: Truth, vocabulary: Vocabulary, trim: bool) -> dict[str, Any]:
    image = record["image_id"]
    if image not in truth:
        raise ScoringError(
            f"Image {image!r} of sample {sample_id(record)} is not in the ground truth.",
            "Build the ground truth for these images; ids compare exactly, so 1 and '1' differ.",
        )
    caption = trim_caption(record["output"]) if trim else record["output"]
    place = {name: record[name] for name in ("key", "split", "doc_id", "image_id")}
    return place | {"scorer": "chair"} | read_caption(caption, truth[image], vocabulary)


def _values(sums: NDArray[np.float64], ok: Sequence[Record]) -> dict[str, float | None]:
    """The rates of count sums and the means over records; None where undefined."""
    rates = {name: float(value) for name, value in chair_rates(sums).items()}
    values = {name: None if math.isnan(rate) else rate for name, rate in rates.items()}
    finishes = [record["finish"] for record in ok if record.get("finish") is not None]
    lengths = [record["n_output_tokens"] for record in ok if record.get("n_output_tokens") is not None]
    values["share_cut_off"] = _mean([float(finish == "length") for finish in finishes])
    values["mean_output_tokens"] = _mean(lengths)
    return values


def _counts(line: Mapping[str, Any]) -> list[float]:
    """One caption's counts in the order of ``COUNTS``."""
    matched = len(line["gt"]) - len(line["missed"])
    hallucinated, words = len(line["hallucinated"]), len(line["words"])
    return [
        hallucinated,
        words,
        float(hallucinated > 0),
        1,
        matched,
        len(line["named"]),
        len(line["gt"]),
        line["length"],
    ]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
