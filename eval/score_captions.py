"""Tables of captions: CHAIR, as they are and cut to the lengths of another run's.

A decoder that says less hallucinates less. So captions are also scored cut to the words that a reference, plain greedy
decoding, has for the same image; and the reference's captions, cut to the words of this run's, are scored beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .errors import RunFolderError, ScoreError
from .folder import read_json
from .records import write_json
from .score_tables import Given, Record, Scores, Table, add_bounds, bounds, entry, ratio
from .scoring.chair import chair_counts, chair_rate, cut_like, score_chair
from .scoring.checks import sample_id
from .scoring.opera_words import in_dialect
from .scoring.vocabulary import VARIANT, Vocabulary
from .tasks import registry as tasks
from .tasks.base import Dataset, Task

FREE, CUT = "free", "cut"
TRUTH = "truth.json"
METRICS = ("CHAIRs", "CHAIRi", "recall", "precision", "f1", "length", "share_cut_off", "output_tokens")
_NAMED = {"length": "mean_length", "output_tokens": "mean_output_tokens"}
_OF_RECORDS: dict[str, Callable[[Record], float]] = {
    "share_cut_off": lambda record: float(record["finish"] == "length"),
    "output_tokens": lambda record: float(record["n_output_tokens"]),
}
_WHY_CUT = "captions are cut to words after they were generated"

Truth = Mapping[str, Sequence[str]]


def score_captions(given: Given) -> Scores:
    """The table `free`, and with a reference the table `cut`.

    Raises:
        ScoreError: the task has no object words, or its data are not those of the run.
        ScoringError: the reference lacks a sample.
    """
    truth, vocabulary = ground_truth(given.folder, given.manifest, given.parser)
    tables = {FREE: caption_table(given.records, truth, vocabulary)}
    if given.like is None:
        return Scores(tables, more={"like": None})
    ours, theirs = given.records, [dict(record) for record in given.like.records]
    cut = cut_like(ours, theirs)
    tables[CUT] = caption_table(cut, truth, vocabulary, cut=True)
    shared = {sample_id(record) for record in ours}
    back = cut_like([record for record in theirs if sample_id(record) in shared], ours)
    decoder, shortened = given.like.manifest["decoder"], _shortened(ours, cut)
    like = {
        "decoder": {name: decoder[name] for name in ("key", "kind", "params")},
        "identity": given.like.manifest["identity"],
        "shortened": shortened,
        "table": caption_table(back, truth, vocabulary, cut=True),
    }
    return Scores(tables, notes=_notes(ours, theirs, shortened, decoder["key"]), more={"like": like})


def caption_table(records: Sequence[Record], truth: Truth, vocabulary: Vocabulary, *, cut: bool = False) -> Table:
    """One table of captions with intervals, images resampled.

    Args:
        records: the samples; failures are left out.
        truth: image id -> classes.
        vocabulary: what captions are read with.
        cut: whether captions were cut, so that tokens and the token limit say nothing about them.

    Raises:
        ScoringError: a record is broken, or its image has no ground truth.
    """
    score = score_chair(records, truth, vocabulary=vocabulary)
    table: Table = {}
    for metric in METRICS:
        name = _NAMED.get(metric, metric)
        hidden = cut and metric in _OF_RECORDS
        table[metric] = entry(
            None if hidden else score[name], score["n"], _WHY_CUT if hidden else score["undefined"].get(name)
        )
    counts = chair_counts(score["captions"])
    ok = [record for record in records if record["status"] == "ok"]
    for metric, figure in table.items():
        if figure["value"] is None:
            continue
        if metric in _OF_RECORDS:
            found = bounds(_sums(ok, counts.images, _OF_RECORDS[metric]), ratio)
        else:
            found = bounds(counts.counts, chair_rate(_NAMED.get(metric, metric)))
        add_bounds(figure, *found)
    return table


def ground_truth(folder: Path, manifest: Mapping[str, Any], dialect: str = VARIANT) -> tuple[Truth, Vocabulary]:
    """Image id -> classes true of it, and the words that captions are read with.

    The truth is made from the task's data when a run is first scored, and kept in `truth.json` (of other dialects than
    the portable one in `truth-DIALECT.json`); from then on the folder is all that scores and comparisons need.

    Args:
        folder: the run folder.
        manifest: its manifest.
        dialect: how words are read, in captions of the run and in those that the truth is made of.

    Raises:
        ScoreError: the task has no object words, or its data are not those of the run.
        DataError: the data are not there.
    """
    task = tasks.get(manifest["task"]["name"])
    if task.vocabulary is None:
        raise ScoreError(f"The task {task.name!r} has no object words to read captions with.")
    vocabulary = in_dialect(task.vocabulary, dialect)
    file = folder / (TRUTH if dialect == VARIANT else f"truth-{dialect}.json")
    made_of = {
        "variant": vocabulary.variant,
        "vocabulary": vocabulary.name,
        "options": manifest["task"]["options"],
        "data": manifest["task"]["data"],
    }
    held = kept(file)
    if any(held.get(name) != value for name, value in made_of.items()) or not isinstance(held.get("truth"), dict):
        held = {**made_of, "truth": _made(folder, manifest, vocabulary)}
        write_json(file, held)
    return held["truth"], vocabulary


def kept(file: Path) -> dict[str, Any]:
    """What an earlier scoring left; empty where there is nothing to be read."""
    try:
        return read_json(file)
    except RunFolderError:
        return {}


def _made(folder: Path, manifest: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, list[str]]:
    """The truth from the task's data, which must be those of the run."""
    dataset = reload(folder, manifest, vocabulary)
    return {image: list(classes) for image, classes in (dataset.truth or {}).items()}


