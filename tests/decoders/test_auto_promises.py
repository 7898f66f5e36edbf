"""Strategies on the types that `auto` serves: masks of their own, windows, markers around images, padded image rows.

Each equals passes written out for one prompt at a time (`image_text`), in rows and in sequence, or is refused before
the first forward; neutral parameters are plain decoding; nothing stays behind.
"""

import pytest
import sightline
import torch
from image_text import KINDS, ImageTextSight, image_text_model, image_text_processor, questions
from letters import noise_image
from naive_family import naive, naive_tokens
from promised import ACTIVE, CONTEXT, MODES, NEUTRAL, RANKED, STEPS, TEXTS, answers, hooks, lists, spans
from sightline.decoders.calibration import HeadRanking
from sightline.decoders.guard import forgets_types
from sightline.models import adapter_for, errors
from sightline.models.attention import _STATES

K = {"gemma3": 0.02, "idefics3": 0.01, "internvl": 0.02, "smolvlm": 0.01}
"""Under these thresholds the gate of CG-VLM opens now and then in these models."""
ROWS = 3
FORKED = ("decore", "cgvlm")
"""Strategies that edit from the last prompt token on."""
DECODERS = {
    name: ACTIVE[name] for name in ("vcd", "decore", "avc", "iava", "code", "causalmm", "hicd", "cgvlm", "dola", "cad")
} | {
    "causalmm, gate": lambda heads: sightline.CausalMM(
        modality="vision", vision_mode="gate", vision_norm="none", vision_kind="shuffle", gamma=2.0
    ),
    "avc, keys": lambda heads: sightline.AVC(lamb=0.3, masking="mask"),
    "decore, prompt": lambda heads: sightline.DeCoRe(
        num_heads=3, heads=heads, alpha_mode="static", alpha=4.0, mask_prefill=True
    ),
}
CASES = [(kind, name) for kind in KINDS for name in DECODERS if not (kind == "paligemma" and name in FORKED)]
PLAIN = [(kind, name) for kind, name in CASES if "," not in name]


