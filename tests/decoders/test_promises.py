"""The promises of the engine for every strategy: one line in `promised.py` is all that a new one needs.

Neutral parameters are plain decoding; rows equal sequential passes; a batch equals its rows one by one; the cache makes
no difference; nothing stays behind.
"""

import pytest
import sightline
import torch
from letters import asked, llava_processor, noise_image
from promised import ACTIVE, MODES, NEUTRAL, STEPS, TEXTS, answers, hooks, lists, spans
from sightline.models.attention import _STATES


@pytest.fixture(scope="module")
def processor():
    return llava_processor()


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return lists(tmp_path_factory.mktemp("lists"))


@pytest.fixture(scope="module")
def batch(processor):
    """The first `count` of four prompts of different lengths, left-padded, one image each."""

    def make(count=4):
        return asked(processor, [[noise_image(seed)] for seed in range(count)], TEXTS[:count])

    return make


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
