"""Every strategy on the Qwen-VL family: packed images of different sizes, positions of three axes, DeepStack.

Each equals passes written out for one prompt at a time (`naive_family`, `qwen`), in rows and in sequence, whatever the
padding; neutral parameters are plain decoding in every mode; nothing stays behind.
"""

import pytest
import sightline
import torch
from anything import Anything
from letters import asked, noise_image
from naive_family import IMAGE, NAIVE, naive_tokens
from promised import ACTIVE, CONTEXT, DETECTOR, MODES, NEUTRAL, RANKED, STEPS, TEXTS, answers, hooks, lists, spans
from qwen import KINDS, SIZES, QwenSight, qwen_model, qwen_processor
from sightline.decoders import Branch
from sightline.decoders.calibration import HeadRanking
from sightline.decoders.registry import names
from sightline.models import adapter_for, errors
from sightline.models.attention import _STATES
from sightline.models.versions import PIECES

K = {"qwen2_vl": 0.01, "qwen2_5_vl": 0.004, "qwen3_vl": 0.04}
"""Under these thresholds the gate of CG-VLM opens now and then in these models."""
DECODERS = ACTIVE | {
    "vcd": lambda heads: sightline.VCD(alpha=3.0, noise_step=700),
    "causalmm, windows": lambda heads: sightline.CausalMM(modality="vision", vision_kind="shuffle", gamma=3.0),
    "masked_only": lambda heads: sightline.decoders.build(
        "masked_only", {"num_heads": 3, "heads": heads, "mask_prefill": True}
    ),
    "cut_only": lambda heads: sightline.CutOnly(beta=0.3),
    "greedy": lambda heads: sightline.decoders.build("greedy"),
}
TOGETHER = [name for name in DECODERS if "+" in name]
ALONE = [name for name in DECODERS if name not in TOGETHER]
IMAGES = ["vcd", "avc", "iava", "code", "causalmm", "cgvlm", "cad"]
SOME = [("qwen2_5_vl", name) for name in DECODERS]
SOME += [(kind, name) for kind in ("qwen2_vl", "qwen3_vl") for name in (*IMAGES, "decore")]


