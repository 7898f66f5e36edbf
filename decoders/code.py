"""CODE, countering description contrastive decoding (Kim et al., arXiv 2406.01920, NeurIPS 2024).

Law: let the model describe the image, then decode from the image and push away from what the model says when it has
read that description in the image's place; how hard, and what may be said at all, follows from how far the two agree.
With l, d `[batch, vocab]` raw logits of the image and the description branch, p and q their softmax:

    D      = 1/2 sum_i (p_i + q_i) log2(|p_i - q_i|^k + 1)            a number in [0, 1] per row and step
    keep_i = p_i >= D max_j p_j
    s_i    = (1 + alpha) l_i - alpha d_i   if keep_i, else -inf,      alpha = 1 - D

Equal distributions give full contrast and no cut; distributions far apart leave the image's argmax alone.

Defaults: k 0.3 (paper; the reference's command line has 0.7 under the name `cd_alpha`), prompt and length of the
description as in the reference; alpha 1 and beta 0.1 where they are fixed (the paper's ablation).
Departures: a description is made once per image, not once per question; a special token that a description spells out
stays text; an image whose description is empty is decoded plainly (the reference crashes); D is kept within [0, 1];
batches, beams and sampling are served as well as greedy decoding of one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .contrast import extrapolate, log_probs, plausible
from .plan import Branch, Plan, Request, Step
from .registry import register
from .strategy import Strategy

PROMPT = (
    "Provide a detailed description of the image, covering all visible elements and their interactions, so as to "
    "thoroughly answer any potential questions about the image."
)
ALPHA, BETA = 1.0, 0.1
MODES = ("adaptive", "fixed")


@register
@dataclass(frozen=True)
class CODE(Strategy):
    """Contrast with the model's own description of the image, read in the image's place.

    Args:
        k: exponent of the divergence, > 0 (typical 0.05 to 1); smaller means weaker contrast and a tighter cut.
        alpha_mode: `adaptive`, 1 - D, or `fixed`.
        alpha: strength where it is fixed, >= 0; 0 leaves the cut alone.
        beta_mode: `adaptive`, D, or `fixed`.
        beta: cut where it is fixed, in [0, 1]; 0 keeps all tokens.
        desc_prompt: what the model is asked for the description.
        desc_max_new_tokens: longest description, in tokens.
        desc_bos: `keep` what the tokenizer puts before every text (BOS for the Llama family) in the middle of the
            prompt, as the reference does, or `drop` it.
    """

    key: ClassVar[str] = "code"
    title: ClassVar[str] = "CODE"
    needs_image: ClassVar[bool] = True
    needs_processor: ClassVar[bool] = True
    max_branches: ClassVar[int] = 1

    k: float = 0.3
    alpha_mode: str = "adaptive"
    alpha: float = ALPHA
    beta_mode: str = "adaptive"
    beta: float = BETA
    desc_prompt: str = PROMPT
    desc_max_new_tokens: int = 512
    desc_bos: str = "keep"

    def validate(self) -> None:
        """Ranges of the fields; a setting that the mode would ignore is refused."""
        self.check(self.k > 0, "k", "> 0", "The paper has 0.3.")
        for name, default in (("alpha", ALPHA), ("beta", BETA)):
            mode = getattr(self, f"{name}_mode")
            self.check(mode in MODES, f"{name}_mode", f"one of {', '.join(MODES)}")
            held = mode == "fixed" or getattr(self, name) == default
            self.check(held, name, f"left at {default} where {name}_mode is adaptive", f"Set {name}_mode to fixed.")
        self.check(self.alpha >= 0, "alpha", ">= 0", "Use 0 for the cut without contrast.")
        self.check(0 <= self.beta <= 1, "beta", "in [0, 1]", "Use 0 for no cut.")
        self.check(bool(self.desc_prompt.strip()), "desc_prompt", "a request in words")
        self.check(self.desc_max_new_tokens >= 1, "desc_max_new_tokens", "1 or more")
        self.check(self.desc_bos in ("keep", "drop"), "desc_bos", "one of keep, drop")

    def plan(self, request: Request) -> Plan:
        """One branch on prompts with descriptions in place of images; none without contrast or without a text."""
        if self.alpha_mode == self.beta_mode == "fixed" and self.alpha == 0:
            return Plan(combines=self.beta > 0)
        adapter, inputs, processor = request.adapter, request.inputs, request.processor
        texts = adapter.describe(inputs, processor, self.desc_prompt, self.desc_max_new_tokens)
        described = torch.tensor([[bool(text)] for text in texts], device=inputs["input_ids"].device)
        context = {"described": described, "descriptions": tuple(texts)}
        if not described.any():
            return Plan(context=context)
        bos = self.desc_bos == "keep"
        ids = [adapter.text_ids(text, processor, special=bos) if text else [] for text in texts]
        branch = Branch("description", adapter.without_image(inputs, ids))
        return Plan(branches=(branch,), combines=True, context=context)

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """(1 + alpha) * base - alpha * branch in rows that have a description; the base as it is in others."""
        if not branches:
            return base
        alpha = self.alpha if self.alpha_mode == "fixed" else 1 - self.apart(base, branches[0], step)
        return torch.where(step.per_row("described", base), extrapolate(base, branches[0], alpha), base)

    def keep(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor | None:
        """Tokens that are likely enough under the image; all of them in rows without a description."""
        if self.beta_mode == "fixed" and self.beta == 0:
            return None
        if self.beta_mode == "fixed" or not branches:
            return self.left(base, step)
        return likely(base, self.apart(base, branches[0], step)) | ~step.per_row("described", base)

    def left(self, base: Tensor, step: Step) -> Tensor | None:
        """Tokens that are plausible under the image where the cut is fixed; an adaptive one asks the description."""
        if self.beta_mode != "fixed" or self.beta == 0:
            return None
        kept = plausible(base, self.beta)
        return kept | ~step.per_row("described", base) if "described" in step.context else kept

    def apart(self, base: Tensor, described: Tensor, step: Step) -> Tensor:
        """D `[batch, 1]`, which both moments ask for."""
        return step.once(("divergence", self.k), partial(divergence, k=self.k), base, described)

    def numbers(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Mapping[str, Tensor]:
        """D of each row, and the alpha in force."""
        if not branches:
            return {}
        apart = self.apart(base, branches[0], step)[:, 0]
        return {
            "divergence": apart,
            "alpha": torch.full_like(apart, self.alpha) if self.alpha_mode == "fixed" else 1 - apart,
        }


def divergence(
    image: Float[Tensor, "batch vocab"], description: Float[Tensor, "batch vocab"], k: float
) -> Float[Tensor, "batch 1"]:
    """D of two rows of raw logits, from 0 (equal distributions) to 1: 1/2 sum (p + q) log2(|p - q|^k + 1)."""
    p, q = log_probs(image).exp(), log_probs(description).exp()
    bits = (p - q).abs().pow(k).log1p() / math.log(2)
    return ((p + q) * bits).sum(dim=-1, keepdim=True).div(2).clamp(max=1)


def likely(logits: Float[Tensor, "batch vocab"], beta: Float[Tensor, "batch 1"]) -> Bool[Tensor, "batch vocab"]:
    """Tokens with probability at least `beta` (a number per row) times that of the likeliest one; equality keeps."""
    probs = log_probs(logits).exp()
    return probs >= beta * probs.amax(dim=-1, keepdim=True)
