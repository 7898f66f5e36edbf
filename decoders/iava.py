"""IAVA, instruction-aligned visual attention (arXiv 2503.18556): a reconstruction.

Neither the paper's method section nor any code could be read; known are its abstract and a review's excerpt. Everything
else here is our reading of them, on the path of AVC, and no result of it is a result of the paper.

Law: image tokens that draw much attention under a general instruction, and less once the question is asked, have
nothing to do with the question. Let a second branch see them alone, and push the logits away from what it says. With
a1, a2 `[batch, length]` the attention of the last prompt row on the image tokens under the general instruction and
under the question, mean over heads and layers, and d = a1 - a2:

    rule general_outlier_and_drop (default)   I = { a1 > mean(a1) + lamb * std(a1)  and  d > 0 }
    rule difference_outlier                   I = { d > mean(d) + lamb * std(d) }
    keep_i = l_i >= log(beta) + max_j l_j,    s_i = (1 + alpha) * l_i - alpha * l'_i if keep_i, else -inf

l' `[batch, vocab]` are the logits of a branch in whose prompt the embeddings of all other image tokens are zero. A row
whose I is empty is not contrasted. The general instruction is read from the columns it shares with the question's
prompt, where the image comes first; it is never decoded from.

Defaults: lamb and gamma from AVC, alpha 1 and beta 0.1 from VCD, the general instruction from the review's example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .contrast import extrapolate, plausible
from .image_tokens import MASKINGS, image_attention, layer_mean, leading_layers, seen_alone, threshold
from .plan import Branch, Plan, Prompt, Refinement, Request, Step
from .registry import register
from .seeds import row_seeds
from .strategy import Strategy

RULES = ("general_outlier_and_drop", "difference_outlier")
LAYERS = ("all", "top_p")
QFORMER_TEXTS = ("query", "own")
ROUNDING = 1e-5
"""Attention that falls by less than this share of itself has not fallen: two forwards differ by as much."""


@register
@dataclass(frozen=True)
class IAVA(Strategy):
    """Instruction-aligned visual attention, as we reconstruct it.

    Args:
        alpha: strength of the contrast, >= 0 (typical 0.5 to 3); 0 leaves the cut alone and runs no branch.
        beta: cut, in [0, 1]; 0 keeps all tokens.
        rule: which tokens have nothing to do with the question: `general_outlier_and_drop` or `difference_outlier`.
        lamb: standard deviations above the mean from which a token stands out (typical 0 to 2).
        layers: `all`, or `top_p`: the layers that look at the image most under the question.
        gamma: with `top_p`, the share of image attention that these layers hold together, in (0, 1].
        normalise: divide a1 and a2 by their own sums over the image first.
        masking: what becomes of the other image tokens in the branch: `zeros`, `ones`, `noise`, or `mask` (their keys).
        instruction: the general one.
        qformer_text: what a Q-Former reads under the general instruction: the `query`, so that image tokens are the
            same under both, or its `own` text, the general one. Families without a Q-Former know no difference.
        seed: base of the noise seed; the image's own bytes are mixed in.
    """

    key: ClassVar[str] = "iava"
    title: ClassVar[str] = "IAVA (reconstruction)"
    needs_image: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = True
    needs_processor: ClassVar[bool] = True
    max_branches: ClassVar[int] = 1

    alpha: float = 1.0
    beta: float = 0.1
    rule: str = "general_outlier_and_drop"
    lamb: float = 1.0
    layers: str = "all"
    gamma: float = 0.5
    normalise: bool = False
    masking: str = "zeros"
    instruction: str = "Describe the content of the image."
    qformer_text: str = "query"
    seed: int = 0

    def validate(self) -> None:
        """Ranges and names of the fields."""
        self.check(self.alpha >= 0, "alpha", ">= 0", "Use 0 for the cut without contrast.")
        self.check(0 <= self.beta <= 1, "beta", "in [0, 1]", "Use 0 for no cut.")
        self.check(self.rule in RULES, "rule", f"one of {', '.join(RULES)}")
        self.check(self.layers in LAYERS, "layers", f"one of {', '.join(LAYERS)}")
        self.check(0 < self.gamma <= 1, "gamma", "in (0, 1]", "1 takes all layers.")
        self.check(self.masking in MASKINGS, "masking", f"one of {', '.join(MASKINGS)}")
        self.check(bool(self.instruction.strip()), "instruction", "a request in words")
        self.check(self.qformer_text in QFORMER_TEXTS, "qformer_text", f"one of {', '.join(QFORMER_TEXTS)}")

    def plan(self, request: Request) -> Plan:
        """A branch that is refined, every layer's last row, and the general prompt to read; none of it at alpha 0."""
        if self.alpha == 0:
            return Plan(combines=self.beta > 0)
        adapter = request.adapter
        general: dict[str, Any] = dict(adapter.reworded(request.inputs, request.processor, self.instruction))
        if self.qformer_text == "query":
            general = {name: value for name, value in general.items() if name not in adapter.words_inputs}
        return Plan(
            branches=(Branch("irrelevant", refined="prefill"),),
            probes=tuple(range(adapter.layers)),
            probed="prefill",
            readings=(general,),
            combines=True,
            context={"seeds": row_seeds(request, self.seed)} if self.masking == "noise" else {},
        )

    def refine(self, prompt: Prompt) -> Refinement:
        """The prompt with its irrelevant tokens alone, and which rows have any."""
        general = prompt.readings[0]
        asked = image_attention(prompt.probes, prompt.image)
        other = _aligned(image_attention(general.probes, general.image), general.image, prompt.image)
        chosen = leading_layers(asked, self.gamma) if self.layers == "top_p" else asked.new_ones(asked.shape[:2]).bool()
        first, second = layer_mean(other, chosen), layer_mean(asked, chosen)
        if self.normalise:
            first, second = (each / each.sum(dim=1, keepdim=True) for each in (first, second))
        found = irrelevant_tokens(first, second, prompt.image, self.rule, self.lamb)
        hidden = prompt.image & ~found
        branch = seen_alone(prompt.embeds, prompt.mask, hidden, self.masking, prompt.context.get("seeds"))
        return Refinement((branch,), {"irrelevant": found.sum(dim=1)})

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """(1 + alpha) * base - alpha * irrelevant in rows that have irrelevant tokens; elsewhere the base as it is."""
        if not branches:
            return base
        contrasted = step.per_row("irrelevant", base)[:, None] > 0
        return torch.where(contrasted, extrapolate(base, branches[0], self.alpha), base)

    def numbers(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Mapping[str, Tensor]:
        """The number of irrelevant tokens in each row."""
        return {"irrelevant": step.per_row("irrelevant", base)} if branches else {}

    def left(self, base: Tensor, step: Step) -> Tensor | None:
        """Tokens that the base finds plausible."""
        return plausible(base, self.beta) if self.beta else None


def irrelevant_tokens(
    general: Float[Tensor, "batch length"],
    asked: Float[Tensor, "batch length"],
    image: Bool[Tensor, "batch length"],
    rule: str,
    lamb: float,
) -> Bool[Tensor, "batch length"]:
    """Image tokens that the question turns away from, from attention under the general instruction and under it."""
    drop = general - asked
    if rule == "difference_outlier":
        return image & (drop > threshold(drop, image, lamb))
    return image & (general > threshold(general, image, lamb)) & (drop > ROUNDING * general)


def _aligned(attention: Tensor, image: Tensor, like: Tensor) -> Tensor:
    """Attention `[layers, batch, length]` with the image tokens of `image` moved to the columns of `like`, in order."""
    moved = attention.new_zeros(len(attention), *like.shape)
    moved[:, like] = attention[:, image]
    return moved
