"""`sightline build-pope`: the golden's questions from files, COCO annotations, and sources that are refused."""

import json
from pathlib import Path

import pytest
from PIL import Image
from sightline.eval.build_pope import build, read_annotated
from sightline.eval.cli import main
from sightline.eval.tasks import registry

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "pope_building.json").read_text(encoding="utf-8"))


def lines(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def jsonl(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def thing(text):
    return text.split(" ", 3)[3].removesuffix(" in the image?")


def test_the_goldens_questions_at_the_shell(tmp_path, capsys):
    source = jsonl(tmp_path / "rows.jsonl", GOLDEN["input"])
    size = str(len(GOLDEN["input"]))
    out = tmp_path / "out"
    assert main(["build-pope", str(source), "--out", str(out), "--name", "toys", "--images", size]) == 0
    assert "sightline run task=pope task.dataset=toys" in capsys.readouterr().out
    for split in ("popular", "adversarial"):
        wanted = {each["image"]: each for each in GOLDEN["expected"][split]}
        asked = lines(out / f"toys_pope_{split}.json")
        for image, each in wanted.items():
            own = [row for row in asked if row["image"] == image]
            assert [thing(row["text"]) for row in own if row["label"] == "yes"] == each["positives"]
        assert len(asked) == 6 * len(wanted)
    # the golden takes images in the order given, and ties by that order; a draw shuffles them, which is all it changes
    drawn = {row["image"] for row in lines(out / "toys_pope_random.json")}
    assert drawn == {row["image"] for row in GOLDEN["input"]}


def test_what_was_built_can_be_run(tmp_path):
    source = jsonl(tmp_path / "rows.jsonl", GOLDEN["input"])
    written = build(source, tmp_path / "out", "toys", images=5, seed=3)
    (tmp_path / "images").mkdir()
    for row in GOLDEN["input"]:
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / row["image"])
    options = {"dataset": "toys", "data": str(tmp_path / "out"), "images": str(tmp_path / "images")}
    data = registry.load(registry.get("pope"), options)
    assert len(data.documents) == 3 * 5 * 6
    facts = json.loads(written[-1].read_text())
    assert {source.file: source.sha256 for source in data.sources} == facts["sha256"]
    assert (facts["rows"]["random"], facts["images_annotated"], facts["seed"]) == (30, len(GOLDEN["input"]), 3)
    again = build(source, tmp_path / "again", "toys", images=5, seed=3)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in written]


def coco(file, categories=("dog", "cup", "tv", "bird")):
    held = {
        "images": [{"id": place, "file_name": f"{place}.jpg"} for place in (7, 3)],
        "categories": [{"id": place, "name": name} for place, name in enumerate(categories)],
        "annotations": [{"image_id": 7, "category_id": place, "iscrowd": 0} for place in (2, 0, 2)]
        + [{"image_id": 3, "category_id": 1, "iscrowd": 1}],
    }
    file.write_text(json.dumps(held))
    return file


def test_coco_annotations(tmp_path):
    source = coco(tmp_path / "instances.json")
    assert read_annotated(source) == [
        {"image": "7.jpg", "objects": ["tv", "dog"]},
        {"image": "3.jpg", "objects": ["cup"]},
    ]
    captions = tmp_path / "captions.json"
    said = [{"image_id": 3, "caption": "Two puppies and a mug by a couch."}, {"image_id": 99, "caption": "A cat."}]
    captions.write_text(json.dumps({"images": [], "annotations": said}))
    assert read_annotated(source, [captions])[1]["objects"] == ["cup", "dog", "couch"]
    other = coco(tmp_path / "other.json", ("gnu", "cup", "yak", "emu"))
    assert read_annotated(other)[0]["objects"] == ["yak", "gnu"]
    with pytest.raises(ValueError, match=r"categories of other\.json are not COCO's"):
        read_annotated(other, [captions])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "holds no rows"),
        ("{torn", "is not JSON"),
        ('{"image": "a.jpg"}', "no list 'objects'"),
        ('{"image": "a.jpg", "objects": [1]}', "something else than texts"),
        ('{"image": "../a.jpg", "objects": ["x"]}', "leaves"),
        ('{"image": "a.jpg", "objects": ["x"]}\n{"image": "a.jpg", "objects": ["y"]}', "two rows about 'a.jpg'"),
        ('{"annotations": [{}], "images": [], "categories": []}', "is no COCO file"),
        ('{"image": "a.jpg", "objects": ["x"]}', "needs 500 images with 3 objects"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_sources_that_are_refused(tmp_path, capsys, content, why):
    source = tmp_path / "rows.json"
    source.write_text(content)
    assert main(["build-pope", str(source), "--out", str(tmp_path / "out")]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_that_are_refused(tmp_path, capsys):
    source = jsonl(tmp_path / "rows.jsonl", GOLDEN["input"])
    for more, why in (
        (["--images", "0"], "whole number of images"),
        (["--name", "../x"], "--name must be letters"),
        (["--captions", str(source)], "no COCO instance file"),
    ):
        assert main(["build-pope", str(source), "--out", str(tmp_path / "out"), *more]) == 2
        assert why in capsys.readouterr().err
    assert main(["build-pope", str(tmp_path / "gone.jsonl"), "--out", str(tmp_path / "out")]) == 2
    assert "cannot be read" in capsys.readouterr().err
