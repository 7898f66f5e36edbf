"""What a paired comparison counts in each task: answers by image, the measures of count sums, and right or wrong.

A scale knows one scorer. Its counts are `[C, T, K]`: images, parts (splits of POPE, subtasks of MME), kinds of count.
All measures of all tables come from weighted sums of them at once, so that one set of draws serves every interval.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .records import SampleRecord
from .score_mme import PARSERS as MME_PARSERS
from .score_mme import mme_clusters, mme_rates
from .scoring.checks import LABELS, SampleId
from .scoring.mme import GROUPS, SUBTASKS
from .scoring.pope import COUNTS, RATES, pope_counts, pope_lines, pope_rates
from .scoring.vocabulary import Vocabulary
from .scoring.yes_no import PARSERS, Parser
from .statistics import RESAMPLES, Floats, cluster_bootstrap

Tables = dict[str, dict[str, Floats]]
"""Table -> measure -> values."""
Unit = tuple[Hashable, ...]
SPLITS = ("random", "popular", "adversarial")
MEAN, POOLED, TOTAL = "mean", "pooled", "total"


@dataclass(frozen=True, eq=False)
class Tally:
    """The answers of one run as counts by image.

    Attributes:
        images: names of the rows.
        parts: names along the second axis.
        counts: `[C, T, K]`.
        strata: `[C]`; images are drawn within their stratum.
    """

    images: tuple[str, ...]
    parts: tuple[str, ...]
    counts: Floats
    strata: Sequence[str] | None = None

    @cached_property
    def draws(self) -> Floats:
        """Weighted sums `[1 + B, T, K]`: the counts as they are, then B resamples.

        Weights depend on the number of images and their strata alone, so two runs about the same images are drawn
        alike, and the difference of their draws is the paired bootstrap.
        """
        blocks: list[Floats] = []

        def keep(sums: Floats) -> Floats:
            blocks.append(sums)
            return np.zeros(len(sums))

        cluster_bootstrap(self.counts, keep, strata=self.strata, n_resamples=RESAMPLES)
        return np.concatenate([self.counts.sum(axis=0)[None], *blocks[:-1]])


@dataclass(frozen=True, eq=False)
class Material:
    """What is counted.

    Attributes:
        records: the answered samples.
        parser: the dialect that answers are read in; empty where the task has none.
        truth: image id -> classes true of it, for captions.
        vocabulary: the object words that captions are read with.
        lengths: sample -> words that captions are cut to for the table `same_length`.
        brought: what else the scorer needs beside the records.
    """

    records: Sequence[SampleRecord]
    parser: str = ""
    truth: Mapping[str, Sequence[str]] | None = None
    vocabulary: Vocabulary | None = None
    lengths: Mapping[SampleId, int] | None = None
    brought: Any = None

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """The records as the scorers read them."""
        return [vars(record) for record in self.records]


@dataclass(frozen=True)
class Mark:
    """Whether one thing asked was answered rightly, and the tables that count it.

    Attributes:
        listed: whether it stands for itself in the list of flipped samples.
        note: what was wrong, in words.
    """

    right: bool
    tables: frozenset[str]
    record: SampleRecord
    listed: bool = True
    note: str = ""


Marks = dict[str, dict[Unit, Mark]]
"""Measure -> what was asked -> mark."""


@dataclass(frozen=True)
class Scale:
    """How the runs of one scorer are compared.

    Attributes:
        name: of the scorer.
        table, measure: what decides.
        parsers: the dialects that answers may be read in.
        whole: the table of all answers together, whose area under the ROC curve is compared; empty for captions.
        asks: whether a record belongs to the comparison.
        tally: counts by image.
        figures: parts, sums `[..., T, K]` -> every measure of every table `[...]`.
        shares: a tally -> what each image adds to a measure, `[C]`, for the sign-flip test; adds up to the measure.
        marks: right or wrong, for McNemar's test; those of the first measure make the list of flipped samples.
    """

    name: str
    table: str
    measure: str
    asks: Callable[[SampleRecord], bool]
    tally: Callable[[Material], Tally]
    figures: Callable[[Sequence[str], Floats], Tables]
    shares: Callable[[Tally], Tables]
    marks: Callable[[Material], Marks]
    parsers: Collection[str]
    whole: str = ""


def ratio(top: Floats, bottom: Floats) -> Floats:
    """The quotient; not a number where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.divide(top, bottom)


def _labelled(record: SampleRecord) -> bool:
    return record.label in LABELS


def _tokens(records: Sequence[SampleRecord], images: Sequence[str], parts: Sequence[str]) -> Floats:
    """`[C, T]`: tokens of the answers."""
    found = np.zeros((len(images), len(parts)))
    row, column = ({name: place for place, name in enumerate(names)} for names in (images, parts))
    for record in records:
        found[row[record.image_id], column[record.split]] += record.n_output_tokens
    return found


_RIGHT = [COUNTS.index("TP"), COUNTS.index("TN")]
_UNREAD = [COUNTS.index("unparsed_yes"), COUNTS.index("unparsed_no")]
_OUTCOMES = len(COUNTS)


