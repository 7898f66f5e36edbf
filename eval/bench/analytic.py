"""What a decoder costs at full size by arithmetic: bytes that have to be read, multiplications that have to be done.

Forwards, rows and tokens are counted on the model's narrow twin by real attachments; only then a price is put on each
call, as on a roofline. With W the bytes of the decoder's weights, B the memory's bandwidth, F its operations a second,
r rows, c columns and k keys a row of a call,

    seconds = max((W + r k kv) / B, (2 P r c + 4 a r c k) / F)

P the decoder's parameters, kv the bytes of a token's keys and values, a = layers * heads * head size. The head is
priced by its own calls, the vision tower by its patches. Left out, for all contenders alike: the time to launch
kernels, tensor algebra over the vocabulary, and whatever keeps a kernel from its peak. So this is a lower bound of the
ratio that a machine shows, and never a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, StoppingCriteriaList

from ...models.adapter import Adapter
from ...models.auto import adapter_for
from . import configs
from .contenders import Clock, Contender
from .counting import Call, Counts, counted
from .subject import Subject

WIDE = 2
"""Bytes of a number, bfloat16."""


@dataclass(frozen=True)
class Machine:
    """A device by its data sheet.

    Attributes:
        bandwidth: bytes a second.
        operations: a second, multiplications and additions counted apart, in bfloat16 without sparsity.
    """

    bandwidth: float
    operations: float


@dataclass(frozen=True)
class Predicted:
    """One contender's price.

    Attributes:
        name: of the contender.
        first: seconds to the first token.
        token: seconds for each later one, the mean over the answer.
        memory: bytes of weights, and of keys and values at the end.
        counts: see `Counts.summary`.
    """

    name: str
    first: float
    token: float
    memory: float
    counts: dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """Parameters of a full-size model, and what a token's keys and values take.

    Attributes:
        decoder, head, tower, rest: parameters; `rest` are embeddings and whatever else is held and not read whole.
        attention: layers * heads * head size.
        kept: numbers that a token leaves in the cache.
    """

    decoder: int
    head: int
    tower: int
    rest: int
    attention: int
    kept: int

    @classmethod
    def of(cls, name: str) -> Sizes:
        """Of an embedded configuration; no memory is taken for its weights."""
        config = configs.config(name)
        sees = getattr(config, "vision_config", None) is not None
        made = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        with torch.device("meta"):
            model: Any = made.from_config(config, dtype=torch.bfloat16)
        adapter = adapter_for(model)
        text: Any = adapter.decoder.config
        embeddings = _parameters(adapter.decoder.get_input_embeddings())
        decoder = _parameters(adapter.decoder) - embeddings
        head = _parameters(adapter.owner.get_output_embeddings())
        tower = _parameters(adapter.vision_tower) if sees else 0
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return cls(
            decoder, head, tower, _parameters(model) - decoder - head - tower,
            text.num_hidden_layers * text.num_attention_heads * size,
            2 * text.num_hidden_layers * text.num_key_value_heads * size,
        )  # fmt: skip

    def seconds(self, call: Call, machine: Machine) -> float:
        """The price of a call."""
        if call.where == "decoder":
            tokens = call.rows * call.columns
            moved = WIDE * (self.decoder + call.rows * call.keys * self.kept)
            seen = call.keys - (call.columns - 1) / 2  # keys that a token sees on average, causally
            done = 2 * self.decoder * tokens + 4 * self.attention * tokens * seen
        else:
            parameters = self.head if call.where == "head" else self.tower
            moved, done = WIDE * parameters, 2 * parameters * call.rows
        return max(moved / machine.bandwidth, done / machine.operations)

    def held(self, counts: Counts) -> float:
        """Bytes of all weights, and of the cache in the last step (of the prefill where there is none)."""
        calls = [call for call in (*counts.prefill, *counts.decode) if call.where == "decoder"]
        step = [call for call in counts.decode if call.where == "decoder"]
        last = step[-max(1, round(len(step) / max(counts.steps, 1))) :] or calls
        weights = self.decoder + self.head + self.tower + self.rest
        return WIDE * (weights + self.kept * sum(call.rows * call.keys for call in last))


def predict(contenders: Sequence[Contender], subject: Subject, machine: Machine) -> list[Predicted]:
    """Price contenders, whose runs on the narrow twin `subject` are counted, at the size of the model it stands for."""
    sizes, adapter = Sizes.of(subject.loaded.name), subject.loaded.adapter
    found = []
    for contender in contenders:
        _counts(contender, adapter)  # what is kept per image is paid for by the first run
        counts = _counts(contender, adapter)
        first = sum(sizes.seconds(call, machine) for call in counts.prefill)
        later = sum(sizes.seconds(call, machine) for call in counts.decode)
        token = later / counts.steps if counts.steps else first
        found.append(Predicted(contender.name, first, token, sizes.held(counts), counts.summary()))
    return found


def _counts(contender: Contender, adapter: Adapter) -> Counts:
    with counted(adapter) as counts, torch.no_grad():
        contender.run(StoppingCriteriaList([Clock(adapter.model.device, counts)]))
    return counts


def _parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
