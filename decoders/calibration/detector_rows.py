"""What DAGCD's detector is fitted to: attention on used and unused tokens while a model answers from passages.

The model answers each question greedily. An answer that is right was read off the passage, for the passage is invented
or, on a user's own data, the question was answered wrongly without it. At each of the answer's tokens that stands in
the passage, a row holds the attention ratios of all heads (`decoders.context_tokens`): of the token that was used
(positive), and of one that was not (negative), drawn from the passage's distinct tokens that are no part of the answer
and not among the likeliest of the step.

Departures from the reference: every token of an answer counts, not its last one alone; negatives are distinct tokens
and not named entities; gold tokens are those that the model said itself, so that no spelling has to match.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...models.errors import InvalidParameter
from ...models.spans import context_mask
from ...models.versions import CACHE
from ..context_tokens import attention_ratio, distinct, in_top
from ..contrast import widen
from .passages import Item
from .probing import probing

if TYPE_CHECKING:
    from ...models.adapter import Adapter
    from ...models.attention import LayerState

PROMPT = "Context: {context}\nQuestion: {question}\nAnswer:"
_PLACES = ("{context}", "{question}")


@dataclass(frozen=True)
class Asking:
    """How passages are put to the model.

    Args:
        prompt: text with `{context}` and `{question}`, each on a line of its own; the one of the text tasks.
        max_new_tokens: longest answer.
        top_rank: tokens that are likelier than this rank are no negatives.
        from_memory: ask without the passage first, and leave out what the model knows.
        seed: of the draw of negatives.
    """

    prompt: str = PROMPT
    max_new_tokens: int = 16
    top_rank: int = 10
    from_memory: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        lines = [[place for place in _PLACES if place in line] for line in self.prompt.splitlines()]
        rules = (
            ("prompt", sorted(filter(None, lines)) == [[place] for place in _PLACES], f"{_PLACES} in different lines"),
            ("max_new_tokens", self.max_new_tokens >= 1, ">= 1"),
            ("top_rank", self.top_rank >= 1, ">= 1"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise InvalidParameter(f"detector: {name} must be {rule}, got {getattr(self, name)!r}.")

    def text(self, item: Item, *, passage: bool = True) -> str:
        """The prompt of an item, or what it is without its passage."""
        kept = [line for line in self.prompt.splitlines() if passage or _PLACES[0] not in line]
        return "\n".join(kept).replace(_PLACES[1], item.question).replace(_PLACES[0], item.context)


class Rows(NamedTuple):
    """Rows to fit a detector to.

    Attributes:
        features: ratios of all heads, layer by layer, `[rows, layers * heads]` of float64, on the CPU.
        labels: whether the token was used, `[rows]` of bool.
        groups: number of the answer that a row is from, `[rows]`.
        answered: how many answers were right.
        asked: how many questions there were.
    """

    features: Tensor
    labels: Tensor
    groups: Tensor
    answered: int
    asked: int


def collect(adapter: Adapter, tokenizer: Any, items: Iterable[Item], asking: Asking) -> Rows:
    """Ask all questions, and keep the rows of those that were answered right.

    Args:
        adapter: of the model; of an image-text model its text decoder is asked, without an image.
        tokenizer: the model's, or its processor.
        items: passages with questions.
        asking: how to ask.

    Raises:
        MissingContext: a tokenizer changes texts so that a passage cannot be found in its prompt.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    rng = torch.Generator().manual_seed(asking.seed)
    found: list[tuple[Tensor, bool, int]] = []
    asked = answered = 0
    with probing(adapter) as states:
        for item in items:
            asked += 1
            pairs = _pairs(adapter, tokenizer, states, item, asking, rng)
            if pairs is not None:
                found += [
                    (row, used, answered) for pair in pairs for row, used in zip(pair, (True, False), strict=True)
                ]
                answered += 1
    features = [row for row, _, _ in found] or [torch.zeros(adapter.layers * adapter.heads)]
    labels, groups = (torch.tensor([each[part] for each in found]) for part in (1, 2))
    return Rows(torch.stack(features)[: len(found)].double(), labels.bool(), groups.long(), answered, asked)


