"""Controls of strategies that disable attention heads.

* `random_heads` is DeCoRe with as many heads drawn at random. In the paper it holds much of the gain: what it gains too
  is not owed to retrieval heads.
* `masked_only` decodes from the masked branch alone. If it answers as well as the model, the heads do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .calibration.ranking import HeadRanking
from .decore import DeCoRe
from .masked_heads import MaskedHeads
from .plan import Plan, Request, Step
from .registry import register
from .strategy import Kind

EXCLUDED = 100
"""Heads of the model's list, from the top, that are never drawn; in small models only those that DeCoRe disables."""


@register
@dataclass(frozen=True)
class RandomHeads(DeCoRe):
    """DeCoRe with as many heads drawn at random, none of them from the top of the model's list.

    The list is needed to keep its heads out: the first 100 of it, or where too few heads would be left, those that
    DeCoRe disables.

    Args:
        seed: of the draw; the other fields are DeCoRe's.
    """

    key: ClassVar[str] = "random_heads"
    title: ClassVar[str] = "Random heads"
    kind: ClassVar[Kind] = "control"

    seed: int = 0

    def chosen(self, ranking: HeadRanking) -> list[tuple[int, int]]:
        """`num_heads` heads drawn from those that are not excluded, in order."""
        every = [(layer, head) for layer in range(ranking.layers) for head in range(ranking.heads)]
        left: list[tuple[int, int]] = []
        for excluded in (EXCLUDED, len(super().chosen(ranking))):
            left = [head for head in every if head not in set(ranking.top(excluded))]
            if len(left) >= self.num_heads:
                break
        rule = f"at most half of the model's {len(every)} heads"
        self.check(self.num_heads <= len(left), "num_heads", rule, "As many others have to be left to draw from.")
        order = torch.randperm(len(left), generator=torch.Generator().manual_seed(self.seed)).tolist()
        return sorted(left[place] for place in order[: self.num_heads])


@register
@dataclass(frozen=True)
class MaskedOnly(MaskedHeads):
    """Decoding from DeCoRe's masked branch alone. The base runs beside it, for its prefill is shared.

    The fields are those that DeCoRe's branch has.
    """

    key: ClassVar[str] = "masked_only"
    title: ClassVar[str] = "Masked heads only"
    kind: ClassVar[Kind] = "control"

    def plan(self, request: Request) -> Plan:
        """The masked branch; nothing without heads."""
        return Plan(branches=(self.masked(request),), combines=True) if self.num_heads else Plan()

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """The masked branch's logits."""
        return branches[0]
