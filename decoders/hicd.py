"""HICD, contrast with a copy of the model whose attention is dispersed (arXiv 2503.12908, Findings of ACL 2025).

Law: run the model as it is and with its inducing heads, those that matter for right answers, attending to everything
they may see alike; push the log-probabilities away from what the model says then. With p, q `[batch, vocab]`
log-probabilities of the base and the dispersed branch:

    f = (1 + alpha) p - alpha q

In the branch an inducing head gives the running mean of its values, a'_j = 1 / n over the n keys a query sees, in every
layer listed and every query row, those of the prompt included. Where `disperse_scope` is a part S of the prompt, a head
goes on paying S what it paid, without choosing within it: a'_j = (sum over visible i in S of a_i) / |visible S|.

Defaults: alpha 1, 3 % of the heads, scale 20 and cut 0.1 (recommended in our spec; the reference tunes alpha 0.38 to 2
and 30 or 70 of 1,024 heads for each task, and has no cut). `score` never cuts, as the reference's scores.
Departures: both branches read the same text. The reference's open answers come from two independent greedy runs, put
together token by token afterwards; that is no decoding of one text and is not offered. Its code disperses the prompt
alone while it generates, and everything while it scores: `disperse_decode: false` does the same. Scopes are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from .calibration.inducing import AUTO, SCALE, SELECT, find
from .contrast import extrapolate, log_probs, plausible
from .masked_heads import HEAD_MASK_MODES
from .plan import Branch, HeadEdit, MapEdit, Plan, Request, Step
from .registry import register
from .strategy import Strategy

if TYPE_CHECKING:
    from ..models.adapter import Adapter

SCOPES = ("all", "image", "context")


@register
@dataclass(frozen=True)
class HICD(Strategy):
    """Contrast with the same model whose inducing heads are dispersed.

    Args:
        alpha: strength of the contrast, any number (typical 0.4 to 2; below 0 the dispersed copy is followed, as in the
            reference's TruthfulQA runs); 0 leaves the cut alone.
        beta: plausibility cut where text is generated, in [0, 1]; 0 keeps all tokens. Scores are never cut.
        num_heads: how many heads are dispersed; None: 3 % of the model's, one at least (what a plain list holds).
        scale: how much a head that matters for right answers alone is preferred (s), where the file holds importances.
        select: `correct`, heads that matter for right answers, or `incorrect`, for wrong ones.
        head_mask_mode: `uniform` (a dispersed head attends to all alike; the reference's `ave`) or `zero` (its output
            is zero; `cut`).
        disperse_scope: over `all` keys, or among those of the `image`, or of the marked `context`, alone.
        disperse_decode: whether new tokens are dispersed too, or the prompt alone (reference).
        heads: `auto` (the checkpoint's own `inducing_heads.json`), or a file: of `sightline calibrate what=inducing`,
            or a list of heads by layer as the reference has it.
    """

    key: ClassVar[str] = "hicd"
    title: ClassVar[str] = "HICD"
    needs_attention: ClassVar[bool] = True
    max_branches: ClassVar[int] = 1
    calibrates: ClassVar[str | None] = "inducing"

    alpha: float = 1.0
    beta: float = 0.1
    num_heads: int | None = None
    scale: float = SCALE
    select: str = "correct"
    head_mask_mode: str = "uniform"
    disperse_scope: str = "all"
    disperse_decode: bool = True
    heads: str = AUTO

    def validate(self) -> None:
        """Ranges and names of the fields."""
        self.check(0 <= self.beta <= 1, "beta", "in [0, 1]", "Use 0 for no cut.")
        self.check(self.num_heads is None or self.num_heads >= 0, "num_heads", "None or >= 0", "Use 0 for no contrast.")
        self.check(self.scale >= 0, "scale", ">= 0", "Set select to incorrect for heads of wrong answers.")
        for name, allowed in (("select", SELECT), ("head_mask_mode", HEAD_MASK_MODES), ("disperse_scope", SCOPES)):
            self.check(getattr(self, name) in allowed, name, f"one of {', '.join(allowed)}")
        whole = self.head_mask_mode == "uniform" or self.disperse_scope == "all"
        self.check(whole, "disperse_scope", "all where head_mask_mode is zero", "A silenced head pays nothing at all.")
        self.check(self.heads != "", "heads", "auto or a file")

    @property
    def contrasts(self) -> bool:
        """False where no head is dispersed, or alpha is 0."""
        return self.alpha != 0 and self.num_heads != 0

    def chosen(self, adapter: Adapter) -> list[tuple[int, int]]:
        """The heads to disperse, (layer, head), best first."""
        return find(self.heads, adapter).choose(self.num_heads, self.scale, self.select)

    def calibration(self, adapter: Adapter) -> str | None:
        """The heads that are dispersed: another file gives other answers under the same parameters."""
        return " ".join(f"{layer}-{head}" for layer, head in self.chosen(adapter)) if self.contrasts else None

    def plan(self, request: Request) -> Plan:
        """One branch, dispersed from its first token on; none without contrast; nothing at all without a cut either."""
        cuts = self.beta > 0 and not request.scoring
        scope = self.scope(request)
        if not self.contrasts or (scope is not None and not bool(scope.any())):
            return Plan(combines=cuts, context={"cuts": cuts})
        when: Any = "every_step" if self.disperse_decode or request.scoring else "prefill_only"
        edits = dispersed(self.chosen(request.adapter), self.head_mask_mode, when, scope)
        return Plan((Branch("dispersed", edits=edits),), combines=True, context={"cuts": cuts})

    def scope(self, request: Request) -> Tensor | None:
        """The columns within which heads do not choose, `[batch, length]` of bool; None for all keys.

        Raises:
            MissingImage, MissingContext: there is no such part of the prompt.
        """
        if self.disperse_scope == "image":
            request.adapter.require_images(request.inputs, self.key)
            return request.adapter.image_mask(request.inputs["input_ids"])
        return request.context_mask(self.key) if self.disperse_scope == "context" else None

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """`contrast`; the base as it is without one."""
        return contrast(base, branches[0], self.alpha) if branches else base

    def left(self, base: Tensor, step: Step) -> Tensor | None:
        """Tokens that the base finds plausible, where text is generated."""
        return plausible(base, self.beta) if self.beta and step.context.get("cuts", True) else None


def contrast(
    base: Float[Tensor, "batch vocab"], dispersed: Float[Tensor, "batch vocab"], alpha: float
) -> Float[Tensor, "batch vocab"]:
    """HICD's scores from raw logits: (1 + alpha) * log p_base - alpha * log p_dispersed."""
    return extrapolate(log_probs(base), log_probs(dispersed), alpha)


def dispersed(
    heads: Iterable[tuple[int, int]], mode: Any, when: Any, scope: Tensor | None
) -> tuple[HeadEdit | MapEdit, ...]:
    """The edits that disperse (layer, head) pairs over all keys, or within the columns of a scope."""
    layers: dict[int, list[int]] = {}
    for layer, head in sorted(heads):
        layers.setdefault(layer, []).append(head)
    if scope is None:
        return tuple(HeadEdit(layer, tuple(found), mode, when) for layer, found in layers.items())
    return tuple(
        MapEdit((layer,), "blurred", when=when, heads=tuple(found), scope=scope) for layer, found in layers.items()
    )
