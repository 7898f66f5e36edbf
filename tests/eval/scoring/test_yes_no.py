"""The parsers, against what the published scripts did with the same answers."""

import json
from pathlib import Path

import pytest
from sightline.eval.scoring import PARSERS, Parser, ScoringError, get_parser

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "pope_scoring.json").read_text(encoding="utf-8"))
CASES = [pytest.param(case, id=repr(case["answer"])) for case in GOLDEN["cases"]]
OPPOSITE = {"yes": "no", "no": "yes"}


def parse(parser, case, label=None):
    return PARSERS[parser].parse(case["answer"], label or case["label"])


@pytest.mark.parametrize("case", CASES)
class TestGoldenAnswers:
    def test_pope_official(self, case):
        assert parse("pope_official", case) == case["official"]

    def test_opera(self, case):
        assert parse("opera", case) == case["opera_avisc"]

    def test_vcd(self, case):
        assert parse("vcd", case) == case["vcd_counted_as"]

    def test_lmms_eval(self, case):
        prediction = case["lmms_eval_pred"]
        assert parse("lmms_eval", case) == (prediction if prediction in ("yes", "no") else None)
        assert (parse("lmms_eval", case) == case["label"]) == case["lmms_eval_correct"]

    def test_vlmevalkit(self, case):
        expected = {"Yes": "yes", "No": "no", "Unknown": None}[case["vlmevalkit"]]
        assert parse("vlmevalkit", case) == expected

    def test_only_vcd_looks_at_the_label(self, case):
        for name, parser in PARSERS.items():
            if not parser.needs_label:
                assert parse(name, case) == parse(name, case, OPPOSITE[case["label"]]), name


def test_vcd_equals_its_script_for_both_labels(golden):
    expected = golden("vcd")["pope_parser"]
    outcome = {("yes", "yes"): "TP", ("no", "yes"): "FN", ("yes", "no"): "FP", ("no", "no"): "TN"}
    for case in expected["per_answer"]:
        for label in ("yes", "no"):
            assert outcome[PARSERS["vcd"].parse(case["answer"], label), label] == case[f"when_label_{label}"], case


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("  no.\n", "no"),
        ("**No**, there is none", "no"),
        ('"Yes"', "yes"),
        ("\uff39\uff45\uff53", "yes"),  # full-width letters
        ("Yep!", "yes"),
        ("Yeah, I see one", "yes"),
        ("Nope", "no"),
        ("nah", "no"),
        ("y", "yes"),
        ("N.", "no"),
        ("y axis labels", None),
        ("n is large", None),
        ("Answer: no", "no"),
        ("The answer is yes.", "yes"),
        ("There isn\u2019t a car.", "no"),
        ("There are none. Yes.", "no"),
        ("It is a cat. No.", None),  # the second sentence does not decide
        ("3.5 people, no", "no"),  # a decimal point ends no sentence
        ("... no", "no"),
        ("It could be yes or no", None),
        ("Yes and no", "yes"),  # the leading word decides
        ("I know there is snow", None),
        ("true", None),
        ("42", None),
        ("\u4e0d", None),
        (" ", None),
        ("", None),
    ],
)
def test_strict(answer, expected):
    for label in ("yes", "no"):
        assert PARSERS["strict"].parse(answer, label) == expected


@pytest.mark.parametrize(
    ("answer", "official", "opera"),
    [
        ("No, thanks", "no", "no"),
        ("NO", "yes", "no"),
        ("No\n", "yes", "yes"),
        ("isn't", "yes", "no"),
        ("3.5 people, no", "yes", "no"),
        ("", "yes", "yes"),
    ],
)
def test_known_faults_of_the_official_rules_are_kept(answer, official, opera):
    assert PARSERS["pope_official"].parse(answer, "no") == official
    assert PARSERS["opera"].parse(answer, "no") == opera


def test_vqa_punctuation_joins_where_a_mark_touches_a_blank():
    vlmevalkit = PARSERS["vlmevalkit"]
    assert vlmevalkit.parse("no,there is", "no") == "no"
    assert vlmevalkit.parse("no,there is, too", "no") is None
    assert vlmevalkit.parse("no,1,000 of them", "no") is None


def test_registry_says_who_abstains():
    odd = [case["answer"] for case in GOLDEN["cases"]] + ["", "maybe", "42"]
    for parser in PARSERS.values():
        found = {parser.parse(answer, label) for answer in odd for label in ("yes", "no")}
        assert (None in found) == parser.abstains, parser.name
        assert found <= {"yes", "no", None}


def test_registry_names_and_lookup():
    assert all(name == parser.name for name, parser in PARSERS.items())
    own = Parser("own", lambda answer, label: "yes", "a test")
    assert get_parser(own) is own
    assert get_parser("vcd") is PARSERS["vcd"]
    with pytest.raises(ScoringError, match=r"Unknown yes/no parser 'pope_oficial'.*Did you mean 'pope_official'"):
        get_parser("pope_oficial")