@pytest.fixture(scope="module")
def models():
    return {kind: image_text_model(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def processors():
    return {kind: image_text_processor(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return lists(tmp_path_factory.mktemp("lists"))


@pytest.fixture(scope="module")
def batch(processors):
    """Prompts of different lengths, padded on the left."""
    kept = {}

    def make(kind, count=ROWS):
        if (kind, count) not in kept:
            images = [[noise_image(row)] for row in range(count)]
            kept[kind, count] = questions(kind, processors[kind], images, TEXTS[:count])
        return dict(kept[kind, count])

    return make


def made(kind, name, heads):
    """The decoder, CG-VLM with a gate that this model opens."""
    if name == "cgvlm":
        return sightline.CGVLM(alpha=20.0, k=K[kind], layers=(0, 1, 2))
    return DECODERS[name](heads)


def given(decoder):
    """What calibrations say, for the naive version of a decoder."""
    if decoder.key == "hicd":
        return {"heads": [(1, 0), (1, 3), (2, 1)]}
    return {"heads": decoder.chosen(HeadRanking("image", "random", 3, 4, RANKED))} if decoder.key == "decore" else {}


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_generation_equals_naive(models, processors, heads, batch, kind, name):
    """Prompts in one padded batch, in rows and in sequence, token for token and score for score."""
    model, processor, inputs, found = models[kind], processors[kind], batch(kind), []
    decoder = made(kind, name, heads)
    scored = {"max_new_tokens": STEPS, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    for branching in ("rows", "sequential"):
        marked = {"processor": processor, "spans": spans(processor, inputs), "branching": branching}
        with sightline.attach(model, decoder, inputs, **marked) as attached:
            found.append(model.generate(**inputs, logits_processor=[attached], **scored))
    moved, width = False, inputs["input_ids"].shape[1]
    for row in range(ROWS):
        sight = ImageTextSight(model, processor, noise_image(row), TEXTS[row], CONTEXT[row])
        new, trail = naive_tokens(sight, decoder, given(decoder), STEPS)
        with torch.no_grad():
            plain = [sight.base(new[:step]) for step in range(len(new))]
        moved |= any(not torch.allclose(one, other, atol=1e-2) for one, other in zip(plain, trail, strict=True))
        for output in found:
            assert output.sequences[row, width:].tolist()[: len(new)] == new
            for step, scores in enumerate(trail):
                got = output.scores[step][row].double()
                if decoder.key == "code":  # known up to a constant
                    got, scores = got.log_softmax(-1), scores.log_softmax(-1)
                torch.testing.assert_close(got, scores, atol=1e-4, rtol=1e-4)
    assert moved


@pytest.mark.parametrize("kind", KINDS)
def test_naive_passes_are_the_models_own(models, processors, kind):
    """What `image_text` says of masks, against the model's own forward over prompt and new tokens."""
    model, sight = models[kind], ImageTextSight(models[kind], processors[kind], noise_image(1), TEXTS[1])
    new = torch.tensor([[30, 41, 22]])
    row = dict(sight.row) | {"input_ids": torch.cat([sight.row["input_ids"], new], 1)}
    row["attention_mask"] = torch.ones_like(row["input_ids"])
    if "token_type_ids" in row:
        behind = torch.full_like(new, int(kind == "paligemma"))
        row["token_type_ids"] = torch.cat([row["token_type_ids"], behind], 1)
    with torch.no_grad():
        own, ours = model(**row, use_cache=False).logits[0, -1], sight.base(new[0].tolist())
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_neutral_is_plain_generate(models, processors, heads, batch, kind, mode):
    model, processor, inputs = models[kind], processors[kind], batch(kind)
    plain = answers(model, None, inputs, processor, **MODES[mode])
    for name in ("vcd", "decore", "avc", "iava", "code", "causalmm", "hicd", "cgvlm"):
        decoder = NEUTRAL[name](heads)
        with sightline.attach(model, decoder, inputs, processor=processor) as attached:
            assert attached.plan.is_neutral
    assert answers(model, NEUTRAL["vcd"](heads), inputs, processor, **MODES[mode]) == plain


@pytest.mark.parametrize(("kind", "name"), [case for case in PLAIN if case[1] not in ("iava", "hicd", "dola")])
def test_batch_and_cache_agree(models, processors, heads, batch, kind, name):
    model, processor, inputs = models[kind], processors[kind], batch(kind)
    decoder = made(kind, name, heads)
    together = answers(model, decoder, inputs, processor)
    for row in range(ROWS):
        one = questions(kind, processor, [[noise_image(row)]], [TEXTS[row]])
        assert answers(model, decoder, one, processor) == [together[row]]
    both = ("rows", "sequential") if name in ("vcd", "code") else ("rows",)
    for branching in both if name != "cgvlm" else ():
        if forgets_types(adapter_for(model)):  # the model itself sees other tokens without a cache, and that is said
            with pytest.raises(errors.UnsupportedMode, match="part of its prompt"):
                answers(model, decoder, inputs, processor, use_cache=False, branching=branching)
            continue
        assert answers(model, decoder, inputs, processor, use_cache=False, branching=branching) == together


@pytest.mark.parametrize(("kind", "name"), [case for case in PLAIN if case[1] in ("avc", "code", "decore")])
def test_beams_and_return_sequences(models, processors, heads, batch, kind, name):
    model, processor, decoder, inputs = models[kind], processors[kind], made(kind, name, heads), batch(kind, 2)
    for mode in (MODES["beams"], MODES["sample"] | {"num_return_sequences": 2}):
        found = answers(model, decoder, inputs, processor, **mode)
        assert len(found) == 4
        assert answers(model, decoder, inputs, processor, branching="sequential", **mode) == found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["vcd", "code", "avc"])
def test_scores_of_given_answers_equal_naive(models, processors, heads, batch, kind, name):
    """A continuation is no part of the prompt: in PaliGemma it is seen by later tokens alone."""
    model, processor, inputs, said = models[kind], processors[kind], batch(kind, 2), [30, 41, 22]
    decoder = DECODERS[name](heads)
    uncut = {"beta_mode": "fixed", "beta": 0.0} if name == "code" else {"beta": 0.0}
    decoder = type(decoder)(**decoder.params() | uncut)
    marked = {"processor": processor, "spans": spans(processor, inputs)}
    found = sightline.score(model, decoder, inputs, [said], **marked)
    for row in range(2):
        sight = ImageTextSight(model, processor, noise_image(row), TEXTS[row], CONTEXT[row])
        with torch.no_grad():
            trail = [naive(sight, decoder)(sight, decoder, said[:place], given(decoder)) for place in range(3)]
        total = sum(float(scores.log_softmax(-1)[token]) for scores, token in zip(trail, said, strict=True))
        assert float(found[row, 0]) == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("name", FORKED)
def test_a_prompt_that_sees_itself_cannot_be_forked(models, processors, heads, batch, name):
    """Before the first forward of `generate()`, with a way out."""
    decoder = sightline.CGVLM(alpha=6.0, k=0.1) if name == "cgvlm" else made("paligemma", name, heads)
    with pytest.raises(errors.UnsupportedMode, match="see that token") as refused:
        sightline.attach(models["paligemma"], decoder, batch("paligemma"), processor=processors["paligemma"])
    assert "mask_prefill=true" in refused.value.hint
    assert not len(_STATES)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stays_behind(models, processors, heads, batch, kind):
    model, processor, inputs = models[kind], processors[kind], batch(kind, 2)
    plain = answers(model, None, inputs, processor)
    configs = [model.config.text_config, model.config.vision_config]
    before = [config._attn_implementation for config in configs], hooks(model)

    class Breaks(Exception):
        pass

    def stop(input_ids, scores):
        raise Breaks

    for name in ("avc", "causalmm"):
        with pytest.raises(Breaks):
            marked = {"processor": processor, "logits_processor": [stop]}
            sightline.generate(model, made(kind, name, heads), inputs, **marked, max_new_tokens=3)
        assert ([config._attn_implementation for config in configs], hooks(model)) == before
        assert not len(_STATES)
        assert answers(model, None, inputs, processor) == plain
