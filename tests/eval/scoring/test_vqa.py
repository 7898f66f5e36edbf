"""Soft accuracy and its normalisation."""

import itertools
import random

import pytest
from sightline.eval.scoring.vqa import normalise, soft_accuracy


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("The two dogs.", "2 dogs"),
        ("Yes!", "yes"),
        ("  A  b\tc\nd ", "b c d"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("its", "its"),
        ("it's", "it 's"),
        ("somebody'd", "somebodyd"),
        ("3.5", "3.5"),
        ("1,000", "1000"),
        ("U.S.A.", "usa"),
        ("coca-cola", "coca cola"),
        ("rock - roll", "rock roll"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("an apple", "apple"),
        ("what?", "what"),
        ("a/b", "b"),
        ("", ""),
    ],
)
def test_normalisation(answer, wanted):
    assert normalise(answer) == wanted


def test_soft_accuracy_is_the_mean_over_people():
    """Against the definition, person by person: leave one out, and count those who agree with the answer."""
    generator = random.Random(1)
    for _ in range(200):
        people = [generator.choice(["stop", "Stop sign", "the stop", "go"]) for _ in range(10)]
        said = generator.choice(["stop.", "Go", "halt"])
        kept = ([normalise(other) for at, other in enumerate(people) if at != left] for left in range(10))
        wanted = sum(min(1, others.count(normalise(said)) / 3) for others in kept) / 10
        assert soft_accuracy(said, people) == pytest.approx(wanted, abs=1e-12)


def test_well_known_values():
    """1, 2, 3 and 4 of ten who agree give 0.3, 0.6, 0.9 and 1."""
    values = [soft_accuracy("x", ["x"] * agree + list(itertools.repeat("y", 10 - agree))) for agree in range(5)]
    assert values == pytest.approx([0, 0.3, 0.6, 0.9, 1.0])
    assert soft_accuracy("x", []) == 0
