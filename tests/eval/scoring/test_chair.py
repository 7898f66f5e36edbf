"""CHAIR against both published scripts, where they agree, and its refusals."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from sightline.eval.scoring import (
    ScoringError,
    Vocabulary,
    build_ground_truth,
    chair_counts,
    chair_rate,
    chair_rates,
    cut_caption,
    cut_like,
    read_caption,
    score_chair,
    tokenize,
    trim_caption,
)
from sightline.eval.scoring.chair import COUNTS, RATES

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "chair_scoring.json").read_text(encoding="utf-8"))
CASES = GOLDEN["cases"]
AGREED = [case for case in CASES if case["both_scripts_agree_on_node_words"]]
SCRIPTS = ("opera_chair_py", "original_chair_py")


def ids(cases):
    return [pytest.param(case, id=str(case["id"])) for case in cases]


def caption_records(record, cases):
    return [record(case["id"], case["caption"], image_id=case["id"], split="") for case in cases]


@pytest.fixture
def toy(record):
    """Three captions and their ground truth: one clean, one with a hallucination, one without objects."""
    captions = {1: "A dog and a dog.", 2: "A dog and a cat. A", 3: "A blue sky."}
    truth = {1: ["dog"], 2: ["dog", "bench"], 3: ["boat"]}
    return [record(image, text, image_id=image) for image, text in captions.items()], truth


@pytest.mark.parametrize("case", ids(AGREED))
def test_captions_equal_both_scripts(case):
    line = read_caption(case["caption"], case["gt_objects"])
    for script in SCRIPTS:
        theirs = case[script]
        assert [word["class"] for word in line["words"]] == theirs["node_words"]
        assert [line["words"][place]["class"] for place in line["hallucinated"]] == [
            cls for _, cls in theirs["hallucinated"]
        ]
        assert line["CHAIRs"] == theirs["CHAIRs"]
        assert line["CHAIRi"] == pytest.approx(theirs["CHAIRi"], abs=1e-9)
    assert line["recall"] == pytest.approx(case["opera_chair_py"]["Recall"], abs=1e-9)


@pytest.mark.parametrize("case", ids([case for case in CASES if case not in AGREED]))
def test_captions_equal_one_script_where_they_differ(case):
    found = [word["class"] for word in read_caption(case["caption"], case["gt_objects"])["words"]]
    assert found in [case[script]["node_words"] for script in SCRIPTS]


@pytest.mark.parametrize("case", ids(AGREED))
def test_length_and_spans(case):
    line = read_caption(case["caption"], case["gt_objects"])
    # "sports" is no singular of ours, so "sports ball" is one word here and two in the scripts
    theirs = len(case["opera_chair_py"]["raw_words"]) - case["caption"].count("sports ball")
    dropped = "seat" in case["caption"].lower().split() and "toilet" in case["caption"]
    assert line["length"] == theirs
    if not dropped:
        starts = [line["words"][place]["tokens"][0] for place in line["hallucinated"]]
        if not case["caption"].count("sports ball"):
            assert starts == case["opera_chair_py"]["hallucination_idxs"]
    tokens = tokenize(case["caption"])
    for word in line["words"]:
        (first, last), (start, end) = word["tokens"], word["chars"]
        assert (tokens[first].start, tokens[last - 1].end) == (start, end)


def test_overall_scores_pool_the_agreed_captions(record):
    score = score_chair(caption_records(record, AGREED), {case["id"]: case["gt_objects"] for case in AGREED})
    theirs = [case["original_chair_py"] for case in AGREED]
    named = sum(len(part["node_words"]) for part in theirs)
    hallucinated = sum(len(part["hallucinated"]) for part in theirs)
    matched = sum(len(set(c["original_chair_py"]["node_words"]) & set(c["gt_objects"])) for c in AGREED)
    assert score["n"] == len(AGREED)
    assert score["CHAIRs"] == pytest.approx(sum(part["CHAIRs"] for part in theirs) / len(theirs))
    assert score["CHAIRi"] == pytest.approx(hallucinated / named)
    assert score["recall"] == pytest.approx(matched / sum(len(case["gt_objects"]) for case in AGREED))
    assert (score["n_words"], score["n_hallucinated"]) == (named, hallucinated)
    assert score["undefined"].keys() == {"share_cut_off", "mean_output_tokens"}


@pytest.mark.parametrize("case", GOLDEN["edge_sets"][:2], ids=lambda case: case["name"])
def test_what_divides_by_zero_in_the_scripts_is_undefined(case, record):
    assert {case[script]["raises"] for script in SCRIPTS} == {"ZeroDivisionError"}
    rows = case["input"]
    records = [record(image, caption, image_id=image) for image, caption, _ in rows]
    score = score_chair(records, {image: objects for image, _, objects in rows})
    assert score["CHAIRi"] is None
    assert score["precision"] is None
    assert score["undefined"]["CHAIRi"] == "no caption names an object"
    assert score["CHAIRs"] == (0 if rows else None)
    assert score["recall"] == (0 if rows else None)


def test_unknown_and_string_image_ids_raise(record):
    (known, caption, objects) = GOLDEN["edge_sets"][2]["input"][2]
    truth = {known: objects}
    assert score_chair([record(1, caption, image_id=known)], truth)["CHAIRi"] == 0
    for unknown in (999999, str(known)):
        with pytest.raises(ScoringError, match=rf"Image {unknown!r}.*not in the ground truth.*compare exactly"):
            score_chair([record(1, caption, image_id=unknown)], truth)


def test_rates_by_hand(toy):
    records, truth = toy
    score = score_chair(records, truth)
    assert score["CHAIRs"] == pytest.approx(1 / 3)
    assert score["CHAIRi"] == pytest.approx(1 / 4)
    assert score["recall"] == pytest.approx(2 / 4)
    assert score["precision"] == pytest.approx(2 / 3)
    assert score["f1"] == pytest.approx(2 * 2 / (3 + 4))
    assert score["mean_length"] == pytest.approx((6 + 7 + 4) / 3)
    assert [line["CHAIRi"] for line in score["captions"]] == [0, 0.5, 0]
    assert score["captions"][1]["missed"] == ["bench"]
    assert (score["variant"], score["vocabulary"]) == ("portable", "coco")


def test_order_of_records_is_nothing(record):
    truth = {case["id"]: case["gt_objects"] for case in CASES}
    records = caption_records(record, CASES)
    shuffled = random.Random(0).sample(records, len(records))
    assert shuffled != records
    assert score_chair(shuffled, truth) == score_chair(records, truth)


def test_failures_are_counted_and_never_scored(toy, record):
    records, truth = toy
    failed = record(9, None, image_id=1, status="error")
    score = score_chair([*records, failed], truth)
    assert score["n_error"] == 1
    assert score | {"n_error": 0} == score_chair(records, truth)


def test_finish_and_tokens(record):
    records = [
        record(1, "A dog.", finish="length", n_output_tokens=4),
        record(2, "A dog.", finish="eos", n_output_tokens=2),
        record(3, "A dog."),
    ]
    score = score_chair(records, {f"image-{place}": ["dog"] for place in (1, 2, 3)})
    assert score["share_cut_off"] == 0.5
    assert score["mean_output_tokens"] == 3


def test_counts_give_the_same_rates(toy, record):
    records, truth = toy
    score = score_chair([*records, record("again", "A cat.", image_id=1)], truth)
    images, counts = chair_counts(reversed(score["captions"]))
    assert images == ("1", "2", "3")
    assert counts.shape == (3, len(COUNTS))
    for name in RATES:
        assert chair_rate(name)(counts.sum(axis=0)) == pytest.approx(score[name])
    assert all(np.isnan(value) for value in chair_rates(np.zeros(len(COUNTS))).values())


def test_own_vocabulary(record):
    scenes = Vocabulary.of("scenes", ["star", "moon"])
    score = score_chair([record(1, "Two stars and a dog.")], {"image-1": ["moon"]}, vocabulary=scenes)
    assert (score["vocabulary"], score["CHAIRi"], score["recall"]) == ("scenes", 1, 0)
    with pytest.raises(ScoringError, match="'dog', which is no class of the vocabulary 'scenes'"):
        score_chair([record(1, "A star")], {"image-1": ["dog"]}, vocabulary=scenes)


def test_ground_truth_is_both_scripts_together():
    case = GOLDEN["ground_truth_building"]
    files = [{"categories": case["categories"], "annotations": case[f"instances_{part}"]} for part in ("val", "train")]
    captions = [{"annotations": case[f"captions_{part}"]} for part in ("val", "train")]
    truth = build_ground_truth(files, captions)
    assert set(truth) == {1, 2, 3, 4}
    for image, found in truth.items():
        opera, original = (case[script][str(image)] for script in SCRIPTS)
        assert found == sorted(set(opera) | set(original)), "each script misses one plural or singular"
        if opera == original:
            assert found == opera
    assert build_ground_truth(files)[2] == ["chair", "dining table"], "instances alone are stricter"


def test_ground_truth_knows_images_without_objects():
    categories = [{"id": 1, "name": "dog"}]
    file = {"images": [{"id": 7}], "categories": categories, "annotations": []}
    assert build_ground_truth([file]) == {7: []}
    assert build_ground_truth([file], [{"images": [{"id": 8}], "annotations": []}]) == {7: [], 8: []}


@pytest.mark.parametrize("name", ["dragon", None])
def test_ground_truth_refuses_foreign_categories(name):
    categories = [{"id": 1, "name": name}] if name else []
    file = {"categories": categories, "annotations": [{"image_id": 1, "category_id": 1}]}
    with pytest.raises(ScoringError, match=rf"Category 1 \({name!r}\) is no word of 'coco'"):
        build_ground_truth([file])


@pytest.mark.parametrize(
    ("caption", "expected"), [("A dog. A ca", "A dog."), ("A dog", "A dog"), ("A dog. ", "A dog."), ("", "")]
)
def test_trim(caption, expected):
    assert trim_caption(caption) == expected


def test_trimming_is_named_in_the_result(record):
    records, truth = [record(1, "A dog. A cat")], {"image-1": ["dog"]}
    assert score_chair(records, truth)["CHAIRs"] == 1
    trimmed = score_chair(records, truth, trim_incomplete_sentence=True)
    assert (trimmed["CHAIRs"], trimmed["trimmed"]) == (0, True)


@pytest.mark.parametrize(
    ("n_words", "expected"), [(0, ""), (1, "a"), (3, "a  cat\na"), (4, "a  cat\na cat. "), (99, "a  cat\na cat. ")]
)
def test_cut(n_words, expected):
    assert cut_caption("a  cat\na cat. ", n_words) == expected


def test_cut_refuses_negative_numbers():
    with pytest.raises(ScoringError, match="-1 words"):
        cut_caption("a", -1)


def test_cut_like_gives_the_lengths_of_the_other_run(record):
    greedy = [record(1, "one two three four"), record(2, "one"), record(3, None, status="error"), record(4, "a b")]
    other = [record(1, "x y"), record(2, "x y z"), record(3, "x"), record(4, None, status="error")]
    cut = cut_like(greedy, reversed(other))
    assert [row["output"] for row in cut] == ["one two", "one", None, "a b"]
    assert greedy[0]["output"] == "one two three four", "the records themselves are left alone"
    with pytest.raises(ScoringError, match="no caption to be cut like"):
        cut_like(greedy, other[:1])
