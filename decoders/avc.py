"""AVC, attentional vision calibration (AvisC: Woo et al., arXiv 2405.17820, ACL 2025 Findings).

Law: a few image tokens ("blind tokens") draw much attention whatever is asked. Let a second branch see them alone, and
push the logits away from what it says. With m_l,j the attention of the last prompt row on image token j in layer l,
mean over heads, `[layers, batch, length]`:

    layers   the fewest whose shares of all image attention reach gamma
    a_j      mean of m_l,j over these layers
    blind    a_j >= mean(a) + lamb * std(a)        (unbiased, over the image tokens of a row)
    keep_i = l_i >= log(beta) + max_j l_j,    s_i = (1 + alpha) * l_i - alpha * l'_i if keep_i, else -inf

l' `[batch, vocab]` are the logits of a branch in whose prompt the embeddings of all other image tokens are zero; chosen
once, after the base's prefill.

Defaults: alpha 2.5 (the paper's for LLaVA-1.5; it has 3 for InstructBLIP), beta 0.1, gamma 0.5, lamb 1, zeros: the
paper's, as far as it could be read through notes that agree with its code; its shipped scripts set other values.
Departures: layers, mean and deviation are taken row by row (the code mixes the rows of a batch); image columns come
from the image-token id; float32 from the attention on; a branch whose logits are not numbers is left out row by row.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .contrast import extrapolate, plausible
from .image_tokens import MASKINGS, image_attention, layer_mean, leading_layers, seen_alone, threshold
from .plan import Branch, Plan, Prompt, Refinement, Request, Step
from .registry import register
from .seeds import row_seeds
from .strategy import Strategy

_LOG = logging.getLogger(__name__)


@register
@dataclass(frozen=True)
class AVC(Strategy):
    """Attentional vision calibration.

    Args:
        alpha: strength of the contrast, >= 0 (typical 1 to 3); 0 leaves the cut alone and runs no branch.
        beta: cut, in [0, 1]; 0 keeps all tokens.
        gamma: share of image attention that the chosen layers hold together, in (0, 1].
        lamb: standard deviations above the mean from which a token counts as blind (typical 0 to 2).
        masking: what becomes of the other image tokens in the branch: `zeros`, `ones`, `noise`, or `mask` (their keys).
        mask_refresh: choose blind tokens after the `prefill`, or at `every_step` from the newest row (the code without
            a cache; needs use_cache=False).
        seed: base of the noise seed; the image's own bytes are mixed in.
    """

    key: ClassVar[str] = "avc"
    title: ClassVar[str] = "AVC"
    needs_image: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = True
    max_branches: ClassVar[int] = 1

    alpha: float = 2.5
    beta: float = 0.1
    gamma: float = 0.5
    lamb: float = 1.0
    masking: str = "zeros"
    mask_refresh: str = "prefill"
    seed: int = 0

    def validate(self) -> None:
        """Ranges and names of the fields."""
        self.check(self.alpha >= 0, "alpha", ">= 0", "Use 0 for the cut without contrast.")
        self.check(0 <= self.beta <= 1, "beta", "in [0, 1]", "Use 0 for no cut.")
        self.check(0 < self.gamma <= 1, "gamma", "in (0, 1]", "1 takes all layers.")
        self.check(self.masking in MASKINGS, "masking", f"one of {', '.join(MASKINGS)}")
        self.check(self.mask_refresh in ("prefill", "every_step"), "mask_refresh", "prefill or every_step")

    def plan(self, request: Request) -> Plan:
        """A branch that is refined, and the last row of every layer; none of it at alpha 0."""
        if self.alpha == 0:
            return Plan(combines=self.beta > 0)
        refresh: Literal["prefill", "every_step"] = "prefill" if self.mask_refresh == "prefill" else "every_step"
        layers = tuple(range(request.adapter.layers))
        context = {"seeds": row_seeds(request, self.seed)} if self.masking == "noise" else {}
        branches = (Branch("blind", refined=refresh),)
        return Plan(branches, probes=layers, probed="prefill", combines=True, context=context)

    def refine(self, prompt: Prompt) -> Refinement:
        """The prompt with its blind tokens alone."""
        blind = blind_tokens(image_attention(prompt.probes, prompt.image), prompt.image, self.gamma, self.lamb)
        if not blind.any(dim=1).all():
            _LOG.warning(
                "avc: no image token is an outlier at lamb %s; the branch sees no image in some rows", self.lamb
            )
        hidden = prompt.image & ~blind
        branch = seen_alone(prompt.embeds, prompt.mask, hidden, self.masking, prompt.context.get("seeds"))
        return Refinement((branch,), {"blind": blind.sum(dim=1)})

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """(1 + alpha) * base - alpha * blind; the base as it is at alpha 0, and where the branch is not a number."""
        if not branches:
            return base
        lost = branches[0].isnan().any(dim=-1, keepdim=True)
        return extrapolate(base, torch.where(lost, base, branches[0]), self.alpha)

    def numbers(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Mapping[str, Tensor]:
        """The number of blind tokens in each row."""
        return {"blind": step.per_row("blind", base)} if branches else {}

    def left(self, base: Tensor, step: Step) -> Tensor | None:
        """Tokens that the base finds plausible."""
        return plausible(base, self.beta) if self.beta else None


def blind_tokens(
    attention: Float[Tensor, "layers batch length"], image: Bool[Tensor, "batch length"], gamma: float, lamb: float
) -> Bool[Tensor, "batch length"]:
    """Image tokens that draw outstanding attention in the layers that look at the image most; equality counts."""
    scores = layer_mean(attention, leading_layers(attention, gamma))
    return image & (scores >= threshold(scores, image, lamb))
