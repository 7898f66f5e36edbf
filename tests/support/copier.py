"""A model that copies, made by hand, with the tokenizer of its few words and a fact to hide."""

import itertools

import torch
from sightline.decoders.calibration import needles
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = ["<pad>", "<s>", "</s>", ".", "answer:", "gold", "silver", "copper", "iron", "the", "cat", "sat", "dog", "ran",
         "hidden:", "what", "question:", "based", "on", "content", "of", "book,", "?", "<unk>"]  # fmt: skip
CHAIN = ["answer:", "gold", "silver", "copper", "iron", "</s>"]
NEEDLE = needles.Needle("hidden:", "gold silver copper iron", "what ?")
HEAD = (1, 2)


class Words:
    """A tokenizer of whole words; the full stop is a token of its own."""

    bos_token_id = 1
    eos_token_id = 2

    def get_vocab(self):
        return {word: place for place, word in enumerate(WORDS)}

    def encode(self, text, add_special_tokens=True):
        split = text.lower().replace(".", " .").split()
        return [1] * add_special_tokens + [WORDS.index(word) if word in WORDS else 23 for word in split]

    def decode(self, ids, **_):
        return " ".join(WORDS[i] if i < len(WORDS) else "<unk>" for i in ids)


def story(sentences):
    return " ".join(["the cat sat.", "the dog ran."][i % 2] for i in range(sentences))


def copier():
    """A Llama in which one head looks from each word of a chain at the next one, and copies it.

    Words are one-hot. The head's query is the code of the next word, its key that of the word itself, both in the slow
    half of the rotary dimensions, where position hardly turns them; its value is the word. Other heads look anywhere.
    """
    size, half = len(WORDS), 32
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=8, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, head_dim=4 * half, max_position_embeddings=256, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 1e12},
    )  # fmt: skip
    model = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.copy_(torch.eye(size))
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.zero_()
            layer.self_attn.o_proj.weight.zero_()
        attention = model.model.layers[HEAD[0]].self_attn
        query, key, value, out = (
            getattr(attention, f"{name}_proj").weight for name in ("q", "k", "v", "o")
        )  # fmt: skip
        rows = slice(HEAD[1] * 4 * half, (HEAD[1] + 1) * 4 * half)
        slow = HEAD[1] * 4 * half + half + torch.arange(size)  # dimensions half .. 2 * half turn slowest
        for weight in (query, key, value):
            weight[rows] = 0
        for word, following in itertools.pairwise(CHAIN):
            query[slow[WORDS.index(following)], WORDS.index(word)] = 4.0
        key[slow, torch.arange(size)] = 4.0
        value[slow, torch.arange(size)] = 1.0
        out[torch.arange(size), slow] = 10.0
    return model
