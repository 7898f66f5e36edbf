"""Many short texts in few rows: each is a prefix and turns, and every turn sees its prefix and itself only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..facts.language import Turn
from .packing import IGNORED
from .tiny_llama_guide import HEADS, NOWHERE, Guide, blank
from .tiny_llama_turns import Group
from .tiny_llama_words import BOS, EOS

_FILL = {"ids": 0, "positions": 0, "groups": -1, "turns": -1, "targets": IGNORED, **dict.fromkeys(HEADS, NOWHERE)}


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows, padded on the right.

    Attributes:
        ids: tokens, `int64[batch, length]`.
        positions: positions as at inference, where each turn follows its prefix at once: `int64[batch, length]`.
        mask: what is added to attention scores, `float32[batch, 1, length, length]`: 0 where seen.
        targets: the token to come where it belongs to an answer, else -100: `int64[batch, length]`.
        looks: what a guided head looks for -> where, as a place in the row, or -1: `int64[batch, length]`.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    looks: dict[str, Tensor]


@dataclass(frozen=True)
class GroupPacker:
    """Packs groups with one tokenizer into rows of at most `length` tokens."""

    tokenizer: PreTrainedTokenizerBase
    length: int = 256

    @cached_property
    def guide(self) -> Guide:
        """Finds what guided heads look for."""
        return Guide(self.tokenizer)

    @cached_property
    def _marks(self) -> list[int]:
        return self.tokenizer.encode(BOS + EOS, add_special_tokens=False)

    def pack(self, groups: Sequence[Group]) -> Rows:
        """Rows that hold the groups, each put into the first row that has room for it."""
        rows: list[dict[str, list[int]]] = []
        for number, line in enumerate(sorted(self._lines(groups), key=lambda line: -len(line["ids"]))):
            line["groups"] = [number] * len(line["ids"])
            room = self.length - len(line["ids"])
            row = next((row for row in rows if len(row["ids"]) <= room), None)
            if row is None:
                rows.append({name: list(values) for name, values in line.items()})
            else:
                for what in HEADS:
                    line[what] = [NOWHERE if at == NOWHERE else at + len(row["ids"]) for at in line[what]]
                for name, values in line.items():
                    row[name] += values
        width = max(len(row["ids"]) for row in rows)
        columns = {
            name: torch.tensor([row[name] + [fill] * (width - len(row["ids"])) for row in rows])
            for name, fill in _FILL.items()
        }
        mask = group_mask(columns.pop("groups"), columns.pop("turns"))
        looks = {what: columns.pop(what) for what in HEADS}
        return Rows(**columns, mask=mask, looks=looks)

    def _lines(self, groups: Sequence[Group]) -> list[dict[str, list[int]]]:
        texts = [group.prefix for group in groups]
        texts += [text for group in groups for turn in group.turns for text in (turn.text, " " + turn.answer)]
        encode = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        prefixes, rest = encode[: len(groups)], iter(encode[len(groups) :])
        return [
            self._line(prefix, [(turn, next(rest), next(rest)) for turn in group.turns])
            for prefix, group in zip(prefixes, groups, strict=True)
        ]

    def _line(self, prefix: list[int], turns: Sequence[tuple[Turn, list[int], list[int]]]) -> dict[str, list[int]]:
        ids = [*self._marks[:1], *prefix]
        start = len(ids)
        line = {
            "ids": ids,
            "positions": list(range(start)),
            "turns": [0] * start,
            "targets": [IGNORED] * start,
            **blank(start),
        }
        known = self.guide.values(ids)
        for subject, value in known:
            _look(line, value, subject)
        for number, (turn, asked, words) in enumerate(turns, 1):
            answer = [*words, *self._marks[1:]]
            size = len(asked) + len(answer) - 1  # the last token has nothing to predict
            line["ids"] += asked + answer[:-1]
            line["positions"] += range(start, start + size)
            line["turns"] += [number] * size
            line["targets"] += [IGNORED] * (len(asked) - 1) + answer
            for what, values in blank(size).items():
                line[what] += values
            if turn.place is not None and [ids[at] for at in known[turn.place][1]] == words:
                end = len(ids) - len(answer)
                line["first"][end] = self.guide.name(ids, len(ids) - size, len(ids))
                line["second"][end] = line["first"][end] + 1
                for at, source in enumerate(known[turn.place][1]):
                    line["copy"][end + at] = source
        return line


def _look(line: dict[str, list[int]], value: list[int], subject: int) -> None:
    """A value's first token looks at the subject's words, its second one at the first."""
    line["first"][value[0]], line["second"][value[0]] = subject, subject + 1
    if len(value) > 1:
        line["second"][value[1]] = value[0]


def group_mask(groups: Tensor, turns: Tensor) -> Tensor:
    """The mask of packed rows, added to attention scores.

    Args:
        groups: `int64[batch, length]`: which text a token belongs to, -1 for padding.
        turns: `int64[batch, length]`: 0 for a text's prefix, 1, 2, ... for its turns, -1 for padding.

    Returns:
        `float32[batch, 1, length, length]`: 0 where a query (third axis) may look, the lowest float elsewhere.
    """
    length = groups.shape[1]
    same = groups[:, :, None] == groups[:, None, :]
    query, key = turns[:, :, None], turns[:, None, :]
    seen = same & ((key == 0) | (key == query)) & torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.full(seen.shape, torch.finfo(torch.float32).min)
    return mask.masked_fill_(seen, 0.0)[:, None]
