"""A detector for random models; DAGCD written out: eager full maps, a row and a forward at a time, Python numbers."""

import contextlib
import math

import torch
from sightline.decoders.calibration.detector import Detector

CHOSEN = ((0, 1, 3.0), (2, 3, 2.5), (2, 0, -1.5))
PROBED = (0, 2)


def made(chosen=CHOSEN, intercept=-0.2, **changes):
    held = {"model": "random", "layers": 3, "heads": 4, "chosen": chosen, "intercept": intercept, "c": 1.0}
    return Detector(**held | {"accuracy": 0.9, "positives": 5, "negatives": 5} | changes)


@contextlib.contextmanager
def eager(model):
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def ratios(rows, ids, first, last):
    """For each head the share of every distinct token of columns first .. last - 1: `{token: share}`, by definition."""
    found = []
    for row in rows:
        places = {}
        for column in range(first, last):
            places.setdefault(ids[column], []).append(row[column])
        mean = {token: sum(values) / len(values) for token, values in places.items()}
        total = max(sum(mean.values()), 1e-8)
        found.append({token: value / total for token, value in mean.items()})
    return found


def rank(values, token):
    return 1 + sum(value > values[token] for value in values)


def scores(decoder, detector, logits, rows, ids, span, ends):
    """ln(p' / sum p') of one row, H, and the flagged tokens; `rows` is the attention of each chosen head."""
    top = max(logits)
    raw = [math.exp(value - top) for value in logits]
    chances = [value / sum(raw) for value in raw]
    entropy = -sum(p * math.log(p) for p in chances if p > 0) / math.log(len(chances))
    shares = ratios(rows, ids, *span)
    weights = [max(value, 0.0) for value in detector.coef] if decoder.weight_norm == "relu_sum" else detector.coef
    weights = [weight / sum(weights) for weight in weights]
    added = {}
    for token in shares[0]:
        margin = sum(c * share[token] for c, share in zip(detector.coef, shares, strict=True)) + detector.intercept
        open_to = float(margin > 0) if decoder.gating == "hard" else 1 / (1 + math.exp(-margin))
        if open_to and rank(logits, token) <= decoder.top_rank:
            added[token] = open_to * sum(v * share[token] for v, share in zip(weights, shares, strict=True))
    total = max(sum(added.values()), 1e-8)
    ended = chances.index(max(chances)) in ends
    raised = list(chances)
    if not ended:
        for token, value in added.items():
            raised[token] += decoder.alpha * entropy * value / total
    raised = [max(value, 0.0) for value in raised]
    logs = [math.log(value / sum(raised)) if value > 0 else -math.inf for value in raised]
    return torch.tensor(logs, dtype=torch.float64), entropy, set(added), ended


@torch.no_grad()
def decode(model, batch, spans, decoder, detector, ends, steps, forced=None, eos=2):
    """For each row its new tokens, and what `scores` gives at each step."""
    answers = []
    with eager(model):
        for row in range(len(batch["input_ids"])):
            seen = batch["attention_mask"][row].bool()
            prompt, padding = batch["input_ids"][row][seen].tolist(), int((~seen).sum())
            new, trail = [], []
            while len(new) < (steps if forced is None else len(forced)) and (forced is not None or eos not in new):
                out = model(torch.tensor([prompt + new]), output_attentions=True, use_cache=False)
                rows = [out.attentions[layer][0, head, -1].tolist() for layer, head, _ in detector.chosen]
                span = tuple(column - padding for column in spans[row])
                trail.append(scores(decoder, detector, out.logits[0, -1].tolist(), rows, prompt, span, ends))
                new.append(int(trail[-1][0].argmax()) if forced is None else forced[len(new)])
            answers.append((new, trail))
    return answers
