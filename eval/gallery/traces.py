"""Traces of chosen samples: decoded again, checked against the answers of the run, and kept in its folder.

    RUN/traces/TASK.json    {"schema": 1, "traces": {key: {"output": ..., "trace": ...}}}

A sample is decoded by itself, as the run decoded it in a batch. Where its answer comes out otherwise (in half precision
near a tie), it has no trace.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ...models import Loaded
from ...models.errors import SightlineError
from ..answering import Words
from ..explain.command import TracingAnswerer
from ..explain.explanation import explanation
from ..explain.tables import as_data
from ..images import locate, open_image
from ..records import SampleRecord, write_json
from ..runner import settle
from ..tasks import registry as tasks
from .columns import Column, Wall, settings_of
from .marking import Unit

SCHEMA = 1
FOLDER = "traces"


def kept(column: Column) -> dict[str, Any]:
    """The traces in a run's folder, by the keys of samples; those of other answers are left out."""
    file = _file(column)
    try:
        held = json.loads(file.read_text(encoding="utf-8"))["traces"]
        outputs = {record.key: record.output for record in column.records.values()}
        return {key: each["trace"] for key, each in held.items() if outputs.get(key) == each["output"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def make(wall: Wall, column: Column, units: Sequence[Unit], loaded: Loaded, done: Callable[[], Any]) -> int:
    """Trace samples of one run, those that have no trace yet, and keep them.

    Args:
        units: what to trace.
        loaded: the model of the run.
        done: called after each sample.

    Returns:
        How many answers came out otherwise than in the run.

    Raises:
        SightlineError: the decoder cannot be made any more, or an image cannot be read.
    """
    held, changed = kept(column), 0
    settings = settings_of(column.run)
    strategy, task, _ = settle(settings)
    generation = settings.generation.settled(strategy.mode, task.max_new_tokens)
    answerer = TracingAnswerer(loaded, strategy, generation, Words())
    for unit in units:
        record = column.records.get(unit)
        if record is None or record.key in held or record.candidates:
            done()
            continue
        document = wall.documents.get(unit)
        image = _image(wall, unit)
        context = None if document is None else document.context
        inputs, ids, tokens, names = answerer.trace(record.prompt, image, record.seed, context)
        told = explanation(
            loaded.model, strategy, inputs, ids, tokens, loaded.processor, image, None, settings.model.title, names
        )
        if told.answer == record.output:
            held[record.key] = as_data(told)
        else:
            changed += 1
        done()
    _keep(column, held)
    return changed


def traceable(wall: Wall) -> str:
    """Why samples of this wall cannot be traced; empty where they can."""
    task = tasks.get(wall.section.task)
    if task.scored:
        return f"{wall.section.task_title} scores given answers, and generates none that could be traced."
    if wall.dataset is None:
        return wall.note
    return ""


def _image(wall: Wall, unit: Unit) -> Image | None:
    assert wall.dataset is not None
    if wall.dataset.images is None:
        return None
    document = wall.documents.get(unit)
    if document is None:
        raise SightlineError(f"The task has no question like {unit[1]!r} any more.")
    return open_image(locate(wall.dataset.images, document.image))


def _keep(column: Column, held: dict[str, Any]) -> None:
    records: dict[str, SampleRecord] = {record.key: record for record in column.records.values()}
    traces = {key: {"output": records[key].output, "trace": trace} for key, trace in sorted(held.items())}
    file = _file(column)
    file.parent.mkdir(exist_ok=True)
    write_json(file, {"schema": SCHEMA, "traces": traces})


def _file(column: Column) -> Path:
    return column.run.folder / FOLDER / f"{column.run.task}.json"
