"""Approximate: contrast only where the base is unsure. Off unless asked for, and no longer the method it wraps.

Law: with p `[batch, vocab]` the base's probabilities, in each row and at each step

    scores = raw logits of the base, uncut    where max_j p_j >= threshold
    scores = those of the wrapped decoder     elsewhere

A gate stays shut in rows that are sure. The rule is the same whichever way branches run; with `branching="sequential"`
they are left out of steps at which every row is sure (or settled by the cut), and caught up later in one chunk.
A threshold above 1 is the wrapped decoder itself, one of 0 never contrasts. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ..models.errors import InvalidParameter
from .plan import Plan, Prompt, Refinement, Request, Step
from .strategy import Strategy, is_finite

if TYPE_CHECKING:
    from ..models.adapter import Adapter

WORD = " approximate "
_CAPABILITIES = (
    "kind", "needs_image", "needs_attention", "needs_processor", "needs_context", "max_branches", "calibrates",
)  # fmt: skip


def approximated(strategy: Strategy, threshold: float | None) -> Strategy:
    """The strategy under a threshold; itself at None, and where it is plain decoding, which contrasts nothing.

    Raises:
        InvalidParameter: the threshold is no number from 0.
    """
    if threshold is None:
        return strategy
    wrapped = Approximate(strategy, threshold)
    return strategy if strategy.mode is not None else wrapped


@dataclass(frozen=True)
class Approximate(Strategy):
    """A decoder that contrasts only where the base's likeliest token has less than `threshold` probability.

    Args:
        of: the decoder.
        threshold: a probability, >= 0; above 1 always contrasts, 0 never.
    """

    key: ClassVar[str] = "approximate"
    title: ClassVar[str] = "Approximate"

    of: Strategy
    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not is_finite(self.threshold) or self.threshold < 0:
            raise InvalidParameter(
                f"approximate must be a probability from 0, or None, got {self.threshold!r}.",
                "Use 0.9; None decodes exactly.",
            )
        if not isinstance(self.of, Strategy) or isinstance(self.of, Approximate):
            raise InvalidParameter(
                f"approximate: of must be a strategy, got {self.of!r}.", "Give Approximate(VCD(), 0.9)."
            )
        object.__setattr__(self, "threshold", float(self.threshold))
        for name in _CAPABILITIES:
            object.__setattr__(self, name, getattr(self.of, name))
        object.__setattr__(self, "key", f"{self.of.key}{WORD}{self.threshold:g}")
        object.__setattr__(self, "title", f"{self.of.title},{WORD}{self.threshold:g}")

    def params(self) -> dict[str, Any]:
        """The fields of the wrapped decoder, and the threshold."""
        return {**self.of.params(), "approximate": self.threshold}

    def calibration(self, adapter: Adapter) -> str | None:
        """That of the wrapped decoder."""
        return self.of.calibration(adapter)

    def prepare(self, request: Request) -> Plan:
        """The plan of the wrapped decoder.

        Raises:
            InvalidParameter: it alters the base itself, so that no row keeps scores of plain decoding.
        """
        plan = self.of.prepare(request)
        if plan.edits or plan.bias:
            raise InvalidParameter(
                f"{self.of.key} acts on the base's own attention, which approximate decoding cannot leave out.",
                "Decode with it exactly: approximate=None.",
            )
        return plan

    def refine(self, prompt: Prompt) -> Refinement:
        """As the wrapped decoder does."""
        return self.of.refine(prompt)

    def sure(self, base: Tensor, step: Step) -> Tensor:
        """Rows that keep the base's scores, `[batch]` of bool; asked first with the base as it was before any gate."""
        held = step.known.get("sure")
        if held is None:
            held = step.known["sure"] = (base,), base.softmax(dim=-1).amax(dim=-1) >= self.threshold
        return held[1]

    def gate(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor | None:
        """The wrapped decoder's gate in rows that are unsure."""
        sure, opened = self.sure(base, step), self.of.gate(base, branches, step)
        return None if opened is None else opened & ~sure

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """The base in rows that are sure, the wrapped decoder's scores in the others."""
        return base.where(self.sure(base, step)[:, None], self.of.combine(base, branches, step))

    def left(self, base: Tensor, step: Step) -> Tensor | None:
        """All tokens in rows that are sure; in the others those that the wrapped decoder's cut leaves."""
        left = self.of.left(base, step)
        return None if left is None else left | self.sure(base, step)[:, None]

    def keep(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor | None:
        """All tokens in rows that are sure; in the others those that the wrapped decoder keeps."""
        kept = self.of.keep(base, branches, step)
        return None if kept is None else kept | self.sure(base, step)[:, None]

    def decided(self, base: Tensor, step: Step) -> Tensor | None:
        """Rows that are sure, or in which the wrapped decoder's cut leaves one token."""
        sure, settled = self.sure(base, step), self.of.decided(base, step)
        return sure if settled is None else sure | settled

    def numbers(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Mapping[str, Tensor]:
        """What the wrapped decoder has to say, and which rows were sure (1)."""
        return {**self.of.numbers(base, branches, step), "sure": self.sure(base, step).to(base.dtype)}
