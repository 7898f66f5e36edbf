"""The engine against the naive decoder, and its promises: neutral is plain, nothing stays behind, misuse is refused."""

import gc

import naive
import pytest
import sightline
import torch
from sightline.decoders.vcd import noise_images
from sightline.models import errors
from sightline.models.versions import CACHE
from transformers import (
    MinLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

VCD = sightline.VCD(alpha=1.0, beta=0.1, noise_step=700)
STEPS = 6


def state_of(model):
    """Everything an attachment could leave behind: hooks of each module, attention of each config, registries."""
    hooks = [(name, list(m._forward_hooks), list(m._forward_pre_hooks)) for name, m in model.named_modules()]
    configs = [m.config._attn_implementation for m in model.modules() if hasattr(m, "config")]
    return hooks, configs, "sightline" in AttentionInterface(), "sightline" in AttentionMaskInterface()


def attached(model, decoder, batch, **kwargs):
    with sightline.attach(model, decoder, batch) as processor:
        settings = {"max_new_tokens": STEPS, "do_sample": False} | kwargs
        output = model.generate(**batch, logits_processor=[processor], **settings)
    return output, processor


def noised_pixels(batch, decoder=VCD):
    return noise_images(batch["pixel_values"], decoder.noise_step, decoder.noise_schedule, decoder.seed)


def new_tokens(sequences, batch, eos=2):
    rows = [row[batch["input_ids"].shape[1] :].tolist() for row in sequences]
    return [row[: row.index(eos) + 1] if eos in row else row for row in rows]


@pytest.mark.parametrize("lengths", [(7,), (5, 9, 6)])
@pytest.mark.parametrize("cache", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
def test_rows_equal_two_sequential_passes(llava, inputs, lengths, cache):
    batch = inputs(lengths)
    output, _ = attached(llava, VCD, batch, return_dict_in_generate=True, output_scores=True, **cache)
    tokens, scores = naive.decode(llava, batch, noised_pixels(batch), VCD.alpha, VCD.beta, STEPS)
    assert new_tokens(output.sequences, batch) == tokens
    for row, trail in enumerate(scores):
        for step, expected in enumerate(trail):
            torch.testing.assert_close(output.scores[step][row].double(), expected, atol=1e-4, rtol=1e-4)


def test_the_branch_matters(llava, inputs):
    batch = inputs((7, 7, 7, 7))
    plain = llava.generate(**batch, max_new_tokens=STEPS, do_sample=False)
    contrasted, _ = attached(llava, VCD, batch)
    assert not plain.equal(contrasted)


@pytest.mark.parametrize("beams", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_beams_carry_their_branch_along(llava, inputs, beams):
    """Every beam's score is the sum of the contrasted log-probabilities of its tokens, found by the naive decoder."""
    batch = inputs((7, 5))
    decoder = sightline.VCD(alpha=1.0, beta=0.0, noise_step=700)
    output, _ = attached(
        llava, decoder, batch, return_dict_in_generate=True, output_scores=True, length_penalty=0.0, **beams
    )
    times = beams.get("num_return_sequences", 1)
    rows = {k: v.repeat_interleave(times, 0) for k, v in batch.items()}
    for row, tokens in enumerate(new_tokens(output.sequences, batch)):
        follow, total = iter(tokens), []

        def forced(_ids, scores, follow=follow, total=total):
            total.append(scores.log_softmax(-1)[0, token := next(follow)].item())
            return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([token]), 0.0)

        single = {k: v[row : row + 1] for k, v in rows.items()}
        naive.decode(llava, single, noised_pixels(single, decoder), 1.0, 0.0, len(tokens), choose=forced)
        assert output.sequences_scores[row].item() == pytest.approx(sum(total), abs=1e-3)


def test_a_batch_is_its_rows_one_by_one(llava, inputs):
    batch = inputs((5, 9, 6))
    together, _ = attached(llava, VCD, batch)
    for row, expected in enumerate(new_tokens(together, batch)):
        length = int(batch["attention_mask"][row].sum())
        single = {
            "input_ids": batch["input_ids"][row : row + 1, -length:],
            "attention_mask": batch["attention_mask"][row : row + 1, -length:],
            "pixel_values": batch["pixel_values"][row : row + 1],
        }
        assert new_tokens(attached(llava, VCD, single)[0], single) == [expected]


@pytest.mark.parametrize("built_in", [{"repetition_penalty": 3.0}, {"min_new_tokens": 5}])
def test_generates_own_processors_act_on_the_contrast(llava, inputs, built_in):
    batch = inputs((7,))
    prompt = batch["input_ids"].shape[1]
    output, _ = attached(llava, VCD, batch, return_dict_in_generate=True, output_scores=True, **built_in)
    if "repetition_penalty" in built_in:
        choose = RepetitionPenaltyLogitsProcessor(3.0)
    else:
        choose = MinLengthLogitsProcessor(prompt + 5, 2)
    tokens, scores = naive.decode(llava, batch, noised_pixels(batch), 1.0, 0.1, STEPS, choose=choose)
    assert new_tokens(output.sequences, batch) == tokens
    torch.testing.assert_close(output.scores[2][0].double(), scores[0][2], atol=1e-4, rtol=1e-4)


def test_sampling_draws_from_the_contrast(llava, inputs):
    """The top of a sharp temperature is the greedy choice; a seed gives the same draw again; finished rows stay."""
    batch = inputs((7, 7))
    greedy, _ = attached(llava, VCD, batch)
    assert attached(llava, VCD, batch, do_sample=True, temperature=1e-4, top_k=0)[0].equal(greedy)
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(attached(llava, VCD, batch, do_sample=True, top_k=0, num_return_sequences=3)[0])
    assert draws[0].equal(draws[1])
    assert len(draws[0]) == 6


@pytest.mark.parametrize(
    "neutral",
    [sightline.Greedy(), sightline.Sample(), sightline.VCD(alpha=0, beta=0), sightline.CutOnly(beta=0),
     sightline.Shift(delta=0)],
    ids=lambda decoder: decoder.key,
)  # fmt: skip
@pytest.mark.parametrize("mode", [{}, {"do_sample": True, "top_k": 0}, {"num_beams": 2}])
def test_neutral_is_plain_decoding(llava, inputs, neutral, mode):
    batch = inputs((5, 8))
    settings = {"max_new_tokens": STEPS, "do_sample": False} | mode
    torch.manual_seed(1)
    plain = llava.generate(**batch, **settings)
    torch.manual_seed(1)
    before = state_of(llava)
    with sightline.attach(llava, neutral, batch, processor=FakeTokenizer()) as processor:
        assert state_of(llava) == before
        assert llava.generate(**batch, logits_processor=[processor], **settings).equal(plain)


def test_alpha_zero_is_the_cut_without_a_branch(llava, inputs):
    batch = inputs((7,))
    output, processor = attached(llava, sightline.VCD(alpha=0, beta=0.3), batch)
    assert processor.stats.rows == processor.stats.forwards
    assert output.equal(llava.generate(**batch, max_new_tokens=STEPS, do_sample=False))


class FakeTokenizer:
    """Two words, one token each."""

    def encode(self, word, add_special_tokens=False):
        return {"Yes": [11], " Yes": [12]}.get(word, [1, 2])


def test_shift_moves_the_first_token_alone(llava, inputs):
    batch = inputs((7,))
    plain = llava.generate(**batch, max_new_tokens=2, do_sample=False, output_scores=True, return_dict_in_generate=True)
    with sightline.attach(llava, sightline.Shift(delta=1e3), batch, processor=FakeTokenizer()) as processor:
        moved = llava.generate(
            **batch, max_new_tokens=2, do_sample=False, logits_processor=[processor], output_scores=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    change = (moved.scores[0] - plain.scores[0])[0]
    assert change.nonzero().flatten().tolist() == [11, 12]
    assert int(moved.sequences[0, -2]) in (11, 12)
    assert moved.scores[1].max() < 500


def test_counts_two_rows_and_one_forward_per_token(llava, inputs):
    batch = inputs((7, 9))
    _, processor = attached(llava, VCD, batch, eos_token_id=-1)
    stats = processor.stats
    width = batch["input_ids"].shape[1]
    assert (stats.forwards, stats.passes, stats.rows, stats.tokens) == (STEPS, STEPS, STEPS * 4, STEPS * 2)
    assert stats.encodes == 1
    assert stats.columns == 4 * (width + STEPS - 1)


class Collect(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens.extend(value.flatten().tolist())

    def end(self):
        self.ended = True


def test_streamer_and_stopping_criteria(llava, inputs):
    batch = inputs((7,))
    streamer = Collect()
    output, _ = attached(llava, VCD, batch, streamer=streamer)
    assert streamer.ended
    assert streamer.tokens == output[0].tolist()

    class AfterTwo(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= batch["input_ids"].shape[1] + 2)

    stopped, _ = attached(llava, VCD, batch, stopping_criteria=StoppingCriteriaList([AfterTwo()]))
    assert stopped.equal(output[:, : stopped.shape[1]])
    assert stopped.shape[1] == batch["input_ids"].shape[1] + 2


def test_outputs_hold_base_rows_alone(llava, inputs):
    batch = inputs((7, 5))
    output, _ = attached(llava, VCD, batch, return_dict_in_generate=True, output_hidden_states=True, output_logits=True)
    assert all(state.shape[0] == 2 for step in output.hidden_states for state in step)
    assert all(logits.shape[0] == 2 for logits in output.logits)
    assert all(layer.keys.shape[0] == 2 for layer in output[CACHE].layers)


class Boom(Exception):
    pass


class Fails:
    def __init__(self, at):
        self.calls, self.at = 0, at

    def __call__(self, input_ids, scores):
        self.calls += 1
        if self.calls == self.at:
            raise Boom
        return scores


@pytest.mark.parametrize("at", [1, 3])
@pytest.mark.parametrize("first", [True, False])
def test_nothing_stays_behind_after_an_exception(llava, inputs, at, first):
    batch = inputs((7,))
    before = state_of(llava)
    plain = llava.generate(**batch, max_new_tokens=3, do_sample=False)
    with pytest.raises(Boom), sightline.attach(llava, VCD, batch) as processor:
        order = [Fails(at), processor] if first else [processor, Fails(at)]
        llava.generate(**batch, logits_processor=order, max_new_tokens=STEPS, do_sample=False)
    assert state_of(llava) == before
    assert llava.generate(**batch, max_new_tokens=3, do_sample=False).equal(plain)


def test_close_without_a_block(llava, inputs):
    before = state_of(llava)
    attachment = sightline.attach(llava, VCD, inputs())
    assert state_of(llava) != before
    attachment.close()
    attachment.close()
    assert state_of(llava) == before
    with pytest.raises(errors.AttachmentClosed, match="attach again"):
        attachment(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 4))


def test_two_hundred_generations_leak_nothing(llava, inputs):
    batch = inputs((4,))

    def run(times):
        for _ in range(times):
            attached(llava, VCD, batch, max_new_tokens=1)
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    run(5)
    before = run(1)
    assert run(200) <= before + 5


def test_second_generate_is_refused(llava, inputs):
    batch = inputs()
    for cache in ({}, {"use_cache": False}):
        with pytest.raises(errors.AttachmentReused, match="Attach again"), sightline.attach(llava, VCD, batch) as p:
            for _ in range(2):
                llava.generate(**batch, logits_processor=[p], max_new_tokens=3, do_sample=False, **cache)


def test_two_attachments_on_one_model_are_refused(llava, inputs):
    with sightline.attach(llava, VCD, inputs()), pytest.raises(errors.AttachmentError, match="Close it"):
        sightline.attach(llava, VCD, inputs())
    with sightline.attach(llava, VCD, inputs()):
        pass


def test_a_processor_left_out_is_an_error(llava, inputs):
    batch = inputs()
    for tokens in (1, 4):
        with pytest.raises(errors.NotContrasted, match="Pass it"), sightline.attach(llava, VCD, batch):
            llava.generate(**batch, max_new_tokens=tokens, do_sample=False)


def test_a_processor_on_another_model_is_an_error(llava, llama, inputs):
    batch = inputs()
    with pytest.raises(errors.NotContrasted, match="hooks"), sightline.attach(llava, VCD, batch) as p:
        llama.generate(input_ids=batch["input_ids"], logits_processor=[p], max_new_tokens=2, do_sample=False)


def test_other_inputs_are_an_error(llava, inputs):
    with (
        pytest.raises(errors.InputsMismatch, match="same inputs"),
        sightline.attach(llava, VCD, inputs(seed=0)) as processor,
    ):
        llava.generate(**inputs(seed=1), logits_processor=[processor], max_new_tokens=2)


@pytest.mark.parametrize("beams", [1, 2])
def test_other_images_masks_and_embeddings_are_an_error(llava, inputs, beams):
    batch, other = inputs((6, 9), seed=0), inputs((6, 9), seed=1)
    swapped = batch["pixel_values"].clone()
    swapped[1] = other["pixel_values"][1]
    less = batch["attention_mask"].clone()
    less[1, 0] = 0
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    embeds = llava.get_input_embeddings()(batch["input_ids"])
    wrong = [
        (batch | {"pixel_values": swapped}, errors.InputsMismatch, "other images"),
        (batch | {"attention_mask": less}, errors.InputsMismatch, "another attention_mask"),
        (text, errors.InputsMismatch, "no images"),
        (text | {"inputs_embeds": embeds}, errors.UnsupportedMode, "inputs_embeds"),
    ]
    for given, error, said in wrong:
        with pytest.raises(error, match=said), sightline.attach(llava, VCD, batch) as processor:
            llava.generate(**given, logits_processor=[processor], max_new_tokens=2, num_beams=beams)
    copied = {name: value.clone() for name, value in batch.items()}
    with sightline.attach(llava, VCD, batch) as processor:
        llava.generate(**copied, logits_processor=[processor], max_new_tokens=2, num_beams=beams, do_sample=False)


def test_prompt_lookup_and_filled_caches_are_refused(llava, inputs):
    batch = inputs()
    with pytest.raises(errors.UnsupportedMode, match="prompt_lookup_num_tokens"):
        sightline.generate(llava, VCD, batch, prompt_lookup_num_tokens=3, max_new_tokens=4)
    repeated = batch | {"input_ids": batch["input_ids"].clone()}
    repeated["input_ids"][0, -5:] = 7
    with (
        pytest.raises(errors.UnsupportedMode, match="prompt_lookup_num_tokens"),
        sightline.attach(llava, VCD, repeated) as processor,
    ):
        llava.generate(
            **repeated, logits_processor=[processor], prompt_lookup_num_tokens=2, max_new_tokens=8, do_sample=False
        )
    cache = llava(**batch, use_cache=True)[CACHE]
    longer = batch | {
        name: torch.cat([batch[name], batch[name][:, -1:]], 1) for name in ("input_ids", "attention_mask")
    }
    with pytest.raises(errors.UnsupportedMode, match="past_key_values"), sightline.attach(llava, VCD, longer) as p:
        llava.generate(**longer, **{CACHE: cache}, logits_processor=[p], max_new_tokens=2)


def test_images_are_asked_for_before_the_first_forward(llava, llama, inputs):
    batch, before = inputs((6, 6)), state_of(llava)
    without = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(errors.MissingImage, match="no 'pixel_values'"):
        sightline.attach(llava, VCD, without)
    batch["input_ids"][1][batch["input_ids"][1] == 5] = 7
    with pytest.raises(errors.MissingImage, match=r"row\(s\) \[1\]"):
        sightline.attach(llava, VCD, batch)
    with pytest.raises(errors.MissingImage, match="text strategy"):
        sightline.attach(llama, VCD, without)
    assert state_of(llava) == before


def test_shift_asks_for_the_processor(llava, inputs):
    with pytest.raises(errors.MissingProcessor, match="processor="):
        sightline.attach(llava, sightline.Shift(delta=1.0), inputs())


def test_compiled_models_are_refused(llama, inputs):
    llama._compiled_call_impl = object()
    try:
        with pytest.raises(errors.UnsupportedModel, match="compiled"):
            sightline.models.adapter.Adapter(llama)
    finally:
        llama._compiled_call_impl = None


def test_generate_is_the_same_in_one_line(llava, inputs):
    batch = inputs((5, 7))
    assert sightline.generate(llava, VCD, batch, max_new_tokens=STEPS, do_sample=False).equal(
        attached(llava, VCD, batch)[0]
    )
    with pytest.raises(errors.SightlineError, match="model, decoder, inputs"):
        sightline.generate(llava, batch, "vcd")


def test_arguments_in_another_order_are_named(llava, inputs):
    batch = inputs()
    with pytest.raises(errors.SightlineError, match="first one is a dict"):
        sightline.attach(batch, "vcd", llava)
    with pytest.raises(errors.SightlineError, match="second one is a dict"):
        sightline.attach(llava, batch, "vcd")


def test_nothing_of_a_trace_runs_unless_it_is_asked_for(llava, inputs, monkeypatch):
    def asked(*_args, **_kwargs):
        raise AssertionError("a trace was made")

    for name in ("Tracer", "Moment", "looked", "traced"):
        monkeypatch.setattr(f"sightline.decoders.attachment.{name}", asked)
    batch = inputs((5, 8))
    with sightline.attach(llava, VCD, batch) as processor:
        assert not processor.plan.probes
        llava.generate(**batch, logits_processor=[processor], max_new_tokens=3, do_sample=False)
    with pytest.raises(AssertionError, match="a trace was made"):
        sightline.trace(llava, VCD, batch, max_new_tokens=3, do_sample=False)
