"""Who is timed: plain greedy decoding, transformers' own guidance, a naive contrast, and our decoders.

Each is a function that generates once; a `Clock` in its stopping criteria notes when the first token stood.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from ...decoders import Branch, Plan, Request, Strategy, generate
from ...decoders.branching import Branching
from ...decoders.contrast import cut, extrapolate, plausible, widen
from ...models.adapter import Adapter
from ...models.versions import CACHE
from .counting import Counts
from .subject import Subject

GREEDY = "greedy generate()"
GUIDANCE = "guidance_scale"
SCALE = 1.5
"""Strength of transformers' guidance; any other than 1 makes its two passes."""


class Clock(StoppingCriteria):
    """Notes when the first token was chosen, and how many were."""

    def __init__(self, device: torch.device, counts: Counts | None = None):
        self.first: float | None = None
        self.tokens = 0
        self._device = device
        self._counts = counts

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Never stops; waits for the device at the first token alone."""
        self.tokens += 1
        if self._counts is not None:
            self._counts.steps += 1
        if self.first is None:
            synchronize(self._device)
            self.first = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@dataclass(frozen=True)
class Contender:
    """One way to generate.

    Attributes:
        name: in tables.
        run: generates once, with these stopping criteria.
        strategy: of our decoders; None for the others.
    """

    name: str
    run: Callable[[StoppingCriteriaList], Any]
    strategy: Strategy | None = None


def plain(subject: Subject, name: str = GREEDY, **more: Any) -> Contender:
    """Transformers' own `generate()`."""
    model: Any = subject.loaded.model

    def run(criteria: StoppingCriteriaList) -> Any:
        settings = {"do_sample": False, "max_new_tokens": subject.shape.new_tokens, **more}
        return model.generate(**subject.inputs, stopping_criteria=criteria, **settings)

    return Contender(name, run)


def guidance(subject: Subject) -> Contender:
    """Transformers' classifier-free guidance, a second pass in every step; it knows no images."""
    return plain(subject, GUIDANCE, guidance_scale=SCALE)


def decoder(subject: Subject, strategy: Strategy, branching: Branching = "auto", **more: Any) -> Contender:
    """One of our decoders."""

    def run(criteria: StoppingCriteriaList) -> Any:
        return generate(
            subject.loaded.model, strategy, subject.inputs,
            processor=subject.loaded.processor, spans=subject.marked, branching=branching, do_sample=False,
            max_new_tokens=subject.shape.new_tokens, stopping_criteria=criteria, **more,
        )  # fmt: skip

    return Contender(strategy.key, run, strategy)


def naive(subject: Subject, strategy: Strategy) -> Contender:
    """The strategy as reference implementations run it: eager attention, a pass and a cache for each branch.

    Branch prompts are the plan's own; each is encoded and run whole, nothing is forked. Edits of attention and probes
    are left out, and every branch is combined by the same contrast and cut, so this costs less than the real thing.
    """
    model: Any = subject.loaded.model
    adapter = subject.loaded.adapter

    def run(criteria: StoppingCriteriaList) -> Any:
        request = Request(subject.inputs, adapter, subject.loaded.processor, spans=subject.marked)
        second = _Passes(adapter, subject.inputs, strategy.prepare(request))
        model.set_attn_implementation("eager")
        try:
            return model.generate(
                **subject.inputs, stopping_criteria=criteria, do_sample=False,
                max_new_tokens=subject.shape.new_tokens, logits_processor=LogitsProcessorList([second]),
            )  # fmt: skip
        finally:
            model.set_attn_implementation("sdpa")

    return Contender(f"naive {strategy.key}", run)


class _Passes(LogitsProcessor):
    """Runs each branch of a plan in a forward of its own, and pushes the scores away from all of them."""

    def __init__(self, adapter: Adapter, inputs: Mapping[str, Any], plan: Plan, alpha: float = 1.0, beta: float = 0.1):
        self._adapter = adapter
        self._prompts = [{**inputs, **branch.inputs} for branch in plan.branches]
        self._prompts += [{**inputs, **reading} for reading in plan.readings]
        self._reads = len(plan.readings)
        self._branches: Sequence[Branch] = plan.branches
        self._streams: list[dict[str, Any]] = []
        self._alpha, self._beta = alpha, beta

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if not self._streams:
            found = [self._prefill(prompt) for prompt in self._prompts]
            found = found[: len(self._branches)]  # what is only read is not decoded from
            self._streams = self._streams[: len(self._branches)]
        else:
            found = [self._step(stream, input_ids[:, -1:]) for stream in self._streams]
        kept = plausible(scores, self._beta)
        for logits in found:
            scores = extrapolate(scores, widen(logits), self._alpha)
        return cut(scores, kept)

    def _prefill(self, prompt: Mapping[str, Any]) -> Tensor:
        call = {**self._adapter.decoder_inputs(prompt), "use_cache": True, CACHE: None}
        output = self._adapter.decoder(**call)
        mask = prompt["attention_mask"]
        positions = call.get("position_ids")
        if positions is None:
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)
        self._streams.append({"cache": output[CACHE], "mask": mask, "last": positions[..., -1:]})
        return self._logits(output)

    def _step(self, stream: dict[str, Any], token: Tensor) -> Tensor:
        stream["mask"] = torch.cat([stream["mask"], stream["mask"].new_ones(token.shape)], dim=1)
        stream["last"] = stream["last"] + 1
        output = self._adapter.decoder(
            input_ids=token, attention_mask=stream["mask"], position_ids=stream["last"],
            use_cache=True, **{CACHE: stream["cache"]},
        )  # fmt: skip
        return self._logits(output)

    def _logits(self, output: Any) -> Tensor:
        head: Any = self._adapter.owner.get_output_embeddings()
        return head(output[0][:, -1])


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
