"""Columns and rows of decoder calls and caches: streams joined, taken apart and put in order."""

import pytest
import torch
from sightline.decoders import rows
from sightline.decoders.runner import Stream
from transformers import DynamicCache, LlamaConfig, StaticCache

SMALL = LlamaConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, vocab_size=9)


def call(batch=2, columns=3, positions=2):
    ids = torch.arange(batch * columns).view(batch, columns)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(columns).expand(positions, columns),
    }


@pytest.mark.parametrize("positions", [1, 2])
def test_streams_are_taken_out_as_they_were_put_in(positions):
    """Positions of one row for all rows stay one row."""
    single = call(positions=positions)
    joined = rows.repeat_call(single, 3)
    assert joined["input_ids"].equal(single["input_ids"].repeat(3, 1))
    assert len(joined["position_ids"]) == (6 if positions == 2 else 1)
    joined["input_ids"] = joined["input_ids"] + torch.tensor([0, 0, 50, 50, 90, 90])[:, None]
    taken = rows.take_streams(joined, [2, 0], 3)
    assert taken["input_ids"].equal(torch.cat([single["input_ids"] + 90, single["input_ids"]]))
    assert len(taken["attention_mask"]) == 4
    assert taken["position_ids"].equal(torch.arange(3).expand(4 if positions == 2 else 1, 3))


def test_a_call_without_positions_is_cut_before_its_last_column():
    whole = call()
    del whole["position_ids"]
    first, last = rows.split_last(whole)
    assert first["input_ids"].equal(whole["input_ids"][:, :2])
    assert last["input_ids"].equal(whole["input_ids"][:, 2:])
    assert (first["attention_mask"].shape, last["attention_mask"].shape) == ((2, 2), (2, 3))
    assert "position_ids" not in first | last


def test_columns_behind_a_prompt_are_the_bases():
    base, prompt = torch.randn(4, 2, 5), torch.randn(2, 3, 5)
    assert rows.overlay(base, prompt, 3) is base
    found = rows.overlay(base, prompt, 2)
    assert found[:, 0].equal(prompt[:, 2].repeat_interleave(2, dim=0))
    assert found[:, 1].equal(base[:, 1])
    mask = torch.ones(2, 3)
    aside = Stream(prompt, mask, mask.bool(), aside=True)  # a base of 5 columns, after its prompt and in it
    assert aside.columns(base, past=5, width=5) is base
    given = torch.randn(2, 6, 5)
    assert aside.columns(given, past=0, width=5).equal(torch.cat([prompt, given[:, 5:]], dim=1))


def filled(kind, batch, shift=0.0):
    """A cache of two layers in which each row holds its number, and another one of the same kind."""
    cache = DynamicCache(config=SMALL) if kind == "growing" else StaticCache(config=SMALL, max_cache_len=4)
    for layer in range(2):
        states = torch.arange(batch).float()[:, None, None, None].expand(batch, 2, 3, 4) + shift
        cache.update(states.clone(), states + 0.5, layer)
    return cache


@pytest.mark.parametrize("kind", ["growing", "static"])
def test_caches_are_put_in_another_order(kind):
    cache = filled(kind, 3)
    rows.select_cache_rows(cache, torch.tensor([2, 0, 0, 1]))
    for layer in cache.layers:
        assert layer.keys[:, 0, 0, 0].tolist() == [2, 0, 0, 1]
        assert layer.values[:, 1, 2, 3].tolist() == [2.5, 0.5, 0.5, 1.5]
    assert kind == "growing" or cache.batch_size == 4


@pytest.mark.parametrize("kind", ["growing", "static"])
def test_caches_are_joined_in_order(kind):
    cache, other = filled(kind, 2), filled(kind, 2, shift=10)
    rows.join_caches(cache, other, torch.tensor([0, 2, 1, 3]))
    for layer in cache.layers:
        assert layer.keys[:, 0, 0, 0].tolist() == [0, 10, 1, 11]
        assert layer.values[:, 0, 0, 0].tolist() == [0.5, 10.5, 1.5, 11.5]
    assert kind == "growing" or cache.batch_size == 4


def test_layers_that_hold_nothing_yet_are_left_so():
    cache, other = DynamicCache(config=SMALL), DynamicCache(config=SMALL)
    rows.join_caches(cache, other, torch.tensor([0]))
    rows.select_cache_rows(cache, torch.tensor([0]))
    assert all(layer.keys is None for layer in cache.layers)
