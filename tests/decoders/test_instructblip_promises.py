"""Every strategy on InstructBLIP, whose loop runs inside its language model and whose padding stands behind the image.

Each equals passes written out for one prompt at a time (`naive_family`), in rows and in sequence; neutral parameters
are plain decoding in every mode; nothing stays behind.
"""

import pytest
import sightline
import torch
from instructed import instructed_model, instructed_processor
from letters import asked, noise_image
from naive_family import NAIVE, Sight, naive_tokens
from promised import ACTIVE, CONTEXT, DETECTOR, MODES, NEUTRAL, RANKED, STEPS, TEXTS, answers, hooks, lists, spans
from sightline.decoders.calibration import HeadRanking
from sightline.decoders.registry import names
from sightline.models import errors
from sightline.models.attention import _STATES
from sightline.models.instructblip import InstructBlipAdapter

K = 0.008
"""Under this threshold the gate of CG-VLM opens now and then in this model."""
DECODERS = ACTIVE | {
    "iava, own text": lambda heads: sightline.IAVA(lamb=-0.2, alpha=2.0, instruction="Tell.", qformer_text="own"),
    "cgvlm": lambda heads: sightline.CGVLM(alpha=6.0, k=K, layers=(0, 1, 2)),
    "cgvlm+vcd": lambda heads: sightline.Together(
        (sightline.CGVLM(alpha=6.0, k=K, layers=(0, 1, 2)), sightline.VCD(alpha=0.5, noise_step=700))
    ),
    "masked_only": lambda heads: sightline.decoders.build("masked_only", {"num_heads": 3, "heads": heads}),
    "cut_only": lambda heads: sightline.CutOnly(beta=0.3),
    "greedy": lambda heads: sightline.decoders.build("greedy"),
}
TOGETHER = [name for name in DECODERS if "+" in name]


@pytest.fixture(scope="module")
def model():
    return instructed_model()


@pytest.fixture(scope="module")
def processor():
    made = instructed_processor()
    InstructBlipAdapter.fit(made)
    made.tokenizer.padding_side = "left"
    return made


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return lists(tmp_path_factory.mktemp("lists"))


@pytest.fixture(scope="module")
def batch(processor):
    return lambda count=4: asked(processor, [[noise_image(seed)] for seed in range(count)], TEXTS[:count])


def given(decoder):
    """What calibrations say, for the naive version of a decoder."""
    ranking = HeadRanking("image", "random", 3, 4, RANKED)
    if decoder.key == "hicd":
        return {"heads": [(1, 0), (1, 3), (2, 1)]}
    return {"heads": decoder.chosen(ranking)} if hasattr(decoder, "chosen") else {"detector": DETECTOR}


def test_every_decoder_is_here():
    """`sample` is plain sampling and `shift` needs words that a tokenizer of letters does not have."""
    assert {name.partition(",")[0] for name in DECODERS} - set(TOGETHER) == {*names()} - {"sample", "shift"}
    assert set(NAIVE) == {*names()} - {"sample", "shift"}


