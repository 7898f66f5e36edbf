"""The tokenizer of tiny-llama: words of the world of facts as single tokens, anything else byte by byte."""

from __future__ import annotations

import re

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ..facts import language

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
LONGEST = 256
"""Tokens that the model reads at most."""
BLANK = "▁"
_BYTE_SCORE, _WORD_SCORE = -20.0, -10.0


def pieces() -> list[str]:
    """Words and marks in the order in which the world says them first; a blank before a word belongs to it."""
    found = [piece for text in language.words() for piece in re.findall(r" ?\w+|[^\w ]", text)]
    return list(dict.fromkeys([BLANK, *(piece.replace(" ", BLANK) for piece in found)]))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A unigram tokenizer with byte fallback: any text can be encoded, and the words of the world are single tokens."""
    held = [(token, 0.0) for token in (PAD, BOS, EOS)]
    held += [(f"<0x{byte:02X}>", _BYTE_SCORE) for byte in range(256)]
    held += [(piece, _WORD_SCORE) for piece in pieces()]
    unigram = Tokenizer(models.Unigram(held, unk_id=0, byte_fallback=True))
    unigram.normalizer = normalizers.Replace(" ", BLANK)
    unigram.pre_tokenizer = pre_tokenizers.Split(Regex(f"{BLANK}?[^{BLANK}]+|{BLANK}"), "isolated")
    unigram.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace(BLANK, " ")])
    start = unigram.token_to_id(BOS)
    unigram.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, start)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=unigram,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=LONGEST,
        clean_up_tokenization_spaces=False,
    )
