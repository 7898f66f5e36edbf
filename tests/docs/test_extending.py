"""What docs/extending.md and docs/index.md print works as printed."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sightline
import torch
from sightline.eval.scenes import draw_scene

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLES = DOCS / "examples"
ENTRIES = """[sightline.decoders]
fading = fading:Fading
[sightline.tasks]
shelves = shelves:SHELVES
"""


@pytest.fixture(scope="module")
def fading():
    space = {"__name__": "fading"}
    exec(compile((EXAMPLES / "fading.py").read_text(), "fading.py", "exec"), space)
    yield space["Fading"]
    sightline.decoders.registry._REGISTRY.pop("fading")


@pytest.fixture(scope="module")
def tiny():
    loaded = sightline.load("tiny-llava", dtype="float64")
    prompt = "USER: <image>\nDescribe the image. ASSISTANT:"
    images = [draw_scene("test", seed).image() for seed in (3, 4)]
    return loaded, loaded.processor(images=images, text=[prompt] * 2, return_tensors="pt")


@torch.no_grad()
def written_out(model, inputs, rate, steps):
    """Row by row, two whole forwards a step, the formula in Python numbers."""
    answers = []
    for row in range(len(inputs["input_ids"])):
        ids, new = inputs["input_ids"][row : row + 1], []
        pixels = inputs["pixel_values"][row : row + 1]
        for step in range(1, steps + 1):
            seen, blank = (
                model(input_ids=ids, pixel_values=image, use_cache=False).logits[0, -1].tolist()
                for image in (pixels, pixels * 0)
            )
            scores = [a + (math.exp(rate * step) - 1) * (a - b) for a, b in zip(seen, blank, strict=True)]
            new.append(max(range(len(scores)), key=scores.__getitem__))
            ids = torch.cat([ids, torch.tensor([new[-1:]])], dim=1)
        answers.append(new)
    return answers


def new_tokens(model, decoder, inputs, **kwargs):
    ids = sightline.generate(model, decoder, inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False, **kwargs)
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


def test_the_example_equals_its_formula_written_out(fading, tiny):
    loaded, inputs = tiny
    end = loaded.model.generation_config.eos_token_id
    loaded.model.generation_config.eos_token_id = None
    try:
        expected = written_out(loaded.model, inputs, 0.3, 12)
        assert expected != written_out(loaded.model, inputs, 0.0, 12), "the contrast changes nothing here"
        for branching in ("rows", "sequential"):
            assert new_tokens(loaded.model, fading(rate=0.3), inputs, branching=branching) == expected
    finally:
        loaded.model.generation_config.eos_token_id = end


def test_the_example_at_rate_0_is_plain_decoding(fading, tiny):
    loaded, inputs = tiny
    plain = loaded.model.generate(**inputs, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    assert new_tokens(loaded.model, fading(rate=0.0), inputs) == plain[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_the_page_prints_the_examples_as_they_are(example):
    assert (EXAMPLES / example).read_text() in (DOCS / "extending.md").read_text()


def test_decoder_and_task_of_another_package_run_from_the_command_line(tmp_path):
    (tmp_path / "mine-1.0.dist-info").mkdir()
    (tmp_path / "mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (tmp_path / "mine-1.0.dist-info" / "entry_points.txt").write_text(ENTRIES)
    for example in EXAMPLES.glob("*.py"):
        (tmp_path / example.name).write_bytes(example.read_bytes())
    for group, name, fields in (
        ("decoder", "fading", "key: fading\nrate: 0.02\n"),
        ("task", "shelves", "name: shelves\n"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        places = f"data: {tmp_path}/shelves.tsv\nimages: {tmp_path}/images\n" if group == "task" else ""
        (tmp_path / "conf" / group / f"{name}.yaml").write_text(fields + places)
    (tmp_path / "images").mkdir()
    scene = draw_scene("test", 0)
    scene.image().save(tmp_path / "images" / "0.png")
    (tmp_path / "shelves.tsv").write_text(
        "0.png\tIs there a kite in the image?\tyes\n0.png\tIs there a boat in the image?\tno\n"
    )
    run = [sys.executable, "-c", "from sightline.eval.cli import main; main()", "run", "--config-dir", "conf"]
    asked = ["decoder=fading", "decoder.rate=0.05", "task=shelves", "run.dir=run"]
    done = subprocess.run([*run, *asked], cwd=tmp_path, env=_env(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    samples = (tmp_path / "run" / "samples" / "shelves.jsonl").read_text().splitlines()
    assert len(samples) == 2
    assert "fading" in (tmp_path / "run" / "manifest.json").read_text()
    assert "accuracy" in (tmp_path / "run" / "metrics.json").read_text()


def test_the_first_page_runs_as_printed(capsys):
    space = {}
    for code in re.findall(r"```python\n(.*?)```", (DOCS / "index.md").read_text(), re.S):
        exec(compile(code, "index.md", "exec"), space)
    printed = capsys.readouterr().out
    assert "Greedy Upper Elvane" in printed.replace("  ", " ")
    assert "CAD Old Nerrick" in printed.replace("  ", " ")


def _env(folder):
    return os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}