def _pairs(
    adapter: Adapter, tokenizer: Any, states: Sequence[LayerState], item: Item, asking: Asking, rng: torch.Generator
) -> list[tuple[Tensor, Tensor]] | None:
    """A positive and a negative row `[features]` of each token read off the passage; None if the answer was not."""
    if asking.from_memory:
        ids = list(tokenizer.encode(asking.text(item, passage=False)))
        if _right(tokenizer, reply(adapter, tokenizer, ids, asking.max_new_tokens), item):
            return None
    ids = torch.tensor([tokenizer.encode(asking.text(item))])
    tables = distinct(ids, context_mask({"input_ids": ids}, [item.context], tokenizer, "The detector"))
    steps: list[tuple[Tensor, Tensor]] = []

    def look(logits: Tensor, length: int) -> None:
        attention = _attention(states, length)[:, :, : ids.shape[1]].cpu()
        steps.append((attention_ratio(attention, tables.inverse, tables.counts)[0], logits.cpu()))

    said = reply(adapter, tokenizer, ids[0].tolist(), asking.max_new_tokens, look)
    if not _right(tokenizer, said, item):
        return None
    pairs = []
    for token, (ratio, logits) in zip(said, steps, strict=False):  # the last step may have said the end
        used, unused = step_rows(ratio, logits, tables.ids[0], token, said, asking.top_rank)
        if len(used) and len(unused) and any(letter.isalnum() for letter in str(tokenizer.decode([token]))):
            pairs.append((used[0], unused[int(torch.randint(len(unused), (1,), generator=rng))]))
    return pairs


def step_rows(
    ratio: Float[Tensor, "features distinct"],
    logits: Float[Tensor, " vocab"],
    ids: Int[Tensor, " distinct"],
    token: int,
    answer: Sequence[int],
    top_rank: int,
) -> tuple[Float[Tensor, "used features"], Float[Tensor, "unused features"]]:
    """The rows of the token that a step used (one, or none if it is not in the passage), and of all it did not use.

    Args:
        ratio: attention ratios of all heads at this step.
        logits: of this step.
        ids: the distinct tokens of the passage.
        token: what was said.
        answer: all that was said; no negatives are made of it.
        top_rank: nor of the tokens of this rank or a better one.
    """
    likely = in_top(logits[None], ids[None], top_rank)[0]
    unused = ~likely & ~torch.isin(ids, torch.tensor(list(answer)))
    return ratio.T[ids == token], ratio.T[unused]


def reply(
    adapter: Adapter,
    tokenizer: Any,
    ids: Sequence[int],
    limit: int,
    look: Callable[[Tensor, int], None] | None = None,
) -> list[int]:
    """What a model says greedily after a prompt, up to its end or a line's.

    Args:
        adapter, tokenizer: of the model.
        ids: the prompt.
        limit: most tokens to say.
        look: called after each forward with its logits `[vocab]` and the length of the text so far.
    """
    device = next(adapter.decoder.parameters()).device
    columns, cache = torch.tensor([list(ids)], device=device), None
    said: list[int] = []
    while len(said) < limit:
        call: Any = adapter.owner
        out = call(input_ids=columns, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
        cache, logits = out[CACHE], widen(out.logits[:, -1])[0]
        if look is not None:
            look(logits, len(ids) + len(said))
        token = int(logits.argmax())
        if token in adapter.end_tokens or "\n" in str(tokenizer.decode([token])):
            break
        said.append(token)
        columns = torch.tensor([[token]], device=device)
    return said


def normalised(text: str) -> str:
    """A text in lower case without punctuation, articles and double blanks, as short answers are compared."""
    bare = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(word for word in bare.split() if word not in ("a", "an", "the"))


def _right(tokenizer: Any, said: Sequence[int], item: Item) -> bool:
    return normalised(str(tokenizer.decode(list(said)))) in {normalised(answer) for answer in item.answers}


def _attention(states: Sequence[LayerState], length: int) -> Tensor:
    """The newest row of all heads, layer by layer, `[1, layers * heads, length]`; what a window dropped is 0."""
    readings = [state.reading for state in states if state.reading is not None]
    return torch.cat([nn.functional.pad(reading, (length - reading.shape[-1], 0)) for reading in readings], dim=1)