@pytest.mark.parametrize("name", [name for name in DECODERS if name not in TOGETHER])
def test_generation_equals_naive(model, processor, heads, batch, name):
    """Four prompts in one padded batch, in rows and in sequence, token for token and score for score."""
    decoder, inputs, found = DECODERS[name](heads), batch(), []
    scored = {"max_new_tokens": STEPS, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    for branching in ("rows", "sequential"):
        marked = {"processor": processor, "spans": spans(processor, inputs), "branching": branching}
        with sightline.attach(model, decoder, inputs, **marked) as attached:
            found.append(model.generate(**inputs, logits_processor=[attached], **scored))
    plain, moved, width = answers(model, None, inputs, processor), False, inputs["input_ids"].shape[1]
    for row in range(4):
        sight = Sight(model, processor, noise_image(row), TEXTS[row], CONTEXT[row])
        new, trail = naive_tokens(sight, decoder, given(decoder), STEPS)
        moved |= new != plain[row][: len(new)]
        for output in found:
            assert output.sequences[row, width:].tolist()[: len(new)] == new
            for step, scores in enumerate(trail):
                got = output.scores[step][row].double()
                if decoder.key == "code":  # known up to a constant
                    got, scores = got.log_softmax(-1), scores.log_softmax(-1)
                torch.testing.assert_close(got, scores, atol=1e-4, rtol=1e-4)
    assert moved or name in ("cut_only", "greedy")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_is_plain_generate(model, processor, heads, batch, name, mode):
    for count in (1, 4):
        decoder, inputs = NEUTRAL[name](heads), batch(count)
        with sightline.attach(model, decoder, inputs, processor=processor, spans=spans(processor, inputs)) as attached:
            assert attached.plan.is_neutral
        plain = answers(model, None, inputs, processor, **MODES[mode])
        assert answers(model, decoder, inputs, processor, **MODES[mode]) == plain


@pytest.mark.parametrize("name", DECODERS)
def test_batch_and_cache_agree(model, processor, heads, batch, name):
    decoder, inputs = DECODERS[name](heads), batch()
    together = answers(model, decoder, inputs, processor)
    if "cgvlm" not in name:
        assert answers(model, decoder, inputs, processor, use_cache=False) == together
    alone = [asked(processor, [[noise_image(seed)]], [TEXTS[seed]]) for seed in range(4)]
    assert [answers(model, decoder, one, processor)[0] for one in alone] == together


@pytest.mark.parametrize("name", [name for name in DECODERS if name not in ("greedy", "cut_only")])
def test_beams_and_return_sequences(model, processor, heads, batch, name):
    decoder, inputs = DECODERS[name](heads), batch(2)
    for mode in (MODES["beams"], MODES["sample"] | {"num_return_sequences": 2}):
        found = answers(model, decoder, inputs, processor, **mode)
        assert len(found) == 4
        assert answers(model, decoder, inputs, processor, branching="sequential", **mode) == found


def test_controls_of_sampling(model, processor, batch):
    inputs = batch()
    plain = answers(model, None, inputs, processor, do_sample=True)
    assert answers(model, "sample", inputs, processor, do_sample=True) == plain
    assert answers(model, sightline.CutOnly(beta=0.3), inputs, processor, do_sample=True) != plain
    assert answers(model, sightline.CutOnly(beta=1.0), inputs, processor, do_sample=True) == answers(
        model, None, inputs, processor
    )


@pytest.mark.parametrize("name", ["vcd", "avc", "causalmm", "cgvlm"])
def test_nothing_stays_behind(model, processor, heads, batch, name):
    decoder, inputs = DECODERS[name](heads), batch(2)
    plain = answers(model, None, inputs, processor)
    configs = [model.config.text_config, model.config.vision_config, model.config.qformer_config]
    before = [config._attn_implementation for config in configs], hooks(model)

    class Breaks(Exception):
        pass

    def stop(input_ids, scores):
        raise Breaks

    with pytest.raises(Breaks):
        marked = {"processor": processor, "logits_processor": [stop]}
        sightline.generate(model, decoder, inputs, **marked, max_new_tokens=3)
    assert ([config._attn_implementation for config in configs], hooks(model)) == before
    assert not len(_STATES)
    assert answers(model, None, inputs, processor) == plain


def test_a_trace_follows_the_tokens(model, processor, batch):
    inputs = batch(3)
    traced = sightline.trace(model, sightline.VCD(noise_step=700), inputs, max_new_tokens=STEPS, do_sample=False)
    rows = answers(model, sightline.VCD(noise_step=700), inputs, processor)
    assert [[token.token for token in trace] for trace in traced.tokens] == rows
    assert all(0 < token.image_attention < 1 for trace in traced.tokens for token in trace)


@pytest.mark.parametrize("name", ["vcd", "hicd", "code", "avc", "decore"])
def test_scores_of_given_answers_equal_naive(model, processor, heads, batch, name):
    decoder, inputs, said = DECODERS[name](heads), batch(2), [30, 41, 22]
    own = {"code": {"beta_mode": "fixed"}, "decore": {"scoring_mask_scope": "answer"}}.get(name, {})
    decoder = type(decoder)(**decoder.params() | {"beta": 0.0} | own)
    found = sightline.score(model, decoder, inputs, [said], processor=processor)
    for row in range(2):
        sight = Sight(model, processor, noise_image(row), TEXTS[row])
        with torch.no_grad():
            trail = [NAIVE[decoder.key](sight, decoder, said[:place], given(decoder)) for place in range(3)]
        total = sum(float(scores.log_softmax(-1)[token]) for scores, token in zip(trail, said, strict=True))
        assert float(found[row, 0]) == pytest.approx(total, abs=1e-6)


def test_other_inputs_than_those_attached_are_refused(model, processor, batch):
    inputs, others = batch(2), asked(processor, [[noise_image(seed)] for seed in range(2)], TEXTS[1:3])
    longer = {name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
    for other in (others, longer):
        with (
            sightline.attach(model, sightline.VCD(), inputs) as attached,
            pytest.raises(errors.AttachmentError, match=r"not the one attached|not those attached"),
        ):
            model.generate(**other, logits_processor=[attached], max_new_tokens=2, do_sample=False)


def test_a_prompt_without_an_image_is_refused_before_anything_is_run(model, processor, batch):
    inputs = batch(1)
    for name, error in (("pixel_values", errors.MissingImage), ("qformer_input_ids", errors.InvalidPrompt)):
        rest = {key: value for key, value in inputs.items() if key != name}
        with pytest.raises(error, match="InstructBLIP"):
            sightline.attach(model, "greedy", rest)
