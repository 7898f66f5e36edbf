"""Tokens that say nothing: those whose text is white space alone."""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

_BLANKS = [letter for letter in map(chr, range(0x3001)) if letter.isspace()]
_KNOWN: WeakKeyDictionary[Any, tuple[int, ...]] = WeakKeyDictionary()


def blank_tokens(processor: Any) -> tuple[int, ...]:
    """Ids of the tokens whose text is white space alone, sorted; worked out once for each tokenizer.

    Only pieces that are spelt with what tokenizers write for white space are decoded, not the whole vocabulary.

    Args:
        processor: the model's, or its tokenizer.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if tokenizer not in _KNOWN:
        spelt = (token for piece, token in tokenizer.get_vocab().items() if _SPELLING.fullmatch(piece))
        _KNOWN[tokenizer] = tuple(sorted(token for token in spelt if not str(tokenizer.decode([token])).strip()))
    return _KNOWN[tokenizer]


def _byte_letters() -> dict[int, str]:
    """The letter that byte-level BPE (GPT-2 and heirs) writes for each byte: itself, or the next one from 256 on."""
    own = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _spelling() -> re.Pattern[str]:
    """White space as it is, as SentencePiece's mark, as letters of byte-level BPE, and as bytes to fall back on."""
    letters = _byte_letters()
    spelt = {letters[byte] for blank in _BLANKS for byte in blank.encode()}
    fallback = "|".join(f"<0x{ord(blank):02X}>" for blank in _BLANKS if blank.isascii())
    return re.compile(f"(?:[\\s\u2581{re.escape(''.join(sorted(spelt)))}]|{fallback})+")


_SPELLING = _spelling()
