"""A cache that holds the prompt's beginning: served where branches share it or there are none, refused otherwise."""

import pytest
import sightline
import torch
from anything import Anything, assert_same, naive_tokens, run
from naive import forked, single
from sightline.decoders import Branch, HeadEdit
from sightline.models import errors
from sightline.models.versions import CACHE, PIECES
from transformers import DynamicCache, StaticCache

EDITS = (HeadEdit(1, (0, 3)), HeadEdit(2, (1,)))
FORK = (Branch("edited", edits=EDITS, fork=True),)
SETTINGS = {"max_new_tokens": 5, "do_sample": False}


@torch.no_grad()
def filled(model, batch, columns):
    """The first columns of a batch in a cache, as an earlier `generate()` leaves them."""
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)[:, :columns]
    part = {name: batch[name][:, :columns] for name in ("input_ids", "attention_mask")}
    pixels = {name: batch[name] for name in ("pixel_values",) if name in batch}
    return model(**part, **pixels, position_ids=positions, use_cache=True)[CACHE]


def words(batch):
    """The batch without its images, which are in the cache."""
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@pytest.fixture
def batch(inputs):
    return inputs((9, 5), seed=2)


@pytest.mark.parametrize("branching", ["rows", "sequential"])
@pytest.mark.parametrize("held", [10, 12])
@pytest.mark.parametrize("beams", [1, 3])
def test_forked_branches_share_what_is_held(llava, batch, branching, held, beams):
    """One new token or three: as the whole prompt, and as naive passes."""
    settings, cache = {"num_beams": beams}, filled(llava, batch, held)
    cache.batch_repeat_interleave(beams)  # generate() leaves a given cache as it is
    whole, _ = run(llava, batch, FORK, branching, **settings)
    found, stats = run(llava, words(batch), FORK, branching, **{CACHE: cache}, **settings)
    assert found.sequences.equal(whole.sequences)
    if beams == 1:
        naive = naive_tokens(llava, batch, [lambda row, new: forked(llava, single(batch, row), new, EDITS)])
        assert_same(found, batch, *naive)
        assert not found.sequences.equal(llava.generate(**batch, **SETTINGS))
    assert stats.columns < 2 * 2 * beams * (batch["input_ids"].shape[1] - held + 2 + 5), "what is held was run again"


def test_the_cache_is_given_back_with_base_rows_alone(llava, batch):
    cache = filled(llava, batch, 10)
    run(llava, words(batch), FORK, "rows", **{CACHE: cache})
    assert all(layer.keys.shape[0] == 2 for layer in cache.layers)
    plain = filled(llava, batch, 13)
    for layer, own in zip(cache.layers, plain.layers, strict=True):
        torch.testing.assert_close(layer.keys[:, :, :13], own.keys)
        torch.testing.assert_close(layer.values[:, :, :13], own.values)


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_other_branches_and_caches_are_refused_before_the_first_forward(llava, llama, batch, branching):
    forwards = []
    handles = [
        model.get_decoder().register_forward_hook(lambda *_: forwards.append(1), with_kwargs=False)
        for model in (llava, llama)
    ]
    text, cache = words(batch), filled(llava, batch, 10)
    static = StaticCache(config=llama.config, max_cache_len=30)
    llama(input_ids=text["input_ids"][:, :8], **{CACHE: static})
    cases = [
        (llava, Branch("noised", {"pixel_values": batch["pixel_values"] * 0.5}), batch, cache),
        (llama, Branch("whole", edits=EDITS), text, filled(llama, text, 10)),
        (llama, FORK[0], text, static),
    ]
    forwards.clear()
    try:
        for model, branch, given, held in cases:
            with pytest.raises(errors.UnsupportedMode, match=r"tokens already.*whole prompt"):
                run(model, given, (branch,), branching, **{CACHE: held}, disable_compile=True)
        refused = errors.UnsupportedMode if PIECES else errors.InputsMismatch  # older versions begin the pieces anew
        with pytest.raises(refused, match="in one piece" if PIECES else "not those attached"):
            run(llama, text, FORK, branching, **{CACHE: filled(llama, text, 8)}, prefill_chunk_size=2)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("decoder", [sightline.CutOnly(beta=0.3), sightline.DoLa()])
def test_without_branches_it_is_the_whole_prompt(llama, batch, decoder):
    text = words(batch)
    whole = sightline.generate(llama, decoder, text, **SETTINGS)
    assert sightline.generate(llama, decoder, text, **{CACHE: filled(llama, text, 9)}, **SETTINGS).equal(whole)
    assert sightline.generate(llama, decoder, text, **{CACHE: DynamicCache()}, **SETTINGS).equal(whole)


def test_other_words_than_those_attached_are_an_error(llama, batch):
    text, cache = words(batch), filled(llama, words(batch), 9)
    other = text | {"input_ids": text["input_ids"].clone()}
    other["input_ids"][:, -1] = 50
    with pytest.raises(errors.InputsMismatch), sightline.attach(llama, sightline.DoLa(), text) as processor:
        llama.generate(**other, **{CACHE: cache}, logits_processor=[processor], **SETTINGS)


@pytest.mark.parametrize("decoder", [sightline.CAD(), Anything(FORK), Anything((Branch("all", edits=EDITS),))])
def test_embeddings_of_the_same_words_are_the_words(llama, batch, decoder):
    text, settings = words(batch), {"spans": [(5, 9)] * 2}
    embeds = llama.get_input_embeddings()(text["input_ids"])
    given = {"inputs_embeds": embeds, "attention_mask": text["attention_mask"]}
    found = []
    for each in (text, given):
        with sightline.attach(llama, decoder, text, **settings) as processor:
            found.append(llama.generate(**each, logits_processor=[processor], **SETTINGS)[:, -5:])
    assert found[0].equal(found[1])
    with pytest.raises(errors.InputsMismatch), sightline.attach(llama, decoder, text, **settings) as processor:
        llama.generate(**(given | {"inputs_embeds": embeds.flip(1)}), logits_processor=[processor], **SETTINGS)
