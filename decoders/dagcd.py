"""DAGCD, dynamic attention-guided context decoding (arXiv 2501.01059, ACL 2025 Findings).

Law: while a model answers from a passage, some heads look at the passage's token that is about to be used. Where the
model is unsure of the next token, the likely tokens that these heads point at gain probability. One pass, no branch.
With z `[batch, vocab]` the raw logits, p = softmax(z), u_1 .. u_U the distinct token ids of the passage and a `[batch,
heads, length]` the newest query row of the detector's heads:

    m_k,j = mean of a_k,i over the places i of u_j in the passage
    r_k,j = m_k,j / sum_j m_k,j                                                     `[batch, heads, distinct]`
    g_j   = 1 if w . r_j + b > 0 and u_j is among the R likeliest tokens, else 0     (w, b: logistic regression)
    s_j   = g_j * sum_k v_k r_k,j,    v = max(w, 0) / sum max(w, 0)
    U     = s_j / sum_j s_j at u_j, 0 elsewhere;  0 everywhere if no token is flagged
    H     = -sum p ln p / ln V
    p'    = p + alpha * H * U                    (p where the likeliest token ends the text or is white space alone)

and ln(p' / sum p') is decoded from. H is a share of ln V: the same entropy is a smaller number in a larger vocabulary.

Defaults: alpha 2 (reference for base models; it has 4 for chat models), R 10 (reference). The detector is measured once
per model (`sightline calibrate what=detector`); none was published.
Departures: v is made of positive weights (`relu_sum`), for with w / sum w (`sum`, the reference) a negative sum bans
the very tokens that are flagged; all in float32 and renormalised, so that sampling and beams see probabilities; end
tokens come from the model and its tokenizer (the reference lists ids of three families, a full stop among them); no
length of a gold answer is known, so the reference's special case for a budget of one token is left out; the passage is
marked (`spans=`), not searched for and cut off; image tokens in it are left out, for they stand for no word; a tie
with the R-th likeliest token counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .calibration.detector import AUTO, WEIGHT_NORMS, Detector, find
from .context_tokens import FLOOR, attention_ratio, distinct, in_top
from .contrast import log_probs
from .plan import Plan, Request, Step
from .registry import register
from .strategy import Strategy

if TYPE_CHECKING:
    from ..models.adapter import Adapter

GATINGS = ("hard", "soft")


class Sensed(NamedTuple):
    """What one step found, row by row.

    Attributes:
        ids: distinct tokens of the passage, `[batch, distinct]`.
        gates: how far each of them is flagged, from 0 to 1, `[batch, distinct]`.
        utilised: U at these ids, `[batch, distinct]`.
        uncertainty: H, `[batch]`.
        ended: rows whose likeliest token is an end token, `[batch]` of bool.
    """

    ids: Tensor
    gates: Tensor
    utilised: Tensor
    uncertainty: Tensor
    ended: Tensor


@register
@dataclass(frozen=True)
class DAGCD(Strategy):
    """Probability for the passage's tokens that attention points at, where the model is unsure.

    Args:
        alpha: strength, >= 0 (2 for base models, 4 for chat models); 0 is plain decoding.
        top_rank: R, how many of the likeliest tokens may gain, >= 1.
        weight_norm: of the heads' weights: `relu_sum` (negative ones count 0) or `sum` (the reference).
        gating: how the detector counts: `hard` (flagged or not, the reference) or `soft` (its probability).
        detector: `auto` (the one in the model's folder) or a file of `sightline calibrate`.
        ends: ids at which nothing is steered: `auto` (end tokens, and with a processor all that are white space
            alone), or a list.
    """

    key: ClassVar[str] = "dagcd"
    title: ClassVar[str] = "DAGCD"
    needs_context: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = True
    calibrates: ClassVar[str | None] = "detector"

    alpha: float = 2.0
    top_rank: int = 10
    weight_norm: str = "relu_sum"
    gating: str = "hard"
    detector: str = AUTO
    ends: tuple[int, ...] | str = AUTO

    def validate(self) -> None:
        """Ranges and names of the fields."""
        self.check(self.alpha >= 0, "alpha", ">= 0", "Use 0 for plain decoding.")
        self.check(self.top_rank >= 1, "top_rank", ">= 1", "The reference has 10.")
        self.check(self.weight_norm in WEIGHT_NORMS, "weight_norm", f"one of {', '.join(WEIGHT_NORMS)}")
        self.check(self.gating in GATINGS, "gating", f"one of {', '.join(GATINGS)}")
        self.check(self.detector != "", "detector", "auto or a file", "Use auto for the model's own.")
        value: Any = self.ends
        listed = isinstance(value, tuple) and all(type(token) is int and token >= 0 for token in value)
        self.check(value == AUTO or listed, "ends", "auto or a list of token ids", "An empty list has no end token.")

    def plan(self, request: Request) -> Plan:
        """The layers of the detector's heads, and the tables of the passage's tokens; plain where there is none."""
        if self.alpha == 0:
            return Plan()
        adapter, ids = request.adapter, request.inputs["input_ids"]
        context = request.context_mask(self.key) & ~adapter.image_mask(ids)
        mask = request.inputs.get("attention_mask")
        context = context if mask is None else context & mask.to(ids.device).bool()
        if not bool(context.any()):
            return Plan()
        found = find(self.detector, adapter)
        held = self.settled(found, adapter, request.processor, ids.device)
        tables = distinct(ids, context)._asdict()
        return Plan(probes=found.read, probed="steps", combines=True, context={**tables, **held})

    def settled(self, found: Detector, adapter: Adapter, processor: Any, device: torch.device) -> dict[str, Any]:
        """What of a detector and a vocabulary serves every step, on that device."""
        ends = adapter.end_or_blank_tokens(processor) if isinstance(self.ends, str) else list(self.ends)
        real = {"dtype": torch.promote_types(adapter.model.dtype, torch.float32), "device": device}
        return {
            "chosen": [(layer, head) for layer, head, _ in found.chosen],
            "coef": torch.tensor(found.coef, **real),
            "weights": torch.tensor(found.weights(self.weight_norm), **real),
            "intercept": found.intercept,
            "ends": torch.tensor(ends, dtype=torch.long, device=device),
        }

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """ln(p' / sum p'); the base as it is without a passage."""
        if "ids" not in step.context:
            return base
        sensed = self.sensed(base, step)
        amount = (self.alpha * sensed.uncertainty).masked_fill(sensed.ended, 0.0)
        return raised(base, sensed.ids, amount[:, None] * sensed.utilised)

    def numbers(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Mapping[str, Tensor]:
        """H, and the probability that the flagged tokens had already."""
        if "ids" not in step.context:
            return {}
        sensed = self.sensed(base, step)
        held = base.softmax(-1).gather(1, sensed.ids)
        return {"uncertainty": sensed.uncertainty, "flagged": (held * (sensed.gates > 0)).sum(dim=-1)}

    def sensed(self, base: Tensor, step: Step) -> Sensed:
        """What the detector's heads and the logits `[batch, vocab]` say at this step."""
        ids, inverse, counts = (step.per_row(name, base) for name in ("ids", "inverse", "counts"))
        rows = [step.probes[layer][:, head, : inverse.shape[1]] for layer, head in step.context["chosen"]]
        ratio = attention_ratio(torch.stack([row.to(base) for row in rows], dim=1), inverse, counts)
        coef, weights = (step.context[name].to(base) for name in ("coef", "weights"))
        open_to = in_top(base, ids, self.top_rank) & (counts > 0)
        gates = flags(ratio, coef, step.context["intercept"], self.gating).masked_fill(~open_to, 0.0)
        ended = ending(base, step.context["ends"].to(base.device))
        return Sensed(ids, gates, utilisation(ratio, weights, gates), uncertainty(log_probs(base).exp()), ended)

    def calibration(self, adapter: Adapter) -> str | None:
        """The detector in force."""
        if self.alpha == 0:
            return None
        found = find(self.detector, adapter)
        return " ".join([*(f"{layer}-{head}*{value!r}" for layer, head, value in found.chosen), repr(found.intercept)])


def flags(
    ratio: Float[Tensor, "batch heads distinct"], coef: Float[Tensor, " heads"], intercept: float, gating: str = "hard"
) -> Float[Tensor, "batch distinct"]:
    """What the detector says of each token: 1 or 0 by the sign of w . r + b, or with `soft` its sigmoid."""
    margin = torch.einsum("k,bku->bu", coef, ratio) + intercept
    return margin.sigmoid() if gating == "soft" else (margin > 0).to(margin)


def utilisation(
    ratio: Float[Tensor, "batch heads distinct"],
    weights: Float[Tensor, " heads"],
    gates: Float[Tensor, "batch distinct"],
) -> Float[Tensor, "batch distinct"]:
    """U at the distinct tokens: their weighted shares of attention, where flagged, made to add up to 1."""
    scores = gates * torch.einsum("k,bku->bu", weights, ratio)
    return scores / scores.sum(dim=-1, keepdim=True).clamp(min=FLOOR)


def uncertainty(chances: Float[Tensor, "batch vocab"]) -> Float[Tensor, " batch"]:
    """H: entropy of a distribution as a share of its largest value, ln V."""
    return torch.special.entr(chances).sum(dim=-1) / math.log(chances.shape[-1])


def ending(logits: Float[Tensor, "batch vocab"], ends: Int[Tensor, " ends"]) -> Bool[Tensor, " batch"]:
    """Rows whose likeliest token is one of `ends`."""
    return (logits.argmax(dim=-1)[:, None] == ends).any(dim=-1)


def raised(
    logits: Float[Tensor, "batch vocab"], ids: Int[Tensor, "batch distinct"], added: Float[Tensor, "batch distinct"]
) -> Float[Tensor, "batch vocab"]:
    """ln p', normalised, where `added` is put on the probabilities of `ids`; what would be negative becomes 0.

    Tokens that gain nothing keep their log-probability, also where their probability underflows.
    """
    gain = torch.zeros_like(logits).scatter_add_(1, ids, added)
    plain = log_probs(logits)
    more = (plain.exp() + gain).clamp(min=0).log()
    return log_probs(torch.where(gain == 0, plain, more))
