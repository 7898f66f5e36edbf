"""Scores given continuations of prompts under a decoder, instead of letting the model say something.

Every candidate is tokenised as the end of its prompt, so that its first token is the one that generation would have to
choose. End tokens are not scored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .. import decoders
from ..decoders import Strategy
from ..models import Loaded

DIGITS = 6


@dataclass
class Choices:
    """Candidates of a batch with their scores.

    Attributes:
        logprobs: for each prompt, of each candidate, summed over its tokens, six decimals; None = ruled out by a cut.
        tokens: for each prompt, how many tokens each candidate has.
        forwards: calls of the text decoder.
        rows: rows summed over these calls, branches included.
    """

    logprobs: list[list[float | None]] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    forwards: int = 0
    rows: int = 0

    def best(self, row: int) -> int:
        """The likeliest candidate of a prompt; the first of equals."""
        scores = [-math.inf if score is None else score for score in self.logprobs[row]]
        return scores.index(max(scores))


def choose(
    loaded: Loaded,
    strategy: Strategy | str,
    inputs: Mapping[str, Any],
    prompts: Sequence[str],
    candidates: Sequence[Sequence[str]],
    *,
    special: bool = True,
    spans: Sequence[str | None] | None = None,
) -> Choices:
    """Score the candidates of each prompt.

    Args:
        loaded: model and tokenizer.
        strategy: what decodes.
        inputs: the prompts as tensors, padded on the left.
        prompts: the same as text.
        candidates: for each prompt; prompts may have different numbers of them.
        special: whether the tokenizer puts start tokens before a prompt.
        spans: the part of each prompt that is context, for strategies that ask for it.

    Raises:
        SightlineError: the strategy cannot serve this model or these inputs.
    """
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    ids = [
        [continuation(tokenizer, prompt, candidate, special) for candidate in own]
        for prompt, own in zip(prompts, candidates, strict=True)
    ]
    width = max(map(len, ids))
    columns = [[own[min(place, len(own) - 1)] for own in ids] for place in range(width)]
    found = Choices(tokens=[[len(each) for each in own] for own in ids])
    with counting(loaded, found):
        marked = {"processor": loaded.processor, "spans": spans}
        scores = decoders.score(loaded.model, strategy, inputs, columns, **marked)
    found.logprobs = [list(map(_kept, row[: len(own)])) for row, own in zip(scores.tolist(), ids, strict=True)]
    return found


def continuation(tokenizer: Any, prompt: str, candidate: str, special: bool = True) -> list[int]:
    """The tokens that a candidate adds to its prompt.

    Where the tokenizer joins the end of the prompt with the candidate, the candidate is tokenised by itself.
    """
    before = list(tokenizer(prompt, add_special_tokens=special)["input_ids"])
    whole = list(tokenizer(prompt + candidate, add_special_tokens=special)["input_ids"])
    if whole[: len(before)] == before and len(whole) > len(before):
        return whole[len(before) :]
    return list(tokenizer(candidate, add_special_tokens=False)["input_ids"])


@contextmanager
def counting(loaded: Loaded, into: Choices) -> Iterator[None]:
    """Counts forwards of the text decoder and their rows inside the block."""

    def note(module: Any, args: Any, output: Any) -> None:
        into.forwards += 1
        into.rows += int(output[0].shape[0])

    handle = loaded.adapter.decoder.register_forward_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _kept(score: float) -> float | None:
    return None if math.isinf(score) else round(score, DIGITS) + 0.0
