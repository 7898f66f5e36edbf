"""Controls: decoders that exist to keep the others honest.

* `greedy` and `sample` are plain decoding in its two modes, the references of every comparison.
* `cut_only` is the plausibility cut of the contrastive strategies without their contrast. It means something under
  sampling only: the likeliest token always survives.
* `shift` adds a constant to the yes-words. A strategy that gains no more than a shift tuned on validation has moved the
  threshold and grounded nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..models.errors import InvalidParameter
from .contrast import plausible
from .plan import Plan, Request, Step
from .registry import register
from .strategy import Kind, Strategy

YES = ("Yes", " Yes", "yes", " yes", "YES", " YES")
NO = ("No", " No", "no", " no", "NO", " NO")


@register
@dataclass(frozen=True)
class Greedy(Strategy):
    """Plain greedy decoding."""

    key: ClassVar[str] = "greedy"
    title: ClassVar[str] = "Greedy"
    kind: ClassVar[Kind] = "control"
    mode: ClassVar[Literal["greedy", "sample"] | None] = "greedy"


@register
@dataclass(frozen=True)
class Sample(Strategy):
    """Plain sampling."""

    key: ClassVar[str] = "sample"
    title: ClassVar[str] = "Sampling"
    kind: ClassVar[Kind] = "control"
    mode: ClassVar[Literal["greedy", "sample"] | None] = "sample"


@register
@dataclass(frozen=True)
class CutOnly(Strategy):
    """The plausibility cut without any contrast.

    Args:
        beta: in [0, 1] (default 0.1, as in VCD); 0 is plain decoding, 1 is greedy.
    """

    key: ClassVar[str] = "cut_only"
    title: ClassVar[str] = "Cut only"
    kind: ClassVar[Kind] = "control"

    beta: float = 0.1

    def validate(self) -> None:
        """Range of beta."""
        self.check(0 <= self.beta <= 1, "beta", "in [0, 1]", "Use 0 for no cut.")

    def plan(self, request: Request) -> Plan:
        """No branch; nothing at beta 0."""
        return Plan(combines=self.beta > 0)

    def keep(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor | None:
        """Tokens that are plausible."""
        return plausible(base, self.beta)


@register
@dataclass(frozen=True)
class Shift(Strategy):
    """A constant on the yes-words of the first generated token.

    Args:
        delta: added to the logit of every word in `YES`; negative values make "no" likelier. Tune it on validation.
    """

    key: ClassVar[str] = "shift"
    title: ClassVar[str] = "Yes/no shift"
    kind: ClassVar[Kind] = "control"
    needs_processor: ClassVar[bool] = True

    delta: float = 0.0

    def plan(self, request: Request) -> Plan:
        """Finds the yes-words of the tokenizer once; nothing at delta 0."""
        if self.delta == 0:
            return Plan()
        return Plan(combines=True, context={"yes": yes_ids(request)})

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """The base, with delta added to the yes-words at the first step."""
        return base if step.index else shift(base, step.context["yes"], self.delta)


def shift(base: Float[Tensor, "batch vocab"], ids: Int[Tensor, " words"], delta: float) -> Float[Tensor, "batch vocab"]:
    """The logits with `delta` added at `ids`."""
    return base.index_add(-1, ids, base.new_full((base.shape[0], len(ids)), delta))


def yes_ids(request: Request) -> Tensor:
    """Ids of the yes-words, `[words]`, on the model's device.

    Raises:
        InvalidParameter: the tokenizer holds no yes-word as one token.
    """
    ids: Any = request.adapter.token_ids(YES, request.processor)
    if not ids:
        raise InvalidParameter(
            "shift: this tokenizer has no single token for any of " + ", ".join(map(repr, YES)) + "."
        )
    return torch.tensor(ids, device=request.inputs["input_ids"].device)
