"""Questions a second through the harness, with and without sharing: `sightline bench MODEL --questions`.

The questions of POPE-scenes go the way of a run: images decoded on their own thread, batches, processor, answers. Each
round times all ways of sharing, in an order that moves on from round to round, and a ratio is taken within a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...decoders import Strategy
from ...models import Loaded
from ...models.errors import UnsupportedModel
from ..answering import Answerer, Cost, Words
from ..listing import table
from ..plan import Conditions, Request, limited, make_plan, renderer
from ..records import SampleRecord
from ..settings import SHARING, GenerationSettings
from ..tasks import registry as tasks
from ..tasks.base import Task
from ..worker import Worker
from .contenders import synchronize
from .measure import Spread

TASK = "pope_scenes"
DECODERS = ("greedy", "vcd", "decore")
WAYS = SHARING[::-1]
"""Nothing shared first: what the others are held against."""
SIZE = 16
"""Questions of a batch, as in a run."""
HEADER = ("decoder", "share", "questions/s", "to none", "images encoded", "prompt tokens run", "answers as with none")


@dataclass(frozen=True)
class Asked:
    """Questions with what belongs to them."""

    task: Task
    images: Path | None
    requests: tuple[Request, ...]
    samples: int


@dataclass
class Rate:
    """One decoder under one way of sharing.

    Attributes:
        decoder, share: which.
        questions: asked in each round.
        seconds: of each round.
        cost: of one round.
        same: answers that are those without sharing, character for character.
    """

    decoder: str
    share: str
    questions: int
    seconds: list[float] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    same: int = 0

    @property
    def per_second(self) -> Spread:
        """Questions a second, over rounds."""
        return Spread.of([self.questions / each for each in self.seconds])

    def beside(self, none: Rate) -> Spread:
        """How many times as many questions a second as without sharing, round by round."""
        return Spread.of([theirs / ours for ours, theirs in zip(self.seconds, none.seconds, strict=True)])


def questions(loaded: Loaded, images: int) -> Asked:
    """The questions of POPE-scenes about so many images; what splits have in common once, as in a run.

    Raises:
        UnsupportedModel: the model takes no images.
        DataError: the scenes cannot be written or read.
    """
    if not loaded.adapter.image_inputs:
        raise UnsupportedModel(
            f"--questions asks about images, and {loaded.name} takes none.", "Name an image-text model."
        )
    task = tasks.get(TASK)
    dataset = tasks.load(task, {})
    documents = limited(dataset.documents, images, 0)
    conditions = Conditions((task.name, task.version), {}, {}, {}, None)
    plan = make_plan(dataset, documents, renderer(loaded.processor, ""), conditions)
    return Asked(task, dataset.images, plan.requests, len(plan.samples))


def rates(
    loaded: Loaded,
    strategies: Sequence[Strategy],
    asked: Asked,
    batch_size: int,
    rounds: int,
    told: Callable[[str], None] = lambda line: None,
) -> list[Rate]:
    """Every decoder under every way of sharing, decoder by decoder; ways in turn, after a round to warm up.

    Args:
        loaded: model and processor.
        strategies: the decoders.
        asked: what to ask.
        batch_size: questions of a batch.
        rounds: how often each is timed.
        told: gets a line as each round ends.
    """
    found = []
    for strategy in strategies:
        ways = [Rate(strategy.key, share, len(asked.requests)) for share in WAYS]
        plain = {key: record.output for key, record in _answered(loaded, strategy, asked, batch_size, ways[0])}
        for way in ways:
            answers = dict(_answered(loaded, strategy, asked, batch_size, way))
            way.same = sum(answers[request.samples[0].key].output == plain[request.samples[0].key]
                           for request in asked.requests)  # fmt: skip
            way.seconds.clear()
        for number in range(rounds):
            shift = number % len(ways)
            for way in [*ways[shift:], *ways[:shift]]:
                _answered(loaded, strategy, asked, batch_size, way)
            told(f"{strategy.key}: round {number + 1} of {rounds}")
        found += ways
    return found


def _answered(
    loaded: Loaded, strategy: Strategy, asked: Asked, batch_size: int, way: Rate
) -> list[tuple[str, SampleRecord]]:
    """Ask everything once; seconds and cost are noted."""
    generation = GenerationSettings().settled(strategy.mode, asked.task.max_new_tokens)
    answerer = Answerer(loaded, strategy, generation, Words.of(loaded, asked.task.answers), way.share)
    loaded.adapter.forget()
    records, cost = [], Cost()
    synchronize(loaded.model.device)
    start = time.perf_counter()
    for done in Worker(answerer, asked.images, batch_size).answers(asked.requests):
        records += [(record.key, record) for record in done.records]
        cost.add(done.cost)
    synchronize(loaded.model.device)
    way.seconds.append(time.perf_counter() - start)
    way.cost = cost
    return records


def shown(found: Sequence[Rate]) -> str:
    """The table: medians; quartiles of the ratio."""
    rows = []
    for rate in found:
        none = next(each for each in found if each.decoder == rate.decoder and each.share == WAYS[0])
        ratio, cost = rate.beside(none), rate.cost
        rows.append((
            rate.decoder, rate.share, f"{rate.per_second.median:.1f}",
            "1" if rate is none else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
            _part(cost.encoded, cost.images), _part(cost.prefilled, cost.prompt_tokens),
            f"{rate.same} of {rate.questions}",
        ))  # fmt: skip
    return table(HEADER, rows)


def _part(run: int, asked: int) -> str:
    return f"{run} of {asked}" if asked else "all"


def as_json(found: Sequence[Rate]) -> list[dict[str, Any]]:
    """Everything that was measured and counted."""
    names = ("images", "encoded", "prompt_tokens", "prefilled")
    return [
        {
            "decoder": rate.decoder,
            "share": rate.share,
            "questions": rate.questions,
            "seconds": [round(each, 4) for each in rate.seconds],
            "questions_per_s": round(rate.per_second.median, 2),
            "same_answers": rate.same,
            **{name: getattr(rate.cost, name) for name in names},
        }
        for rate in found
    ]