@pytest.fixture(scope="module")
def models():
    return {kind: qwen_model(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def processor():
    return qwen_processor()


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return lists(tmp_path_factory.mktemp("lists"))


def picture(row):
    return noise_image(row, *SIZES[row])


@pytest.fixture(scope="module")
def batch(processor):
    """Prompts of different lengths on images of different sizes, padded on the left."""
    return lambda count=4: asked(processor, [[picture(row)] for row in range(count)], TEXTS[:count])


def made(kind, name, heads):
    """The decoder, CG-VLM with a gate that this model opens."""
    if name == "cgvlm":
        return sightline.CGVLM(alpha=20.0, k=K[kind], layers=(0, 1, 2))
    return DECODERS[name](heads)


def given(decoder):
    """What calibrations say, for the naive version of a decoder."""
    ranking = HeadRanking("image", "random", 3, 4, RANKED)
    if decoder.key == "hicd":
        return {"heads": [(1, 0), (1, 3), (2, 1)]}
    return {"heads": decoder.chosen(ranking)} if hasattr(decoder, "chosen") else {"detector": DETECTOR}


def test_every_decoder_is_here():
    """`sample` is plain sampling and `shift` needs words that a tokenizer of letters does not have."""
    assert {name.partition(",")[0] for name in ALONE} == {*names()} - {"sample", "shift"}


@pytest.mark.parametrize(("kind", "name"), [pair for pair in SOME if pair[1] not in TOGETHER])
def test_generation_equals_naive(models, processor, heads, batch, kind, name):
    """Four prompts in one padded batch, in rows and in sequence, token for token and score for score."""
    model, decoder, inputs, found = models[kind], made(kind, name, heads), batch(), []
    for branching in ("rows", "sequential"):
        marked = {"processor": processor, "spans": spans(processor, inputs), "branching": branching}
        with sightline.attach(model, decoder, inputs, **marked) as attached:
            settings = {"max_new_tokens": STEPS, "do_sample": False, "output_scores": True}
            found.append(
                model.generate(**inputs, **settings, logits_processor=[attached], return_dict_in_generate=True)
            )
    plain, moved, width = answers(model, None, inputs, processor), False, inputs["input_ids"].shape[1]
    for row in range(4):
        sight = QwenSight(model, processor, picture(row), TEXTS[row], CONTEXT[row])
        new, trail = naive_tokens(sight, decoder, given(decoder), STEPS)
        moved |= new != plain[row][: len(new)]
        for output in found:
            assert output.sequences[row, width:].tolist()[: len(new)] == new
            for step, scores in enumerate(trail):
                got = output.scores[step][row].double()
                if decoder.key == "code":  # known up to a constant
                    got, scores = got.log_softmax(-1), scores.log_softmax(-1)
                torch.testing.assert_close(got, scores.double(), atol=1e-4, rtol=1e-4)
    assert moved or name in ("cut_only", "greedy")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_is_plain_generate(models, processor, heads, batch, name, mode):
    for kind in KINDS if name == "vcd" else ("qwen2_5_vl",):
        for count in (1, 4):
            model, decoder, inputs = models[kind], NEUTRAL[name](heads), batch(count)
            marked = {"processor": processor, "spans": spans(processor, inputs)}
            with sightline.attach(model, decoder, inputs, **marked) as attached:
                assert attached.plan.is_neutral
            plain = answers(model, None, inputs, processor, **MODES[mode])
            assert answers(model, decoder, inputs, processor, **MODES[mode]) == plain


@pytest.mark.parametrize(("kind", "name"), SOME)
def test_batch_and_caches_agree(models, processor, heads, batch, kind, name):
    model, decoder, inputs = models[kind], made(kind, name, heads), batch()
    together = answers(model, decoder, inputs, processor)
    if "cgvlm" not in name:  # biases the newest row alone, which needs a cache
        assert answers(model, decoder, inputs, processor, use_cache=False) == together
    alone = [asked(processor, [[picture(row)]], [TEXTS[row]]) for row in range(4)]
    assert [answers(model, decoder, one, processor)[0] for one in alone] == together


@pytest.mark.parametrize(("kind", "name"), [pair for pair in SOME if pair[1] not in ("greedy", "cut_only")])
def test_beams_and_return_sequences(models, processor, heads, batch, kind, name):
    model, decoder, inputs = models[kind], made(kind, name, heads), batch(2)
    for mode in (MODES["beams"], MODES["sample"] | {"num_return_sequences": 2}):
        found = answers(model, decoder, inputs, processor, **mode)
        assert len(found) == 4
        assert answers(model, decoder, inputs, processor, branching="sequential", **mode) == found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", IMAGES)
def test_several_images_in_a_row(models, processor, heads, kind, name):
    """Two images in one prompt and one in the other: as each alone, but for the padding."""
    model, decoder = models[kind], made(kind, name, heads)
    images, texts = [[picture(0), picture(1)], [picture(2)]], TEXTS[:2]
    together = answers(model, decoder, asked(processor, images, texts), processor)
    alone = [asked(processor, [own], [text]) for own, text in zip(images, texts, strict=True)]
    assert [answers(model, decoder, one, processor)[0] for one in alone] == together


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_other_words_of_the_same_length_move_positions(models, processor, batch, kind, branching):
    """Words in place of the image, one for each image token: the mask is the base's, the positions are not."""
    model, inputs = models[kind], batch(2)
    adapter = adapter_for(model)
    counts = (inputs["input_ids"] == IMAGE).sum(dim=1).tolist()
    other = adapter.without_image(inputs, [list(range(20, 20 + count)) for count in counts])
    assert torch.equal(other["attention_mask"], inputs["attention_mask"])
    marked = {"branching": branching}
    with sightline.attach(model, Anything((Branch("words", other),)), inputs, **marked) as attached:
        output = model.generate(
            **inputs, logits_processor=[attached], max_new_tokens=STEPS, do_sample=False, eos_token_id=-1
        )
    for row in range(2):
        sight = QwenSight(model, processor, picture(row), TEXTS[row])
        length, new = len(sight.ids), []
        words = other["input_ids"][row, -length:].tolist()
        with torch.no_grad():
            for _ in range(STEPS):
                scores = 1.8 * sight.base(new) - 0.8 * sight.logits(sight.embedded(new, ids=words))
                new.append(int(scores.argmax()))
        assert output[row, inputs["input_ids"].shape[1] :].tolist() == new


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_in_chunks_and_static_caches(models, processor, heads, batch, kind):
    model, inputs = models[kind], batch(2)
    for name in ("vcd", "causalmm", "avc"):
        decoder = made(kind, name, heads)
        whole = answers(model, decoder, inputs, processor)
        for branching in ("rows", "sequential"):
            settings = {"branching": branching}
            assert answers(model, decoder, inputs, processor, cache_implementation="static", **settings) == whole
            if name != "avc" and PIECES:
                assert answers(model, decoder, inputs, processor, prefill_chunk_size=5, **settings) == whole
            elif name != "avc":  # the model itself loses its images, and that is said
                with pytest.raises(errors.UnsupportedMode, match="loses the images"):
                    answers(model, decoder, inputs, processor, prefill_chunk_size=5, **settings)
    with pytest.raises(errors.UnsupportedMode, match="in one piece" if PIECES else "loses the images"):
        answers(model, made(kind, "code", heads), inputs, processor, prefill_chunk_size=5)


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_the_general_instruction_runs_its_own_words_alone(models, processor, batch, branching):
    """Image and lead are shared with the base's prompt, positions included: no second image is encoded."""
    model, inputs, general = models["qwen2_5_vl"], batch(1), "Tell all."
    decoder = sightline.IAVA(instruction=general, lamb=-0.2)
    with sightline.attach(model, decoder, inputs, processor=processor, branching=branching) as attached:
        model.generate(**inputs, logits_processor=[attached], max_new_tokens=STEPS, do_sample=False, eos_token_id=-1)
    assert attached.stats.encodes == 0
    own = len(general + " ASSISTANT:")
    assert attached.stats.columns == 2 * (inputs["input_ids"].shape[1] + STEPS - 1) + own


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_behind(models, processor, heads, batch, kind):
    model, inputs = models[kind], batch(2)
    plain = answers(model, None, inputs, processor)
    kept = model.model.rope_deltas
    configs = [model.config.text_config, model.config.vision_config]
    before = [config._attn_implementation for config in configs], hooks(model)

    class Breaks(Exception):
        pass

    def stop(input_ids, scores):
        raise Breaks

    for name in ("vcd", "causalmm", "cgvlm"):
        decoder = made(kind, name, heads)
        with sightline.attach(model, decoder, inputs, processor=processor):
            assert model.model.rope_deltas is kept
        with pytest.raises(Breaks):
            marked = {"processor": processor, "logits_processor": [stop]}
            sightline.generate(model, decoder, inputs, **marked, max_new_tokens=3)
        assert ([config._attn_implementation for config in configs], hooks(model)) == before
        assert not len(_STATES)
        assert answers(model, None, inputs, processor) == plain
        kept = model.model.rope_deltas


def test_a_trace_follows_the_tokens(models, processor, batch):
    model, inputs, decoder = models["qwen3_vl"], batch(3), sightline.VCD(alpha=3.0, noise_step=700)
    traced = sightline.trace(model, decoder, inputs, max_new_tokens=STEPS, do_sample=False)
    rows = answers(model, decoder, inputs, processor)
    assert [[token.token for token in trace] for trace in traced.tokens] == rows
    counts = (inputs["input_ids"] == IMAGE).sum(dim=1).tolist()
    for trace, count in zip(traced.tokens, counts, strict=True):
        assert all(0 < token.image_attention < 1 and len(token.image_map) == count for token in trace)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["vcd", "hicd", "code", "avc"])
def test_scores_of_given_answers_equal_naive(models, processor, heads, batch, kind, name):
    model, decoder, inputs, said = models[kind], made(kind, name, heads), batch(2), [30, 41, 22]
    uncut = {"beta_mode": "fixed", "beta": 0.0} if name == "code" else {"beta": 0.0}
    decoder = type(decoder)(**decoder.params() | uncut)
    found = sightline.score(model, decoder, inputs, [said], processor=processor)
    for row in range(2):
        sight = QwenSight(model, processor, picture(row), TEXTS[row])
        with torch.no_grad():
            trail = [NAIVE[decoder.key](sight, decoder, said[:place], given(decoder)) for place in range(3)]
        total = sum(float(scores.log_softmax(-1)[token]) for scores, token in zip(trail, said, strict=True))
        assert float(found[row, 0]) == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_over_packed_patches_is_refused(models, batch, kind):
    gate = sightline.CausalMM(modality="vision", vision_mode="gate", vision_norm="none", vision_kind="shuffle")
    with pytest.raises(errors.UnsupportedModel, match="in_layer"):
        sightline.attach(models[kind], gate, batch(1))


def test_images_without_their_layout_are_refused(models, batch):
    for name in ("image_grid_thw", "mm_token_type_ids"):
        rest = {key: value for key, value in batch(1).items() if key != name}
        with pytest.raises(errors.InvalidPrompt, match=name):
            sightline.attach(models["qwen2_5_vl"], "greedy", rest)
