"""Tokens as the text that each of them adds, and prompts as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HALF = "\ufffd"
"""What a tokenizer shows for a character whose other bytes are still to come."""


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds to those before it; together they are the text of all.

    A token that is only part of a character adds nothing, and the one that completes it adds the character. Special
    tokens are shown by their names.

    Args:
        tokenizer: the model's.
        ids: of one text.
    """
    special = set(tokenizer.all_special_ids)
    plain: list[int] = []
    found, before = [], ""
    for token in ids:
        if token in special:
            found.append(str(tokenizer.convert_ids_to_tokens(token)))
            continue
        plain.append(token)
        text = whole(tokenizer, plain)
        found.append(_added(before, text))
        before = text if not text.endswith(_HALF) else before
    return found


def instead(tokenizer: Any, before: Sequence[int], token: int) -> str:
    """The text that `token` would have added after the tokens `before`."""
    return pieces(tokenizer, [*before, token])[-1] or _HALF


def whole(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens, special ones left out."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _added(before: str, text: str) -> str:
    if text.endswith(_HALF):
        return ""
    return text[len(before) :] if text.startswith(before) else text
