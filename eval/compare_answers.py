"""The answers of runs, brought onto common ground before they are compared.

Two runs are compared on the samples that both answered. A failed sample is no answer, so it counts in neither run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..models.errors import SightlineError
from .compare_captions import CHAIR
from .compare_scales import MME, POPE, Material, Scale, Tally
from .compare_texts import MEMO_TRAP, SHORT_ANSWERS, TRUTHFUL_QA
from .errors import RecordError, unknown
from .records import SampleRecord, read_part, read_samples
from .relabel import applied
from .relabel import held as held_labels
from .score_amber import AMBER, AMBER_CAPTIONS
from .score_captions import ground_truth
from .score_hallusion import HALLUSION
from .score_vqa import TEXT_VQA
from .scoring import ScoringError
from .scoring.checks import SampleId
from .scoring.vocabulary import VARIANT, Vocabulary

COUNTINGS = {counting.name: counting for counting in (AMBER, AMBER_CAPTIONS, HALLUSION, TEXT_VQA)}
_OWN = (POPE, CHAIR, MME, SHORT_ANSWERS, MEMO_TRAP, TRUTHFUL_QA)
SCALES = {scale.name: scale for scale in (*_OWN, *(counting.scale() for counting in COUNTINGS.values()))}
_SHOWN = 3


class NotComparable(SightlineError, ValueError):
    """Two runs have no paired difference: they were not asked the same, or cannot be read."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The answered samples of one run.

    Attributes:
        name: how messages call the run.
        scale: how the task is scored.
        parser: the dialect that answers are read in; empty where the task has none.
        seed: of the run, which tells repetitions of one configuration apart.
        records: sample -> record, in the order of their names.
        failed: samples without an answer.
        truth: image id -> classes true of it, for captions.
        vocabulary: the object words that captions are read with.
        lengths: sample -> words that captions are cut to where length must not matter.
        labels: name of the labels that the run was last scored with; empty for the task's own.
        brought: what else the scorer needs beside the records.
    """

    name: str
    scale: Scale
    parser: str
    seed: int
    records: Mapping[SampleId, SampleRecord]
    failed: frozenset[SampleId]
    truth: Mapping[str, Sequence[str]] | None = None
    vocabulary: Vocabulary | None = None
    lengths: Mapping[SampleId, int] | None = None
    labels: str = ""
    brought: Any = None

    @property
    def material(self) -> Material:
        """What is counted."""
        return Material(
            list(self.records.values()), self.parser, self.truth, self.vocabulary, self.lengths, self.brought
        )

    @cached_property
    def tally(self) -> Tally:
        """Counts by image.

        Raises:
            NotComparable: the scorer refuses the records.
        """
        try:
            return self.scale.tally(self.material)
        except ScoringError as error:
            raise NotComparable(f"{self.name}: {error}") from error

    def only(self, samples: Set[SampleId]) -> Answers:
        """The same run, cut down to some samples."""
        if len(samples) == len(self.records):
            return self
        kept = {name: record for name, record in self.records.items() if name in samples}
        return replace(self, records=kept)


def read_answers(folder: Path, manifest: Mapping[str, Any], name: str, scorer: str, parser: str) -> Answers:
    """The answers in a run folder: of the finished file, or of the parts where the run has not finished.

    Args:
        folder: the run folder.
        manifest: its manifest.
        name: how messages call the run.
        scorer: a name of `SCALES`.
        parser: the dialect that answers are read in.

    Raises:
        NotComparable: there are no samples, they cannot be read, or the scorer is not known.
        SightlineError: what is true of the images of captions cannot be read.
    """
    if scorer not in SCALES:
        raise NotComparable(f"{name}: there is no paired comparison for the scorer {scorer!r}.")
    scale = SCALES[scorer]
    if parser and parser not in scale.parsers:
        raise NotComparable(*unknown("parser", parser, scale.parsers))
    try:
        found = _records(folder / "samples")
    except (OSError, RecordError) as error:
        raise NotComparable(f"{name}: its samples cannot be read ({error}).") from error
    other = held_labels(folder)
    if other is not None:
        found = applied(other[1], found)
    found = [record for record in found if scale.asks(record)]
    if not found:
        raise NotComparable(f"{name}: there are no sample files with answers.")
    named = sorted(_distinct(found).items(), key=lambda item: item[0])
    return Answers(
        name=name,
        scale=scale,
        parser=parser,
        seed=int(manifest.get("seed") or 0),
        records={sample: record for sample, record in named if record.status == "ok"},
        failed=frozenset(sample for sample, record in named if record.status != "ok"),
        labels="" if other is None else other[0],
        brought=_brought(scale, folder, manifest, parser),
        **(_truth(folder, manifest, parser) if scale is CHAIR else {}),
    )


def _records(folder: Path) -> list[SampleRecord]:
    files = sorted(folder.glob("*.jsonl"))
    finished = [record for path in files if ".part-" not in path.name for record in read_samples(path)]
    return finished or [record for path in files for record in read_part(path)]


def _brought(scale: Scale, folder: Path, manifest: Mapping[str, Any], parser: str) -> Any:
    """What a scorer of counts needs beside the records, such as AMBER's lists."""
    counting = COUNTINGS.get(scale.name)
    return None if counting is None or counting.brings is None else counting.brings(folder, manifest, parser)


