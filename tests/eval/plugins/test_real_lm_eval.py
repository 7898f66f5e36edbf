"""lm-evaluation-harness itself, run from the shell on local tasks: answers and scores are ours (`make harnesses`)."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import harnesses
import pytest
import sightline
from harness_tasks import write_lm_tasks
from sightline.eval.settings import ModelSettings

pytestmark = pytest.mark.skipif(not harnesses.REAL["lm_eval"], reason="lm_eval is not installed: make harnesses")
MODEL = ModelSettings("tiny-llama", dtype="float64", device="cpu")
CAD = {"alpha": 0.5}


def test_the_stand_in_of_the_model_is_true():
    api = import_module("lm_eval.api.model")
    assert api.LM.__abstractmethods__ == set(harnesses.LM_METHODS)
    body = {name: lambda self, requests: [] for name in harnesses.LM_METHODS}
    assert type("Bare", (api.LM,), body)().cache_hook.add_partial("generate_until", (), None) is None


@pytest.mark.parametrize("real", [True, False])
def test_the_stand_in_of_the_registry_is_true(real):
    registry = import_module("lm_eval.api.registry").model_registry if real else harnesses.Registry()
    base = import_module("lm_eval.api.model").LM
    own = type("Own", (base,), {"__module__": "a"})
    assert "sightline_try" not in registry
    registry.register("sightline_try", target="a:Own")
    registry.register("sightline_try", target="a:Own")
    with pytest.raises(ValueError, match="sightline_try"):
        registry.register("sightline_try", target="a:Other")
    assert registry.register("sightline_try")(own) is own
    assert registry.get("sightline_try") is own


def alone(row):
    """What `sightline.generate` and `sightline.score` say of a row of the task."""
    loaded, strategy = harnesses.load_once(MODEL), sightline.decoders.build("cad", CAD)
    both = {"processor": loaded.processor, "spans": [row["passage"]]}
    inputs = loaded.processor(row["text"], return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    start = inputs["input_ids"].shape[1]
    ids = sightline.generate(loaded.model, strategy, inputs, **both, max_new_tokens=8, do_sample=False)
    text = loaded.processor.decode(ids[0, start:], skip_special_tokens=True).split("\n")[0]
    given = [loaded.processor(f"{row['text']} {choice}")["input_ids"][start:] for choice in row["choices"]]
    return text, [float(sightline.score(loaded.model, strategy, inputs, [own], **both)) for own in given]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_answers_and_scores_are_ours(tmp_path):
    names = write_lm_tasks(tmp_path / "tasks", 6)
    model = "pretrained=tiny-llama,decoder=cad,decoder.alpha=0.5,dtype=float64,context_field=passage"
    command = [str(Path(sys.executable).with_name("sightline-lm-eval")), "--model", "sightline", "--model_args", model]
    asked = ["--device", "cpu", "--tasks", ",".join(names), "--include_path", str(tmp_path / "tasks")]
    told = ["--batch_size", "4", "--log_samples", "--output_path", str(tmp_path / "out")]
    env = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([*command, *asked, *told], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said, scored = (lines(next((tmp_path / "out").rglob(f"samples_{name}_*.jsonl"))) for name in names)
    assert len(said) == len(scored) == 6
    for answer, chosen in zip(said, scored, strict=True):
        text, scores = alone(answer["doc"])
        assert answer["resps"] == [[text]]
        found = [float(pair[0][0]) for pair in chosen["resps"]]
        assert found == pytest.approx(scores, abs=1e-6)
    (results,) = (tmp_path / "out").rglob("results_*.json")
    held = json.loads(results.read_text())
    assert held["config"]["sightline_decoder"]["key"] == "cad"
    assert held["config"]["sightline_decoder"]["params"]["alpha"] == 0.5