def reload(folder: Path, manifest: Mapping[str, Any], vocabulary: Vocabulary | None = None) -> Dataset:
    """The data of a run's task, which must be those of the run.

    Args:
        folder: the run folder.
        manifest: its manifest.
        vocabulary: what captions in the data are read with; None = the task's own.

    Raises:
        ScoreError: they are not.
        DataError: they are not there.
    """
    task = tasks.get(manifest["task"]["name"])
    options = tasks.settle(task, {**manifest["task"]["options"], **_places(task, folder)})
    reads = None if vocabulary is None else task.reads
    dataset = task.load(options) if reads is None or vocabulary is None else reads(options, vocabulary)
    found = [dataclasses.asdict(source) for source in dataset.sources]
    if found != manifest["task"]["data"]:
        changed = [source["file"] for source in found if source not in manifest["task"]["data"]]
        raise ScoreError(
            f"The data of {task.name} are not those of the run: {', '.join(changed) or 'files are missing'}.",
            "Put the files back that manifest.json names with their hashes, or run it again.",
        )
    return dataset


def data_folder(folder: Path) -> Path | None:
    """The folder that a run's `task.data` named; None where it named none, or it is gone."""
    named = _options(folder).get("data")
    place = Path(named).expanduser() if isinstance(named, str) else None
    return place if place is not None and place.is_dir() else None


def _places(task: Task, folder: Path) -> dict[str, Any]:
    """Where the data lie; the manifest does not say."""
    return {name: value for name, value in _options(folder).items() if name in task.places}


def _options(folder: Path) -> dict[str, Any]:
    """The options of the task, from the run's `config.yaml`; empty where it cannot be read."""
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
        return dict(config["task"])
    except (OSError, OmegaConfBaseException, YAMLError, KeyError, TypeError, ValueError):
        return {}


def _sums(records: Sequence[Record], images: Sequence[str], of: Callable[[Record], float]) -> NDArray[np.float64]:
    """`[images, 2]`: the sum of a figure over an image's captions, and their number."""
    rows = {image: row for row, image in enumerate(images)}
    sums = np.zeros((len(images), 2))
    for record in records:
        sums[rows[str(record["image_id"])]] += (of(record), 1)
    return sums


def _shortened(records: Sequence[Record], cut: Sequence[Mapping[str, Any]]) -> int:
    return sum(one["output"] != other["output"] for one, other in zip(records, cut, strict=True))


def _notes(ours: Sequence[Record], theirs: Sequence[Record], shortened: int, key: str) -> list[str]:
    answered = [record for record in ours if record["status"] == "ok"]
    notes = [f"cut: {shortened} of {len(answered)} captions are longer than {key}'s for the same image, and are cut."]
    failed = {sample_id(record) for record in theirs if record["status"] != "ok"}
    whole = sum(sample_id(record) in failed for record in answered)
    if whole:
        notes.append(f"cut: {whole} captions stay whole, for {key} has none for their images.")
    return notes