def _truth(folder: Path, manifest: Mapping[str, Any], parser: str) -> dict[str, Any]:
    truth, vocabulary = ground_truth(folder, manifest, parser or VARIANT)
    return {"truth": truth, "vocabulary": vocabulary}


def _distinct(records: Iterable[SampleRecord]) -> dict[SampleId, SampleRecord]:
    """One record per sample: parts may hold a failure and, from a later attempt, the answer."""
    found: dict[SampleId, SampleRecord] = {}
    for record in records:
        place = (record.split, record.doc_id)
        if place not in found or record.status == "ok":
            found[place] = record
    return found


def on_common_ground(runs: Sequence[Answers]) -> list[Answers]:
    """The runs on the samples that all of them answered.

    Raises:
        NotComparable: there is no such sample; the runs read answers in different dialects, or were scored with other
            labels; or labels, images or prompts of a sample differ.
    """
    first, *others = runs
    for run in others:
        if run.parser != first.parser:
            raise NotComparable(f"The parsers differ: {first.parser or 'none'} and {run.parser or 'none'}.")
        _refuse_other_labels(first, run)
    shared = set(first.records).intersection(*(run.records for run in others))
    if not shared:
        raise NotComparable("The runs share no answered sample.")
    for run in others:
        for sample in shared:
            field = _difference(first.records[sample], run.records[sample])
            if field:
                raise NotComparable(
                    f"The runs were asked about other data: the {field} of sample {sample} differs in {run.name}.",
                    "Compare runs of one task, one set of files and one prompt.",
                )
    cut = [run.only(shared) for run in runs]
    return _same_length(cut) if first.scale is CHAIR else cut


def _same_length(runs: Sequence[Answers]) -> list[Answers]:
    """The runs, told the words of the shortest caption of each sample."""
    lengths = {sample: min(len(run.records[sample].output.split()) for run in runs) for sample in runs[0].records}
    return [replace(run, lengths=lengths) for run in runs]


def refuse_other_samples(runs: Sequence[Answers]) -> None:
    """Refuse runs that were not asked the same samples, answered or failed.

    Raises:
        NotComparable: names how many samples only one of them has, and some of these; or says that labels differ.
    """
    first, *others = runs
    asked = set(first.records) | first.failed
    for run in others:
        _refuse_other_labels(first, run)
        own = set(run.records) | run.failed
        if own != asked:
            some = sorted(own ^ asked)[:_SHOWN]
            raise NotComparable(
                f"{first.name} and {run.name} were not asked the same samples: {len(asked - own)} are only in the "
                f"first and {len(own - asked)} only in the second, such as {some}.",
                "Make both with the same run.limit and run.seed, or without a limit.",
            )


def _refuse_other_labels(first: Answers, run: Answers) -> None:
    if run.labels != first.labels:
        raise NotComparable(
            f"The labels differ: {first.name} was last scored with {first.labels or 'its own'}, {run.name} with "
            f"{run.labels or 'its own'}.",
            "Score both with the same --labels, or both without.",
        )


def _difference(first: SampleRecord, second: SampleRecord) -> str:
    for field, words in (("label", "label"), ("image_id", "image"), ("prompt", "prompt")):
        if getattr(first, field) != getattr(second, field):
            return words
    return ""
