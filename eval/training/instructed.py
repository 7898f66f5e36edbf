"""Turns for InstructBLIP: the instruction feeds the Q-Former too, so every turn has image tokens of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import InstructBlipForConditionalGeneration, PreTrainedTokenizerBase

from ..scenes.language import Question
from .chat import BOS, EOS, IMAGE
from .packing import IGNORED, Packed, Packer

TURN = "USER: {} ASSISTANT:"
"""The prompt of one question, in Vicuna's words; the Q-Former reads it, and behind the image the language model."""
SHORT = 32
"""Turns of up to so many tokens beside the image's run together, longer ones (captions) in a batch of their own."""


@dataclass(frozen=True)
class Instructed(Packed):
    """Packed turns, one behind the other, none of which sees another; `mask` is empty, for each runs as a row.

    Attributes:
        turns: of each turn its row, its first column and the one after its last, `int64[turns, 3]`.
        instructions: what the Q-Former reads with each turn, padded on the right, `int64[turns, words]`.
        words: which of these are words, `int64[turns, words]`.
    """

    turns: Tensor
    instructions: Tensor
    words: Tensor


@dataclass
class InstructedPacker(Packer):
    """Makes packed turns for InstructBLIP: image tokens, start token, instruction, answer.

    Args:
        reader: the Q-Former's tokenizer.
    """

    reader: PreTrainedTokenizerBase | None = None
    _read: dict[str, list[int]] = field(default_factory=dict, repr=False)

    def read(self, text: str) -> list[int]:
        """The Q-Former's tokens of an instruction; remembered."""
        if self.reader is None:
            raise ValueError("The packer has no tokenizer for the Q-Former: pass reader=processor.qformer_tokenizer.")
        if text not in self._read:
            self._read[text] = self.reader.encode(text)
        return self._read[text]

    def pack(self, rows: Sequence[Sequence[Question]]) -> Instructed:
        """One sequence for each row of turns, in the given order."""
        lines = [self._line(turns) for turns in rows]
        length = max(len(line["ids"]) for line in lines)
        fill = {"ids": self.tokenizer.pad_token_id, "positions": 0, "targets": IGNORED, "weights": 0.0}
        columns = {
            name: torch.tensor([line[name] + [value] * (length - len(line[name])) for line in lines])
            for name, value in fill.items()
        }
        turns = [[row, *span] for row, line in enumerate(lines) for span in line["spans"]]
        read = [self.read(TURN.format(turn.text)) for turns in rows for turn in turns]
        words = max(map(len, read))
        return Instructed(
            **columns,
            mask=torch.empty(0),
            starts=[line["starts"] for line in lines],
            turns=torch.tensor(turns),
            instructions=torch.tensor([ids + [0] * (words - len(ids)) for ids in read]),
            words=torch.tensor([[1] * len(ids) + [0] * (words - len(ids)) for ids in read]),
        )

    def _line(self, turns: Sequence[Question]) -> dict[str, list]:
        line: dict[str, list] = {name: [] for name in ("ids", "positions", "targets", "weights", "starts", "spans")}
        for turn in turns:
            prompt = self.encode(IMAGE) * self.image_tokens + self.encode(BOS) + self.encode(TURN.format(turn.text))
            answer = [*self.encode(" " + turn.answer), *self.encode(EOS)]
            weight = self.caption_weight if turn.task == "caption" else 1.0
            start, size = len(line["ids"]), len(prompt) + len(answer) - 1  # the last token has nothing to predict
            line["starts"].append(start + len(prompt) - 1)
            line["spans"].append((start, start + size))
            line["ids"] += prompt + answer[:-1]
            line["positions"] += range(size)
            line["targets"] += [IGNORED] * (len(prompt) - 1) + answer
            line["weights"] += [0.0] * (len(prompt) - 1) + [weight] * len(answer)
        return line


def query_features(
    model: InstructBlipForConditionalGeneration, seen: Tensor, instructions: Tensor, words: Tensor
) -> Tensor:
    """The Q-Former's outputs, `[batch, queries, width]`, as the model's own forward makes them.

    Args:
        model: the model.
        seen: what the vision tower makes of each image, `[batch, 1 + patches, width]`.
        instructions: `int64[batch, words]`.
        words: the mask of `instructions`.
    """
    queries = model.query_tokens.expand(len(seen), -1, -1)
    mask = torch.cat([words.new_ones(queries.shape[:2]), words], dim=1)
    outputs = model.qformer(
        input_ids=instructions, attention_mask=mask, query_embeds=queries, encoder_hidden_states=seen
    )
    return outputs.last_hidden_state[:, : queries.shape[1]]


def instructed_hidden(model: InstructBlipForConditionalGeneration, pixels: Tensor, packed: Packed) -> Tensor:
    """The last hidden states of the packed turns, `[batch, length, hidden]`: what the model's own forward computes for
    each turn alone; zero where no turn is.

    Args:
        model: the model; its vision tower gets no gradient.
        pixels: `[batch, 3, 64, 64]`.
        packed: turns that hold as many image tokens as the model has queries, made by `InstructedPacker`.
    """
    assert isinstance(packed, Instructed)
    config: Any = model.config
    with torch.no_grad():
        seen = model.vision_model(pixels).last_hidden_state
    sizes = packed.turns[:, 2] - packed.turns[:, 1]
    short = sizes <= SHORT + config.num_query_tokens
    hidden = seen.new_zeros(*packed.ids.shape, config.text_config.hidden_size)
    for chosen in (short, ~short):
        if chosen.any():
            rows, columns, there = _places(packed.turns[chosen])
            ids = packed.ids[rows, columns]
            words = packed.words[chosen]
            widest = int(words.sum(dim=1).max())
            features = query_features(model, seen[rows[:, 0]], packed.instructions[chosen, :widest], words[:, :widest])
            where = (ids == config.image_token_id)[..., None] & there[..., None]
            embedded = model.get_input_embeddings()(ids).masked_scatter(where, model.language_projection(features))
            made = model.language_model.get_decoder()(inputs_embeds=embedded, use_cache=False).last_hidden_state
            hidden = hidden.index_put((rows[there], columns[there]), made[there])
    return hidden


def _places(turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the tokens of turns `[turns, 3]` stand in the packed sequences: rows, columns, and which of them are
    there, each `[turns, longest]`. Tokens that are not there repeat the turn's last."""
    sizes = turns[:, 2] - turns[:, 1]
    steps = torch.arange(int(sizes.max()))
    there = steps < sizes[:, None]
    columns = torch.minimum(turns[:, 1:2] + steps, turns[:, 2:] - 1)
    return turns[:, :1].expand_as(columns), columns, there
