"""How captions are compared: CHAIR as they are, and with both captions of a sample cut to the words of the shorter.

A decoder that stops early names fewer objects and so fewer wrong ones. The table `same_length` takes that away: what is
left of a difference is not one of length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .compare_scales import Mark, Marks, Material, Scale, Tables, Tally, ratio
from .records import SampleRecord
from .scoring import ScoringError, cut_caption
from .scoring.chair import COUNTS, chair_counts, chair_rates, score_chair
from .scoring.opera_words import DIALECTS
from .scoring.vocabulary import COCO
from .statistics import Floats

FREE, SAME_LENGTH = "free", "same_length"
_BAD, _CAPTIONS = COUNTS.index("caption_hallucinated"), COUNTS.index("captions")
_NAMED = {"mean_length": "length"}


def _lines(material: Material, table: str) -> list[dict[str, Any]]:
    """What each caption names, in one of the two tables."""
    if material.truth is None:
        raise ScoringError(
            "The run does not say what is true of its images.", "Score it again where the data of its task are."
        )
    lines = material.lines
    if table == SAME_LENGTH:
        lengths = material.lengths or {}
        lines = [
            {**line, "output": cut_caption(line["output"], lengths.get((line["split"], line["doc_id"]), 0))}
            for line in lines
        ]
    return score_chair(lines, material.truth, vocabulary=material.vocabulary or COCO)["captions"]


def _tables(material: Material) -> list[str]:
    return [FREE] if material.lengths is None else [FREE, SAME_LENGTH]


def _tally(material: Material) -> Tally:
    """Counts of CHAIR; of whole captions also tokens, and how many hit the token limit."""
    parts = _tables(material)
    counted = [chair_counts(_lines(material, part)) for part in parts]
    images = counted[0].images
    row = {image: place for place, image in enumerate(images)}
    more = np.zeros((len(images), len(parts), 2))
    for record in material.records:
        more[row[record.image_id], 0] += (record.n_output_tokens, record.finish == "length")
    counts = np.stack([found.counts for found in counted], axis=1)
    return Tally(images, tuple(parts), np.concatenate([counts, more], axis=-1))


def _figures(parts: Sequence[str], sums: Floats) -> Tables:
    tables: Tables = {}
    for place, part in enumerate(parts):
        counts = sums[..., place, :]
        rates = chair_rates(counts[..., : len(COUNTS)])
        tables[part] = {_NAMED.get(name, name): rate for name, rate in rates.items()}
        if part == FREE:
            *_, tokens, cut_off = np.moveaxis(counts, -1, 0)
            tables[part] |= {
                "output_tokens": ratio(tokens, counts[..., _CAPTIONS]),
                "share_cut_off": ratio(cut_off, counts[..., _CAPTIONS]),
            }
    return tables


def _shares(tally: Tally) -> Tables:
    bad, captions = tally.counts[..., _BAD], tally.counts[..., _CAPTIONS].sum(axis=0)
    return {part: {"CHAIRs": ratio(bad[:, at], captions[at])} for at, part in enumerate(tally.parts)}


def _marks(material: Material) -> Marks:
    """A caption is right if it names nothing that is absent."""
    record_of = {record.key: record for record in material.records}
    return {
        "CHAIRs": {
            (table, line["split"], line["doc_id"]): Mark(
                not line["hallucinated"], frozenset({table}), record_of[line["key"]], table == FREE, _absent(line)
            )
            for table in _tables(material)
            for line in _lines(material, table)
        }
    }


def _absent(line: dict[str, Any]) -> str:
    """`absent: kite, ring`."""
    words = sorted({line["words"][place]["class"] for place in line["hallucinated"]})
    return f"absent: {', '.join(words)}" if words else ""


def _asks(record: SampleRecord) -> bool:
    return True


CHAIR = Scale("chair", FREE, "CHAIRs", _asks, _tally, _figures, _shares, _marks, tuple(DIALECTS))
