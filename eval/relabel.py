"""Other gold labels for answers that are there already: RePOPE's (Neuhaus and Hein, arXiv 2504.15707).

The same generations are scored against corrected labels; questions that RePOPE found ambiguous are left out, and
counted. Its files are the repository's (`coco_repope_{split}.json`, rows as POPE's) or the hub's copy (MM-Hallu/RePOPE,
Parquet: `category`, `image_id`, `question`, `answer`). Questions are matched by split, image and text, never by number
or place, so that older copies of POPE, with other rows or a misspelt "image", get the right labels too.

The labels that were used are kept in the run folder; comparisons and reports take them from there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from .errors import ConfigError, DataError, ScoreError, unknown
from .folder import read_json
from .images import file_digest
from .records import SampleRecord, write_json
from .score_tables import Record
from .tasks import hub, rows
from .tasks.base import Source
from .tasks.pope import SPLITS

FILE = "labels.json"
REPOPE = "repope"
KNOWN = (REPOPE,)
SCORER = "pope"
"""Whose answers may get other labels."""
Labels = Mapping[tuple[str, str], str]
"""Split and document -> label."""
T = TypeVar("T")
_HINT = (
    "Get the files from github.com/YanNeu/RePOPE (folder annotations), or MM-Hallu/RePOPE from the hub, and give "
    "--labels-data FOLDER."
)
_COLUMNS = {"category": "category", "image": "image_id", "text": "question", "label": "answer"}


def relabel(
    folder: Path, manifest: Mapping[str, Any], records: Sequence[Record], name: str, data: Path | None
) -> tuple[list[Record], dict[str, Any]]:
    """The records with other labels, and what `metrics.json` says of it; the labels are kept in the run folder.

    Args:
        folder: the run folder.
        manifest: its manifest.
        records: every sample; those without one of the new labels are dropped.
        name: of the labels, one of `KNOWN`.
        data: folder with their files.

    Raises:
        ConfigError: there are no such labels, or the task has no use for them.
        DataError: the files are not there, or contradict themselves.
        ScoreError: they are about other questions.
    """
    if name not in KNOWN:
        raise ConfigError(*unknown("set of labels", name, KNOWN))
    task = manifest["task"]
    if manifest["scorer"]["name"] != SCORER or task["options"].get("dataset", "") != "coco":
        raise ConfigError(
            f"{name} corrects the labels of POPE on COCO, and this run is of {task['name']}.",
            "Score it without --labels, or run task=pope with task.dataset=coco.",
        )
    if data is None:
        raise DataError(f"No folder with the labels of {name} is named.", _HINT)
    questions, sources = _read(data)
    labels = _matched(records, questions)
    if not labels:
        raise ScoreError(f"Not one question of the run is among those of {name}.", "Are they labels for this data?")
    own = {(record["split"], record["doc_id"]): record["label"] for record in records}
    told = {
        "name": name,
        "data": [dataclasses.asdict(source) for source in sources],
        "n_dropped": sum(label in ("yes", "no") for label in own.values()) - len(labels),
        "n_flipped": sum(own[sample] != label for sample, label in labels.items()),
    }
    kept = [[*sample, label] for sample, label in sorted(labels.items())]
    write_json(folder / FILE, {**told, "labels": kept})
    return list(apply(labels, records, lambda record, label: {**record, "label": label})), told


def held(folder: Path) -> tuple[str, Labels] | None:
    """Name and labels that a run was last scored with; None where they were the task's own."""
    if not (folder / FILE).is_file():
        return None
    content = read_json(folder / FILE)
    try:
        return str(content["name"]), {(split, doc): label for split, doc, label in content["labels"]}
    except (KeyError, TypeError, ValueError) as error:
        raise ScoreError(f"{FILE} in {str(folder)!r} cannot be read.", "Score the run again.") from error


def applied(labels: Labels, records: Iterable[SampleRecord]) -> list[SampleRecord]:
    """The sample records with other labels; those without one are dropped."""
    return list(apply(labels, records, lambda record, label: dataclasses.replace(record, label=label)))


def apply(labels: Labels, records: Iterable[T], change: Callable[[T, str], T]) -> Iterator[T]:
    """The records that have a label, with it. Rows that could not be read have none, and stay as failures."""
    for record in records:
        split, doc, own = _of(record, "split"), _of(record, "doc_id"), _of(record, "label")
        if (split, doc) in labels:
            yield change(record, labels[split, doc])
        elif own not in ("yes", "no"):
            yield record


def _of(record: Any, name: str) -> Any:
    return record[name] if isinstance(record, dict) else getattr(record, name)


def _matched(records: Sequence[Record], questions: Mapping[tuple[str, str], list[tuple[str, str]]]) -> dict[Any, str]:
    """Sample -> label, for every sample whose prompt holds one of the questions about its image."""
    found = {}
    for record in records:
        prompt = _plain(record["prompt"])
        asked = questions.get((record["split"], _image(record["image_id"])), ())
        labels = [label for text, label in asked if text in prompt]
        if labels and record["label"] in ("yes", "no"):
            found[record["split"], record["doc_id"]] = labels[0]
    return found


def _read(data: Path) -> tuple[dict[tuple[str, str], list[tuple[str, str]]], list[Source]]:
    """Split and image -> questions with their labels, and the files they came from."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    sources = []
    for split, path, row in _rows(data, sources):
        fields = row.fields
        problem = row.problem or rows.missing_text(row, ("image", "text", "label"))
        label = str(fields.get("label") or "").strip().lower()
        if problem is not None or label not in ("yes", "no") or split not in SPLITS:
            raise DataError(f"Row {row.number} of {path.name} {problem or 'has no label or split'}.", _HINT)
        texts = found.setdefault((split, _image(fields["image"])), {})
        if texts.setdefault(_plain(fields["text"]), label) != label:
            raise DataError(f"{path.name} has two labels for {fields['text']!r} about {fields['image']!r}.", _HINT)
    return {place: list(texts.items()) for place, texts in found.items()}, sources


def _rows(data: Path, sources: list[Source]) -> Iterator[tuple[str, Path, rows.Row]]:
    """Split, file and row, by the names of POPE's fields."""
    if not data.is_dir():
        raise DataError(f"--labels-data {str(data)!r} is not a folder.", _HINT)
    paths = hub.shards(data, "train") or hub.shards(data, "test")
    for path in paths:
        before = 0
        for before, held in enumerate(hub.table(path, tuple(_COLUMNS.values())), start=1):
            fields = {name: held[theirs] for name, theirs in _COLUMNS.items()}
            fields["image"] = None if fields["image"] is None else str(fields["image"])
            yield str(fields["category"]).strip().lower(), path, rows.Row(before, fields)
        sources.append(Source(path.relative_to(data).as_posix(), file_digest(path), before))
    for split in () if paths else SPLITS:
        path = rows.find(data, (f"repope_{split}",), f"RePOPE's labels ({split})", _HINT)
        read, content = rows.read_rows(path)
        for row in read:
            yield split, path, row
        sources.append(rows.source(path, content, (), len(read)))


def _image(name: str) -> str:
    """An image's number, however it is written: `COCO_val2014_000000310196.jpg`, `310196`; else its bare name."""
    stem = PurePosixPath(name).with_suffix("").name if "." in name else PurePosixPath(name).name
    digits = re.search(r"(\d+)$", stem)
    return str(int(digits[1])) if digits else stem


def _plain(text: str) -> str:
    """A question as it is compared."""
    return " ".join(text.replace("imange", "image").lower().split())
