"""Approximate runs: another decoder in every name, the same answers however branches run, and the share told."""

import json

import pytest
from sightline.eval.config import compose_settings
from sightline.eval.errors import ConfigError, RunFolderError
from sightline.eval.naming import run_name
from sightline.eval.preparing import settle
from sightline.eval.records import read_samples
from sightline.eval.score import describe_decoder

SURE = "run.approximate=0.9"
HALF = "run.approximate=0.015"
"""The random model gives its likeliest token more at some steps, and less at others."""


def told(outcome, name="timings/summary.json"):
    return json.loads((outcome.folder / name).read_text())


def test_the_share_is_told_and_the_decoder_named(launch):
    exact, rows = launch("decoder=vcd", dir="a"), launch("decoder=vcd", HALF, dir="b")
    apart = launch("decoder=vcd", HALF, "run.branching=sequential", dir="c")
    assert told(exact)["contrasted"] is None
    assert told(rows)["contrasted"] == told(apart)["contrasted"]
    assert 0 < told(rows)["contrasted"] < 1
    assert told(rows, "manifest.json")["decoder"]["key"] == "vcd approximate 0.015"
    assert told(rows, "manifest.json")["decoder"]["params"]["approximate"] == 0.015
    assert describe_decoder(told(rows, "manifest.json"))["title"] == "VCD, approximate 0.015"
    answers = [read_samples(next((run.folder / "samples").glob("*.jsonl"))) for run in (rows, apart)]
    assert answers[0] == answers[1]
    assert told(rows, "manifest.json")["identity"] == told(apart, "manifest.json")["identity"]


def test_it_is_never_mixed_with_exact_answers(launch):
    launch("decoder=vcd")
    with pytest.raises(RunFolderError, match=r"holds another run: decoder\.key"):
        launch("decoder=vcd", SURE)


def test_folders_have_its_name():
    asked = compose_settings(["model=tiny-llava", "task=pope_scenes", "decoder=vcd", "decoder.alpha=0.5", SURE])[0]
    strategy, task, _ = settle(asked)
    assert run_name(asked, task, strategy).startswith("pope_scenes-tiny-llava-vcd_approximate_0.9-alpha=0.5-greedy-")


def test_plain_decoding_stays_what_it_is():
    asked = compose_settings(["model=tiny-llava", "task=pope_scenes", "decoder=greedy", SURE])[0]
    assert settle(asked)[0].key == "greedy"


@pytest.mark.parametrize("wish", ["run.approximate=-0.1", "run.branching=rowss"])
def test_what_cannot_be_is_refused(wish):
    with pytest.raises(ConfigError, match=wish.partition("=")[0]):
        compose_settings(["model=tiny-llava", "task=pope_scenes", "decoder=vcd", wish])
