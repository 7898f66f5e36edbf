"""MME against the three scripts, and its refusals."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from sightline.eval.scoring import (
    MME_PARSERS,
    PARSERS,
    ScoringError,
    mme_counts,
    mme_scores,
    mme_total,
    score_mme,
)
from sightline.eval.scoring.mme import COGNITION, PERCEPTION

TASKS = json.loads((Path(__file__).parents[2] / "golden" / "mme_scoring.json").read_text(encoding="utf-8"))["tasks"]
ITEMS = [pytest.param(item, id=f"{task}-{item['response']}") for task in TASKS for item in TASKS[task]["items"]]
PARSED = {"yes": "yes", "no": "no", "other": None, "Yes": "yes", "No": "no", "Unknown": None}


@pytest.fixture
def answers(record):
    """The golden responses as records, of one subtask or of all."""

    def build(*tasks):
        rows = [(task, item) for task in tasks or TASKS for item in TASKS[task]["items"]]
        return [
            record(place, item["response"], split=task, image_id=item["image"], label=item["gt"].lower())
            for place, (task, item) in enumerate(rows)
        ]

    return build


@pytest.fixture
def pair(record):
    """The two questions of an image, with two answers."""

    def build(image, yes, no, subtask="count", **fields):
        return [
            record(f"{image}-yes", yes, split=subtask, image_id=image, label="yes", **fields),
            record(f"{image}-no", no, split=subtask, image_id=image, label="no", **fields),
        ]

    return build


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize(
    ("parser", "part"),
    [("official", "official_parsed"), ("lmms_eval", "lmms_eval_parsed"), ("vlmevalkit", "vlmevalkit_extracted")],
)
def test_parsers_equal_the_scripts(item, parser, part):
    assert MME_PARSERS[parser].parse(item["response"], "yes") == PARSED[item[part]]


@pytest.mark.parametrize("answer", [item.values[0]["response"] for item in ITEMS] + [""])
def test_the_newline_of_the_official_files_changes_nothing(answer):
    official = MME_PARSERS["official"]
    assert official.parse(answer, "yes") == official.parse(answer + "\n", "yes")


@pytest.mark.parametrize(
    ("answer", "official", "lmms"),
    [
        ("  Yes", None, "yes"),
        ("  No", "no", "no"),
        ("y", None, "yes"),
        ("N.", None, "no"),
        ("x", None, None),
        ("A: yes", None, None),
        ("**Yes**", None, None),
        ("**No**", "no", "no"),
        ("Eyes", "yes", "yes"),
        ("", None, None),
    ],
)
def test_effects_named_in_the_spec(answer, official, lmms):
    assert MME_PARSERS["official"].parse(answer, "no") == official
    assert MME_PARSERS["lmms_eval"].parse(answer, "no") == lmms


@pytest.mark.parametrize("task", TASKS)
def test_subtasks_equal_the_official_tool(task, answers):
    row = score_mme(answers(task))["subtasks"][task]
    names = {"precision_excluding_other": "precision", "recall_excluding_other": "recall", "other_num": "n_other"}
    for name, expected in TASKS[task]["official"].items():
        assert row[names.get(name, name)] == pytest.approx(expected, abs=1e-9), name


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("parser", ["lmms_eval", "vlmevalkit"])
def test_scores_equal_the_other_scripts(task, parser, answers):
    row = score_mme(answers(task), parser=parser)["subtasks"][task]
    assert row["score"] == pytest.approx(TASKS[task][f"{parser}_score"], abs=1e-9)


def test_totals_add_the_subtasks_that_are_there(answers):
    score = score_mme(answers())
    official = {task: TASKS[task]["official"]["score"] for task in TASKS}
    for group, members in {"perception": PERCEPTION, "cognition": COGNITION}.items():
        there = [task for task in members if task in TASKS]
        total = score["totals"][group]
        assert total["subtasks"] == there
        assert total["score"] == pytest.approx(sum(official[task] for task in there), abs=1e-8)
        assert total["max"] == 200 * len(there)
        assert total["complete"] is False
    assert score["totals"]["hallucination"]["subtasks"] == ["existence", "position"]


def test_all_fourteen_subtasks_right_is_the_maximum(pair):
    records = [row for subtask in PERCEPTION + COGNITION for row in pair("a", "Yes", "No", subtask)]
    totals = score_mme(records)["totals"]
    assert {group: total["score"] for group, total in totals.items()} == {
        "perception": 2000,
        "cognition": 800,
        "hallucination": 800,
    }
    assert all(total["complete"] and total["score"] == total["max"] for total in totals.values())


def test_order_of_records_is_nothing(answers):
    records = answers()
    shuffled = random.Random(3).sample(records, len(records))
    assert shuffled != records
    for parser in MME_PARSERS:
        assert score_mme(shuffled, parser=parser) == score_mme(records, parser=parser)
    np.testing.assert_array_equal(mme_counts(shuffled).counts, mme_counts(records).counts)


def test_the_same_image_in_two_subtasks_is_two_images(pair):
    records = pair("a", "Yes", "No", "count") + pair("a", "Yes", "Yes", "color")
    rows = score_mme(records)["subtasks"]
    assert (rows["count"]["acc_plus"], rows["color"]["acc_plus"]) == (1, 0)


def test_half_a_pair_leaves_acc_plus_undefined(pair):
    score = score_mme([*pair("a", "Yes", "No"), pair("b", "Yes", "No")[0], *pair("c", "Yes", "No", "color")])
    row = score["subtasks"]["count"]
    assert (row["acc"], row["acc_plus"], row["score"]) == (1, None, None)
    assert set(row["undefined"]) == {"acc_plus", "score"}
    assert score["subtasks"]["color"]["score"] == 200
    assert score["totals"]["perception"]["score"] is None
    assert score["totals"]["cognition"]["score"] is None


def test_failures_are_counted_and_leave_acc_plus_undefined(pair, record):
    whole_pair_failed = pair("b", None, None, status="error")
    row = score_mme([*pair("a", "Yes", "No"), *whole_pair_failed])["subtasks"]["count"]
    assert (row["n"], row["n_error"], row["acc"], row["acc_plus"]) == (2, 2, 1, None)
    alone = score_mme([record(1, None, status="error", split="OCR")])["subtasks"]["OCR"]
    assert (alone["n"], alone["acc"], alone["acc_plus"]) == (0, None, None)
    assert alone["undefined"]["acc"] == "no answer was scored"


@pytest.mark.parametrize(
    ("answers", "warned"), [(("Yes", "Yes"), True), (("No", "no."), True), (("Yes", "No"), False), (("?", "?"), False)]
)
def test_one_answer_to_everything_is_flagged(pair, answers, warned):
    score = score_mme(pair("a", *answers) + pair("b", *answers))
    assert score["all_same_answer"] is warned
    assert score["subtasks"]["count"]["all_same_answer"] is warned
    if warned:
        assert score["subtasks"]["count"]["score"] == 50


def test_nothing_to_score(record):
    score = score_mme([])
    assert (score["n"], score["subtasks"], score["all_same_answer"]) == (0, {}, False)
    assert all(total["score"] is None for total in score["totals"].values())
    assert score_mme([record(1, "Yes", split="count")])["all_same_answer"] is False


def test_counts_give_the_same_scores(answers):
    images, subtasks, strata, counts = mme_counts(answers())
    score = score_mme(answers())
    assert [subtasks[place] for place in strata] == [subtask for subtask, _ in images]
    assert list(subtasks) == list(score["subtasks"])
    scores = mme_scores(counts.sum(axis=0))
    assert scores == pytest.approx([row["score"] for row in score["subtasks"].values()])
    both = score["totals"]["perception"]["score"] + score["totals"]["cognition"]["score"]
    assert mme_total(counts.sum(axis=0)) == pytest.approx(both)


def test_counts_of_half_a_pair_enter_acc_alone(pair):
    counts = mme_counts(pair("a", "Yes", "No")[:1]).counts
    assert counts.tolist() == [[[1, 1, 0, 0]]]
    assert np.isnan(mme_scores(counts)).all()


def test_refusals(pair, record):
    with pytest.raises(ScoringError, match=r"Unknown MME subtask 'colour'.*Did you mean 'color'"):
        score_mme(pair("a", "Yes", "No", "colour"))
    with pytest.raises(ScoringError, match=r"Unknown MME parser 'offical'.*Did you mean 'official'"):
        score_mme(pair("a", "Yes", "No"), parser="offical")
    with pytest.raises(ScoringError, match="Unknown MME parser 'strict'"):
        mme_counts(pair("a", "Yes", "No"), parser="strict")
    with pytest.raises(ScoringError, match="more than two questions"):
        score_mme([*pair("a", "Yes", "No"), record("third", split="count", image_id="a")])
    with pytest.raises(ScoringError, match="label 'Yes'"):
        score_mme([record(1, split="count", label="Yes")])
    with pytest.raises(ScoringError, match="twice"):
        score_mme(pair("a", "Yes", "No") * 2)
    with pytest.raises(ScoringError, match="1 of 3 samples are missing"):
        score_mme(pair("a", "Yes", "No"), expected=[("count", "a-yes"), ("count", "a-no"), ("count", "b-yes")])


def test_a_parser_of_ones_own(pair):
    assert score_mme(pair("a", "Yes!", "No!"), parser=PARSERS["strict"])["parser"] == "strict"
