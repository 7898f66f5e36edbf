"""Margins, ends of answers, and the words they are read from."""

import math

import pytest
import torch
from sightline.eval.answering import MARGIN_BOUND, Answerer, Words, finished, generation_config, margins
from sightline.eval.images import open_image
from sightline.eval.settings import GenerationSettings
from sightline.eval.tasks.pope import ANSWERS

WORDS = Words((0, 1), (2,))
INF = float("inf")


def test_margin_is_the_log_ratio_of_probabilities():
    scores = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    p = scores.softmax(dim=-1).double()
    expected = ((p[:, 0] + p[:, 1]) / p[:, 2]).log().tolist()
    assert margins(scores, WORDS) == pytest.approx(expected, abs=1e-5)
    assert margins(scores + 7, WORDS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.0, -INF, -INF], MARGIN_BOUND),
        ([-INF, -INF, 0.0], -MARGIN_BOUND),
        ([-INF, -INF, -INF], 0.0),
        ([900.0, 0.0, 0.0], MARGIN_BOUND),
        ([-900.0, -900.0, 0.0], -MARGIN_BOUND),
        ([math.nan, 0.0, 0.0], None),
    ],
)
def test_margins_that_a_cut_leaves(scores, expected):
    assert margins(torch.tensor([scores]), WORDS) == [expected]


def test_negative_zero_is_zero():
    assert str(margins(torch.tensor([[-1e-9, -INF, 0.0]]), WORDS)[0]) == "0.0"


def test_words_are_single_tokens_of_one_side(loaded):
    words = Words.of(loaded, ANSWERS)
    assert words.usable
    assert not set(words.yes) & set(words.no)
    tokenizer = loaded.processor.tokenizer
    assert {tokenizer.decode([i]).strip().lower() for i in words.yes} == {"yes"}
    assert not Words.of(loaded, {}).usable


def test_margin_is_that_of_the_model(loaded, pope):
    image = open_image(pope / "images" / "image_00.png")
    prompt = "USER: <image>\nIs there a star in the image? ASSISTANT:"
    inputs = loaded.processor(images=[image], text=[prompt], return_tensors="pt")
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    with torch.no_grad():
        logits = loaded.model(**inputs).logits[:, -1].float()
    words = Words.of(loaded, ANSWERS)
    generation = GenerationSettings(max_new_tokens=1)
    (answer,), _ = Answerer(loaded, None, generation, words).ask([prompt], [image], [None])
    assert answer.margin == margins(logits, words)[0]
    assert answer.n_prompt_tokens == int(inputs["attention_mask"].sum())


def test_ends_of_answers():
    assert finished([5, 6, 2, 0, 0], 2, 8) == ([5, 6, 2], "eos")
    assert finished([5, 7, 6], [2, 7], 3) == ([5, 7], "eos")
    assert finished([5, 6, 8], 2, 3) == ([5, 6, 8], "length")
    assert finished([5, 6], 2, 3) == ([5, 6], "stop")
    assert finished([5], None, None) == ([5], "stop")


def test_defaults_of_a_checkpoint_do_not_slip_in(loaded):
    own = loaded.model.generation_config
    own.do_sample, own.temperature, own.repetition_penalty = True, 0.2, 1.5
    try:
        config = generation_config(loaded.model, GenerationSettings(max_new_tokens=3))
        settled, _ = loaded.model._prepare_generation_config(config)
        assert (settled.do_sample, settled.temperature, settled.repetition_penalty) == (False, 1.0, 1.0)
        assert (settled.eos_token_id, settled.pad_token_id, settled.max_new_tokens) == (2, 0, 3)
    finally:
        own.do_sample, own.temperature, own.repetition_penalty = False, None, None
