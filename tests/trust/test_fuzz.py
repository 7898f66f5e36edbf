"""A few seconds of `fuzz.py`, the same copies every time, and every input that once did harm."""

from random import Random

import damage
import fuzz
import pytest
from fuzz_targets import DECLARED, TARGETS, Target
from sightline.eval.errors import DataError

COPIES = 12
ODD = ("overrides", "image names", "amber captions")
"""Targets whose files hold, on purpose, something that is refused."""
KEPT = sorted(path for path in fuzz.CRASHES.rglob("*") if path.is_file())


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_sound_files_are_read(target):
    for file in target.files():
        name = file.relative_to(fuzz.CORPUS / target.corpus).as_posix()
        came = fuzz.read(target, name, file.read_bytes())
        assert came is None or (came == "declared" and target.name in ODD), came


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_damaged_files_end_in_declared_errors(target):
    found = fuzz.fuzz(target, seed=10, copies=COPIES if target.weight >= 1 else COPIES // 2)
    assert not found.failures, found.files
    assert found.tried


@pytest.mark.parametrize("crash", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_did_harm_does_none(crash):
    assert fuzz.replayed(crash) in (None, "declared")


def test_copies_are_damaged_and_the_same_for_a_seed():
    sound = b'{"a": [1, 2, {"b": "c"}], "d": "e"}\n{"a": 5}\n'
    copies = [damage.damaged(sound, [sound], Random(seed)) for seed in range(300)]
    assert copies == [damage.damaged(sound, [sound], Random(seed)) for seed in range(300)]
    assert len(set(copies)) > 250
    assert sum(copy != sound for copy in copies) > 280
    assert len(damage.bloat(sound, Random(0))) > 1 << 20


class Fault(Exception):
    pass


def target(read) -> Target:
    return Target("pope", "pope", read)


def test_faults_are_found_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "CRASHES", tmp_path)

    def fragile(folder, file):
        if b"null" in file.read_bytes():
            raise Fault("once")
        raise DataError("always", "else")

    broken = target(fragile)
    found = fuzz.fuzz(broken, seed=0, copies=60)
    assert 60 > found.refused > 0
    assert [key.split(" at ")[0] for key in found.failures] == ["Fault"]
    fuzz.keep(broken, found)
    (kept,) = (path for path in tmp_path.rglob("*") if path.is_file())
    monkeypatch.setattr(fuzz, "TARGETS", (broken,))
    assert fuzz.replayed(kept).startswith("Fault at trust/test_fuzz.py")
    assert Fault not in DECLARED


def test_a_reader_that_does_not_come_back_is_a_fault():
    def endless(folder, file):
        while True:
            pass

    assert fuzz.read(target(endless), "coco_pope_random.json", b"", slow=0.2).startswith("TooSlow")
