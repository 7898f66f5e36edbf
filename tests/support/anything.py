"""A strategy that contrasts with whatever branches it is given, and its naive twin."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import sightline
import torch
from naive import single, whole
from sightline.decoders import Plan, Strategy
from sightline.decoders.contrast import extrapolate

STEPS = 5


@dataclass(frozen=True)
class Anything(Strategy):
    """A contrast with whatever branches it is given."""

    key: ClassVar[str] = "anything"
    title: ClassVar[str] = "Anything"

    branches: Any = field(default=())
    base_bias: Any = None
    alpha: float = 0.8

    def plan(self, request):
        return Plan(branches=tuple(self.branches), bias=self.base_bias, combines=True)

    def combine(self, base, branches, step):
        for branch in branches:
            base = extrapolate(base, branch, self.alpha)
        return base


@torch.no_grad()
def naive_tokens(model, batch, branches, alpha=0.8, steps=STEPS):
    rows, trails = [], []
    for row in range(len(batch["input_ids"])):
        new, trail = [], []
        while len(new) < steps and 2 not in new:
            scores = whole(model, single(batch, row), new)
            for logits in branches:
                scores = (1 + alpha) * scores - alpha * logits(row, new)
            trail.append(scores)
            new.append(int(scores.argmax()))
        rows.append(new)
        trails.append(trail)
    return rows, trails


def run(model, batch, branches, branching, **kwargs):
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    with sightline.attach(model, Anything(branches), batch, branching=branching) as processor:
        output = model.generate(**batch, logits_processor=[processor], **(settings | kwargs))
    return output, processor.stats


def assert_same(output, batch, rows, trails):
    for row, (tokens, trail) in enumerate(zip(rows, trails, strict=True)):
        got = output.sequences[row, batch["input_ids"].shape[1] :].tolist()
        assert got[: len(tokens)] == tokens
        for step, expected in enumerate(trail):
            torch.testing.assert_close(output.scores[step][row].double(), expected, atol=1e-4, rtol=1e-4)
