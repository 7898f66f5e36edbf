"""Attention written out with full maps, in which some query rows are pushed towards image keys.

A row that was pushed once stays so in every later forward over the whole text, as a cache would have kept it.
"""

import contextlib

import torch
from transformers.modeling_utils import AttentionInterface


@contextlib.contextmanager
def pushed(model, rows, columns, layers, alpha=0.5):
    """Adds alpha times the heads' mean |score| to the image `columns` of the query `rows`, in `layers`."""

    def forward(module, query, key, value, attention_mask, scaling=None, **kwargs):
        repeats = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
        scores = query @ key.mT * scaling
        length = scores.shape[-1]
        for row in rows if module.layer_idx in layers else ():
            for column in columns:
                sizes = [abs(float(scores[0, head, row, column])) for head in range(scores.shape[1])]
                scores[0, :, row, column] += alpha * sum(sizes) / len(sizes)
        scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    decoder = model.get_decoder()
    before = decoder.config._attn_implementation
    AttentionInterface.register("pushed", forward)
    decoder.set_attn_implementation("pushed")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)
        AttentionInterface._global_mapping.pop("pushed")
