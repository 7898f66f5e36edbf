"""Naive decoders that share no code with the engine: one row at a time, forward after forward, edits by weights."""

import contextlib
import math

import torch
from sightline.models.versions import CACHE


def vcd_scores(clean, noised, alpha, beta):
    """VCD written out for one row with Python numbers, from the paper's words."""
    top = max(clean)
    kept = [value >= top + math.log(beta) if beta > 0 else True for value in clean]
    return [(1 + alpha) * a - alpha * b if keep else -math.inf for a, b, keep in zip(clean, noised, kept, strict=True)]


@torch.no_grad()
def decode(model, inputs, noised_pixels, alpha, beta, steps, choose=None, eos=2):
    """Greedy VCD, one row at a time, each step two forwards over the whole sequence.

    Returns the new tokens of each row and the scores of each step.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    tokens, scores = [], []
    for row in range(len(inputs["input_ids"])):
        length = int(inputs["attention_mask"][row].sum())
        ids = inputs["input_ids"][row : row + 1, -length:]
        new, trail = [], []
        for _ in range(steps):
            clean, noised = (
                model(input_ids=ids, pixel_values=pixels[row : row + 1], use_cache=False).logits[0, -1].tolist()
                for pixels in (inputs["pixel_values"], noised_pixels)
            )
            result = torch.tensor(vcd_scores(clean, noised, alpha, beta), dtype=torch.float64)
            if choose is not None:
                result = choose(ids, result[None])[0]
            trail.append(result)
            new.append(int(result.argmax()))
            ids = torch.cat([ids, torch.tensor([[new[-1]]])], dim=1)
            if new[-1] == eos:
                break
        tokens.append(new)
        scores.append(trail)
    model.set_attn_implementation(before)
    return tokens, scores


@contextlib.contextmanager
def weights_of(model, edits, vision=False):
    """The heads edited by changing weights: zero queries attend uniformly, zero output columns lose the head."""
    kept = []
    layers = model.model.vision_tower.encoder.layers if vision else model.get_decoder().layers
    for edit in edits:
        attention = layers[edit.layer].self_attn
        size = attention.head_dim
        output = attention.out_proj if vision else attention.o_proj
        weight = attention.q_proj.weight if edit.mode == "uniform" else output.weight
        kept.append((weight, weight.detach().clone()))
        bias = getattr(attention.q_proj, "bias", None)
        if bias is not None:
            kept.append((bias, bias.detach().clone()))
        for head in edit.heads:
            span = slice(head * size, (head + 1) * size)
            if edit.mode == "zero":
                weight.data[:, span] = 0
            else:
                weight.data[span] = 0
                if bias is not None:
                    bias.data[span] = 0
    try:
        yield
    finally:
        for weight, before in reversed(kept):
            weight.data.copy_(before)


def whole(model, row, new, context=contextlib.nullcontext):
    """Logits after the prompt `row` and the tokens `new`, by one forward over everything."""
    ids = torch.cat([row["input_ids"], torch.tensor([new], dtype=torch.long)], dim=1)
    with context():
        return model(**(row | {"input_ids": ids}), use_cache=False).logits[0, -1]


def forked(model, row, new, edits):
    """The same, edits from the last prompt token on: an unedited cache, then one token at a time under the edits."""
    cache = model(**(row | {"input_ids": row["input_ids"][:, :-1]}), use_cache=True).past_key_values
    with weights_of(model, edits):
        for token in [int(row["input_ids"][0, -1]), *new]:
            logits = model(input_ids=torch.tensor([[token]]), **{CACHE: cache}).logits[0, -1]
    return logits


def single(batch, row):
    """One row of a batch without its padding, wherever that stands."""
    rest = {name: value[[row]] for name, value in batch.items() if name in ("pixel_values", "image_sizes")}
    for ids, mask in (("input_ids", "attention_mask"), ("qformer_input_ids", "qformer_attention_mask")):
        if ids in batch:
            rest[ids] = batch[ids][row][batch[mask][row].bool()][None]
    return rest
