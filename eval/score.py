"""Scores a run folder without a model: `samples/*.jsonl` to `metrics.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import decoders
from ..decoders.approximate import WORD
from ..models.errors import UnknownDecoder
from . import relabel
from .errors import ConfigError, IncompleteRun, ScoreError, unknown
from .folder import METRICS, is_complete, read_manifest
from .manifest import differences
from .records import SampleFiles, SampleRecord, read_part, read_samples, write_json
from .score_amber import AMBER, AMBER_CAPTIONS
from .score_captions import data_folder, score_captions
from .score_hallusion import HALLUSION
from .score_mme import PARSERS as MME_PARSERS
from .score_mme import score_pairs
from .score_pope import score_splits
from .score_tables import RESAMPLES, Given, Record, Reference, Scorer
from .score_texts import BY_SCORES, MICRO, SQUAD, score_memo_trap, score_short_answers, score_truthful_qa
from .score_vqa import TEXT_VQA
from .scoring import PARSERS, ScoringError
from .scoring.opera_words import DIALECTS
from .statistics import StatisticsError

SCHEMA = 1
SCORERS = {
    "pope": Scorer(score_splits, PARSERS, "mean", "accuracy", margins=True),
    "mme": Scorer(score_pairs, MME_PARSERS, "total", "score", margins=True),
    "chair": Scorer(score_captions, tuple(DIALECTS), "free", "CHAIRs", higher_is_better=False, captions=True),
    "short_answers": Scorer(score_short_answers, (SQUAD,), "substituted", "em", texts=True),
    "memo_trap": Scorer(score_memo_trap, (BY_SCORES,), MICRO, "accuracy", texts=True),
    "truthful_qa": Scorer(score_truthful_qa, (BY_SCORES,), "multiple_choice", "MC2", texts=True),
    **{counting.name: counting.scorer for counting in (AMBER, AMBER_CAPTIONS, HALLUSION, TEXT_VQA)},
}
"""The scorers by the names that manifests hold."""


def score_run(
    folder: Path,
    *,
    parser: str | None = None,
    allow_partial: bool = False,
    like: Path | None = None,
    labels: str | None = None,
    labels_data: Path | None = None,
) -> dict[str, Any]:
    """Score a run and write its `metrics.json`.

    Args:
        folder: the run folder.
        parser: dialect that answers are read in; None = the task's.
        allow_partial: score what there is of a run that has not finished; the result is marked.
        like: the run folder of the reference (plain greedy decoding) to whose lengths captions are cut, image by
            image, for the table `cut`. Yes/no answers are not cut: there it changes nothing, and a note says so.
        labels: other gold labels, by their name in `relabel.KNOWN`; None = the task's own.
        labels_data: folder with their files; None = the run's `task.data`.

    Returns:
        What was written.

    Raises:
        RunFolderError: a folder holds no run.
        IncompleteRun: a run has not finished.
        ConfigError: the task's answers are not read in that dialect.
        ScoreError: the samples cannot be scored, or the reference was made with another model, prompt or data.
        DataError: what is needed of the task's data, or of other labels, is not there.
    """
    manifest = read_manifest(folder)
    scorer, rule = _scorer(manifest), _parser(manifest, parser)
    records, partial = _samples(folder, manifest, allow_partial)
    told = None
    if labels is None:
        (folder / relabel.FILE).unlink(missing_ok=True)
    else:
        place = labels_data or data_folder(folder)
        records, told = relabel.relabel(folder, manifest, records, labels, place)
    reference = _reference(like, manifest, allow_partial) if like is not None and scorer.captions else None
    given = Given(folder, manifest, records, rule, reference)
    metrics = build_metrics(given, partial, told)
    if like is not None and not scorer.captions:
        metrics["notes"].append("Cutting to another run's lengths has no meaning for these answers and was left out.")
    write_json(folder / METRICS, metrics)
    return metrics


def scored(folder: Path, parser: str | None = None) -> dict[str, Any]:
    """The scores of a finished run under one dialect; `metrics.json` stays as it is.

    Args:
        folder: the run folder.
        parser: dialect that answers are read in; None = the task's.

    Raises:
        SightlineError: as `score_run`.
    """
    manifest = read_manifest(folder)
    rule = _parser(manifest, parser)
    records, partial = _samples(folder, manifest, allow_partial=False)
    return build_metrics(Given(folder, manifest, records, rule), partial)


def build_metrics(given: Given, partial: bool, labels: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The content of `metrics.json`; the same samples give the same content.

    Args:
        given: what is scored.
        partial: whether samples are missing.
        labels: what is known of other labels than the task's, where they are scored against.
    """
    manifest, scorer = given.manifest, _scorer(given.manifest)
    try:
        scores = scorer.score(given)
    except (ScoringError, StatisticsError) as error:
        raise ScoreError(str(error)) from error
    ok = sum(record["status"] == "ok" for record in given.records)
    n = len(given.records)
    return {
        "schema": SCHEMA,
        "task": manifest["task"]["name"],
        "task_version": manifest["task"]["version"],
        "data": _data(manifest, labels),
        "parser": given.parser,
        "model": manifest["model"]["name"],
        "decoder": describe_decoder(manifest),
        "generation": manifest["generation"],
        "n": n,
        "n_ok": ok,
        "n_error": n - ok,
        "n_images": len({record["image_id"] for record in given.records} - {""}),
        "partial": partial,
        "resamples": RESAMPLES,
        "primary": scorer.primary,
        "tables": scores.tables,
        "parsers": scores.parsers,
        **({} if labels is None else {"labels": dict(labels)}),
        **scores.more,
        "notes": [*_notes(manifest, scorer, n, ok, partial), *_label_notes(labels), *scores.notes],
    }


