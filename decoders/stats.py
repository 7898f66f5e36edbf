"""What a generation cost, counted as it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from .prefixes import Beginnings


@dataclass
class Stats:
    """What a generation cost. Plain decoding (nothing attached) counts tokens alone.

    Attributes:
        encodes: forwards that only built a branch's embeddings (vision tower and projector).
        forwards: steps of the generate loop, the prefill included.
        passes: calls of the decoder, those that the engine adds included (a fork's prefill, beginnings that rows
            have in common, sequential branches).
        rows: rows summed over passes.
        columns: rows times columns summed over passes: tokens that went through the decoder.
        tokens: tokens chosen, summed over base rows.
        steps: scores made under the strategy, summed over base rows; 0 where it is neutral.
        contrasted: those of them that it acted on: all, unless it is approximate (`approximate.Approximate`).
    """

    encodes: int = 0
    forwards: int = 0
    passes: int = 0
    rows: int = 0
    columns: int = 0
    tokens: int = 0
    steps: int = 0
    contrasted: int = 0

    def count_split(self, found: Beginnings) -> None:
        """A call, counted as a whole, was run in two: beginnings that rows have in common, then what is their own."""
        self.passes += 1
        self.rows += len(found.rows)
        self.columns -= found.spared

    def count_scores(self, rows: int, sure: Tensor | None) -> None:
        """Count a step of that many rows; `sure` are those that kept the base's scores, None where none may."""
        self.steps += rows
        self.contrasted += rows if sure is None else rows - int(sure.sum())
