"""HICD written out: heads dispersed by changed weights or in full maps, one row at a time, forward after forward."""

import functools

import torch
from naive import weights_of, whole
from naive_maps import full_maps
from sightline.decoders import HeadEdit
from sightline.models.versions import CACHE

EDITS = (HeadEdit(1, (0, 3)), HeadEdit(2, (1,)))
SPANS = [[(8, 11)], [(7, 8), (9, 11)]]
"""Parts of prompts of 9 and 12 tokens, left-padded to 12."""
VISIBLE = [[(5, 8)], [(7, 8), (9, 11)]]
"""The same without padding."""


def blurred(columns, prompt, everywhere, layer, plain):
    """The map of a layer, `[1, heads, q, q]`, in which some heads do not choose among some columns."""
    made = plain.clone()
    for edit in EDITS:
        for head in edit.heads if edit.layer == layer else ():
            for place in range(plain.shape[-1] if everywhere else prompt):
                inside = [column for column in columns if column <= place]
                if inside:
                    made[0, head, place, inside] = sum(plain[0, head, place, each] for each in inside) / len(inside)
    return made


@torch.no_grad()
def naive_branch(model, row, new, decoder, columns):
    """Logits of the dispersed copy after the prompt `row` and the tokens `new`, from scratch."""
    prompt = row["input_ids"].shape[1]
    if columns is not None:
        edit = functools.partial(blurred, columns, prompt, decoder.disperse_decode)
        with full_maps(model.get_decoder(), edit):
            return whole(model, row, new)
    edits = [HeadEdit(edit.layer, edit.heads, decoder.head_mask_mode) for edit in EDITS]
    if decoder.disperse_decode:
        return whole(model, row, new, lambda: weights_of(model, edits))
    with weights_of(model, edits):
        output = model(**row, use_cache=True)
    logits = output.logits[0, -1]
    for token in new:
        logits = model(input_ids=torch.tensor([[token]]), **{CACHE: output[CACHE]}).logits[0, -1]
    return logits


def columns_of(decoder, row, number):
    if decoder.disperse_scope == "image":
        return (row["input_ids"][0] == 5).nonzero().flatten().tolist()
    if decoder.disperse_scope == "context":
        return [column for start, end in VISIBLE[number] for column in range(start, end)]
    return None


@torch.no_grad()
def naive_scores(model, row, new, decoder, number):
    base = whole(model, row, new).log_softmax(-1)
    other = naive_branch(model, row, new, decoder, columns_of(decoder, row, number)).log_softmax(-1)
    return (1 + decoder.alpha) * base - decoder.alpha * other, base
