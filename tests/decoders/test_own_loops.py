"""Loops written by hand around an attachment, strategies that run the model themselves, and what is said of misuse."""

import pytest
import sightline
import torch
from anything import Anything
from sightline.decoders import Approximate, Branch, HeadEdit, MapEdit
from sightline.decoders.layers import edited_vision
from sightline.decoders.plan import Altered, Refinement, Step
from sightline.decoders.tracing import Tracer
from sightline.models import adapter_for, errors
from sightline.models.versions import CACHE
from transformers import DynamicCache

VCD = sightline.VCD(alpha=2.0, noise_step=900)


def start(model, processor, batch):
    """The first token of a loop of one's own, and its cache."""
    output = model(**batch, **{CACHE: DynamicCache(config=model.config.text_config)})
    scores = processor(batch["input_ids"], output.logits[:, -1])
    return scores.argmax(dim=-1, keepdim=True), output[CACHE]


def grown(batch, new):
    return torch.cat([batch["attention_mask"], torch.ones_like(new)], dim=1)


def test_a_loop_of_ones_own_says_what_generate_says(llava, inputs):
    batch, steps = inputs((5, 8)), 4
    expected = sightline.generate(llava, VCD, batch, max_new_tokens=steps, do_sample=False, eos_token_id=-1)
    width = batch["input_ids"].shape[1]
    with sightline.attach(llava, VCD, batch) as p, torch.no_grad():
        token, cache = start(llava, p, batch)
        new = token
        while new.shape[1] < steps:
            output = llava(input_ids=token, attention_mask=grown(batch, new), **{CACHE: cache})
            token = p(new, output.logits[:, -1]).argmax(dim=-1, keepdim=True)
            new = torch.cat([new, token], dim=1)
    assert new.equal(expected[:, width:])
    assert not new.equal(llava.generate(**batch, max_new_tokens=steps, do_sample=False)[:, width:])


def test_two_new_tokens_at_once_are_refused(llava, inputs):
    batch = inputs((7,))
    with sightline.attach(llava, VCD, batch) as p, torch.no_grad():
        token, cache = start(llava, p, batch)
        two = token.repeat(1, 2)
        with pytest.raises(errors.UnsupportedMode, match="2 new tokens at once") as refused:
            llava(input_ids=two, attention_mask=grown(batch, two), **{CACHE: cache})
    assert "prompt_lookup_num_tokens" in refused.value.hint


def test_a_decoder_called_by_position_is_refused(llava, inputs):
    batch = inputs((7,))
    with sightline.attach(llava, VCD, batch), pytest.raises(errors.UnsupportedMode, match="positional arguments"):
        llava.get_decoder()(batch["input_ids"])
    llava.get_decoder()(batch["input_ids"])


def test_a_forward_without_a_prompt_gets_the_models_own_error(llava, inputs):
    batch = inputs((7,))
    with sightline.attach(llava, VCD, batch), pytest.raises(ValueError, match="input_ids"):
        llava(pixel_values=batch["pixel_values"])


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_a_strategy_may_run_the_model_while_it_refines(llava, inputs, branching):
    """It gets plain logits, and the generation around it goes on as if nothing had been."""
    batch, other = inputs((5, 8)), inputs((6, 4), seed=1)
    plain, found = llava(**other).logits, []

    class Asks(Anything):
        asks = True

        def refine(self, prompt):
            if self.asks:
                found.append(llava(**other).logits)
            return Refinement((Altered(prompt.embeds * 0.5),))

    class Silent(Asks):
        asks = False

    branches = (Branch("half", refined="prefill"),)
    settings = {"branching": branching, "max_new_tokens": 4, "do_sample": False}
    asked = sightline.generate(llava, Asks(branches), batch, **settings)
    assert asked.equal(sightline.generate(llava, Silent(branches), batch, **settings))
    assert len(found) == 1
    torch.testing.assert_close(found[0], plain)


class NoYes:
    """A tokenizer that has no yes in one piece."""

    def encode(self, word, add_special_tokens=False):
        return [1, 2]


def test_a_tokenizer_without_yes_cannot_be_shifted(llava, inputs):
    with pytest.raises(errors.InvalidParameter, match="no single token for any of 'Yes'"):
        sightline.attach(llava, sightline.Shift(delta=1.0), inputs(), processor=NoYes())


def test_approximate_wraps_a_strategy_once():
    for wrong in ("vcd", Approximate(VCD, 0.9)):
        with pytest.raises(errors.InvalidParameter, match=r"Give Approximate\(VCD\(\), 0\.9\)"):
            Approximate(wrong, 0.9)


@pytest.mark.parametrize("strategy", [VCD, sightline.CODE(), sightline.DAGCD()], ids=lambda each: each.key)
def test_with_nothing_to_contrast_the_base_stays_and_no_numbers_are_told(strategy):
    """As for a row of a batch that is neutral: neither branches nor a passage."""
    base, step = torch.randn(2, 9), Step(0)
    assert strategy.combine(base, [], step).equal(base)
    assert strategy.numbers(base, [], step) == {}


def test_a_trace_before_the_first_step_is_empty():
    tracer = Tracer(2, 3, end=[2])
    assert tracer.traces(torch.ones(2, 5, dtype=torch.long)) == [[], []]


def test_a_projector_run_before_its_gate_is_known_is_left_alone(llava, inputs):
    adapter, batch = adapter_for(llava), inputs((7,))
    edit = MapEdit((1,), "uniform", "none", gate=True)
    features = torch.randn(1, 4, 24, dtype=torch.float64)
    expected = adapter.projector(features)
    with edited_vision(adapter, (edit,), batch):
        assert adapter.projector(features).equal(expected)
        llava.get_image_features(pixel_values=batch["pixel_values"])
        gated = adapter.projector(features)
    assert not gated.equal(expected)
    assert adapter.projector(features).equal(expected)


def test_a_tower_whose_edited_layers_are_never_called_is_told_of(llava, inputs):
    edits = (HeadEdit(1, (0,)),)
    with (
        pytest.raises(errors.UnsupportedModel, match=r"Layers \[1\] of the vision tower") as refused,
        edited_vision(adapter_for(llava), edits, inputs((7,))),
    ):
        pass
    assert "leaves the vision tower alone" in refused.value.hint
