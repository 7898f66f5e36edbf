"""What comes from elsewhere: no network unasked, no audit that passes unasked, the versions that are supported."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import offline
import pytest

ROOT = Path(__file__).parents[2]
WATCH = """
import json, sys
EVENTS = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
opened, found = [], {}
def hear(event, arguments):
    probe = event == "socket.bind" and arguments[1][1] == 0  # urllib3 asks the system for IPv6 in this way
    if event in EVENTS and not probe:
        opened.append((event, repr(arguments[1:])))
sys.addaudithook(hear)
"""
ASKED = {
    "importing the package": "import sightline",
    "importing every part of it": """
import importlib, pkgutil, sightline
for found in pkgutil.walk_packages(sightline.__path__, "sightline."):
    if ".plugins." not in found.name and not found.name.endswith(".play.app"):
        importlib.import_module(found.name)
""",
    "generating": """
import sightline, torch
from PIL import Image
loaded = sightline.load("tiny-llava", device="cpu")
text = loaded.processor.apply_chat_template(
    [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe the image."}]}],
    add_generation_prompt=True)
inputs = loaded.processor(images=Image.new("RGB", (64, 64)), text=text, return_tensors="pt")
ids = sightline.generate(loaded.model, "vcd", inputs, max_new_tokens=3)
assert ids.shape[1] > inputs["input_ids"].shape[1]
""",
    "help": """
from sightline.eval.cli import main
for line in ("", "--help", "--version", "run --help", "bench --help", "decoders", "tasks", "models", "run decodr=x"):
    main(line.split())
""",
    "a run": """
import tempfile
from sightline.eval.cli import main
with tempfile.TemporaryDirectory() as folder:
    assert main(["run", "decoder=greedy", "run.limit=1", "run.cost_requests=0", f"run.dir={folder}/run",
                 "generation.max_new_tokens=1", "model.device=cpu"]) == 0
    assert main(["report", f"{folder}/run"]) == 0
""",
}


def watched(parts: Mapping[str, str]) -> dict[str, list]:
    """The network calls of each part in a fresh interpreter, without the setting that keeps the hub's tools offline."""
    code = [f"exec({text!r}, {{}})\nfound[{name!r}] = opened[:]\nopened.clear()\n" for name, text in parts.items()]
    told = WATCH + "".join(code) + "sys.stderr.write('FOUND' + json.dumps(found))"
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, env=clean, check=False)
    assert "FOUND" in done.stderr, done.stderr[-2000:]
    return json.loads(done.stderr.rpartition("FOUND")[2])


@pytest.fixture(scope="module")
def heard():
    return watched(ASKED)


@pytest.mark.parametrize("what", ASKED)
def test_nothing_speaks_to_the_network(what, heard):
    assert heard[what] == []


def test_speaking_to_the_network_is_heard():
    call = "import socket\ntry: socket.create_connection(('127.0.0.1', 9), 0.1)\nexcept OSError: pass"
    told = watched({"a call": call, "nothing": ""})
    assert "socket.connect" in {event for event, _ in told["a call"]}
    assert told["nothing"] == []


def test_tests_keep_the_hub_s_tools_offline():
    import huggingface_hub.constants  # noqa: PLC0415 - after the fixtures have set the environment

    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_test_that_speaks_to_the_network_is_stopped():
    for call in (
        lambda: socket.create_connection(("example.org", 80), 1), lambda: socket.gethostbyname("example.org"),
        lambda: socket.create_connection(("1.1.1.1", 80), 1), lambda: urllib.request.urlopen("https://example.org"),
    ):  # fmt: skip
        with pytest.raises(OSError, match="speaks to the network"):
            call()
    assert len(offline.ASKED) == 4
    offline.ASKED.clear()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
        assert socket.getaddrinfo("localhost", 80)
    assert not offline.ASKED


def script(name: str):
    """A script of tests/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


CLEAN = {"name": "torch", "version": "2.13.0", "vulns": []}
WEAK = {
    "name": "jinja2",
    "version": "3.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1"]}, {"id": "GHSA-2", "fix_versions": []}],
}
SKIPPED = {"name": "sightline", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("report", "said", "code"),
    [
        ({"dependencies": [CLEAN]}, "1 packages audited, 0 known weaknesses.", 0),
        ({"dependencies": [CLEAN, WEAK]}, "jinja2 3.0: PYSEC-1, fixed in 3.1", 1),
        ({"dependencies": [CLEAN, SKIPPED]}, "does not know them: sightline", 0),
        ({"dependencies": [SKIPPED, SKIPPED]}, "NOT AUDITED", 0),
        ({"dependencies": []}, "NOT AUDITED", 0),
        (None, "NOT AUDITED: the advisory service could not be reached (No route).", 0),
    ],
)
def test_an_audit_says_what_it_did_not_ask(report, said, code):
    text, found = script("audit").verdict(report, "warning\nNo route")
    assert said in text
    assert found == code


def test_the_versions_that_are_tried_are_those_of_the_project():
    compat = script("compat")
    oldest, asked = compat.bounds()
    assert compat.requirement("oldest") == f"transformers=={oldest}.*"
    assert compat.requirement("newest") == f"transformers{asked}"
    kept = compat.constraints(
        "torch==2.13.0\ntransformers==5.23.0\nhuggingface_hub==2.4.0\nTokenizers==0.24\nnumpy==2.4\n"
    )
    assert kept == "torch==2.13.0\nnumpy==2.4\n"


def test_an_environment_that_cannot_be_made_does_not_stop_the_other(monkeypatch, capsys):
    compat, tried = script("compat"), []

    def environment(which):
        tried.append(which)
        if which == "oldest":
            raise subprocess.CalledProcessError(1, "pip")
        return Path(sys.executable)

    monkeypatch.setattr(compat, "environment", environment)
    monkeypatch.setattr(compat, "run", lambda *command: None)
    monkeypatch.setattr(compat.subprocess, "run", lambda command, **settings: subprocess.CompletedProcess(command, 0))
    assert compat.main([]) == 1
    assert tried == ["oldest", "newest"]
    assert "The environment of the oldest transformers could not be made" in capsys.readouterr().out
    assert compat.main(["newest"]) == 0
