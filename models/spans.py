"""Which part of a prompt is context: given as text, as columns, or as a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from .errors import MissingContext, MissingProcessor

ROLES = ("context", "document", "documents", "tool", "ipython")
"""Roles whose messages are what the answer shall be true to."""


def context_mask(inputs: Mapping[str, Any], spans: Any, processor: Any, who: str) -> Bool[Tensor, "batch length"]:
    """Columns of `input_ids` that hold the context, row by row.

    Args:
        inputs: with `input_ids` `[batch, length]`, padded on the left.
        spans: a mask `[batch, length]`; or for each row a passage, a list of passages (found by their text in the
            decoded prompt), a pair `(start, end)` of columns, a list of pairs, or None for a row without context.
        processor: the model's, or its tokenizer; needed where passages are given as text.
        who: the strategy that asks.

    Raises:
        MissingContext: nothing is marked, the shape is wrong, or a passage is not in its prompt.
        MissingProcessor: text is given and no processor.
    """
    ids = inputs["input_ids"]
    if spans is None:
        raise MissingContext(
            f"{who} needs to know which part of the prompt is context.",
            "Pass spans=[passage, ...], one for each prompt, to attach() or generate().",
        )
    if isinstance(spans, Tensor):
        if spans.shape != ids.shape:
            raise MissingContext(
                f"spans is a mask of shape {list(spans.shape)}, and input_ids is {list(ids.shape)}.",
                "Give one value for each column.",
            )
        return spans.to(ids.device).bool()
    if isinstance(spans, str) or len(spans) != len(ids):
        raise MissingContext(f"spans must have one entry for each of {len(ids)} prompts.", "Give a list of passages.")
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, given in enumerate(spans):
        for start, end in _columns(ids[row], _seen(inputs, row), given, processor, who):
            mask[row, start:end] = True
    return mask


def passages(
    messages: Sequence[Mapping[str, Any]], documents: Sequence[str | Mapping[str, Any]] | None = None
) -> list[str] | None:
    """The passages of a conversation that a chat template puts into its prompt: a row's entry in `spans`.

    Args:
        messages: as `apply_chat_template` takes them; the contents of those whose role is one of `ROLES` are passages.
        documents: as `apply_chat_template` takes them: texts, or mappings with a `text` (or `content`).

    Returns:
        The passages in their order, or None where the conversation has none.

    Raises:
        MissingContext: a document has no text.
    """
    found = [text for message in messages if message.get("role") in ROLES for text in _texts(message.get("content"))]
    for place, document in enumerate(documents or ()):
        text = document if isinstance(document, str) else document.get("text", document.get("content"))
        if not isinstance(text, str):
            raise MissingContext(f"Document {place} has no text.", 'Give {"title": ..., "text": ...}, or the text.')
        found.append(text)
    return [text for text in found if text.strip()] or None


def _texts(content: Any) -> list[str]:
    """The texts of a message, given as one or in parts."""
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part, Mapping) and part.get("type") == "text"]


def _seen(inputs: Mapping[str, Any], row: int) -> int:
    """The first column of a row that is not padding."""
    mask = inputs.get("attention_mask")
    return 0 if mask is None else int(mask.shape[1] - mask[row].sum())


def _columns(ids: Tensor, first: int, given: Any, processor: Any, who: str) -> list[tuple[int, int]]:
    if given is None:
        return []
    if isinstance(given, str):
        return [_found(ids, first, given, processor, who)]
    if _is_pair(given):
        given = [given]
    found = []
    for each in given:
        if isinstance(each, str):
            found.append(_found(ids, first, each, processor, who))
        elif _is_pair(each) and 0 <= each[0] < each[1] <= len(ids):
            found.append((int(each[0]), int(each[1])))
        else:
            raise MissingContext(
                f"{who}: {each!r} is no span of a prompt of {len(ids)} columns.",
                "Give (start, end) with 0 <= start < end, columns of input_ids, or the passage as text.",
            )
    return found


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 2 and all(isinstance(each, int) for each in value)


def _found(ids: Tensor, first: int, passage: str, processor: Any, who: str) -> tuple[int, int]:
    """The columns whose text covers the passage, at its first place in the decoded prompt."""
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer is None:
        raise MissingProcessor(
            f"{who} is to find a passage in the prompt and has no tokenizer.", "Pass processor=processor."
        )
    row = ids.tolist()

    def text(end: int) -> str:
        return tokenizer.decode(row[first:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)

    start = text(len(row)).find(passage.strip())
    if start < 0 or not passage.strip():
        raise MissingContext(
            f"{who}: the passage {passage[:60]!r} is not in its prompt.",
            "Give the passage letter for letter as the prompt has it, or its columns.",
        )
    end = start + len(passage.strip())
    return _shortest(text, first, len(row), start + 1) - 1, _shortest(text, first, len(row), end)


def _shortest(text: Any, low: int, high: int, length: int) -> int:
    """The fewest columns whose text has that many characters; by halving, for texts only grow."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(text(middle)) >= length else (middle + 1, high)
    return low
