"""Checkpoints that are broken, of another model, or that would run code: refused with what to do, nothing executed."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sightline.eval.plan import renderer, text_renderer
from sightline.models import load
from sightline.models.auto import SHIPPED
from sightline.models.errors import (
    CheckpointInvalid,
    InvalidParameter,
    InvalidPrompt,
    ModelNotFound,
    SightlineError,
    UnsupportedModel,
)


def copied(tmp_path: Path, name: str = "tiny-llava") -> Path:
    """A checkpoint of our own whose files may be changed; weights are linked until they are written anew."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(SHIPPED / name, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "model.safetensors").symlink_to(SHIPPED / name / "model.safetensors")
    return folder


def weights(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").write_bytes(content)


def edit(name: str, **changes):
    """Writes these fields into a JSON file; a dotted name goes one object down."""

    def change(folder: Path) -> None:
        held = json.loads((folder / name).read_text())
        for path, value in changes.items():
            section, _, field = path.rpartition("__")
            (held[section] if section else held)[field] = value
        (folder / name).write_text(json.dumps(held))

    return change


def text(name: str, content: str):
    return lambda folder: (folder / name).write_text(content)


def cut(length: int):
    return lambda folder: weights(folder, (folder / "model.safetensors").read_bytes()[:length])


def only_pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def index(names: object):
    """Puts an index in the weights' place that names this file, or this one object, for every tensor."""

    def change(folder: Path) -> None:
        target = folder.parent / "secret.safetensors"
        target.write_bytes((folder / "model.safetensors").read_bytes())
        held = names if not isinstance(names, str) else dict.fromkeys(load_file(target), names)
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": held}))

    return change


def without(pattern: str):
    return lambda folder: [path.unlink() for path in folder.glob(pattern)]


def long_header(folder: Path) -> None:
    weights(folder, (1 << 60).to_bytes(8, "little") + (folder / "model.safetensors").read_bytes()[8:])


BROKEN = {
    "weights cut short": (cut(-1000), CheckpointInvalid, "cut short"),
    "weights cut in their header": (cut(100), CheckpointInvalid, "cut short"),
    "no weights in the file": (cut(0), CheckpointInvalid, "no safetensors file"),
    "a header of an exabyte": (long_header, CheckpointInvalid, "no safetensors file"),
    "only pickled weights": (only_pickled, ModelNotFound, r"\*\.safetensors"),
    "an index that leads out": (index("../secret.safetensors"), CheckpointInvalid, "outside"),
    "an index that leads to the root": (index("/etc/passwd"), CheckpointInvalid, "outside"),
    "an index that leads nowhere": (index("gone.safetensors"), ModelNotFound, r"gone\.safetensors"),
    "an index of no files": (index(5), CheckpointInvalid, "no index"),
    "an index of numbers": (index({"a": 1}), CheckpointInvalid, "outside"),
    "an index that is no JSON": (text("model.safetensors.index.json", "{"), CheckpointInvalid, "no index"),
    "no tokenizer": (without("tokenizer*"), CheckpointInvalid, "processor's files"),
    "no processor": (without("*processor*"), ModelNotFound, "processor's files"),
    "a tokenizer that is no JSON": (text("tokenizer.json", "{"), CheckpointInvalid, "cannot be loaded"),
    "a configuration that is no JSON": (text("config.json", "{"), ModelNotFound, "valid JSON"),
    "a configuration that is a list": (text("config.json", "[]"), CheckpointInvalid, "cannot be loaded"),
    "a configuration of nothing": (text("config.json", "{}"), CheckpointInvalid, "model_type"),
    "a configuration without end": (text("config.json", "[" * 100_000), CheckpointInvalid, "cannot be loaded"),
    "a width that is a word": (edit("config.json", text_config__hidden_size="big"), CheckpointInvalid, "hidden_size"),
    "another width": (edit("config.json", text_config__hidden_size=64), CheckpointInvalid, "cannot be loaded"),
    "no heads": (edit("config.json", text_config__num_attention_heads=0), CheckpointInvalid, "cannot be loaded"),
    "layers that are not there": (edit("config.json", text_config__num_hidden_layers=6), CheckpointInvalid, "random"),
    "another family": (edit("config.json", model_type="qwen2_vl"), CheckpointInvalid, "not of one model"),
    "an encoder": (text("config.json", '{"model_type": "clip"}'), UnsupportedModel, "'clip' are not served"),
    "a model larger than memory": (text("config.json", '{"model_type": "llava"}'), CheckpointInvalid, "parameters"),
    "generation settings that are words": (
        edit("generation_config.json", max_new_tokens="x"), CheckpointInvalid, "cannot be loaded"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_checkpoint_is_refused(what, tmp_path):
    change, error, said = BROKEN[what]
    folder = copied(tmp_path)
    change(folder)
    with pytest.raises(error, match=said) as caught:
        load(str(folder), device="cpu")
    assert caught.value.hint
    assert "\n" not in str(caught.value)


CODE = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\nclass A: pass\n"


@pytest.mark.parametrize(
    ("name", "file", "fields"),
    [
        ("tiny-llava", "config.json", {"model_type": "mine", "auto_map": {"AutoConfig": "evil.A"}}),
        ("tiny-llava", "processor_config.json", {"processor_class": "B", "auto_map": {"AutoProcessor": "evil.A"}}),
        (
            "tiny-llama",
            "tokenizer_config.json",
            {"tokenizer_class": "B", "auto_map": {"AutoTokenizer": ["evil.A", None]}},
        ),
    ],
)
def test_code_that_comes_along_does_not_run(name, file, fields, tmp_path):
    folder = copied(tmp_path, name)
    edit(file, **fields)(folder)
    (folder / "evil.py").write_text(CODE)
    with pytest.raises(UnsupportedModel, match="trust_remote_code") as caught:
        load(str(folder), device="cpu")
    assert caught.value.hint
    assert not (folder / "ran").exists()


def test_code_beside_a_family_of_transformers_is_not_looked_at(tmp_path):
    folder = copied(tmp_path)
    edit("config.json", auto_map={"AutoConfig": "evil.A", "AutoModelForImageTextToText": "evil.A"})(folder)
    (folder / "evil.py").write_text(CODE)
    assert type(load(str(folder), device="cpu").model).__module__.startswith("transformers.")
    assert not (folder / "ran").exists()


def test_pickles_under_another_name_do_not_run(tmp_path):
    folder = copied(tmp_path)
    ran = tmp_path / "ran"
    weights(folder, b"\x80\x04cos\nsystem\n(S'touch " + os.fsencode(ran) + b"'\ntR.")
    with pytest.raises(CheckpointInvalid):
        load(str(folder), device="cpu")
    assert not ran.exists()


@pytest.mark.parametrize("name", ["", "x" * 300, "a\0b", "/etc/passwd", "..", "a/b/c/d", "tiny-lava"])
def test_names_that_are_no_model(name):
    with pytest.raises(SightlineError) as caught:
        load(name)
    assert caught.value.hint


@pytest.mark.parametrize(("field", "value"), [("dtype", "float23"), ("dtype", "nn"), ("device", "gpu7")])
def test_dtypes_and_devices_that_do_not_exist(field, value):
    with pytest.raises(InvalidParameter, match=value):
        load("tiny-llava", **{field: value})


@pytest.mark.parametrize(
    "template", ["{% for %}", "{{ messages[0].nothing.at.all }}", "{{ 1 / 0 }}", "{{ raise_exception('no') }}"]
)
def test_a_chat_template_that_fails_says_so(template):
    loaded = load("tiny-llava", device="cpu")
    loaded.processor.chat_template = template
    for render in (renderer(loaded.processor, ""), text_renderer(loaded.processor, "")):
        with pytest.raises(InvalidPrompt, match=r"chat_template\.jinja"):
            render("Is there a star?")
