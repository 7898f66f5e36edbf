"""`score` against generation that is forced to the same tokens, under every kind of decoder."""

import math

import pytest
import sightline
import torch
from anything import Anything
from sightline.decoders import Branch, HeadEdit, scoring
from sightline.decoders.plan import KeyBias
from sightline.models import errors
from transformers import LogitsProcessor

CANDIDATES = ([9, 31, 7, 2, 40], [11], [2, 2, 17])
EDITS = (HeadEdit(1, (0, 3)), HeadEdit(2, (1,)))


class Forced(LogitsProcessor):
    """Writes down the log-probability of the token that is to come, and lets no other through."""

    def __init__(self, rows):
        self.rows, self.step, self.total = rows, 0, torch.zeros(len(rows), dtype=torch.float64)

    def __call__(self, input_ids, scores):
        for number, row in enumerate(self.rows):
            if self.step < len(row):
                self.total[number] += scores[number].double().log_softmax(-1)[row[self.step]]
        token = torch.tensor([[row[min(self.step, len(row) - 1)]] for row in self.rows])
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def forced_total(model, decoder, batch, rows, **kwargs):
    forced = Forced(rows)
    steps = max(map(len, rows))
    with sightline.attach(model, decoder, batch, **kwargs) as processor:
        model.generate(
            **batch, logits_processor=[processor, forced], max_new_tokens=steps, do_sample=False, eos_token_id=None
        )
    return forced.total


def push(scores, image):
    bias = torch.zeros_like(scores[:, :1])
    bias[:, :, 4:6] = 2.0
    return bias


def other_prompt():
    ids = torch.tensor([[0, 8, 21, 9], [6, 7, 13, 12]])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values": None}


DECODERS = {
    "greedy": sightline.Greedy(),
    "vcd": sightline.VCD(alpha=1.0, beta=0.0, noise_step=700),
    "vcd with a cut": sightline.VCD(alpha=1.0, beta=0.1, noise_step=700),
    "first token alone": sightline.Shift(delta=3.0),
    "fork": Anything((Branch("masked", edits=EDITS, fork=True),)),
    "edits in the prompt": Anything((Branch("masked", edits=EDITS),)),
    "other length": Anything((Branch("text", other_prompt()),)),
    "one token at a time": Anything((Branch("pushed", bias=KeyBias((1,), push)),)),
}


class FakeTokenizer:
    """Two words, one token each."""

    def encode(self, word, add_special_tokens=False):
        return {"Yes": [9], " Yes": [11]}.get(word, [1, 2])


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_score_is_the_sum_of_the_steps(llava, inputs, name, branching):
    batch, decoder = inputs((5, 8)), DECODERS[name]
    kwargs = {"branching": branching, "processor": FakeTokenizer()}
    got = sightline.score(llava, decoder, batch, CANDIDATES, **kwargs)
    assert got.shape == (2, 3)
    for place, ids in enumerate(CANDIDATES):
        expected = forced_total(llava, decoder, batch, [ids] * 2, **kwargs)
        torch.testing.assert_close(got[:, place].double(), expected, atol=1e-3, rtol=1e-4)


def test_every_prompt_may_have_a_continuation_of_its_own(llava, inputs):
    batch, decoder = inputs((5, 8)), DECODERS["vcd"]
    rows = [[9, 31, 7], [11]]
    got = sightline.score(llava, decoder, batch, [rows])[:, 0]
    torch.testing.assert_close(got.double(), forced_total(llava, decoder, batch, rows), atol=1e-3, rtol=1e-4)
    shared = sightline.score(llava, decoder, batch, rows)
    torch.testing.assert_close(got, shared.diagonal())


def test_all_next_tokens_sum_to_one(llava, inputs):
    every = torch.arange(96)[:, None]
    got = sightline.score(llava, DECODERS["fork"], inputs((7,)), every)
    torch.testing.assert_close(got.exp().sum(dim=1), torch.ones(1, dtype=got.dtype))


def test_tokens_that_are_cut_cannot_be(llava, inputs):
    batch = inputs((7,))
    output = sightline.generate(
        llava, DECODERS["vcd with a cut"], batch, max_new_tokens=1, output_scores=True, return_dict_in_generate=True
    ).scores[0][0]  # fmt: skip
    gone, kept = int(output.argmin()), int(output.argmax())
    got = sightline.score(llava, DECODERS["vcd with a cut"], batch, [[gone], [kept]])
    assert got[0, 0] == -math.inf
    assert got[0, 1] <= 0


def test_text_models_and_raw_scores(llama, inputs):
    batch = {name: inputs((5, 8))[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ids = torch.cat([batch["input_ids"][1:], torch.tensor([[9, 31]])], 1)
        logits = llama(ids).logits[0, -3:-1]
    raw = logits[0, 9] + logits[1, 31]
    got = sightline.score(llama, "greedy", batch, [[9, 31]], normalise=False)
    torch.testing.assert_close(got[1, 0], raw)
    logp = logits.log_softmax(-1)
    torch.testing.assert_close(sightline.score(llama, "greedy", batch, [[9, 31]])[1, 0], logp[0, 9] + logp[1, 31])


def test_one_forward_for_each_candidate(llava, inputs):
    calls = []
    handle = llava.model.language_model.register_forward_hook(lambda *args: calls.append(1))
    try:
        sightline.score(llava, DECODERS["edits in the prompt"], inputs((7,)), CANDIDATES)
    finally:
        handle.remove()
    assert len(calls) == 3


def test_what_cannot_be_scored_is_refused(llava, inputs):
    batch = inputs((5, 8))
    for bad in ([], [[5], []], [[5], [6], [7]]):
        with pytest.raises(errors.InputsMismatch, match=r"each of 2 prompts, got \["):
            sightline.score(llava, "greedy", batch, [bad])
    with pytest.raises(errors.InputsMismatch, match="no candidate"):
        sightline.score(llava, "greedy", batch, [])
    with pytest.raises(errors.SightlineError, match="model, decoder, inputs"):
        sightline.score(llava, batch, "vcd", [[5]])
    with pytest.raises(errors.UnknownDecoder):
        sightline.score(llava, "vdc", batch, [[5]])
    assert scoring.score is sightline.score
