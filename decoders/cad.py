"""CAD, context-aware decoding (Shi et al., arXiv 2305.14739, NAACL 2024): the baseline of all context strategies.

Law: run the prompt with its context and without, and push the logits away from what the model says when it has not read
the context. With l, l' `[batch, vocab]` raw logits with and without it:

    s = (1 + alpha) * l - alpha * l'

The branch's prompt is the base's less the columns that are marked as context; the wording of the task stays.

Defaults: alpha 1 (the paper's for NQ-Swap; it has 0.5 for summaries), no cut (as published; beta 0.1 is an option for
long outputs, where an unconstrained difference can promote implausible tokens).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .contrast import extrapolate, plausible
from .plan import Branch, Plan, Request, Step
from .registry import register
from .strategy import Strategy


@register
@dataclass(frozen=True)
class CAD(Strategy):
    """Contrast with the same prompt without its context.

    Args:
        alpha: strength of the contrast, >= 0 (typical 0.5 to 1); 0 leaves the cut alone.
        beta: cut, in [0, 1]; 0 (default, as published) keeps all tokens.
    """

    key: ClassVar[str] = "cad"
    title: ClassVar[str] = "CAD"
    needs_context: ClassVar[bool] = True
    max_branches: ClassVar[int] = 1

    alpha: float = 1.0
    beta: float = 0.0

    def validate(self) -> None:
        """Ranges of the fields."""
        self.check(self.alpha >= 0, "alpha", ">= 0", "Use 0 for no contrast.")
        self.check(0 <= self.beta <= 1, "beta", "in [0, 1]", "Use 0 for no cut.")

    def plan(self, request: Request) -> Plan:
        """One branch, on the prompt without its context; none where no prompt has any."""
        context = request.context_mask(self.key)
        if self.alpha == 0 or not bool(context.any()):
            return Plan(combines=self.beta > 0)
        ids, mask = request.inputs["input_ids"], request.inputs.get("attention_mask")
        kept = ~context if mask is None else ~context & mask.bool()
        rows = [row[keep].tolist() for row, keep in zip(ids, kept, strict=True)]
        prompt = request.adapter.batched(rows, request.inputs)
        return Plan((Branch("without context", prompt),), combines=True)

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """(1 + alpha) * base - alpha * without; the base as it is without contrast."""
        return extrapolate(base, branches[0], self.alpha) if branches else base

    def left(self, base: Tensor, step: Step) -> Tensor | None:
        """Tokens that the base finds plausible."""
        return plausible(base, self.beta) if self.beta else None
