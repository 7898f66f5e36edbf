"""Data files and configurations that are broken or mean harm: one sample lost, or one error that says what to do."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image
from sightline import decoders
from sightline.decoders.calibration import detector, inducing, ranking, threshold
from sightline.decoders.calibration.errors import CalibrationInvalid
from sightline.eval.cli import main
from sightline.eval.compare import compare
from sightline.eval.config import compose_settings
from sightline.eval.errors import ConfigError, DataError, RecordError, RunFolderError
from sightline.eval.records import SampleRecord, parse_line
from sightline.eval.score import score_run
from sightline.eval.tasks import registry
from sightline.models.errors import SightlineError

SOUND = {"question_id": 1, "image": "a.png", "text": "Is there a dog in the image?", "label": "yes"}
DEEP = "[" * 50_000
ROWS = {
    "no JSON": "{",
    "nothing": "null",
    "a list": "[1, 2]",
    "a huge line": json.dumps(SOUND | {"text": "x" * (1 << 20)}),
    "deep nesting": '{"text": ' + DEEP,
    "a question that is a number": json.dumps(SOUND | {"text": 5}),
    "a question that is a list": json.dumps(SOUND | {"text": ["Is", "it"]}),
    "a blank question": json.dumps(SOUND | {"text": "\t "}),
    "a lone surrogate": json.dumps(SOUND | {"text": "Is \ud800?"}),
    "an id that is a lone surrogate": json.dumps(SOUND | {"question_id": "\ud800"}),
    "an id that is a list": json.dumps(SOUND | {"question_id": [1]}),
    "an id that is not a number": json.dumps(SOUND | {"question_id": float("nan")}),
    "a label that is not a number": json.dumps(SOUND | {"label": float("nan")}),
    "a label in capitals": json.dumps(SOUND | {"label": "YES"}),
    "no image": json.dumps({name: value for name, value in SOUND.items() if name != "image"}),
    "a zero byte": '{"question_id": 1, \0}',
    "bytes that are no text": b'{"question_id": 1, "text": "\xff"}',
}
"""Lines among sound ones that cost one sample each."""


def pope(folder: Path, *lines: str | bytes, head: bytes = b"") -> dict[str, str]:
    """A POPE file of these lines; gives the options that read it."""
    (folder / "images").mkdir(exist_ok=True)
    made = [line if isinstance(line, bytes) else line.encode() for line in lines]
    (folder / "coco_pope_random.json").write_bytes(head + b"\n".join(made))
    return {"data": str(folder), "images": str(folder / "images"), "splits": ["random"]}


def sound(number: int) -> str:
    return json.dumps(SOUND | {"question_id": number})


@pytest.mark.parametrize("what", ROWS)
def test_a_bad_line_costs_its_own_sample(what, tmp_path):
    options = pope(tmp_path, sound(10), ROWS[what], sound(11))
    found = registry.load(registry.get("pope"), options)
    assert [document.error is None for document in found.documents] == [True, False, True]
    assert found.documents[1].error.startswith("DataError: line 2 ")
    assert found.sources[0].broken == 1


def test_a_byte_order_mark_and_blank_lines_are_no_data(tmp_path):
    options = pope(tmp_path, sound(1), "", "  ", sound(2) + "\r", head=b"\xef\xbb\xbf")
    assert [document.error for document in registry.load(registry.get("pope"), options).documents] == [None, None]


@pytest.mark.parametrize("lines", [(sound(1), sound(1)), ("{", "{"), (DEEP,), ("[",), ("[]",), ("",), ("[5, 6]",)])
def test_a_file_that_tells_nothing_apart_is_refused(lines, tmp_path):
    with pytest.raises(DataError) as caught:
        registry.load(registry.get("pope"), pope(tmp_path, *lines))
    assert caught.value.hint


OUTSIDE = [
    "../secret.png",
    "/etc/hostname",
    "..\\secret.png",
    "C:\\secret.png",
    "up/secret.png",
    "link.png",
    "a\0b",
    "x" * 999,
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_row_reads_a_file_outside_its_folder(name, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    options = pope(data, sound(1), json.dumps(SOUND | {"question_id": 2, "image": name}))
    Image.new("RGB", (8, 8), "red").save(data / "images" / "a.png")
    Image.new("RGB", (8, 8), "blue").save(data / "secret.png")
    os.symlink(data / "secret.png", data / "images" / "link.png")
    os.symlink(data, data / "images" / "up")
    where = [f"task.data={options['data']}", f"task.images={options['images']}", f"run.dir={tmp_path / 'run'}"]
    assert main(["run", "model=tiny-llava", "task=pope", "task.splits=[random]", "model.device=cpu", *where,
                 "generation.max_new_tokens=1", "run.cost_requests=0"]) == 1  # fmt: skip
    first, second = (
        json.loads(line) for line in (tmp_path / "run" / "samples" / "pope.jsonl").read_text().splitlines()
    )
    assert (first["status"], second["status"]) == ("ok", "error")
    assert second["error"].startswith("ImageError: image ")


RECORD = SampleRecord("k", "pope", 1, "random", "1", "a", "p", "yes", "Yes", 3, 1, "eos", -0.25, None, "ok")
WRONG = {
    "key": 5, "task": None, "task_version": "1", "split": ["random"], "doc_id": 7, "image_id": {}, "prompt": "\ud800",
    "label": 1, "output": None, "n_prompt_tokens": 3.5, "n_output_tokens": True, "finish": 0, "margin": float("nan"),
    "seed": "0", "status": None, "error": [], "candidates": [1], "logprobs": [float("inf")], "gold": [],
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG)
def test_a_sample_with_a_field_of_another_kind_is_none(field):
    assert set(WRONG) == {"candidates", "logprobs", "gold", *json.loads(RECORD.line())}
    with pytest.raises(RecordError):
        parse_line(json.dumps(json.loads(RECORD.line()) | {field: WRONG[field]}))


def made(folder: Path, **changes) -> Path:
    """A run folder of one sample, its manifest with these fields in place of its own."""
    told = {
        "status": "complete", "n_samples": 1, "limit": None, "seed": 0, "generation": {"mode": "greedy"}, "prompt": {},
        "task": {"name": "pope", "version": 1, "options": {}, "data": []}, "model": {"name": "m", "fingerprint": "f"},
        "decoder": {"key": "greedy", "kind": "control", "params": {}}, "identity": "1",
        "scorer": {"name": "pope", "parser": "pope_official"},
    }  # fmt: skip
    for path, value in changes.items():
        section, _, field = path.rpartition("__")
        (told[section] if section else told)[field] = value
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "pope.jsonl").write_text(RECORD.line())
    (folder / "manifest.json").write_text(json.dumps(told))
    return folder


MANIFESTS = [
    {"task": 5}, {"task__name": "../../../etc/passwd"}, {"task__name": None}, {"task__options": []},
    {"task__version": "x"}, {"model__name": {}}, {"decoder__params": "x"}, {"decoder": None}, {"scorer__parser": 3},
    {"n_samples": "1"}, {"limit": "all"}, {"generation": "greedy"}, {"margin_words": 3},
]  # fmt: skip


@pytest.mark.parametrize("changes", MANIFESTS, ids=str)
def test_a_manifest_of_another_kind_is_refused(changes, tmp_path):
    assert score_run(made(tmp_path / "sound"))["n_ok"] == 1
    folder = made(tmp_path / "run", **changes)
    for read in (score_run, lambda folder: compare([folder, tmp_path / "sound"])):
        with pytest.raises(RunFolderError, match=next(iter(changes)).replace("__", ".")) as caught:
            read(folder)
        assert caught.value.hint


def test_a_run_of_a_scorer_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(SightlineError, match="nobody"):
        score_run(made(tmp_path / "run", scorer__name="nobody"))


NUMBERS = [
    "[" * 50_000,
    "[]",
    "5",
    '"x"',
    "{}",
    '{"schema": 1}',
    '{"layer0": [1e999]}',
    '{"layer0": "12"}',
    '{"x": [1]}',
    "\ud800",
]


@pytest.mark.parametrize("content", NUMBERS, ids=range(len(NUMBERS)))
@pytest.mark.parametrize("read", [ranking.load, detector.load, inducing.load, threshold.load])
def test_a_calibration_that_is_none_is_refused(read, content, tmp_path):
    (tmp_path / "heads.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(CalibrationInvalid):
        read(tmp_path / "heads.json")


CHOICES = {
    "no YAML": "key: [vcd\n",
    "two documents": "key: vcd\n---\nkey: vcd\n",
    "bytes that are no text": b"key: vcd\xff\n",
    "control characters": "key: vcd\x04\n",
    "an unknown field": "key: vcd\nalpah: 1\n",
    "a list": "- key\n- vcd\n",
    "code": "key: vcd\n_target_: os.system\n",
    "code further down": "key: vcd\nalpha:\n  _target_: os.system\n",
    "code by a tag": "key: !!python/object/apply:os.system ['true']\n",
    "the environment": "key: vcd\nalpha: ${oc.env:HOME}\n",
    "the environment by parts": "key: vcd\nalpha: ${oc.${x}:HOME}\n",
    "a resolver": "key: vcd\nalpha: ${oc.decode:'1'}\n",
    "a file": "key: vcd\nalpha: ${oc.create:${file:/etc/passwd}}\n",
    "a circle": "key: vcd\nalpha: ${decoder.beta}\nbeta: ${decoder.alpha}\n",
    "a reference to nothing": "key: vcd\nalpha: ${decoder.nothing}\n",
    "aliases that grow": "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a]\nkey: vcd\nalpha: *b\n",
    "another key": "key: 5\n",
}


@pytest.mark.parametrize("what", CHOICES)
def test_a_configuration_file_that_may_not_be(what, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/nobody")
    (tmp_path / "decoder").mkdir()
    content = CHOICES[what]
    (tmp_path / "decoder" / "mine.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SightlineError) as caught:
        settings, _ = compose_settings(["decoder=mine"], str(tmp_path))
        registry.get(settings.task.name)
        built(settings)
    assert "/home/of/nobody" not in str(caught.value)
    assert "\n" not in str(caught.value)


def built(settings):
    return decoders.build(settings.decoder.name, dict(settings.decoder.params))


OVERRIDES = [
    "decoder=" + "x" * 5000, "decoder=../../../etc/passwd", "decoder=/etc/passwd", "run.dir=${oc.env:HOME}",
    "run.dir=${oc.env:HOME,x}", "hydra.run.dir=${oc.env:HOME}", "hydra.launcher._target_=os.system",
    "+x={_target_: os.system}", "run={dir: '${oc.env:HOME}'}", "run.dir=${a}${oc.env:HOME}", "decoder@run=vcd",
    "hydra/launcher=joblib", "--config-dir=/etc", "\ud800=1", "a\0=1", "=", "+", "~",
]  # fmt: skip


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda text: ascii(text)[:40])
def test_a_command_line_that_may_not_be(override, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/nobody")
    with pytest.raises(ConfigError) as caught:
        compose_settings([override])
    assert "/home/of/nobody" not in str(caught.value)
