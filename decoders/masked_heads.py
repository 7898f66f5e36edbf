"""What strategies that disable attention heads of one branch share: which heads, how, and from where on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .calibration.lists import AUTO, find
from .calibration.ranking import HeadRanking
from .plan import Branch, HeadEdit, Request
from .strategy import Strategy

if TYPE_CHECKING:
    from ..models.adapter import Adapter

HEAD_MASK_MODES = ("uniform", "zero")
SCOPES = ("all", "answer")


@dataclass(frozen=True)
class MaskedHeads(Strategy):
    """What DeCoRe and its controls share: a branch in which some heads are disabled.

    Args:
        num_heads: how many heads of the list are disabled (typical 10 to 100 in a 7B model); 0 disables none.
        head_mask_mode: `uniform` (a disabled head attends to all visible keys alike) or `zero` (its output is zero).
        mask_prefill: False: disabled from the last prompt token on, the prefill is shared; True: in the prompt too.
        scoring_mask_scope: where `score` disables them: `all` tokens (reference), or `answer`, as in generation.
        heads: `auto` (the list of the model's folder, else a shipped one of its name or shape; None means the same),
            `retrieval` or `image` (the same, of that kind), a shipped list, or a file of `sightline calibrate`.
    """

    needs_attention: ClassVar[bool] = True
    max_branches: ClassVar[int] = 1
    calibrates: ClassVar[str | None] = "heads"

    num_heads: int = 10
    head_mask_mode: str = "uniform"
    mask_prefill: bool = False
    scoring_mask_scope: str = "all"
    heads: str | None = AUTO

    def validate(self) -> None:
        """Ranges and names of the fields."""
        self.check(self.num_heads >= 0, "num_heads", ">= 0", "Use 0 for plain decoding.")
        self.check(self.head_mask_mode in HEAD_MASK_MODES, "head_mask_mode", f"one of {', '.join(HEAD_MASK_MODES)}")
        self.check(self.scoring_mask_scope in SCOPES, "scoring_mask_scope", f"one of {', '.join(SCOPES)}")
        self.check(self.heads != "", "heads", "a list or a file", "Use auto for the model's own list.")

    def chosen(self, ranking: HeadRanking) -> list[tuple[int, int]]:
        """The heads to disable, (layer, head), given the model's list: its first `num_heads`."""
        listed = len(ranking.ranked)
        rule = f"at most {listed}, the length of the list of {ranking.model!r}"
        self.check(self.num_heads <= listed, "num_heads", rule, "A list of your own may hold every head.")
        return ranking.top(self.num_heads)

    def calibration(self, adapter: Adapter) -> str | None:
        """The heads that are disabled: another list gives other answers under the same parameters."""
        if self.num_heads == 0:
            return None
        return " ".join(f"{layer}-{head}" for layer, head in self.chosen(find(self.heads or AUTO, adapter)))

    def masked(self, request: Request) -> Branch:
        """The branch in which the chosen heads are disabled."""
        heads = self.chosen(find(self.heads or AUTO, request.adapter))
        everywhere = self.scoring_mask_scope == "all" if request.scoring else self.mask_prefill
        return Branch("masked", edits=disabled(heads, self.head_mask_mode), fork=not everywhere)


def disabled(heads: Iterable[tuple[int, int]], mode: Any) -> tuple[HeadEdit, ...]:
    """The edits that disable (layer, head) pairs, layer by layer."""
    layers: dict[int, list[int]] = {}
    for layer, head in heads:
        layers.setdefault(layer, []).append(head)
    return tuple(HeadEdit(layer, tuple(sorted(found)), mode) for layer, found in sorted(layers.items()))
