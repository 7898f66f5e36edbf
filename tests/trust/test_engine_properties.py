"""The engine's promises on random small models: layers, heads, grouped keys, windows, padding, lengths, images, beams.

All in float64, where equal means equal.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sightline.models.attention import _STATES
from small import Shape, alone, batch_of, decoders_of, model_of, neutral_of, shapes, tokens

EXAMPLES = min(settings().max_examples, 150)
"""An example runs some dozen generations."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lists")


def some(data: Any, found: dict[str, Any]) -> tuple[str, Any]:
    name = data.draw(st.sampled_from(sorted(found)), label="decoder")
    return name, found[name]


def ran(shape: Shape) -> tuple[Any, dict[str, torch.Tensor], Callable[..., list[list[int]]]]:
    model, batch = model_of(shape), batch_of(shape)
    return model, batch, lambda decoder, given=batch, **settings: tokens(model, decoder, given, **settings)


@settings(max_examples=EXAMPLES)
@given(shape=shapes(), data=st.data())
def test_rows_passes_batches_and_caches_agree(folder: Path, shape: Shape, data):
    _, batch, told = ran(shape)
    _, decoder = some(data, decoders_of(shape, folder))
    expected = told(decoder, branching="rows")
    assert told(decoder, branching="sequential") == expected
    assert told(decoder, use_cache=False) == expected
    assert told(decoder, use_cache=False, branching="sequential") == expected
    singles = [told(decoder, alone(shape, batch, row)) for row in range(len(shape.lengths))]
    assert [row for single in singles for row in single] == expected


@settings(max_examples=EXAMPLES)
@given(shape=shapes(), data=st.data(), beams=st.integers(2, 3), back=st.integers(1, 2))
def test_beams_and_draws_agree(folder: Path, shape: Shape, data, beams, back):
    _, _, told = ran(shape)
    _, decoder = some(data, decoders_of(shape, folder))
    modes = {"num_beams": beams, "num_return_sequences": back}, {"do_sample": True, "num_return_sequences": back}
    for mode in modes:
        found = []
        for branching in ("rows", "sequential"):
            torch.manual_seed(shape.seed)
            found.append(told(decoder, branching=branching, **mode))
        assert found[0] == found[1]
    assert told(decoder, num_beams=1) == told(decoder)


@settings(max_examples=EXAMPLES)
@given(shape=shapes(), data=st.data())
def test_neutral_is_plain_and_nothing_stays_behind(folder: Path, shape: Shape, data):
    model, _, told = ran(shape)
    plain = told(None)
    _, decoder = some(data, neutral_of(shape))
    for mode in ({}, {"num_beams": 2}, {"use_cache": False}):
        assert told(decoder, **mode) == told(None, **mode)
    hooks = [(*module._forward_hooks, *module._forward_pre_hooks) for module in model.modules()]
    name, active = some(data, decoders_of(shape, folder))
    told(active)
    assert [(*module._forward_hooks, *module._forward_pre_hooks) for module in model.modules()] == hooks
    assert told(None) == plain, name
    assert not len(_STATES)


def test_the_decoders_act(folder: Path):
    """Or the agreement above would be one of plain decoding with itself."""
    shape = Shape("Mistral", True, 3, 4, 2, 6, (7, 4, 9), (1, 2, 1), 0)
    _, _, told = ran(shape)
    quiet = [name for name, decoder in decoders_of(shape, folder).items() if told(decoder) == told(None)]
    assert quiet == ["cut_only"]
