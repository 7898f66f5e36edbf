"""Approximate decoding: no contrast in rows that are sure, whichever way branches run."""

import pytest
import sightline
import torch
from anything import Anything
from letters import asked, llava_processor, noise_image
from naive import single, whole
from promised import ACTIVE, TEXTS, answers, lists, spans
from sightline.decoders import approximated
from sightline.decoders.plan import KeyBias
from sightline.decoders.vcd import noise_images
from sightline.models.errors import InvalidParameter

STEPS = 8
SURE = 0.04
"""Between the least and the greatest probability that the random model gives its likeliest token."""
NAMES = ("vcd", "code", "causalmm", "avc", "decore", "dola", "cad")


@pytest.fixture(scope="module")
def processor():
    return llava_processor()


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return lists(tmp_path_factory.mktemp("lists"))


@pytest.fixture(scope="module")
def inputs(processor):
    return asked(processor, [[noise_image(seed)] for seed in range(3)], TEXTS[:3])


def run(model, decoder, inputs, processor, threshold, branching="rows", **kwargs):
    marked = {"processor": processor, "spans": spans(processor, inputs), "branching": branching}
    torch.manual_seed(3)
    with sightline.attach(model, decoder, inputs, approximate=threshold, **marked) as attached:
        settings = {"max_new_tokens": STEPS, "do_sample": False} | kwargs
        ids = model.generate(**inputs, logits_processor=[attached], **settings)
    return ids.tolist(), attached.stats


@pytest.mark.parametrize("name", NAMES)
def test_rows_and_sequential_agree_and_count_alike(llava, processor, heads, inputs, name):
    decoder = ACTIVE[name](heads)
    for mode in ({}, {"do_sample": True, "temperature": 1.3}, {"num_beams": 2}):
        tokens, stats = run(llava, decoder, inputs, processor, SURE, **mode)
        again, passes = run(llava, decoder, inputs, processor, SURE, "sequential", **mode)
        assert tokens == again
        assert (stats.contrasted, stats.steps) == (passes.contrasted, passes.steps)
        assert 0 < stats.contrasted < stats.steps


def test_tokens_are_those_of_the_law(llava, processor, inputs):
    """Written out, one row at a time, without a cache."""
    decoder = sightline.VCD(alpha=2.0, beta=0.1, noise_step=900)
    noised = noise_images(inputs["pixel_values"], 900, "sigmoid", 0)
    contrasted, expected = 0, []
    for row in range(3):
        new = []
        while len(new) < STEPS and 2 not in new:
            clean = whole(llava, single(inputs, row), new)
            if clean.softmax(-1).max() < SURE:
                contrasted += 1
                other = whole(llava, single(inputs | {"pixel_values": noised}, row), new)
                allowed = clean.softmax(-1) >= 0.1 * clean.softmax(-1).max()
                clean = (3 * clean - 2 * other).masked_fill(~allowed, -torch.inf)
            new.append(int(clean.argmax()))
        expected.append(new)
    width = inputs["input_ids"].shape[1]
    found, stats = run(llava, decoder, inputs, processor, SURE)
    assert [row[width:][: len(new)] for row, new in zip(found, expected, strict=True)] == expected
    assert found != run(llava, decoder, inputs, processor, None)[0]
    if all(len(new) == STEPS for new in expected):
        assert (stats.contrasted, stats.steps) == (contrasted, 3 * STEPS)


@pytest.mark.parametrize("name", NAMES)
def test_above_one_is_exact_and_zero_is_plain(llava, processor, heads, inputs, name):
    decoder = ACTIVE[name](heads)
    exact, _ = run(llava, decoder, inputs, processor, None)
    same, stats = run(llava, decoder, inputs, processor, 1.01)
    assert same == exact
    assert stats.contrasted == stats.steps
    plain = answers(llava, None, inputs, processor, max_new_tokens=STEPS)
    assert answers(llava, decoder, inputs, processor, max_new_tokens=STEPS, approximate=0) == plain
    assert run(llava, decoder, inputs, processor, 0)[1].contrasted == 0


def test_branches_are_left_out_where_all_rows_are_sure(llava, processor, inputs):
    decoder = sightline.VCD(beta=0.0)
    never = run(llava, decoder, inputs, processor, 0, "sequential")[1]
    assert never.passes == never.forwards + 1  # the prompt
    some = run(llava, decoder, asked(processor, [[noise_image(0)]], TEXTS[:1]), processor, SURE, "sequential")[1]
    assert some.forwards + 1 < some.passes < 2 * some.forwards


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_a_gate_stays_shut_in_sure_rows(llava, processor, heads, inputs, branching):
    decoder = ACTIVE["cgvlm"](heads)
    with sightline.attach(llava, decoder, inputs, processor=processor, approximate=0, branching=branching) as attached:
        ids = llava.generate(**inputs, logits_processor=[attached], max_new_tokens=STEPS, do_sample=False)
    assert attached.focus == 0
    assert ids.tolist() == llava.generate(**inputs, max_new_tokens=STEPS, do_sample=False).tolist()


def test_it_says_what_it_is(heads):
    decoder = approximated(sightline.VCD(alpha=0.5), 0.9)
    assert (decoder.key, decoder.title) == ("vcd approximate 0.9", "VCD, approximate 0.9")
    assert decoder.params() == sightline.VCD(alpha=0.5).params() | {"approximate": 0.9}
    assert (decoder.kind, decoder.needs_image) == ("strategy", True)
    greedy = sightline.decoders.build("greedy")
    assert approximated(greedy, 0.9) is greedy


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf"), True, "0.9"])
def test_thresholds_are_numbers_from_zero(threshold):
    with pytest.raises(InvalidParameter, match="approximate must be a probability from 0"):
        approximated(sightline.VCD(), threshold)


def test_decoders_that_alter_the_base_are_refused(llava, inputs):
    altered = Anything(base_bias=KeyBias(layers=(1,), act=lambda scores, image: scores.new_zeros(1)))
    with pytest.raises(InvalidParameter, match="acts on the base's own attention"):
        sightline.attach(llava, altered, inputs, approximate=0.9)
