"""The attention function against eager attention with full maps, and its restore."""

import pytest
import torch
from sightline.models import adapter_for, attention, errors, self_check
from sightline.models.attention import NAME, LayerState, installed, last_row
from sightline.models.parts import layers_of
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface


def batch(padded):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, 90, (2, 7), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :3] = 0
    return {"input_ids": ids, "attention_mask": mask}


def eager_maps(model, inputs):
    """Attention of every layer by eager attention, `[layers, rows, heads, q, keys]`."""
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            return torch.stack(model(**inputs, output_attentions=True).attentions)
    finally:
        model.set_attn_implementation("sdpa")


def run(model, inputs, states):
    adapter = adapter_for(model)
    held = dict(zip(adapter.attention_modules(), states, strict=True))
    with installed(adapter.decoder, held), torch.no_grad():
        return model(**inputs, use_cache=False).logits


@pytest.mark.parametrize("padded", [False, True])
def test_probe_is_the_last_row_of_the_eager_map(llama, padded):
    inputs = batch(padded)
    states = [LayerState(probe=True) for _ in range(3)]
    logits = run(llama, inputs, states)
    with torch.no_grad():
        torch.testing.assert_close(logits, llama(**inputs, use_cache=False).logits)
    for row in range(2):  # one by one: eager attention gives NaN for queries that see nothing, and they spread
        length = int(inputs["attention_mask"][row].sum())
        maps = eager_maps(llama, {"input_ids": inputs["input_ids"][row : row + 1, -length:]})
        for layer, state in enumerate(states):
            torch.testing.assert_close(state.reading[row, :, -length:], maps[layer, 0, :, -1], atol=1e-6, rtol=1e-5)
            assert not state.reading[row, :, :-length].any()
    for state in states:
        torch.testing.assert_close(state.reading.sum(-1), torch.ones(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("layer", [0, 2])
def test_uniform_heads_are_heads_whose_query_weights_are_zero(llama, padded, layer):
    inputs = batch(padded)
    edited = torch.tensor([[False, True, True, False]])
    states = [LayerState(uniform=edited if i == layer else None) for i in range(3)]
    logits = run(llama, inputs, states)
    weight = llama.model.layers[layer].self_attn.q_proj.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.view(4, 8, 32)[1:3] = 0
            expected = llama(**inputs, use_cache=False).logits
    finally:
        weight.data.copy_(kept)
    torch.testing.assert_close(logits, expected)


def test_zero_heads_are_heads_whose_output_weights_are_zero(llama):
    inputs = batch(padded=True)
    states = [LayerState(zero=torch.tensor([[True, False, False, True]])), LayerState(), LayerState()]
    logits = run(llama, inputs, states)
    weight = llama.model.layers[0].self_attn.o_proj.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.view(32, 4, 8)[:, [0, 3]] = 0
            expected = llama(**inputs, use_cache=False).logits
    finally:
        weight.data.copy_(kept)
    torch.testing.assert_close(logits, expected)


def test_edits_touch_their_stream_alone(llama):
    """Two streams of two rows: the base rows stay as they were, to the last bit."""
    inputs = {name: torch.cat([value] * 2) for name, value in batch(padded=True).items()}
    mask = torch.tensor([[False] * 4, [True] * 4])
    logits = run(llama, inputs, [LayerState(uniform=mask), LayerState(), LayerState()])
    untouched = run(llama, inputs, [LayerState(), LayerState(), LayerState()])
    assert logits[:2].equal(untouched[:2])
    assert (logits[2:] - untouched[2:]).abs().max() > 1e-4


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("q_len", [1, 5])
def test_last_row_is_softmax_of_the_last_query(heads, mask, q_len):
    query, key = torch.randn(2, heads[0], q_len, 8), torch.randn(2, heads[1], 9, 8)
    visible = torch.ones(2, 1, q_len, 9, dtype=torch.bool)
    visible[1, :, :, :4] = False
    given = {"none": None, "bool": visible, "float": torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)}[mask]
    scores = query @ key.repeat_interleave(heads[0] // heads[1], dim=1).mT / 8**0.5
    if given is not None:
        scores = scores.masked_fill(~visible, -torch.inf)
    elif q_len > 1:  # prefill into a larger static buffer
        scores = scores[..., :q_len]
    torch.testing.assert_close(last_row(query, key, given), scores[:, :, -1].softmax(-1))


def test_rows_that_see_nothing_are_zero():
    reading = last_row(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), torch.zeros(1, 1, 3, 3, dtype=torch.bool))
    assert reading.equal(torch.zeros(1, 2, 3))


def test_everything_is_restored_also_after_an_exception(llama):
    adapter = adapter_for(llama)
    with pytest.raises(ZeroDivisionError), installed(adapter.decoder, {adapter.attention_modules()[0]: LayerState()}):
        assert llama.config._attn_implementation == NAME
        raise ZeroDivisionError
    assert llama.config._attn_implementation == "sdpa"
    assert NAME not in AttentionInterface()
    assert NAME not in AttentionMaskInterface()


def test_vision_towers_keep_their_own_attention(llava):
    adapter = adapter_for(llava)
    with installed(adapter.decoder, {adapter.attention_modules()[0]: LayerState()}):
        assert llava.config.vision_config._attn_implementation == "sdpa"
        assert llava.config.text_config._attn_implementation == NAME


def test_self_check_passes_and_finds_a_dropped_mask(llama, llava, monkeypatch):
    for model in (llama, llava):
        adapter_for(model).self_check()
    monkeypatch.setattr(self_check, "_CHECKED", {})
    monkeypatch.setattr(
        attention, "last_row", lambda q, k, mask, scaling=None, bias=None: last_row(q, k, None, scaling, bias)
    )
    with pytest.raises(errors.SelfCheckFailed, match="padded key"):
        adapter_for(llama).self_check()


def test_self_check_finds_edits_that_do_nothing(llama, monkeypatch):
    monkeypatch.setattr(self_check, "_CHECKED", {})
    monkeypatch.setattr(LayerState, "keep", lambda *args: None)
    with pytest.raises(errors.SelfCheckFailed, match="changes nothing"):
        adapter_for(llama).self_check()


def test_soft_capped_scores_are_refused(llama):
    adapter = adapter_for(llama)
    llama.config.attn_logit_softcapping = 30.0
    try:
        with pytest.raises(errors.UnsupportedModel, match="soft-caps"), installed(adapter.decoder, {}):
            pass
    finally:
        del llama.config.attn_logit_softcapping


def test_a_second_set_of_edits_is_refused_and_the_first_stays(llama):
    adapter = adapter_for(llama)
    held = {adapter.attention_modules()[0]: LayerState(probe=True)}
    with installed(adapter.decoder, held):
        with pytest.raises(errors.UnsupportedModel, match="Close it first"), installed(adapter.decoder, held):
            pass
        with torch.no_grad():
            llama(**batch(padded=False), use_cache=False)
    assert next(iter(held.values())).reading is not None


def test_a_model_that_keeps_its_attention_is_refused_and_left_as_it_was(llama, monkeypatch):
    adapter = adapter_for(llama)
    monkeypatch.setattr(adapter.decoder, "set_attn_implementation", lambda name: None)
    with pytest.raises(errors.UnsupportedModel, match="leaves attention alone"), installed(adapter.decoder, {}):
        pass
    assert llama.config._attn_implementation == "sdpa"
    assert NAME not in AttentionInterface()


@pytest.mark.parametrize("image", [False, True])
def test_a_bias_acts_on_streams_that_do_not_stand_together(llama, image):
    """Base and second branch biased, the first branch not: each row is what it is alone; twice, as rows are kept."""
    one, marked = batch(padded=True), torch.zeros(2, 7, dtype=torch.bool)
    marked[:, 4:6] = image
    three = {name: torch.cat([value] * 3) for name, value in one.items()}

    def act(_scores, keys):  # image keys down, others unequally up
        return torch.where(keys, -3.0, torch.arange(7) / 2)[:, None]

    def states(streams, biased):
        known = {"image": (marked,) * streams, "seen": 7} if image else {}
        return [LayerState(bias=act if layer == 2 else None, biased=biased, **known) for layer in range(3)]

    joined = states(3, (0, 2))
    biased, plain = run(llama, one, states(1, (0,)))[:, -1], run(llama, one, states(1, ()))[:, -1]
    for _ in range(2):
        found = run(llama, three, joined)[:, -1]
        torch.testing.assert_close(found, torch.cat([biased, plain, biased]))
    assert (biased - plain).abs().amax(dim=1).min() > 1e-4
    if image:
        marked[:] = False
        assert (run(llama, one, states(1, (0,)))[:, -1] - biased).abs().max() > 1e-4


def test_layers_of_other_makes_are_refused():
    """GPT-2 has one projection for query, key and value, and keeps its layers under another name."""
    small = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 20, "bos_token_id": 1, "eos_token_id": 2}
    adapter = adapter_for(GPT2LMHeadModel(GPT2Config(**small)))
    with pytest.raises(errors.UnsupportedModel, match="leaves attention alone"):
        adapter.attention_modules()
    with pytest.raises(errors.UnsupportedModel, match="without early exits"):
        layers_of(adapter.decoder, 1)
