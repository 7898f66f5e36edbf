"""CODE written out: one question at a time, two passes over whole sequences at every step, no cache, no engine."""

import math

import torch
from letters import SPECIAL, asked, letters, noise_image, spoken

IMAGE = SPECIAL.index("<image>")
ASKED, STEPS, SAID = "Tell all.", 5, 6
QUESTIONS = ["Is it?", "Is there a star in it?", "No?", "Why so?"]


def logits(model, ids, pixels=None):
    return model(input_ids=torch.tensor([ids]), pixel_values=pixels, use_cache=False).logits[0, -1].tolist()


def best(scores):
    return max(range(len(scores)), key=scores.__getitem__)


def one(processor, row, text):
    """The ids and pixels of one question about one image, without padding."""
    made = asked(processor, [[noise_image(row)]], [text])
    return made["input_ids"][0].tolist(), made["pixel_values"]


def naive_text(model, processor, row):
    ids, pixels = one(processor, row, ASKED)
    new = []
    while len(new) < SAID and 2 not in new:
        new.append(best(logits(model, ids + new, pixels)))
    return spoken(new)


def naive_scores(image, description, params):
    """CODE written out for one row with Python numbers, from the paper's words."""
    params = {"k": 0.3, "alpha_mode": "adaptive", "beta_mode": "adaptive", "alpha": 1.0, "beta": 0.1} | params
    p, q = ([math.exp(value - max(row)) for value in row] for row in (image, description))
    p, q = ([value / sum(row) for value in row] for row in (p, q))
    far = sum((a + b) * math.log2(abs(a - b) ** params["k"] + 1) for a, b in zip(p, q, strict=True)) / 2
    alpha = params["alpha"] if params["alpha_mode"] == "fixed" else 1 - far
    beta = params["beta"] if params["beta_mode"] == "fixed" else far
    rows = zip(image, description, p, strict=True)
    return [(1 + alpha) * a - alpha * b if share >= beta * max(p) else -math.inf for a, b, share in rows]


class Naive:
    """CODE for one question about one image: two passes over whole sequences at every step, no cache, no engine."""

    def __init__(self, model, processor, row, params, text=None):
        self.model, self.params = model, params
        self.ids, self.pixels = one(processor, row, QUESTIONS[row])
        self.text = naive_text(model, processor, row) if text is None else text
        start, end = self.ids.index(IMAGE), len(self.ids) - self.ids[::-1].index(IMAGE)
        front = [] if params.get("desc_bos") == "drop" else [1]
        self.other = [*self.ids[:start], *front, *letters(self.text), *self.ids[end:]]

    def step(self, new):
        with torch.no_grad():
            image, other = logits(self.model, self.ids + new, self.pixels), logits(self.model, self.other + new)
        return naive_scores(image, other, self.params)

    def greedy(self, steps=STEPS):
        new, trail = [], []
        while len(new) < steps and 2 not in new:
            trail.append(self.step(new))
            new.append(best(trail[-1]))
        return new, trail

    def total(self, tokens):
        """The sum of the log-probabilities of given tokens."""
        trail = [torch.tensor(self.step(tokens[:place]), dtype=torch.float64) for place in range(len(tokens))]
        return sum(float(row.log_softmax(-1)[token]) for row, token in zip(trail, tokens, strict=True))
