"""The gate moment: a scripted gate per row and step against a naive decoder without any cache."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import sightline
import torch
from boosted import pushed
from naive import single, whole
from sightline.decoders import Branch, Plan, Strategy
from sightline.decoders.plan import KeyBias

STEPS = 6
LAYERS, ALPHA = (1, 2), 0.7
SCRIPT = ([1, 0, 1, 1, 0, 1], [0, 1, 1, 0, 1, 0])
IMAGE = 5


def push(scores, image):
    """As CG-VLM's actuator."""
    return ALPHA * scores.abs().mean(dim=1, keepdim=True) * image[:, None]


@dataclass(frozen=True)
class Scripted(Strategy):
    """Opens the gate where the script says so, and adds what the other streams say."""

    key: ClassVar[str] = "scripted"
    title: ClassVar[str] = "Scripted"

    script: Any = field(default=())
    others: Any = field(default=())

    def plan(self, request):
        twin = Branch("pushed", fork=True, twin=True, bias=KeyBias(LAYERS, push))
        return Plan(branches=(*self.others, Branch("plain", fork=True), twin), combines=True)

    def gate(self, base, branches, step):
        opened = torch.tensor([bool(row[step.index]) for row in self.script])
        return opened.repeat_interleave(len(base) // len(opened))

    def combine(self, base, branches, step):
        return base + sum(branches[:-1])


def other_prompt():
    ids = torch.tensor([[0, 8, 21, 9], [6, 7, 13, 12]])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values": None}


@torch.no_grad()
def naive_rows(model, batch, script, others=()):
    """Tokens and scores of each row; every forward runs over the whole text."""
    answers = []
    for row in range(len(batch["input_ids"])):
        one, new, trail, opened = single(batch, row), [], [], []
        columns = (one["input_ids"][0] == IMAGE).nonzero().flatten().tolist()
        width = one["input_ids"].shape[1]
        while len(new) < STEPS and 2 not in new:
            if script[row][len(new)]:
                opened.append(width - 1 + len(new))
            rows = list(opened)
            scores = whole(model, one, new, lambda rows=rows, at=columns: pushed(model, rows, at, LAYERS, ALPHA))
            scores = scores + whole(model, one, new)
            for prompt in others:
                words = {name: value for name, value in prompt.items() if value is not None}
                scores = scores + whole(model, single(words, row), new)
            trail.append(scores)
            new.append(int(scores.argmax()))
        answers.append((new, trail))
    return answers


def run(model, batch, strategy, branching, **settings):
    with sightline.attach(model, strategy, batch, branching=branching) as processor:
        output = model.generate(
            **batch, logits_processor=[processor], max_new_tokens=STEPS, do_sample=False, output_scores=True,
            return_dict_in_generate=True, **settings,
        )  # fmt: skip
    return output, processor


@pytest.mark.parametrize("others", [(), (other_prompt(),)], ids=["alone", "other length"])
@pytest.mark.parametrize("branching", ["rows", "sequential"])
@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static"}], ids=["dynamic", "static"])
def test_a_scripted_gate_equals_naive(llava, inputs, others, branching, cache):
    batch = inputs((5, 8))
    strategy = Scripted(SCRIPT, tuple(Branch("other", prompt) for prompt in others))
    output, _ = run(llava, batch, strategy, branching, **cache)
    for row, (tokens, trail) in enumerate(naive_rows(llava, batch, SCRIPT, others)):
        assert output.sequences[row, batch["input_ids"].shape[1] :].tolist()[: len(tokens)] == tokens
        for step, expected in enumerate(trail):
            torch.testing.assert_close(output.scores[step][row].double(), expected, atol=1e-4, rtol=1e-4)


def test_the_script_matters(llava, inputs):
    """Else the test above could not fail: what was pushed earlier moves later scores."""
    batch = inputs((5, 8))
    found = [naive_rows(llava, batch, script)[0][1] for script in (SCRIPT, ([0] * STEPS, SCRIPT[1]))]
    assert (found[0][0] - found[1][0]).abs().max() > 1e-2
    later, same = ([1, 0, 0, 0, 0, 0], [0] * STEPS), ([0] * STEPS,) * 2
    one, two = (run(llava, batch, Scripted(script), "rows", eos_token_id=-1)[0] for script in (later, same))
    assert one.sequences[0, :-5].equal(two.sequences[0, :-5])  # the same first token, and other scores behind it
    assert (one.scores[1][0] - two.scores[1][0]).abs().max() > 1e-3


@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_are_the_same_in_rows_and_in_sequence(llava, inputs, mode):
    batch, others = inputs((5, 8)), (Branch("other", other_prompt()),)
    found = [run(llava, batch, Scripted(SCRIPT, others), branching, **mode)[0] for branching in ("rows", "sequential")]
    assert found[0].sequences.equal(found[1].sequences)
    torch.testing.assert_close(found[0].sequences_scores, found[1].sequences_scores)


def test_gates_are_kept(llava, inputs):
    batch = inputs((5, 8))
    _, processor = run(llava, batch, Scripted(SCRIPT), "rows", eos_token_id=-1)
    assert torch.stack(processor.gates, dim=1).tolist() == [[bool(each) for each in row] for row in SCRIPT]
    assert processor.focus == pytest.approx(7 / 12)
    with sightline.attach(llava, "greedy", batch) as plain:
        assert plain.focus is None
