"""lmms-eval itself, run from the shell on a local task: its answers are those of `sightline run` (`make harnesses`)."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from importlib import import_module

import harnesses
import pytest
from harness_tasks import write_lmms_task
from sightline.eval.cli import main
from sightline.eval.records import read_samples

pytestmark = pytest.mark.skipif(not harnesses.REAL["lmms_eval"], reason="lmms_eval is not installed: make harnesses")


def test_the_stand_ins_are_true():
    api, registry = import_module("lmms_eval.api.model"), import_module("lmms_eval.models.registry_v2")
    assert api.lmms.__abstractmethods__ == set(harnesses.LMMS_METHODS)
    assert {field.name for field in fields(registry.ModelManifest)} >= set(harnesses.MANIFEST_FIELDS)

    class Bare(api.lmms):
        loglikelihood = generate_until = generate_until_multi_round = lambda self, requests: []

    assert Bare().task_dict == {}


def test_the_registry_finds_us_by_the_entry_point():
    models = import_module("lmms_eval.models")
    for simple, name in ((False, "SightlineChat"), (True, "SightlineSimple")):
        found = models.get_model("sightline", force_simple=simple)
        assert (found.__module__, found.__name__) == ("sightline.eval.plugins.lmms_eval_models", name)


@pytest.mark.parametrize("more", [(), ("--force_simple",)], ids=["chat", "simple"])
def test_answers_are_those_of_a_run(more, tmp_path):
    run = tmp_path / "run"
    asked = ["decoder=vcd", "decoder.alpha=2", "run.limit=2", "run.cost_requests=0", "run.threads=1"]
    assert main(["run", *asked, f"run.dir={run}"]) == 0
    samples = read_samples(run / "samples" / "pope_scenes.jsonl")
    task = write_lmms_task(tmp_path / "tasks", {sample.image_id for sample in samples})
    model = "pretrained=tiny-llava,decoder=vcd,decoder.alpha=2,dtype=float64,device=cpu"
    command = ["-m", "lmms_eval", "--model", "sightline", "--model_args", model, "--tasks", task, "--batch_size", "8"]
    places = ["--include_path", str(tmp_path / "tasks"), "--log_samples", "--output_path", str(tmp_path / "out"), *more]
    env = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *command, *places], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / "tasks" / f"{task}.jsonl").read_text().splitlines()]
    (found,) = (tmp_path / "out").rglob("*samples*.jsonl")
    lines = map(json.loads, found.read_text().splitlines())
    answers = {tuple(rows[line["doc_id"]]["of"]): line["resps"] for line in lines}
    assert answers == {(sample.split, sample.doc_id): sample.output for sample in samples}
    assert len(set(answers.values())) > 1
    (results,) = (tmp_path / "out").rglob("*results.json")
    right = sum(sample.output.strip().lower().startswith(str(sample.label)) for sample in samples)
    scored = json.loads(results.read_text())["results"][task]["accuracy,none"]
    assert scored == pytest.approx(right / len(samples), abs=1e-4)
