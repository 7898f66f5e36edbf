"""Many turns on one image in one sequence: the image is read once, and each turn sees the image and itself only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..scenes.language import Question
from .chat import LLAVA, Chat

IGNORED = -100


@dataclass(frozen=True)
class Packed:
    """A batch of packed sequences, padded on the right.

    Attributes:
        ids: tokens, `int64[batch, length]`.
        positions: positions as at inference, where each turn follows the image at once: `int64[batch, length]`.
        mask: what is added to attention scores, `float32[batch, 1, length, length]`: 0 where seen.
        targets: the token to come where it belongs to an answer, else -100: `int64[batch, length]`.
        weights: the weight of each target in the loss, `float32[batch, length]`.
        starts: where each turn's first answer token is predicted: for each row one position per turn.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    weights: Tensor
    starts: list[list[int]]


@dataclass
class Packer:
    """Makes packed sequences with one tokenizer.

    Args:
        tokenizer: the tokenizer of the model.
        image_tokens: how many tokens an image takes.
        caption_weight: the weight of a caption's token beside 1 for a token of an answer.
        chat: how the family writes a question.
    """

    tokenizer: PreTrainedTokenizerBase
    image_tokens: int
    caption_weight: float = 0.5
    chat: Chat = LLAVA
    _known: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without start token; remembered."""
        if text not in self._known:
            self._known[text] = self.tokenizer.encode(text, add_special_tokens=False)
        return self._known[text]

    def prefix(self) -> list[int]:
        """All that stands before a question: start token, lead, image."""
        return [*self.encode(self.chat.lead), *self.encode(self.chat.image) * self.image_tokens]

    def pack(self, rows: Sequence[Sequence[Question]]) -> Packed:
        """One sequence for each row of turns, in the given order."""
        lines = [self._line(turns) for turns in rows]
        length = max(len(line["ids"]) for line in lines)
        fill = {"ids": self.tokenizer.pad_token_id, "positions": 0, "targets": IGNORED, "weights": 0.0, "segments": -1}
        columns = {
            name: torch.tensor([line[name] + [value] * (length - len(line[name])) for line in lines])
            for name, value in fill.items()
        }
        segments = columns.pop("segments")
        return Packed(**columns, mask=block_mask(segments), starts=[line["starts"] for line in lines])

    def _line(self, turns: Sequence[Question]) -> dict[str, list]:
        ids = self.prefix()
        start = len(ids)
        line: dict[str, list] = {
            "ids": ids,
            "positions": list(range(start)),
            "segments": [0] * start,
            "targets": [IGNORED] * start,
            "weights": [0.0] * start,
            "starts": [],
        }
        for number, turn in enumerate(turns, 1):
            question = self.encode(self.chat.turn.format(turn.text))
            answer = [*self.encode(self.chat.gap + turn.answer), *self.encode(self.chat.end)]
            weight = self.caption_weight if turn.task == "caption" else 1.0
            line["starts"].append(len(line["ids"]) + len(question) - 1)
            size = len(question) + len(answer) - 1  # the last token has nothing to predict
            line["ids"] += question + answer[:-1]
            line["positions"] += range(start, start + size)
            line["segments"] += [number] * size
            line["targets"] += [IGNORED] * (len(question) - 1) + answer
            line["weights"] += [0.0] * (len(question) - 1) + [weight] * len(answer)
        return line


def block_mask(segments: Tensor) -> Tensor:
    """The mask of packed sequences, added to attention scores.

    Args:
        segments: `int64[batch, length]`: 0 for the shared prefix, 1, 2, ... for the turns, -1 for padding.

    Returns:
        `float32[batch, 1, length, length]`: 0 where a query (third axis) may look, the lowest float elsewhere. Every
        query sees what comes before it in the prefix and in its own turn.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    seen = ((key == 0) | (key == query)) & torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.full(seen.shape, torch.finfo(torch.float32).min)
    return mask.masked_fill_(seen, 0.0)[:, None]
