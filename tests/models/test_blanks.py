"""Tokens of white space, against decoding the whole vocabulary of tokenizers of several kinds."""

import pytest
from letters import tokenizer
from sightline.models.blanks import blank_tokens
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def byte_level():
    """Byte-level BPE: letters of GPT-2's alphabet, and some blanks that were merged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "Ġ"), ("Ċ", "Ċ"), ("Â", "ł"), ("Ġ", "a")]
    pieces = [*alphabet, *("".join(pair) for pair in merges)]
    raw = Tokenizer(models.BPE({piece: place for place, piece in enumerate(pieces)}, merges))
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False)


def sentence_pieces():
    """SentencePiece's mark, and bytes to fall back on."""
    held = [
        ("<unk>", 0.0),
        *((f"<0x{byte:02X}>", -9.0) for byte in range(256)),
        ("▁", -1.0),
        ("▁▁", -1.0),
        ("▁a", -1.0),
    ]
    raw = Tokenizer(models.Unigram(held, unk_id=0, byte_fallback=True))
    raw.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")])
    return PreTrainedTokenizerFast(tokenizer_object=raw, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("make", [byte_level, sentence_pieces, tokenizer])
def test_blank_tokens_are_those_of_the_whole_vocabulary(make):
    each = make()
    every = [token for token in range(len(each)) if not each.decode([token]).strip()]
    assert len(every) >= 2
    assert list(blank_tokens(each)) == every
    assert blank_tokens(each) is blank_tokens(each)