def _data(manifest: Mapping[str, Any], labels: Mapping[str, Any] | None) -> dict[str, Any]:
    """The task's options but for splits, and the labels that are not its own: what never shares a leaderboard."""
    options = {name: value for name, value in manifest["task"]["options"].items() if name != "splits"}
    return options | ({} if labels is None else {"labels": labels["name"]})


def _label_notes(labels: Mapping[str, Any] | None) -> list[str]:
    if labels is None:
        return []
    return [
        f"Scored against the labels of {labels['name']}: {labels['n_dropped']} questions have none and are left out, "
        f"{labels['n_flipped']} have another one."
    ]


def describe_decoder(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Key, kind, title and parameters of a run's decoder; one that is not registered here has its key as title."""
    held = manifest["decoder"]
    key, _, how = str(held["key"]).partition(WORD)
    try:
        title = decoders.get(key).title
    except UnknownDecoder:
        title = key
    title += how and f",{WORD}{how}"
    return {"key": held["key"], "kind": held["kind"], "title": title, "params": held["params"]}


def _reference(like: Path, manifest: Mapping[str, Any], allow_partial: bool) -> Reference:
    """The run to whose lengths captions are cut, which must have been asked the same."""
    held = read_manifest(like)
    same = {
        "task": {name: value for name, value in manifest["task"].items() if name != "revision"},
        "model": {"fingerprint": manifest["model"]["fingerprint"]},
        "prompt": manifest["prompt"],
    }
    found = differences(held, same)
    if found:
        raise ScoreError(
            f"{str(like)!r} cannot say how long captions may be: {'; '.join(found[:3])}.",
            "Give a greedy run of the same model, task and prompt.",
        )
    return Reference(held, _samples(like, held, allow_partial)[0])


def _samples(folder: Path, manifest: Mapping[str, Any], allow_partial: bool) -> tuple[list[Record], bool]:
    """The samples of a run as mappings, and whether they are a part."""
    partial = not is_complete(manifest)
    if partial and not allow_partial:
        raise IncompleteRun(
            f"The run in {str(folder)!r} has not finished.",
            "Run it again to go on, or score what there is with --allow-partial.",
        )
    return [dataclasses.asdict(record) for record in _records(folder, manifest, partial)], partial


def _records(folder: Path, manifest: Mapping[str, Any], partial: bool) -> Sequence[SampleRecord]:
    files = SampleFiles(folder / "samples", str(manifest["task"]["name"]))
    if partial:
        found = {record.key: record for path in files.parts() for record in read_part(path)}
        if not found:
            raise IncompleteRun(f"The run in {str(folder)!r} has no answer yet.", "Run it again to go on.")
        return sorted(found.values(), key=lambda record: (record.split, record.doc_id))
    if not files.final.is_file():
        raise IncompleteRun(f"{files.final.name} is missing in {str(folder)!r}.", "Run it again with run.resume=false.")
    records = read_samples(files.final)
    if len(records) != manifest["n_samples"]:
        raise ScoreError(
            f"{files.final.name} holds {len(records)} samples, and the run had {manifest['n_samples']}.",
            "Run it again with run.resume=false.",
        )
    return records


def _notes(manifest: Mapping[str, Any], scorer: Scorer, n: int, ok: int, partial: bool) -> list[str]:
    notes = []
    if partial:
        notes.append(f"Partial: {n} of {manifest['n_samples']} samples; the run has not finished.")
    if manifest.get("limit") is not None:
        units = "groups of texts" if scorer.texts else "images"
        notes.append(f"Limited to {manifest['limit']} {units} (run.limit, seed {manifest.get('seed')}).")
    if n > ok:
        notes.append(f"{n - ok} of {n} samples failed and are not scored.")
    margin = manifest.get("margin_words") or {}
    if scorer.margins and not (margin.get("yes") and margin.get("no")):
        notes.append("The tokenizer has no single tokens for yes and no, so there is no margin and no AUC.")
    return notes


def _parser(manifest: Mapping[str, Any], parser: str | None) -> str:
    """The dialect that answers are read in; raises `ConfigError` where the scorer has none of that name."""
    known, chosen = _scorer(manifest).parsers, str(parser or manifest["scorer"]["parser"])
    if chosen not in known:
        raise ConfigError(*unknown(f"parser for {manifest['task']['name']}", chosen, known))
    return chosen


def _scorer(manifest: Mapping[str, Any]) -> Scorer:
    name = manifest["scorer"]["name"]
    if name not in SCORERS:
        raise ScoreError(*unknown("scorer", name, SCORERS))
    return SCORERS[name]
