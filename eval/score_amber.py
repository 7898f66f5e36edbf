"""Tables of AMBER: yes/no questions by what they are about, and captions against the words that are true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .counting import NOT_ANSWERED, Counting, Ratio
from .records import write_json
from .score_captions import TRUTH, kept, reload
from .score_tables import Record
from .scoring.amber import (
    AMBER_PARSERS,
    CAPTION_COUNTS,
    COUNTS,
    NOUNS,
    PARTS,
    SUMMED,
    Associations,
    answer_counts,
    answers_published,
    caption_counts,
    captions_published,
    read_nouns,
)
from .scoring.yes_no import YesNo

ALL, CAPTIONS = "all", "captions"


def _said(records: Sequence[Record], parser: str) -> list[tuple[YesNo | None, str]]:
    rule = AMBER_PARSERS[parser]
    return [(rule.parse(record["output"], record["label"]), record["label"]) for record in records]


def _count(records: Sequence[Record], parser: str, brought: Any) -> list[float]:
    said = _said(records, parser)
    answers = [answer for answer, _ in said]
    tokens = sum(record["n_output_tokens"] for record in records)
    return [*map(float, answer_counts(said)), float(answers.count("yes")), float(answers.count(None)), float(tokens)]


def _right(record: Record, parser: str, brought: Any) -> bool:
    ((said, label),) = _said([record], parser)
    return said == label


def _published(by_part: Mapping[str, list[Record]], parser: str, brought: Any) -> dict[str, Any]:
    counts = {part: answer_counts(_said(records, parser)) for part, records in by_part.items()}
    return {"published": answers_published(counts)}


AMBER = Counting(
    name="amber",
    table=ALL,
    measure="f1",
    kinds=(*COUNTS, "yes", "unread", "tokens"),
    count=_count,
    ratios=(
        Ratio("accuracy", ("right",), ("n",), fixed=True),
        Ratio("f1", ("right_no", "right_no"), ("said_no", "label_no"), "no label and no answer is no", n="n"),
        Ratio("precision", ("right_no",), ("said_no",), "no answer was read as no"),
        Ratio("recall", ("right_no",), ("label_no",), "no question has the label no", fixed=True),
        Ratio("yes_ratio", ("yes",), ("n",)),
        Ratio("unparsed_rate", ("unread",), ("n",)),
        Ratio("output_tokens", ("tokens",), ("n",)),
    ),
    parsers=tuple(AMBER_PARSERS),
    parts=PARTS,
    summed=SUMMED,
    right=_right,
    marked="accuracy",
    margins=True,
    more=_published,
)


def associations(folder: Path, manifest: Mapping[str, Any], parser: str) -> Associations:
    """AMBER's lists of words: from the task's data when a run is first scored, from then on from its `truth.json`.

    Raises:
        ScoreError: the data are not those of the run.
        DataError: the data are not there.
    """
    made_of = {"options": manifest["task"]["options"], "data": manifest["task"]["data"]}
    held = kept(folder / TRUTH)
    if any(held.get(name) != value for name, value in made_of.items()) or not isinstance(held.get("words"), dict):
        held = {**made_of, "words": dict(reload(folder, manifest).words or {})}
        write_json(folder / TRUTH, held)
    words = held["words"]
    return Associations(words["associations"], frozenset(words["safe"]))


def _read(record: Record, parser: str, lists: Associations) -> dict[str, Any]:
    gold = record["gold"]
    return read_nouns(NOUNS[parser](record["output"], lists), gold["truth"], gold["listed"], lists)


def _count_captions(records: Sequence[Record], parser: str, lists: Associations) -> list[float]:
    found = [0.0] * (len(CAPTION_COUNTS) + 2)
    for record in records:
        gold = record["gold"]
        own = caption_counts(_read(record, parser, lists), gold["truth"], gold["listed"])
        more = [float(record["n_output_tokens"]), float(record["finish"] == "length")]
        found = [before + count for before, count in zip(found, [*own, *more], strict=True)]
    return found


def _clean(record: Record, parser: str, lists: Associations) -> bool:
    return not _read(record, parser, lists)["hallucinated"]


def _captions_published(by_part: Mapping[str, list[Record]], parser: str, lists: Associations) -> dict[str, Any]:
    sums = _count_captions(by_part.get(CAPTIONS, []), parser, lists)
    return {"published": captions_published(sums[: len(CAPTION_COUNTS)])}


def _caption_notes(manifest: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    return [
        "Words are matched exactly and by AMBER's associations; the script also takes similar word vectors for equal."
    ]


_NO_NOUN = "no caption has a noun that AMBER's table knows"
AMBER_CAPTIONS = Counting(
    name="amber_captions",
    table=CAPTIONS,
    measure="CHAIR",
    higher_is_better=False,
    kinds=(*CAPTION_COUNTS, "tokens", "cut_off"),
    count=_count_captions,
    ratios=(
        Ratio("CHAIR", ("hallucinated",), ("nouns",), _NO_NOUN),
        Ratio("Cover", ("covered",), ("truth",), "no true word is listed", fixed=True),
        Ratio("Hal", ("bad",), ("captions",), NOT_ANSWERED, fixed=True),
        Ratio("Cog", ("cog",), ("listed",), "no invention is listed", fixed=True),
        Ratio("output_tokens", ("tokens",), ("captions",)),
        Ratio("share_cut_off", ("cut_off",), ("captions",)),
    ),
    parsers=tuple(NOUNS),
    extras=("nltk",),
    brings=associations,
    right=_clean,
    marked="Hal",
    more=_captions_published,
    notes=_caption_notes,
)
