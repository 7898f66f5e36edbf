"""DeCoRe, decoding by contrasting retrieval heads (Gema et al., arXiv 2410.18860, EMNLP 2025 Findings).

Law: run the model as it is and with its retrieval heads disabled, and push the log-probabilities away from what the
model says when it cannot copy from its context, the harder the less sure it is. With l, m `[batch, vocab]`
log-probabilities of the base and the masked branch, in nats:

    s = (1 + alpha) * l - alpha * m,    alpha = H(base) = -sum p log p    (a number per row and step)

The masked branch shares the unmasked prefill: its heads are disabled at the last prompt token and all later ones.

Defaults: alpha from the entropy; a disabled head attends uniformly (reference code and every published number; the
paper's text says its output is zero, which is mode `zero`); no cut. Ten heads suit short answers, some ninety of an 8B
model suit summaries (best rows of the paper's sweeps).
Departures: an `alpha_cap` of 0 is a cap (the reference takes it for none); the optional cut is ours; sampling, beams
and batches are served as well as greedy decoding of one prompt.

Image heads in place of retrieval heads (`heads: image`) make it MaskCD (arXiv 2510.02790).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .contrast import extrapolate, log_probs, plausible
from .masked_heads import MaskedHeads
from .plan import Plan, Request, Step
from .registry import register

STATIC_ALPHA = 0.5


@register
@dataclass(frozen=True)
class DeCoRe(MaskedHeads):
    """Contrast with the same model whose retrieval heads are disabled.

    Args, beside those of `MaskedHeads`:
        alpha_mode: `entropy` of the base; `entropy_gain`, that of the masked branch over it (may be negative); `jsd`,
            the Jensen-Shannon divergence of the two; or `static`.
        alpha: strength in mode `static` (typical 0.5 to 1; 4 and more ruins texts; 0 leaves the cut alone).
        scale_alpha: divide a measured alpha by log(vocab), its largest possible entropy.
        alpha_cap: largest alpha, >= 0, after scaling; None for none.
        beta: plausibility cut, in [0, 1]; 0 (default, as published) keeps all tokens.
    """

    key: ClassVar[str] = "decore"
    title: ClassVar[str] = "DeCoRe"

    alpha_mode: str = "entropy"
    alpha: float = STATIC_ALPHA
    scale_alpha: bool = False
    alpha_cap: float | None = None
    beta: float = 0.0

    def validate(self) -> None:
        """Ranges of the fields; a setting that the mode would ignore is refused."""
        super().validate()
        static, modes = self.alpha_mode == "static", ("static", *ALPHAS)
        self.check(self.alpha_mode in modes, "alpha_mode", f"one of {', '.join(modes)}")
        rule = f"left at {STATIC_ALPHA} where alpha_mode is {self.alpha_mode}"
        self.check(static or self.alpha == STATIC_ALPHA, "alpha", rule, "Set alpha_mode to static.")
        self.check(not (static and self.scale_alpha), "scale_alpha", "false where alpha_mode is static", "Set alpha.")
        self.check(self.alpha_cap is None or self.alpha_cap >= 0, "alpha_cap", "None or >= 0", "0 caps all contrast.")
        self.check(0 <= self.beta <= 1, "beta", "in [0, 1]", "Use 0 for no cut.")

    @property
    def contrasts(self) -> bool:
        """False where no head is disabled, or alpha is 0 at every step."""
        if self.alpha_mode == "static":
            moves = self.alpha != 0 and not (self.alpha > 0 and self.alpha_cap == 0)
        else:
            moves = self.alpha_cap != 0 or self.alpha_mode == "entropy_gain"
        return self.num_heads > 0 and moves

    def plan(self, request: Request) -> Plan:
        """One branch, forked off the base's prefill; none without contrast; nothing at all without a cut either."""
        if not self.contrasts:
            return Plan(combines=self.beta > 0)
        return Plan(branches=(self.masked(request),), combines=True)

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """`contrast` with the alpha of this step; the base as it is without contrast."""
        if not branches:
            return base
        return contrast(base, branches[0], self.strength(base, branches[0]))

    def strength(self, base: Tensor, masked: Tensor) -> Tensor:
        """Alpha of each row, `[batch, 1]`, from raw logits `[batch, vocab]`: measured, then scaled, then capped."""
        if self.alpha_mode == "static":
            alpha = base.new_full((len(base), 1), self.alpha)
        else:
            alpha = ALPHAS[self.alpha_mode](log_probs(base), log_probs(masked))
        alpha = alpha / math.log(base.shape[-1]) if self.scale_alpha else alpha
        return alpha if self.alpha_cap is None else alpha.clamp(max=self.alpha_cap)

    def numbers(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Mapping[str, Tensor]:
        """The alpha of each row."""
        return {"alpha": self.strength(base, branches[0])[:, 0]} if branches else {}

    def left(self, base: Tensor, step: Step) -> Tensor | None:
        """Tokens that the base finds plausible."""
        return plausible(base, self.beta) if self.beta else None


def contrast(
    base: Float[Tensor, "batch vocab"], masked: Float[Tensor, "batch vocab"], alpha: Float[Tensor, "batch 1"]
) -> Float[Tensor, "batch vocab"]:
    """DeCoRe's scores from raw logits: (1 + alpha) * log p_base - alpha * log p_masked."""
    return extrapolate(log_probs(base), log_probs(masked), alpha)


def entropy(logp: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch 1"]:
    """-sum p log p in nats over the whole vocabulary, from log-probabilities; 0 log 0 = 0."""
    return torch.special.entr(logp.exp()).sum(dim=-1, keepdim=True)


def divergence(base: Float[Tensor, "batch vocab"], masked: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch 1"]:
    """Jensen-Shannon divergence in nats of two distributions given as log-probabilities, 0 to log 2."""
    middle = ((base.exp() + masked.exp()) / 2).log()
    return entropy(middle) - (entropy(base) + entropy(masked)) / 2


ALPHAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "entropy": lambda base, masked: entropy(base),
    "entropy_gain": lambda base, masked: entropy(masked) - entropy(base),
    "jsd": divergence,
}
"""What alpha is measured by: from log-probabilities `[batch, vocab]` of base and masked branch to `[batch, 1]`."""
