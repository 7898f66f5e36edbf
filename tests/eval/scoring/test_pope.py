"""POPE's rates, tables and refusals."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from sightline.eval.scoring import (
    PARSERS,
    ScoringError,
    mean_rate,
    pooled_rate,
    pope_counts,
    pope_lines,
    pope_rates,
    score_pope,
    score_pope_parsers,
)
from sightline.eval.scoring.pope import COUNTS, RATES

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "pope_scoring.json").read_text(encoding="utf-8"))
EDGE_SETS = GOLDEN["edge_sets"]
SCRIPTS = [
    pytest.param(case, parser, part, id=f"{case['name']}-{part}")
    for case in EDGE_SETS
    for parser, part in (("pope_official", "official"), ("vcd", "vcd_script"))
    if part in case
]
ABSTAINING = [pytest.param(case, id=case["name"]) for case in EDGE_SETS if "lmms_eval" in case]


@pytest.fixture
def edge_records(record):
    def build(case):
        pairs = zip(case["answers"], case["labels"], strict=True)
        return [record(place, answer, label=label) for place, (answer, label) in enumerate(pairs)]

    return build


@pytest.fixture
def mixed(record):
    """Two splits of four images, two questions each, with margins."""
    generator = random.Random(7)
    answers = ["Yes", "No", "no.", "Yes, there is", "maybe", "isn't"]
    return [
        record(
            f"{image}-{label}",
            generator.choice(answers),
            split=split,
            image_id=f"image-{image}",
            label=label,
            margin=generator.randint(-3, 3),
            n_output_tokens=generator.randint(1, 9),
        )
        for split in ("random", "popular")
        for image in range(4)
        for label in ("yes", "no")
    ]


@pytest.mark.parametrize(("case", "parser", "part"), SCRIPTS)
def test_edge_sets_equal_the_scripts(case, parser, part, edge_records):
    pooled = score_pope(edge_records(case), parser=parser)["pooled"]
    for name, expected in case[part].items():
        if name != "raises" and expected is not None:
            assert pooled[name] == pytest.approx(expected, abs=1e-9), name
    if case[part]["raises"]:
        assert pooled["undefined"], "where the script divides by zero, a value is undefined"


@pytest.mark.parametrize("case", ABSTAINING)
def test_edge_sets_accuracy_of_dialects_that_abstain(case, edge_records):
    records = edge_records(case)
    lmms = score_pope(records, parser="lmms_eval")["pooled"]
    kit = score_pope(records, parser="vlmevalkit")["pooled"]
    assert lmms["accuracy"] == pytest.approx(case["lmms_eval"]["accuracy"], abs=1e-9)
    assert kit["accuracy"] == pytest.approx(case["vlmevalkit"]["accuracy_pct"] / 100, abs=1e-9)
    for name in ("precision", "recall", "f1"):  # the scripts say 0 where the value is undefined
        assert (lmms[name] or 0) == pytest.approx(case["lmms_eval"][name], abs=1e-9)
        assert (kit[name] or 0) == pytest.approx(case["vlmevalkit"][f"{name}_pct"] / 100, abs=1e-9)


def test_vcd_batch_equals_its_script(golden, record):
    expected = golden("vcd")["pope_parser"]
    records = [
        record(f"{place}-{label}", case["answer"], label=label)
        for place, case in enumerate(expected["per_answer"])
        for label in ("yes", "no")
    ]
    pooled = score_pope(records, parser="vcd")["pooled"]
    batch = expected["batch_over_all_pairs"]
    assert [pooled[name] for name in ("TP", "TN", "FP", "FN")] == [
        batch[name] for name in ("true_pos", "true_neg", "false_pos", "false_neg")
    ]
    same = ("precision", "recall", "f1", "accuracy")
    for name, theirs in [("yes_ratio", "yes_proportion"), *zip(same, same, strict=True)]:
        assert pooled[name] == pytest.approx(batch[theirs], abs=1e-12)


def test_order_of_records_is_nothing(mixed):
    shuffled = list(mixed)
    random.Random(1).shuffle(shuffled)
    assert shuffled != mixed
    for parser in PARSERS:
        assert score_pope(shuffled, parser=parser) == score_pope(mixed, parser=parser)
        assert pope_lines(shuffled, parser=parser) == pope_lines(mixed, parser=parser)
    np.testing.assert_array_equal(pope_counts(shuffled).counts, pope_counts(mixed).counts)


def test_an_unparsed_answer_is_wrong_and_in_no_cell(record):
    records = [
        record(1, "Yes", label="yes"),
        record(2, "maybe", label="yes"),
        record(3, "maybe", label="no"),
        record(4, "No", label="no"),
    ]
    pooled = score_pope(records, parser="strict")["pooled"]
    assert [pooled[name] for name in COUNTS] == [1, 0, 1, 0, 1, 1]
    assert pooled["accuracy"] == 2 / 4
    assert pooled["recall"] == 1 / 2
    assert pooled["f1"] == pytest.approx(2 / 3)
    assert pooled["yes_ratio"] == 1 / 4
    assert pooled["unparsed_rate"] == 2 / 4


def test_answers_are_stripped_before_the_parser(record):
    assert PARSERS["pope_official"].parse("\nNo", "no") == "yes"
    assert score_pope([record(1, "\nNo\n", label="no")])["pooled"]["TN"] == 1


def test_failures_are_counted_and_never_scored(record):
    good = [record(1, "Yes"), record(2, "No")]
    failed = record(3, None, status="error")
    pooled = score_pope([*good, failed])["pooled"]
    assert pooled["n_error"] == 1
    assert {**pooled, "n_error": 0} == score_pope(good)["pooled"]


def test_a_split_of_failures_alone_stays_in_the_table(record):
    score = score_pope([record(1, "Yes"), record(2, None, status="error", split="popular")])
    assert score["splits"]["popular"]["n"] == 0
    assert score["splits"]["popular"]["n_error"] == 1
    assert score["mean_of_splits"]["accuracy"] is None
    assert "popular" in score["mean_of_splits"]["undefined"]["accuracy"]


def test_mean_of_splits_is_the_plain_mean_and_pooled_is_not(record):
    records = [record(place, "Yes", split="random") for place in range(8)]
    records += [record(place, "No", split="popular") for place in range(2)]
    score = score_pope(records)
    assert score["splits"]["random"]["accuracy"] == 1
    assert score["splits"]["popular"]["accuracy"] == 0
    assert score["mean_of_splits"]["accuracy"] == 0.5
    assert score["mean_of_splits"]["n_splits"] == 2
    assert score["pooled"]["accuracy"] == 0.8


def test_nothing_to_score():
    score = score_pope([])
    assert score["splits"] == {}
    assert score["pooled"]["n"] == 0
    for name in (*RATES, "auc"):
        assert score["pooled"][name] is None
        assert score["pooled"]["undefined"][name]
        assert score["mean_of_splits"][name] is None


@pytest.mark.parametrize(
    ("margins", "labels", "expected"),
    [
        ([3, 2, 1, 0], ["yes", "yes", "no", "no"], 1.0),
        ([0, 1, 2, 3], ["yes", "yes", "no", "no"], 0.0),
        ([1, 1, 1, 1], ["yes", "yes", "no", "no"], 0.5),
        ([2, 1, 1, 0], ["yes", "yes", "no", "no"], 3.5 / 4),
        ([float("inf"), -1, float("-inf")], ["yes", "yes", "no"], 1.0),
    ],
)
def test_auc(record, margins, labels, expected):
    pairs = enumerate(zip(margins, labels, strict=True))
    pooled = score_pope([record(place, margin=m, label=label) for place, (m, label) in pairs])["pooled"]
    assert pooled["auc"] == expected
    assert pooled["n_margin"] == len(margins)


def test_auc_needs_both_classes_and_margins(record):
    none = score_pope([record(1), record(2, label="no", margin=None)])["pooled"]
    assert (none["auc"], none["n_margin"]) == (None, 0)
    assert "no record carries" in none["undefined"]["auc"]
    one_class = score_pope([record(1, margin=1.0), record(2, margin=2.0), record(3, label="no")])["pooled"]
    assert (one_class["auc"], one_class["n_margin"]) == (None, 2)
    assert "same label" in one_class["undefined"]["auc"]
    with pytest.raises(ScoringError, match="margin that is not a number"):
        score_pope([record(1, margin=float("nan"))])


def test_auc_ignores_a_constant_shift_but_accuracy_does_not(mixed):
    shifted = [row | {"margin": row["margin"] + 10, "output": "Yes"} for row in mixed]
    before, after = score_pope(mixed)["pooled"], score_pope(shifted)["pooled"]
    assert after["auc"] == before["auc"]
    assert after["accuracy"] != before["accuracy"]


def test_relabelling_drops_exactly_the_missing_samples(mixed):
    labels = {(row["split"], row["doc_id"]): "yes" for row in mixed if row["image_id"] != "image-0"}
    score = score_pope(mixed, labels=labels)
    assert score["relabelled"] is True
    assert score["n_dropped"] == 4
    assert score["pooled"]["n"] == len(labels) == 12
    assert score["pooled"]["FP"] == score["pooled"]["TN"] == 0
    assert {line["image_id"] for line in pope_lines(mixed, labels=labels)} == {"image-1", "image-2", "image-3"}
    assert pope_counts(mixed, labels=labels).counts.sum() == 12
    same = {(row["split"], row["doc_id"]): row["label"] for row in mixed}
    assert score_pope(mixed, labels=same)["splits"] == score_pope(mixed)["splits"]


def test_relabelling_by_doc_id_alone_only_where_it_is_clear(record, mixed):
    score = score_pope([record(1, "No"), record(2, "No"), record(3, None, status="error")], labels={"1": "no"})
    assert (score["pooled"]["TN"], score["n_dropped"], score["pooled"]["n_error"]) == (1, 2, 0)
    with pytest.raises(ScoringError, match="number their questions alike"):
        score_pope(mixed, labels={row["doc_id"]: "yes" for row in mixed})
    with pytest.raises(ScoringError, match="mix"):
        score_pope(mixed, labels={"1": "yes", ("random", "2"): "no"})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ScoringError, match="label 'maybe'"):
        score_pope([record(1)], labels={"1": "maybe"})


def test_all_parsers_side_by_side(mixed):
    scores = score_pope_parsers(iter(mixed))
    assert list(scores) == list(PARSERS)
    for name, score in scores.items():
        assert score == score_pope(mixed, parser=name)
    assert len({score["pooled"]["accuracy"] for score in scores.values()}) > 1, "the dialects disagree here"


def test_lines_add_up_to_the_score(mixed):
    for parser in PARSERS:
        lines, pooled = pope_lines(mixed, parser=parser), score_pope(mixed, parser=parser)["pooled"]
        assert sum(line["correct"] for line in lines) / len(lines) == pooled["accuracy"]
        assert sum(line["parsed"] is None for line in lines) == pooled["unparsed_yes"] + pooled["unparsed_no"]
        assert {line["key"] for line in lines} == {row["key"] for row in mixed}


def test_counts_give_the_same_rates(mixed):
    images, splits, counts = pope_counts(mixed, parser="strict")
    score = score_pope(mixed, parser="strict")
    assert images == tuple(f"image-{image}" for image in range(4))
    assert list(splits) == list(score["splits"])
    assert counts.shape == (4, 2, len(COUNTS))
    for name in RATES:
        assert pooled_rate(name)(counts.sum(axis=0)) == pytest.approx(score["pooled"][name])
        assert mean_rate(name)(counts.sum(axis=0)) == pytest.approx(score["mean_of_splits"][name])
        for place, split in enumerate(splits):
            assert pope_rates(counts.sum(axis=0)[place])[name] == pytest.approx(score["splits"][split][name])


def test_undefined_rates_are_nan_without_a_warning():
    rates = pope_rates(np.zeros((3, 2, len(COUNTS))))
    assert all(value.shape == (3, 2) and np.isnan(value).all() for value in rates.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "Yes"}, "has label 'Yes'"),
        ({"label": None}, "has label None"),
        ({"status": "done"}, "status 'done'"),
        ({"output": None}, "output None but status ok"),
    ],
)
def test_broken_records_are_refused(record, change, message):
    with pytest.raises(ScoringError, match=message):
        score_pope([record(1), record(2) | change])


@pytest.mark.parametrize("field", ["key", "split", "doc_id", "image_id", "output", "status", "label"])
def test_absent_fields_are_refused(record, field):
    broken = record(1)
    del broken[field]
    with pytest.raises(ScoringError, match=f"lacks {field}"):
        score_pope([broken])


def test_duplicates_are_refused(record):
    with pytest.raises(ScoringError, match="twice"):
        score_pope([record(1), record(1, "No", key="another")])
    with pytest.raises(ScoringError, match="shares its key"):
        score_pope([record(1), record(2, key="random-1")])
    with pytest.raises(ScoringError, match="twice"):
        score_pope([record(1), record(1, None, status="error")])
    assert score_pope([record(1), record(1, split="popular")])["pooled"]["n"] == 2


def test_incomplete_and_foreign_runs_are_refused(record):
    expected = [("random", "1"), ("random", "2"), ("random", "3")]
    with pytest.raises(ScoringError, match=r"2 of 3 samples are missing.*allow_partial"):
        score_pope([record(1)], expected=expected)
    with pytest.raises(ScoringError, match="1 samples are not of this task"):
        score_pope([record(9)], expected=expected, allow_partial=True)
    partial = score_pope([record(1)], expected=iter(expected), allow_partial=True)
    assert partial["n_missing"] == 2
    assert score_pope([record(place) for place in (1, 2, 3)], expected=expected)["n_missing"] == 0
    sided = score_pope_parsers([record(1)], expected=iter(expected), allow_partial=True)
    assert {score["n_missing"] for score in sided.values()} == {2}
