"""AMBER against the script's own figures, and its rules one by one."""

import json
from pathlib import Path

import pytest
from sightline.eval.scoring import amber
from sightline.eval.scoring.amber import Associations, portable_nouns, read_nouns

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "amber_scoring.json").read_text(encoding="utf-8"))
CAPTIONS, ANSWERS = GOLDEN["generative"], GOLDEN["discriminative"]
LISTS = Associations(CAPTIONS["association"], frozenset(CAPTIONS["safe_words"]))


def test_answers_equal_the_script():
    said = {row["id"]: row["response"] for row in ANSWERS["responses"]}
    by_part = {}
    for note in ANSWERS["annotations"]:
        parsed = amber.AMBER_PARSERS["amber"].parse(said[note["id"]], note["truth"])
        by_part.setdefault(amber.TYPES[note["type"]], []).append((parsed, note["truth"]))
    found = amber.answers_published({part: amber.answer_counts(pairs) for part, pairs in by_part.items()})
    found["overall"] = found.pop("all")
    assert found == ANSWERS["expected"]


def test_captions_equal_the_script():
    sums = [0.0] * len(amber.CAPTION_COUNTS)
    for note in CAPTIONS["annotations"]:
        nouns = CAPTIONS["nouns_found"][str(note["id"])]
        read = read_nouns(nouns, note["truth"], note["hallu"], LISTS)
        own = amber.caption_counts(read, note["truth"], note["hallu"])
        sums = [before + count for before, count in zip(sums, own, strict=True)]
    assert amber.captions_published(sums) == CAPTIONS["expected"]["generative"]


def test_the_portable_reader_finds_what_the_tagger_missed():
    first = CAPTIONS["responses"][0]["response"]
    assert portable_nouns(first, LISTS) == ["puppy", "grass", "sky", "man", "cloud", "man"]
    assert portable_nouns("Car and people. The forests are green. A Tree.", LISTS) == [
        "car",
        "people",
        "forest",
        "tree",
    ]
    read = read_nouns(portable_nouns(first, LISTS), ["sky", "grass", "dog"], ["person", "cloud"], LISTS)
    assert read["hallucinated"] == ["man", "cloud", "man"]
    assert read["covered"] == ["sky", "grass", "dog"]
    assert read["cog"] == ["person", "cloud"]


def test_rules_of_words():
    lists = Associations({"sky": ["air"], "lamp": ["light"], "teddy bear": []}, frozenset({"light"}))
    assert read_nouns(["light", "stone", "air"], ["sky"], [], lists)["nouns"] == ["light", "air"]
    safe = read_nouns(["light"], [], ["lamp"], lists)
    assert (safe["hallucinated"], safe["cog"]) == ([], [])
    shared = Associations({"sea": ["water"], "lake": ["water"]})
    both = read_nouns(["water"], ["sea"], ["lake"], shared)
    assert (both["covered"], both["cog"], both["hallucinated"]) == (["sea"], [], [])
    assert portable_nouns("Two teddy bears.", lists) == ["teddy bear"]
    twice = read_nouns(["water"], ["sea", "sea"], ["lake", "lake"], shared)
    assert amber.caption_counts(twice, ["sea", "sea"], ["lake", "lake"]) == [0, 1, 1, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("answer", ["yes", "No.", " No", "NO", "", "Yes, it is"])
def test_only_exact_answers_count(answer):
    assert amber.AMBER_PARSERS["amber"].parse(answer, "no") is None
