"""The benchmark folders: POPE's format, facts, and a build that can be stopped and repeated."""

import hashlib
import json

import pytest
from PIL import Image
from sightline.eval.scenes import draw_scene, world_hash
from sightline.eval.scenes.dataset import build_dataset, cache_folder, ensure_dataset

IMAGES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_dataset(tmp_path_factory.mktemp("data") / "scenes", "validation", IMAGES)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_and_facts_are_those_of_the_scenes(folder):
    facts = json.loads((folder / "objects.json").read_text())
    captions = json.loads((folder / "captions.json").read_text())
    assert len(facts) == len(captions) == len(list((folder / "images").iterdir())) == IMAGES
    scene = draw_scene("validation", 5, pairs="broken")
    assert Image.open(folder / "images" / "scene_000005.png").tobytes() == scene.image().tobytes()
    assert facts["scene_000005.png"] == json.loads(json.dumps(scene.facts()))
    assert captions["scene_000005.png"].startswith("There ")


@pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
def test_pope_files(folder, split):
    questions = lines(folder / f"scenes_pope_{split}.json")
    facts = json.loads((folder / "objects.json").read_text())
    assert [row["question_id"] for row in questions] == list(range(1, 6 * IMAGES + 1))
    assert all(list(row) == ["question_id", "image", "text", "label"] for row in questions)
    assert sum(row["label"] == "yes" for row in questions) == 3 * IMAGES
    for row in questions:
        there = any(f" {kind} " in row["text"] for kind in facts[row["image"]]["objects"])
        assert there == (row["label"] == "yes")
    positives = [(row["image"], row["text"]) for row in questions if row["label"] == "yes"]
    assert positives == [
        (row["image"], row["text"]) for row in lines(folder / "scenes_pope_random.json") if row["label"] == "yes"
    ]


def test_manifest_says_what_it_is(folder):
    manifest = json.loads((folder / "world.json").read_text())
    assert (manifest["version"], manifest["hash"], manifest["split"]) == ("1", world_hash(), "validation")
    assert "training scenes" in manifest["adversarial_cooccurrence"]
    shares = [manifest["pope"][split]["negatives_that_are_absent_partners"] for split in ("random", "adversarial")]
    assert shares[0] < shares[1]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["sha256"]) == files - {"world.json"}
    for name, value in manifest["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == value


def test_a_complete_folder_is_left_alone(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    build_dataset(folder, "validation", IMAGES)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_damaged_and_partial_folders_are_made_anew(tmp_path):
    target = build_dataset(tmp_path / "scenes", "test", 4)
    good = content(target)
    (target / "images" / "scene_000001.png").unlink()
    assert content(build_dataset(target, "test", 4)) == good
    (target / "captions.json").write_text("{}")
    assert content(build_dataset(target, "test", 4)) == good
    (target / "world.json").unlink()
    assert content(build_dataset(target, "test", 4)) == good
    (target / "world.json").write_text("{")
    assert content(build_dataset(target, "test", 4)) == good
    assert [path.name for path in tmp_path.iterdir()] == ["scenes"]


def test_another_size_or_split_is_made_anew(tmp_path):
    target = build_dataset(tmp_path / "scenes", "test", 2)
    assert len(list((build_dataset(target, "test", 3) / "images").iterdir())) == 3
    assert json.loads((build_dataset(target, "validation", 3) / "world.json").read_text())["split"] == "validation"


def test_a_folder_of_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(FileExistsError, match="not a folder of scenes"):
        build_dataset(tmp_path, "test", 2)
    assert (tmp_path / "thesis.txt").read_text() == "dear"


def test_the_cache_can_be_put_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    built = ensure_dataset("test", 2)
    assert built.is_relative_to(tmp_path)
    assert ensure_dataset("test", 2) == built


@pytest.mark.parametrize(("split", "images"), [("train", 3), ("test", 0)])
def test_wrong_orders_are_refused(tmp_path, split, images):
    with pytest.raises(ValueError, match="scenes are built for"):
        build_dataset(tmp_path / "scenes", split, images)
