"""DoLa, decoding by contrasting layers (Chuang et al., arXiv 2309.03883, ICLR 2024): a baseline in one pass.

Law: read what the model would say after some earlier layers, choose the one that disagrees with the last layer most,
and keep what grew in between. With p_N, p_j `[batch, vocab]` the distributions of the last layer and of exit j (the
model's own head on the hidden state, without the final norm), and l their log-probabilities:

    M      = argmax_j d(p_N, p_j),   m = (p_N + p_j) / 2,   d = (KL(m || p_N) + KL(m || p_j)) / 2
    keep_i = l_N,i >= log(beta) + max l_N
    s_i    = l_N,i - l_M,i   if keep_i, else -inf

Defaults: beta 0.1, exits of the lower half for long answers (`low`: 0, 2, ... below half, from 2 on where embeddings
are tied; `high`: the upper half, for short factual answers), as transformers had them.
Departures: the exit is chosen row by row (the reference averages d over the batch, so that one serves all rows); the
published d, whose arguments stand the other way round than in a Jensen-Shannon divergence, is `reference`, and `js` the
textbook one; in scoring nothing is cut, as in the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .contrast import IMPOSSIBLE, log_probs, plausible
from .plan import Plan, Request, Step
from .registry import register
from .strategy import Strategy

if TYPE_CHECKING:
    from ..models.adapter import Adapter

DIVERGENCES = ("reference", "js")
SHALLOW = 40
"""Up to so many layers `low` and `high` are halves; deeper models use their first or last twenty."""


@register
@dataclass(frozen=True)
class DoLa(Strategy):
    """Contrast of the last layer with the earlier one that disagrees most.

    Args:
        layers: exits to choose from: `low`, `high`, or numbers separated by commas (0 is what enters the first layer,
            j what leaves layer j - 1).
        beta: cut, in [0, 1]; 0 keeps all tokens.
        divergence: `reference` or `js`.
    """

    key: ClassVar[str] = "dola"
    title: ClassVar[str] = "DoLa"

    layers: str = "low"
    beta: float = 0.1
    divergence: str = "reference"

    def validate(self) -> None:
        """Ranges and names of the fields."""
        named = self.layers in ("low", "high")
        numbers = all(each.strip().isdigit() for each in self.layers.split(","))
        self.check(named or numbers, "layers", "low, high, or whole numbers separated by commas")
        self.check(0 <= self.beta <= 1, "beta", "in [0, 1]", "Use 0 for no cut.")
        self.check(self.divergence in DIVERGENCES, "divergence", f"one of {', '.join(DIVERGENCES)}")

    def exits(self, adapter: Adapter) -> tuple[int, ...]:
        """The exits of this model."""
        if self.layers not in ("low", "high"):
            return tuple(sorted({int(each) for each in self.layers.split(",")}))
        count = adapter.layers
        middle = count // 2 if count <= SHALLOW else 20
        first = 2 if getattr(adapter.owner.config.get_text_config(), "tie_word_embeddings", False) else 0
        if self.layers == "low":
            return tuple(range(first, max(middle, first + 1), 2))
        return tuple(range(middle if count <= SHALLOW else count - 20, count, 2))

    def plan(self, request: Request) -> Plan:
        """The exits; no branch."""
        return Plan(exits=self.exits(request.adapter), combines=True, context={"cuts": not request.scoring})

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """l_N - l_M."""
        final = log_probs(base)
        early = log_probs(torch.stack([step.exits[exit] for exit in sorted(step.exits)]))
        chosen = furthest(final, early, self.divergence)
        other = early.gather(0, chosen[None, :, None].expand(1, *final.shape))[0]
        return final - other.clamp(min=-IMPOSSIBLE)

    def keep(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor | None:
        """Tokens that the last layer finds plausible."""
        return plausible(base, self.beta) if self.beta and step.context.get("cuts", True) else None

    def numbers(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Mapping[str, Tensor]:
        """The exit that was chosen."""
        exits = sorted(step.exits)
        early = log_probs(torch.stack([step.exits[exit] for exit in exits]))
        chosen = furthest(log_probs(base), early, self.divergence)
        return {"exit": torch.tensor(exits, device=chosen.device)[chosen]}


def furthest(
    final: Float[Tensor, "batch vocab"], early: Float[Tensor, "exits batch vocab"], divergence: str = "reference"
) -> Int[Tensor, " batch"]:
    """Place of the exit that disagrees with the last layer most, row by row, from log-probabilities."""
    middle = ((final.exp() + early.exp()) / 2).log()
    pairs = [(final, middle), (early, middle)] if divergence == "js" else [(middle, final), (middle, early)]
    return (_kl(*pairs[0]) + _kl(*pairs[1])).argmax(dim=0)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) from log-probabilities, summed over the vocabulary; impossible tokens of `first` count 0."""
    difference = (first - second.clamp(min=-IMPOSSIBLE)).masked_fill(first == -torch.inf, 0.0)
    return (first.exp() * difference).sum(dim=-1)
