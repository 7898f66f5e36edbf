"""POPE's building rules, on the golden data and on edge cases."""

import json
from pathlib import Path

import pytest
from sightline.eval.cli import main
from sightline.eval.errors import ConfigError, TooFewObjects
from sightline.eval.tasks.pope_builder import SPLITS, build_pope, co_occurrence, draw_rows, object_frequency, ranked

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "pope_building.json").read_text(encoding="utf-8"))


def rows_of(expected):
    questions = []
    for image in expected:
        for positive, negative in zip(image["positives"], image["negatives"], strict=True):
            questions += [(image["image"], positive, "yes"), (image["image"], negative, "no")]
    return questions


def asked(questions):
    return [
        (row["image"], row["text"].split(" ", 3)[3].removesuffix(" in the image?"), row["label"]) for row in questions
    ]


def test_tables_equal_the_golden():
    assert [list(item) for item in object_frequency(GOLDEN["input"]).items()] == GOLDEN["object_frequency"]
    assert ranked(object_frequency(GOLDEN["input"])) == GOLDEN["objects_by_popularity"]
    table = {name: ranked(counts) for name, counts in co_occurrence(GOLDEN["input"]).items()}
    assert table == GOLDEN["co_occurrence_ranked"]


@pytest.mark.parametrize("split", ["popular", "adversarial"])
def test_questions_equal_the_golden(split):
    assert asked(build_pope(GOLDEN["input"], split, GOLDEN["sample_num"])) == rows_of(GOLDEN["expected"][split])


def test_rows_equal_the_golden():
    known = GOLDEN["question_rows_example_popular_first_12"]
    built = build_pope(GOLDEN["input"], "popular")[: len(known)]
    assert built == [{**row, "text": row["text"].replace("imange", "image")} for row in known]


@pytest.mark.parametrize("split", SPLITS)
def test_properties(split):
    for rows in (GOLDEN["input"], GOLDEN["fallback_case"]["input"]):
        questions = build_pope(rows, split, seed=3)
        objects = {row["image"]: row["objects"] for row in rows}
        assert [row["question_id"] for row in questions] == list(range(1, 6 * len(rows) + 1))
        assert [row["label"] for row in questions] == ["yes", "no"] * (3 * len(rows))
        assert len(set(asked(questions))) == len(questions)
        assert all((name in objects[image]) == (label == "yes") for image, name, label in asked(questions))
        assert questions == build_pope(rows, split, seed=3)


def test_random_negatives_depend_on_the_seed_and_reach_the_whole_pool():
    assert build_pope(GOLDEN["input"], "random", seed=0) != build_pope(GOLDEN["input"], "random", seed=1)
    negatives = {
        name
        for seed in range(20)
        for _, name, label in asked(build_pope(GOLDEN["input"], "random", seed=seed))
        if label == "no"
    }
    assert negatives == set(object_frequency(GOLDEN["input"]))


def test_co_occurrence_can_come_from_elsewhere():
    rows = [{"image": "a", "objects": ["cup"]}, {"image": "b", "objects": ["dog"]}, {"image": "c", "objects": ["cat"]}]
    table = {"cup": {"spoon": 1, "cat": 9}, "dog": {"cat": 2}, "cat": {"dog": 3}}
    questions = build_pope(rows, "adversarial", k=1, cooccurrence=table)
    assert [name for _, name, label in asked(questions) if label == "no"] == ["cat", "cat", "dog"]


def test_an_image_with_everything_in_it_is_an_error_and_no_endless_loop():
    rows = [{"image": "full.png", "objects": ["a", "b", "c"]}, {"image": "less.png", "objects": ["a", "b"]}]
    with pytest.raises(
        TooFewObjects, match=r"not in 'full\.png': the data set holds 3 kinds.*Take more images, lower k"
    ):
        build_pope(rows, "random", k=1)


def test_too_few_objects_or_an_unknown_split_are_errors():
    with pytest.raises(TooFewObjects, match=r"needs 4 objects in each image.*lower k"):
        build_pope(GOLDEN["input"], "random", k=4)
    with pytest.raises(ConfigError, match=r"no split 'hard'.*popular"):
        build_pope(GOLDEN["input"], "hard")  # type: ignore[arg-type]


def test_draw_rows():
    drawn = draw_rows(GOLDEN["input"], 5, k=4, seed=1)
    assert len({row["image"] for row in drawn}) == 5
    assert all(len(row["objects"]) >= 4 for row in drawn)
    assert drawn == draw_rows(GOLDEN["input"], 5, k=4, seed=1)
    with pytest.raises(TooFewObjects, match=r"needs 99 images with 3 objects.*Ask for at most"):
        draw_rows(GOLDEN["input"], 99)


def test_a_data_set_that_is_too_small_is_said_at_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    assert main(["run", "task=pope_scenes", "task.images=1", f"run.root={tmp_path / 'runs'}"]) == 2
    said = capsys.readouterr().err
    assert "No object is left to ask for" in said
    assert "Take more images" in said
    assert "fault of ours" not in said
