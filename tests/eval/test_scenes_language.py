"""Questions and captions of the world tell the truth about the scene."""

import re

import pytest
from sightline.eval.scenes import COLOURS, KINDS, PLURAL, Placed, Scene, caption, draw_scene, existence, language


@pytest.fixture
def scene():
    objects = (
        Placed("star", "red", 0, 0, 80),
        Placed("ring", "blue", 1, 2, 50),
        Placed("arrow", "green", 2, 3, 30),
        Placed("ring", "blue", 3, 1, 90),
    )
    return Scene("by hand", objects, 80)


def test_facts(scene):
    assert scene.kinds == ("star", "ring", "arrow")
    assert scene.counts == {"star": 1, "ring": 2, "arrow": 1}
    assert scene.colours == {"star": "red", "ring": "blue", "arrow": "green"}
    assert scene.missing_partners == ("moon", "heart", "cross")
    assert (scene.evidence("ring"), scene.evidence("moon")) == (90, 0)


def test_caption(scene):
    assert caption(scene) == "There is a red star, two blue rings and a green arrow."


def test_captions_name_every_kind_with_number_and_colour():
    for index in range(100):
        scene = draw_scene("validation", index)
        phrases = re.split(r", | and ", re.sub(r"^There (is|are) |\.$", "", caption(scene)))
        expected = [
            f"a {scene.colours[kind]} {kind}"
            if n == 1
            else f"{language.NUMBERS[n]} {scene.colours[kind]} {PLURAL[kind]}"
            for kind, n in scene.counts.items()
        ]
        assert phrases == expected


def test_existence_uses_the_right_article(scene):
    assert existence(scene, "arrow") == language.Question(
        "existence", "Is there an arrow in the image?", "Yes", "arrow"
    )
    assert existence(scene, "moon") == language.Question("existence", "Is there a moon in the image?", "No", "moon")


def test_yes_no_questions(scene):
    assert language.has_count(scene, "ring", 2).answer == "Yes"
    assert language.has_count(scene, "ring", 2).text == "Are there two rings in the image?"
    assert language.has_count(scene, "ring", 1).answer == "No"
    assert language.has_count(scene, "star", 1).text == "Is there only one star in the image?"
    assert language.has_colour(scene, "star", "red").answer == "Yes"
    assert language.has_colour(scene, "star", "white").answer == "No"
    assert [language.on_side(scene, "arrow", side).answer for side in ("top", "bottom", "left", "right")] == [
        "No",
        "Yes",
        "No",
        "Yes",
    ]


def test_open_questions(scene):
    assert language.which_colour(scene, "ring").answer == "Blue"
    assert language.how_many(scene, "ring").answer == "Two"
    assert language.where_is(scene, "arrow").answer == "Bottom right"


def test_words_do_not_collide():
    """Kinds and colours can be found in captions by words alone."""
    words = [*KINDS, *PLURAL.values(), *COLOURS]
    assert len(words) == len(set(words))
