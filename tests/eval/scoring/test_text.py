"""Short answers and multiple choice against the reference numbers, and where we depart from them on purpose."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from sightline.eval.scoring.choices import accuracies, chosen_right, truthfulness
from sightline.eval.scoring.errors import ScoringError
from sightline.eval.scoring.short_answers import exact_match, first_line, normalise, subspan_match

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "text_scoring.json").read_text(encoding="utf-8"))
UNDERFLOW = [-900.0, -1000.0]


@pytest.mark.parametrize("item", GOLDEN["truthfulqa_mc"]["items"], ids=str)
def test_truthfulness_equals_the_reference(item):
    best = item["ref_true"].index(item["ref_best"])
    found = truthfulness(item["scores_true"], item["scores_false"], best)
    assert (found.mc1, found.mc3) == (item["MC1"], item["MC3"])
    assert found.mc2 == pytest.approx(item["MC2"], abs=1e-9)


def test_truthfulness_where_the_reference_halves_scores_is_a_softmax():
    # Both sides underflow in the reference, which halves each on its own: 0.5 here, since the best scores are equal.
    assert truthfulness([-900.0], [-900.0]).mc2 == 0.5
    assert truthfulness(UNDERFLOW, [-901.0]).mc2 == pytest.approx(1 / (1 + math.exp(-1)), abs=1e-12)


def test_candidates_that_a_cut_rules_out():
    cut = -math.inf
    assert truthfulness([-1.0, cut], [cut, cut]) == (1.0, 1.0, 0.5)
    assert truthfulness([cut], [-1.0]) == (0.0, 0.0, 0.0)
    assert math.isnan(truthfulness([cut], [cut]).mc2)
    assert not chosen_right([cut, cut], 0)


@pytest.mark.parametrize("item", GOLDEN["nq_swap"]["items"], ids=lambda item: item["prediction"])
def test_matches_equal_the_reference(item):
    for side in ("sub", "org"):
        answers = item[f"{side}_answer"]
        assert exact_match(item["prediction"], answers) == item[f"{side}_EM"]
        if all(map(normalise, answers)):
            assert subspan_match(item["prediction"], answers) == item[f"{side}_Subspan_EM"]


def test_an_answer_of_nothing_matches_nothing():
    assert not subspan_match("an apple", ["the"])
    assert not exact_match("", ["the"])


def test_only_the_first_line_counts():
    assert first_line("\n Velan\nOstra") == "Velan"


def test_accuracies_equal_the_reference():
    golden = GOLDEN["memotrap"]
    marks = [(item["split"], chosen_right([item["score_true"], item["score_false"]], 0)) for item in golden["items"]]
    found, wanted = accuracies(marks), golden["result"]
    assert found["micro"] == pytest.approx(wanted["all_acc"], abs=1e-9)
    assert found["macro_decore"] == pytest.approx(wanted["macro_avg_acc"], abs=1e-9)
    for split in ("proverb_ending", "proverb_translation", "hate_speech_ending", "history_of_science_qa"):
        assert found[split] == pytest.approx(wanted[f"{split}_acc"], abs=1e-9)
    assert found["macro"] == pytest.approx((0.5 + 1 + 0 + 2 / 3) / 4, abs=1e-12)


def test_scores_that_cannot_be_scored():
    with pytest.raises(ScoringError, match="false answers"):
        truthfulness([-1.0], [])
    with pytest.raises(ScoringError, match="true answers"):
        truthfulness([math.nan], [-1.0])
    with pytest.raises(ScoringError, match="no candidate 2 of 2"):
        chosen_right([-1.0, -2.0], 2)
    with pytest.raises(ScoringError, match="nothing to score"):
        accuracies([])
