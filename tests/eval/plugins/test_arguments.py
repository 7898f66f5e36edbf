"""`--model_args`, and the generation arguments of requests."""

import logging
from types import SimpleNamespace

import pytest
import torch
from sightline import VCD, DoLa, Together
from sightline.eval.errors import ConfigError, UsageError
from sightline.eval.plugins.arguments import AUTO_BATCH, read
from sightline.eval.plugins.wanted import StopsAt, before, wanted
from sightline.models.errors import InvalidParameter, UnknownDecoder, UnknownParameter


def test_a_decoder_and_its_fields():
    found = read({"pretrained": "m", "decoder": "dola", "decoder.layers": "high", "decoder.beta": 0, "batch_size": "8"})
    assert found.strategy == DoLa(layers="high", beta=0.0)
    assert (found.model.path, found.batch_size, found.max_gen_toks) == ("m", 8, 256)


def test_a_decoder_as_a_mapping():
    assert read({"pretrained": "m", "decoder": {"key": "vcd", "alpha": 2}}).strategy == VCD(alpha=2.0)


def test_decoders_together():
    found = read({"pretrained": "m", "decoder": "cgvlm+vcd", "decoder.cgvlm.alpha": 0.1, "decoder.vcd.alpha": 2})
    assert isinstance(found.strategy, Together)
    assert found.strategy.params()["1_vcd"]["alpha"] == 2.0


def test_without_a_decoder_it_is_greedy():
    assert read({"pretrained": "m", "decoder": None, "device": None}).strategy.key == "greedy"


def test_batches_of_a_size_that_is_found():
    assert read({"pretrained": "m", "batch_size": "auto:4"}).batch_size == AUTO_BATCH


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({}, ConfigError, "pretrained must name a model"),
        ({"pretraned": "m"}, ConfigError, "Did you mean 'pretrained'?"),
        ({"decoder": "vdc"}, UnknownDecoder, "Did you mean 'vcd'?"),
        ({"decoder": "vcd", "decoder.alpah": 1}, UnknownParameter, "Did you mean 'alpha'?"),
        ({"decoder": "vcd", "decoder.beta": 2}, InvalidParameter, "beta must be in [0, 1]"),
        ({"decoder": 3}, ConfigError, "decoder must be a key"),
        ({"batch_size": 0}, ConfigError, "batch_size must be a whole number"),
        ({"max_length": "long"}, ConfigError, "max_length must be a whole number"),
        ({"dtype": "float23"}, ConfigError, "Did you mean 'float32'?"),
    ],
)
def test_mistakes_are_explained(given, kind, said):
    with pytest.raises(kind) as error:
        read(given if not given or "pretraned" in given else {"pretrained": "m", **given})
    assert said in str(error.value)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        read({"pretrained": "m"})


@pytest.mark.parametrize(
    ("asked", "mode", "found"),
    [
        ({}, None, ("greedy", 1.0, 32)),
        ({"temperature": 0, "max_gen_toks": 5}, None, ("greedy", 1.0, 5)),
        ({"temperature": 0.7, "max_new_tokens": 6}, None, ("sample", 0.7, 6)),
        ({"temperature": 0.7, "do_sample": False, "max_tokens": 7}, None, ("greedy", 0.7, 7)),
        ({"do_sample": True}, None, ("sample", 1.0, 32)),
        ({"num_beams": 3}, None, ("beam", 1.0, 32)),
        ({"do_sample": False}, "sample", ("sample", 1.0, 32)),
        ({"do_sample": True}, "greedy", ("greedy", 1.0, 32)),
    ],
)
def test_generation_arguments(asked, mode, found):
    settings = wanted(asked, mode, 32).settings
    assert (settings.mode, settings.temperature, settings.max_new_tokens) == found


def test_beams_are_not_sampled():
    with pytest.raises(ConfigError, match="not sampled"):
        wanted({"num_beams": 3, "do_sample": True}, None, 32)


def test_other_arguments_of_generate_are_kept_and_hints_for_other_models_are_named(caplog):
    with caplog.at_level(logging.WARNING):
        found = wanted({"repetition_penalty": 1.5, "image_aspect_ratio": "pad", "until": "a", "top_p": None}, None, 9)
    assert (found.more, found.until) == ({"repetition_penalty": 1.5}, ("a",))
    assert "image_aspect_ratio" in caplog.text


def test_the_first_stop_ends_the_text():
    assert before("one. two\nthree", ["\n", "."]) == "one"
    assert before("one", ["\n"]) == "one"


def test_rows_stop_by_themselves_and_prompts_do_not_count():
    reads = SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(map(chr, ids)))
    rows = torch.tensor([list(map(ord, "ab|cd")), list(map(ord, "a.b|c"))])
    assert StopsAt(["b|c"], reads, start=0)(rows, None).tolist() == [True, True]
    assert StopsAt(["|cd", "x"], reads, start=1)(rows, None).tolist() == [True, False]
    assert StopsAt(["a", "."], reads, start=2)(rows, None).tolist() == [False, False]
