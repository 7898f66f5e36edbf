"""The small parts of the report: text, numbers, ticks, names."""

from pathlib import Path

import pytest
from scored_runs import make_run, margins, three_tasks
from sightline.eval.report.board import Difference, generation_label, sections, task_title
from sightline.eval.report.chart import nice_ticks
from sightline.eval.report.choices import ABOUT, about, same_parameters
from sightline.eval.report.errors import ReportError
from sightline.eval.report.headline import amount, better, worse
from sightline.eval.report.measures import MEASURES, main_measure, measure, ordered
from sightline.eval.report.paired import Pairs
from sightline.eval.report.runs import find_runs, read_run
from sightline.eval.report.text import (
    clean,
    clean_tree,
    csv_text,
    finite,
    interval,
    markdown,
    number,
    parameters,
    shorten,
    unbroken,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\u05d0\u05d1", "\u05d0\u05d1"),
        ("a\nb\tc", "a b c"),
        ("\u202eexe", "\u27e8U+202E\u27e9exe"),
        ("\ud800", "\u27e8U+D800\u27e9"),
        ("\x1b[31m", "\u27e8U+001B\u27e9[31m"),
        ("a\u200bb", "a\u27e8U+200B\u27e9b"),
    ],
)
def test_clean(text: str, shown: str) -> None:
    assert clean(text) == shown
    assert clean_tree({text: [text, 1, None]}) == {shown: [shown, 1, None]}


@pytest.mark.parametrize(
    ("value", "digits", "signed", "shown"),
    [(1234.56, 1, False, "1,234.6"), (-0.4, 1, True, "\u22120.4"), (0.4, 1, True, "+0.4"), (-0.04, 1, True, "0.0")],
)
def test_number(value: float, digits: int, signed: bool, shown: str) -> None:
    assert number(value, digits, signed) == shown


def test_intervals_do_not_break() -> None:
    text = interval(-1.2, 0.3, 1, signed=True)
    assert text == "[\u22121.2, +0.3]"
    assert unbroken(f"by {text} points") == "by [\u22121.2,\u00a0+0.3] points"


@pytest.mark.parametrize(
    ("text", "start", "shown"),
    [
        ("a|b*c_d`e\\", False, "a\\|b\\*c\\_d\\`e\\\\"),
        ("<b>&amp;", False, "&lt;b\\>&amp;amp;"),
        ("[a](b) [c]: d", False, "[a\\](b) [c\\]: d"),
        ("# no", True, "\\# no"),
        ("1. no", True, "1\\. no"),
        ("- no", True, "\\- no"),
        ("81.2 [80.0, 82.4]", False, "81.2 [80.0, 82.4]"),
    ],
)
def test_markdown(text: str, start: bool, shown: str) -> None:
    assert markdown(text, start) == shown


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x"])
def test_spreadsheets_get_no_formula(text: str) -> None:
    assert csv_text(text) == "'" + text
    assert csv_text("vcd") == "vcd"


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf"), 10**400, [1]])
def test_not_a_number(value: object) -> None:
    assert finite(value) is None


def test_parameters_and_cuts() -> None:
    assert parameters({"alpha": 1.0, "mode": "soft", "heads": [[0, 1]]}) == "alpha 1.0, mode soft, heads [[0, 1]]"
    assert shorten("abcdef", 4) == "abc\u2026"


@pytest.mark.parametrize(("low", "high"), [(78.1, 86.3), (0.0, 1.0), (83.0, 83.2), (-3.0, 4.0), (0.1, 9999.0)])
def test_ticks_are_round_and_enough(low: float, high: float) -> None:
    for most in (4, 7):
        ticks = nice_ticks(low, high, most)
        assert 2 <= len(ticks) <= most + 1
        assert ticks == sorted(set(ticks))


def test_generation_labels() -> None:
    sample = {"mode": "sample", "temperature": 0.5, "top_k": 0, "top_p": 1.0, "max_new_tokens": 64}
    assert generation_label(sample) == "Sampling, temperature 0.5"
    assert "max new tokens 64" in generation_label(sample, full=True)
    assert generation_label({"mode": "<odd>"}) == "<odd>"
    assert task_title("pope_scenes") == "POPE scenes"


def test_measures() -> None:
    assert main_measure({"f1", "accuracy", "auc"}).key == "accuracy"
    assert main_measure({"weird"}).label == "weird"
    assert [item.key for item in ordered({"zeta", "auc", "f1"})] == ["f1", "auc", "zeta"]
    assert measure("some_score").heading == "some score"
    assert MEASURES["CHAIRi"].gain(-0.1) == 0.1


def test_verdicts_follow_the_interval_and_the_correction() -> None:
    main = MEASURES["accuracy"]
    clear = Difference(0.02, 0.01, 0.03, p=0.001, adjusted=0.01)
    assert better(clear, main)
    assert worse(clear, MEASURES["CHAIRi"])
    assert not better(Difference(0.02, -0.01, 0.05), main)
    assert not better(Difference(0.02), main)
    corrected = Difference(0.02, 0.01, 0.03, p=0.04, adjusted=0.2)
    assert corrected.corrected_away
    assert not better(corrected, main)
    assert amount(clear, main) == "+2.0 points [+1.0, +3.0]"
    assert amount(Difference(None, reason="no samples"), main) == "an unknown amount (no samples)"


def test_what_a_leaderboard_says_of_its_choices(tmp_path: Path) -> None:
    assert about(tmp_path) == ""
    (tmp_path / ABOUT).write_text('{"name": "demo", "about": "Chosen on \\u202evalidation."}')
    assert about(tmp_path) == "Chosen on \u27e8U+202E\u27e9validation."
    (tmp_path / ABOUT).write_text('{"name": "demo"}')
    with pytest.raises(ReportError, match=r"cannot be read\. Delete it"):
        about(tmp_path)


def test_parameters_that_differ_between_tasks_are_named(tmp_path: Path) -> None:
    three_tasks(tmp_path, images=8)
    found = sections(find_runs(tmp_path)[0], Pairs())
    assert same_parameters(found[:1]) == ""
    assert same_parameters(found) == (
        "Parameters are not the same in every section of this page for VCD and Yes/no shift."
    )
    alike = [section for section in found if section.task != "pope_scenes"]
    assert same_parameters(alike) == "Each decoder has the same parameters in every section of this page."


def test_parameters_that_are_no_defaults_come_first(tmp_path: Path) -> None:
    params = {"alpha": 1.0, "beta": 0.2, "noise_step": 300}
    run = read_run(make_run(tmp_path, "vcd", "vcd", margins(2), params=params), "vcd")
    assert parameters(run.params) == "beta 0.2, noise_step 300, alpha 1.0"
    other = read_run(make_run(tmp_path, "other", "not_here", margins(2), params=params), "other")
    assert other.params == params
