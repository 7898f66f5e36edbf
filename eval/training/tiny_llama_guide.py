"""Supervised attention: early in the training a few heads are told where to look, so that copying comes in minutes.

Finding a value by its subject takes two steps, and neither pays without the other: the value's token has to know whose
value it is, and the question has to be matched with it. Left alone, a model as small as this one stays for long with
guessing among the values of the right sort. So four heads have their attention supervised for a while:

* two heads of the second layer look from a value, and from the end of a question, at both words of the subject;
* one head in each of the last two layers looks from where an answer's token is to be predicted at that token in the
  passage.

Later stages train on answers alone, and what the heads then do is theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..facts import world

HEADS: dict[str, tuple[tuple[int, int], ...]] = {"first": ((1, 0),), "second": ((1, 2),), "copy": ((2, 0), (3, 0))}
"""What is looked for -> (layer, head) of those that are told: the subject's words, and the token to be copied."""
NOWHERE = -1


@dataclass(frozen=True)
class Guide:
    """Finds subjects and values in tokens."""

    tokenizer: PreTrainedTokenizerBase

    def _ids(self, words: Sequence[str]) -> frozenset[int]:
        return frozenset(
            token for word in words for token in self.tokenizer.encode(f" {word}", add_special_tokens=False)
        )

    @cached_property
    def firsts(self) -> frozenset[int]:
        """Tokens that begin a name."""
        return self._ids([word for first, _ in world.NAMES.values() for word in first])

    @cached_property
    def seconds(self) -> frozenset[int]:
        """Tokens that end a name."""
        return self._ids([word for _, second in world.NAMES.values() for word in second])

    @cached_property
    def stop(self) -> int:
        """The full stop."""
        return self.tokenizer.encode(".", add_special_tokens=False)[0]

    def values(self, ids: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Of each sentence of a passage: where its subject begins, and where its value's tokens are."""
        found, start = [], 0
        for end in [place for place, token in enumerate(ids) if token == self.stop]:
            size = 2 if ids[end - 1] in self.seconds else 1
            found.append((self.name(ids, start, end), list(range(end - size, end))))
            start = end + 1
        return found

    def name(self, ids: Sequence[int], start: int, end: int) -> int:
        """Where the first name between two places begins; -1 where there is none."""
        pairs = (
            place for place in range(start, end - 1) if ids[place] in self.firsts and ids[place + 1] in self.seconds
        )
        return next(pairs, NOWHERE)


def blank(size: int) -> dict[str, list[int]]:
    """Columns that tell no head anything."""
    return {what: [NOWHERE] * size for what in HEADS}


def guide_loss(attentions: Sequence[Tensor], looks: dict[str, Tensor]) -> Tensor:
    """How little the guided heads look where they should: the mean of -log of that attention.

    Args:
        attentions: of each layer, `[batch, heads, length, length]`.
        looks: what -> where each position should look, `int64[batch, length]`, -1 for nowhere.
    """
    found = []
    for what, heads in HEADS.items():
        row, place = (looks[what] != NOWHERE).nonzero(as_tuple=True)
        for layer, head in heads:
            found.append(attentions[layer][row, head, place, looks[what][row, place]])
    return -(torch.cat(found) + 1e-6).log().mean()
