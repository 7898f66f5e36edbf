"""What every scorer demands of its records before it counts anything.

A record is a mapping, one line of ``samples/*.jsonl``. A sample is known by ``(split, doc_id)``: question
numbers of POPE start from 1 in every split. Records that failed (``status == "error"``) are set apart and
counted; they are never scored as an answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .errors import ScoringError

Record = Mapping[str, Any]
SampleId = tuple[str, str]

BASE_FIELDS = ("key", "split", "doc_id", "image_id", "output", "status")
LABELS = ("yes", "no")
SHOWN = 3


class Checked(NamedTuple):
    """Records that passed: the answers, the failures, and how many expected samples are not there."""

    ok: list[Record]
    errors: list[Record]
    n_missing: int


def sample_id(record: Record) -> SampleId:
    """``(split, doc_id)`` of a record, both as strings."""
    return str(record["split"]), str(record["doc_id"])


def check_records(
    records: Iterable[Record],
    *,
    fields: Sequence[str] = (),
    expected: Iterable[SampleId] | None = None,
    allow_partial: bool = False,
) -> Checked:
    """Refuse duplicates, missing samples and broken records; part answers from failures.

    Args:
        records: The records, in any order.
        fields: Fields that the scorer needs beside ``BASE_FIELDS``.
        expected: Every ``(split, doc_id)`` of the task; None means that completeness is not checked.
        allow_partial: Count expected samples that are missing instead of refusing them.

    Raises:
        ScoringError: A field is missing, a status or output is not of its kind, a sample or a key comes
            twice, a sample is not of the task, or (without ``allow_partial``) one is missing.
    """
    ok: list[Record] = []
    errors: list[Record] = []
    keys: set[str] = set()
    ids: set[SampleId] = set()
    for record in records:
        _check_fields(record, (*BASE_FIELDS, *fields))
        identity, key = sample_id(record), str(record["key"])
        if identity in ids or key in keys:
            raise ScoringError(
                f"Sample {identity} (key {key!r}) is there twice, or shares its key with another.",
                "Merge the parts of the run again, one record per sample, or score each run by itself.",
            )
        ids.add(identity)
        keys.add(key)
        (ok if record["status"] == "ok" else errors).append(record)
    n_missing = 0 if expected is None else _count_missing(ids, set(expected), allow_partial)
    return Checked(ok, errors, n_missing)


def check_label(record: Record) -> str:
    """The record's gold label, ``"yes"`` or ``"no"``.

    Raises:
        ScoringError: It is anything else.
    """
    label = record["label"]
    if label not in LABELS:
        raise ScoringError(
            f"Sample {sample_id(record)} has label {label!r}.", 'Labels are "yes" or "no", in lower case.'
        )
    return label


def _check_fields(record: Record, fields: Sequence[str]) -> None:
    absent = [name for name in fields if name not in record]
    if absent:
        named = record.get("key", record.get("doc_id", "?"))
        raise ScoringError(
            f"Record {named!r} lacks {', '.join(absent)}.",
            "Score the samples of a run folder, or give every record these fields.",
        )
    if record["status"] not in ("ok", "error"):
        raise ScoringError(
            f"Sample {sample_id(record)} has status {record['status']!r}.", 'A status is "ok" or "error".'
        )
    if record["status"] == "ok" and not isinstance(record["output"], str):
        raise ScoringError(
            f"Sample {sample_id(record)} has output {record['output']!r} but status ok.",
            'Save the raw text, or status "error" where generation failed.',
        )


def _count_missing(found: set[SampleId], expected: set[SampleId], allow_partial: bool) -> int:
    foreign = sorted(found - expected)
    if foreign:
        raise ScoringError(
            f"{len(foreign)} samples are not of this task, such as {foreign[:SHOWN]}.",
            "Score the run against the data it was made from (the manifest names file and hash).",
        )
    missing = sorted(expected - found)
    if missing and not allow_partial:
        raise ScoringError(
            f"{len(missing)} of {len(expected)} samples are missing, such as {missing[:SHOWN]}.",
            "Resume the run, or score what is there with allow_partial=True.",
        )
    return len(missing)
