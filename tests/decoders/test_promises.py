"""The promises of the engine for every strategy: one line in `ACTIVE` and `NEUTRAL` is all that a new one needs.

Neutral parameters are plain decoding; rows equal sequential passes; a batch equals its rows one by one; the cache makes
no difference; nothing stays behind.
"""

import pytest
import sightline
import torch
from letters import asked, llava_processor, noise_image
from sightline.decoders.calibration import HeadRanking
from sightline.decoders.calibration.detector import Detector
from sightline.models.attention import _STATES

STEPS = 5
RANKED = ((1, 0, 0.9), (2, 1, 0.5), (1, 3, 0.2))
ACTIVE = {
    "vcd": lambda heads: sightline.VCD(alpha=1.0, noise_step=700),
    "decore": lambda heads: sightline.DeCoRe(num_heads=3, heads=heads, alpha_mode="static", alpha=4.0),
    "random_heads": lambda heads: sightline.RandomHeads(num_heads=3, heads=heads, alpha_mode="static", alpha=4.0),
    "avc": lambda heads: sightline.AVC(lamb=0.3),
    "iava": lambda heads: sightline.IAVA(lamb=-0.2, alpha=2.0, instruction="Tell."),
    "code": lambda heads: sightline.CODE(desc_prompt="Tell.", desc_max_new_tokens=6),
    "causalmm": lambda heads: sightline.CausalMM(modality="multimodal", language_layers="all"),
    "hicd": lambda heads: sightline.HICD(alpha=3.0, heads=heads.replace("heads.json", "inducing.json")),
    "cgvlm": lambda heads: sightline.CGVLM(alpha=6.0, k=0.025, layers=(0, 1, 2)),
    "dola": lambda heads: sightline.DoLa(layers="0,1,2"),
    "cad": lambda heads: sightline.CAD(alpha=2.0),
    "dagcd": lambda heads: sightline.DAGCD(alpha=8.0, top_rank=60, detector=heads.replace("heads.json", "own.json")),
    "cgvlm+vcd": lambda heads: sightline.Together(
        (sightline.CGVLM(alpha=6.0, k=0.025, layers=(0, 1, 2)), sightline.VCD(alpha=0.5, noise_step=700))
    ),
    "avc+decore": lambda heads: sightline.Together(
        (sightline.AVC(lamb=0.3, beta=0.0), sightline.DeCoRe(num_heads=2, heads=heads, alpha_mode="static", alpha=2.0))
    ),
}
NEUTRAL = {
    "vcd": lambda heads: sightline.VCD(alpha=0.0, beta=0.0),
    "decore": lambda heads: sightline.DeCoRe(num_heads=0, heads=heads),
    "random_heads": lambda heads: sightline.RandomHeads(num_heads=0, heads=heads),
    "avc": lambda heads: sightline.AVC(alpha=0.0, beta=0.0),
    "iava": lambda heads: sightline.IAVA(alpha=0.0, beta=0.0),
    "code": lambda heads: sightline.CODE(alpha_mode="fixed", alpha=0.0, beta_mode="fixed", beta=0.0),
    "causalmm": lambda heads: sightline.CausalMM(gamma=0.0, epsilon=0.0),
    "hicd": lambda heads: sightline.HICD(alpha=0.0, beta=0.0),
    "cgvlm": lambda heads: sightline.CGVLM(alpha=0.0),
    "cad": lambda heads: sightline.CAD(alpha=0.0),
    "dagcd": lambda heads: sightline.DAGCD(alpha=0.0, detector=heads.replace("heads.json", "own.json")),
    "vcd+avc": lambda heads: sightline.Together((sightline.VCD(alpha=0, beta=0), sightline.AVC(alpha=0, beta=0))),
}
MODES = {
    "greedy": {},
    "sample": {"do_sample": True, "top_k": 20, "temperature": 1.3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}
TEXTS = ("Is it red?", "What do you see in the picture?", "Why?", "Name all of it.")
CONTEXT = ("it red", "do you see in the", "Wh", "all of")
"""What of each text is marked as context, for the strategies that ask for it."""


@pytest.fixture(scope="module")
def processor():
    return llava_processor()


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    (folder / "inducing.json").write_text('{"1": [0, 3], "2": [1]}')
    Detector("random", 3, 4, ((1, 0, 3.0), (2, 3, 2.0)), -0.5, 1.0, 0.9, 9, 9).save(folder / "own.json")
    return str(HeadRanking("image", "random", 3, 4, RANKED).save(folder / "heads.json"))


@pytest.fixture(scope="module")
def batch(processor):
    """The first `count` of four prompts of different lengths, left-padded, one image each."""

    def make(count=4):
        return asked(processor, [[noise_image(seed)] for seed in range(count)], TEXTS[:count])

    return make


def spans(processor, inputs):
    """What is marked as context in each prompt."""
    texts = processor.batch_decode(inputs["input_ids"])
    return [next(part for part in CONTEXT if part in text) for text in texts]


def answers(model, decoder, inputs, processor, seed=3, **kwargs):
    """New tokens of each sequence up to its end token."""
    settings = {"max_new_tokens": STEPS, "do_sample": False} | kwargs
    torch.manual_seed(seed)
    if decoder is None:
        ids = model.generate(**inputs, **settings)
    else:
        marked = {"processor": processor, "spans": spans(processor, inputs)}
        ids = sightline.generate(model, decoder, inputs, **marked, **settings)
    rows = ids[:, inputs["input_ids"].shape[1] :].tolist()
    return [row[: row.index(2) + 1] if 2 in row else row for row in rows]


def hooks(model):
    return [(*module._forward_hooks, *module._forward_pre_hooks) for module in model.modules()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_is_plain_generate(llava, processor, heads, batch, name, mode):
    for count in (1, 4):
        decoder, inputs = NEUTRAL[name](heads), batch(count)
        marked = {"processor": processor, "spans": spans(processor, inputs)}
        with sightline.attach(llava, decoder, inputs, **marked) as attached:
            assert attached.plan.is_neutral
        plain = answers(llava, None, inputs, processor, **MODES[mode])
        assert answers(llava, decoder, inputs, processor, **MODES[mode]) == plain


@pytest.mark.parametrize("name", ACTIVE)
def test_rows_sequence_batch_and_cache_agree(llava, processor, heads, batch, name):
    decoder, inputs = ACTIVE[name](heads), batch()
    together = answers(llava, decoder, inputs, processor)
    assert together != answers(llava, None, inputs, processor)
    assert answers(llava, decoder, inputs, processor, branching="sequential") == together
    assert answers(llava, decoder, inputs, processor, num_beams=1, num_return_sequences=1) == together
    if "cgvlm" not in name:  # biases the newest row alone, which needs a cache; without one it is refused
        assert answers(llava, decoder, inputs, processor, use_cache=False) == together
    alone = [asked(processor, [[noise_image(seed)]], [TEXTS[seed]]) for seed in range(4)]
    assert [answers(llava, decoder, one, processor)[0] for one in alone] == together


@pytest.mark.parametrize("name", ACTIVE)
def test_beams_agree_and_return_sequences_repeat(llava, processor, heads, batch, name):
    decoder, inputs = ACTIVE[name](heads), batch(2)
    beams = answers(llava, decoder, inputs, processor, **MODES["beams"])
    assert answers(llava, decoder, inputs, processor, branching="sequential", **MODES["beams"]) == beams
    drawn = answers(llava, decoder, inputs, processor, num_return_sequences=2, **MODES["sample"])
    sequential = answers(
        llava, decoder, inputs, processor, num_return_sequences=2, branching="sequential", **MODES["sample"]
    )
    assert drawn == sequential
    assert len(drawn) == 4


@pytest.mark.parametrize("name", ACTIVE)
def test_nothing_stays_behind(llava, processor, heads, batch, name):
    decoder, inputs = ACTIVE[name](heads), batch(2)
    plain = answers(llava, None, inputs, processor)
    before = llava.config.text_config._attn_implementation, hooks(llava)

    class Breaks(Exception):
        pass

    def stop(input_ids, scores):
        raise Breaks

    with pytest.raises(Breaks):
        marked = {"processor": processor, "spans": spans(processor, inputs), "logits_processor": [stop]}
        sightline.generate(llava, decoder, inputs, **marked, max_new_tokens=3)
    assert (llava.config.text_config._attn_implementation, hooks(llava)) == before
    assert not len(_STATES)
    assert answers(llava, None, inputs, processor) == plain


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["greedy", *ACTIVE])
def test_a_trace_changes_no_token_and_follows_them(llava, processor, heads, batch, name, mode):
    decoder = sightline.decoders.build("greedy") if name == "greedy" else ACTIVE[name](heads)
    inputs, settings = batch(3), {"max_new_tokens": STEPS, "do_sample": False} | MODES[mode]
    torch.manual_seed(3)
    marked = {"processor": processor, "spans": spans(processor, inputs)}
    traced = sightline.trace(llava, decoder, inputs, **marked, **settings)
    rows = traced.output[:, inputs["input_ids"].shape[1] :].tolist()
    rows = [row[: row.index(2) + 1] if 2 in row else row for row in rows]
    assert rows == answers(llava, decoder, inputs, processor, **MODES[mode])
    assert [[token.token for token in trace] for trace in traced.tokens] == rows
    for token in (token for trace in traced.tokens for token in trace):
        assert token.entropy >= 0
        assert 1 <= token.kept <= 96
        assert 0 < token.image_attention < 1
        assert token.image_map.sum().item() == pytest.approx(token.image_attention, abs=1e-6)
        assert (token.ousted is None) == (token.ousted_chances is None)
        assert token.chances.decoded > 0
        if name == "greedy":
            assert token.chances.decoded == pytest.approx(token.chances.base)
