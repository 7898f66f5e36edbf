"""A naive two-pass decoder that shares no code with the engine: sequential forwards, no cache, eager attention."""

import math

import torch


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