def _pope_tally(material: Material) -> Tally:
    """Outcomes, answers that the strict parser cannot read, tokens."""
    images, parts, counts = pope_counts(material.lines, parser=material.parser or "pope_official")
    strict = pope_counts(material.lines, parser="strict").counts[..., _UNREAD].sum(axis=-1)
    tokens = _tokens(material.records, images, parts)
    return Tally(tuple(images), parts, np.concatenate([counts, strict[..., None], tokens[..., None]], axis=-1))


def _pope_figures(parts: Sequence[str], sums: Floats) -> Tables:
    single, pooled = _pope_rates(sums), _pope_rates(sums.sum(axis=-2))
    places = {part: parts.index(part) for part in (*(name for name in SPLITS if name in parts), *parts)}
    tables = {part: {name: value[..., at] for name, value in single.items()} for part, at in places.items()}
    tables[MEAN] = {name: value.mean(axis=-1) for name, value in single.items()}
    return tables | {POOLED: pooled}


def _pope_rates(counts: Floats) -> dict[str, Floats]:
    outcomes = counts[..., :_OUTCOMES]
    n, rates = outcomes.sum(axis=-1), pope_rates(outcomes)
    found = {name: rates[name] for name in RATES}
    found["unparsed_rate"] = ratio(counts[..., _OUTCOMES], n)
    return found | {"output_tokens": ratio(counts[..., _OUTCOMES + 1], n)}


def _pope_shares(tally: Tally) -> Tables:
    right, n = tally.counts[..., _RIGHT].sum(axis=-1), tally.counts[..., :_OUTCOMES].sum(axis=(0, 2))
    tables = {part: {"accuracy": ratio(right[:, at], n[at])} for at, part in enumerate(tally.parts)}
    tables[MEAN] = {"accuracy": ratio(right, n).mean(axis=-1)}
    return tables | {POOLED: {"accuracy": right.sum(axis=-1) / n.sum()}}


def _pope_marks(material: Material) -> Marks:
    """One mark for each question about an image; splits that share it share the mark."""
    lines = pope_lines(material.lines, parser=material.parser or "pope_official")
    right = {line["key"]: line["correct"] for line in lines}
    found: dict[Unit, Mark] = {}
    for record in material.records:
        unit = (record.image_id, record.prompt)
        held = found.get(unit, Mark(right[record.key], frozenset({POOLED}), record))
        found[unit] = Mark(held.right, held.tables | {record.split}, held.record)
    return {"accuracy": found}


def _mme_rule(material: Material) -> Parser:
    return MME_PARSERS[material.parser or "official"]


def _mme_tally(material: Material) -> Tally:
    """An image with all it was asked is a row; images are drawn among those that the same subtasks ask about."""
    found = mme_clusters(material.lines, _mme_rule(material))
    return Tally(found.images, found.subtasks, found.counts, found.strata)


def _mme_figures(parts: Sequence[str], sums: Floats) -> Tables:
    single = mme_rates(sums)
    tables = {part: {name: value[..., at] for name, value in single.items()} for at, part in enumerate(parts)}
    for group, members in _mme_groups(parts).items():
        whole = mme_rates(sums[..., members, :].sum(axis=-2))
        tables[group] = whole | {"score": single["score"][..., members].sum(axis=-1)}
    return tables


def _mme_groups(parts: Sequence[str]) -> dict[str, list[int]]:
    """Places of the subtasks in every group; groups that hold all there is, or nothing, are left to the total."""
    every = list(range(len(parts)))
    groups = {name: [at for at in every if parts[at] in members] for name, members in GROUPS.items()}
    return {name: members for name, members in groups.items() if members and members != every} | {TOTAL: every}


def _mme_shares(tally: Tally) -> Tables:
    right, questions, both, images, *_ = np.moveaxis(tally.counts, -1, 0)
    score = 100 * ratio(right, questions.sum(axis=0)) + 100 * ratio(both, images.sum(axis=0))
    tables = {part: {"score": score[:, at]} for at, part in enumerate(tally.parts)}
    groups = _mme_groups(tally.parts)
    return tables | {group: {"score": score[:, members].sum(axis=-1)} for group, members in groups.items()}


def _mme_marks(material: Material) -> Marks:
    """A mark for each question, and one for each image that has both."""
    rule = _mme_rule(material)
    questions: dict[Unit, Mark] = {}
    pairs: dict[Unit, list[Mark]] = {}
    groups = _mme_groups(sorted({record.split for record in material.records}, key=SUBTASKS.index))
    for record in material.records:
        tables = {name for name in groups if name == TOTAL or record.split in GROUPS[name]} | {record.split}
        right = rule.parse(record.output, str(record.label)) == record.label
        mark = Mark(right, frozenset(tables), record)
        questions[record.split, record.doc_id] = mark
        pairs.setdefault((record.split, record.image_id), []).append(mark)
    whole = {unit: both for unit, both in pairs.items() if len(both) == 2}
    images = {unit: Mark(all(mark.right for mark in both), *_rest(both[0])) for unit, both in whole.items()}
    return {"acc": questions, "acc_plus": images}


def _rest(mark: Mark) -> tuple[frozenset[str], SampleRecord]:
    return mark.tables, mark.record


POPE = Scale(
    "pope", MEAN, "accuracy", _labelled, _pope_tally, _pope_figures, _pope_shares, _pope_marks, PARSERS, POOLED
)
MME = Scale("mme", TOTAL, "score", _labelled, _mme_tally, _mme_figures, _mme_shares, _mme_marks, MME_PARSERS, TOTAL)
