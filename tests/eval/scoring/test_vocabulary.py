"""The tokeniser, the singulariser and vocabularies other than COCO's."""

from itertools import pairwise

import pytest
from sightline.eval.scoring import COCO, ScoringError, Vocabulary, tokenize

PLURALS = {
    "men": "man", "women": "woman", "geese": "goose", "mice": "mouse", "knives": "knife", "calves": "calf",
    "vases": "vase", "puppies": "puppy", "ponies": "pony", "buses": "bus", "benches": "bench", "boxes": "boxes",
    "dishes": "dishes", "toothbrushes": "toothbrush", "horses": "horse", "canoes": "canoe", "dogs": "dog",
    "glasses": "glass", "lights": "light", "oxen": "oxen", "people": "people", "children": "children",
    "skis": "skis", "scissors": "scissors", "bus": "bus", "glass": "glass", "tennis": "tennis", "his": "his",
    "loaves": "loaves", "s": "s", "buffaloes": "buffalo", "pocketknives": "pocketknife", "taxis": "taxi",
}  # fmt: skip


def texts(caption):
    return [token.text for token in tokenize(caption)]


def classes(caption, vocabulary=COCO):
    return [mention.cls for mention in vocabulary.read(caption).mentions]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog, a CAT.", ["a", "dog", ",", "a", "cat", "."]),
        ("the man's dogs", ["the", "man", "'s", "dogs"]),
        ("it isn\u2019t; they're", ["it", "is", "n't", ";", "they", "'re"]),
        ("(a \u201ccat\u201d)--really...", ["(", "a", '"', "cat", '"', ")", "--", "really", "..."]),
        ("**Dogs** and 'cats' and `mice`.", ["dogs", "and", "cats", "and", "mice", "."]),
        ("a stop-sign, a bird/plane", ["a", "stop-sign", ",", "a", "bird/plane"]),
        ("at 10:30, 1,000 birds", ["at", "10:30", ",", "1,000", "birds"]),
        ("one.Two", ["one.two"]),
        ("\n\nTwo\tdogs.\n", ["two", "dogs", "."]),
        ("'s", ["s"]),
        ("** . '' *", ["."]),
        ("", []),
        ("   ", []),
    ],
)
def test_tokens(caption, expected):
    assert texts(caption) == expected


def test_tokens_know_their_characters():
    caption = "**The man\u2019s** Dogs, (two)... can't SIT. \u0130stanbul has 'vases'."
    for token in tokenize(caption):
        read = caption[token.start : token.end].replace("\u2019", "'").lower()
        assert token.text == read
    places = [(token.start, token.end) for token in tokenize(caption)]
    assert places == sorted(places)
    assert all(end <= start for (_, end), (start, _) in pairwise(places))


@pytest.mark.parametrize(("plural", "singular"), PLURALS.items())
def test_singular(plural, singular):
    assert COCO.singular(plural) == singular


def test_every_one_word_entry_is_its_own_singular():
    entries = [word for word in COCO.class_of if " " not in word]
    assert len(entries) > 300
    assert [word for word in entries if COCO.singular(word) != word] == []


def plural_of(word):
    if word.endswith(("s", "sh", "ch", "x")):
        return word + "es"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word[:-1] + "ves" if word.endswith("f") else word + "s"


def test_regular_plurals_of_the_whole_list_are_found():
    entries = [word for word in COCO.class_of if word == word.lower() and " " not in word]
    regular = [word for word in entries if not word.endswith(("man", "men", "child", "children", "mouse", "goose"))]
    unusual = {"people", "ox", "oxen", "skis", "scissors"}
    missed = {word for word in regular if classes(plural_of(word)) != classes(word)}
    assert missed <= unusual


def test_coco_has_the_published_list():
    assert len(COCO.classes) == 80
    one_word = [word for word in COCO.class_of if " " not in word]
    assert len(one_word) == 376
    assert COCO.class_of["puppy"] == "dog"
    assert {" motor bike", " cheesecake", "iPhone"} <= set(COCO.class_of)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a motor bike", []),
        ("a motor cycle", ["motorcycle"]),
        ("cheesecake", []),
        ("an iPhone", []),
        ("a stove top oven", ["oven", "oven"]),
        ("a dining table", ["dining table"]),
        ("home plate and a train track", []),
        ("a baby animal", []),
        ("an adult and a baby", ["person", "person"]),
        ("a bow tie", ["tie"]),
        ("wine glasses", ["wine glass"]),
        ("a glass", []),
        ("street lights", ["traffic light"]),
        ("a seat", ["chair"]),
        ("a seat on a toilet, and a seat", ["toilet"]),
        ("toilet seats", ["toilet"]),
        ("passenger trains", ["train"]),
    ],
)
def test_quirks_of_the_list_are_kept(caption, expected):
    assert classes(caption) == expected


def test_mentions_know_tokens_and_characters():
    caption = "Two street  lights, a man's seat and a Toilet."
    reading = COCO.read(caption)
    assert [(m.word, m.cls, m.start, m.end) for m in reading.mentions] == [
        ("street light", "traffic light", 1, 3),
        ("man", "person", 5, 6),
        ("toilet", "toilet", 10, 11),
    ]
    assert [caption[m.char_start : m.char_end] for m in reading.mentions] == ["street  lights", "man", "Toilet"]
    assert reading.length == len(tokenize(caption)) - 1, "two tokens are one word; punctuation counts"


def test_any_vocabulary_of_ones_own():
    scenes = Vocabulary.of("scenes", {"star": ["asterisk"], "Half Moon": [], "box": (), "leaf": ()})
    caption = "Stars, an asterisk, two half moons, boxes and leaves near a dog."
    assert classes(caption, scenes) == ["star", "star", "half moon", "box", "leaf"]
    assert classes("a cross and a star", Vocabulary.of("plain", ["star", "cross"])) == ["cross", "star"]
    assert classes("People", Vocabulary.of("plain", ["person"])) == ["person"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Vocabulary("v", {}), "has no class"),
        (lambda: Vocabulary.of("v", {"a": ["x"], "b": ["x"]}), "'x' of class 'b'.*belongs to 'a'"),
        (lambda: Vocabulary.of("v", {"a": ["b"], "b": []}), "belongs to 'a'"),
        (lambda: Vocabulary.of("v", {"a": [""]}), "is empty"),
        (lambda: Vocabulary("v", {"a": ()}, {"one": "a"}), "'one' is not two words"),
        (lambda: Vocabulary("v", {"a": ()}, {"one ": "a"}), "'one ' is not two words"),
        (lambda: Vocabulary.of("v", ["traffic light pole"]), "more than two words"),
    ],
)
def test_bad_vocabularies_are_refused(build, message):
    with pytest.raises(ScoringError, match=message):
        build()
