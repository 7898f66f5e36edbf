"""CHAIR's opera dialect: OPERA's script on its vectors, given what NLTK said there; and what is said without NLTK.

The vectors hold the words of the script after lemmatising and merging, so the lemma of each token is known from them.
NLTK itself, whose data cannot be had offline, is stood in for by these.
"""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from sightline.eval.cli import main
from sightline.eval.scoring import COCO, ScoringError, nltk_words, read_caption, score_chair
from sightline.eval.scoring.chair import build_ground_truth
from sightline.eval.scoring.opera_words import in_dialect, lowered, placed

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "chair_scoring.json").read_text(encoding="utf-8"))
SCRIPT = "opera_chair_py"
SWALLOWED = ("bow", "baby", "adult", "passenger", "toilet")
"""First words of pairs that the script writes as their second word, or as `toilet`."""
FETCH = "python -m nltk.downloader punkt_tab averaged_perceptron_tagger_eng wordnet"


def lemmas_of(case):
    """The tokens of a caption of the vectors, each with the lemma that the script had for it."""
    left = re.sub(r"(\.(?=\s|$)|[,;:!?()\"]|'s)", r" \1 ", case["caption"].lower()).split()
    words, found = case[SCRIPT]["raw_words"], []
    pairs = len(left) - sum(1 + word.count(" ") for word in words)  # two tokens that the script has as one word
    for word in words:
        if pairs and left[0] in SWALLOWED and left[1] not in (".", ","):
            found.append((left[0], left.pop(0)))
            word, pairs = ("seat" if word == "toilet" else word), pairs - 1
        found += [(left.pop(0), part) for part in word.split(" ")]
    assert not left, "words of the script that no token is left for"
    return found


class Nltk:
    """A stand-in that knows what NLTK said of some captions.

    Args:
        told: text in lower case -> tokens with their lemmas.
    """

    def __init__(self, told):
        self.told, self.tagged = told, []
        self.stem = SimpleNamespace(WordNetLemmatizer=lambda: self)

    def word_tokenize(self, text):
        return [token for token, _ in self.told[text]]

    def pos_tag(self, tokens):
        self.tagged.append(tokens)
        own = next(own for own in self.told.values() if [token for token, _ in own] == tokens)
        return [(lemma, "NN") for _, lemma in own]

    def lemmatize(self, word, part):
        return word


@pytest.fixture
def nltk(monkeypatch):
    """Puts a module where NLTK would be imported: `nltk(module)`."""

    def put(module):
        monkeypatch.setitem(sys.modules, "nltk", module)
        monkeypatch.setitem(sys.modules, "nltk.stem", module and module.stem)
        nltk_words._lemmatizer.cache_clear()
        return in_dialect(COCO, "opera")

    yield put
    nltk_words._lemmatizer.cache_clear()


@pytest.mark.parametrize("case", [pytest.param(case, id=str(case["id"])) for case in GOLDEN["cases"]])
def test_captions_equal_the_script(case, nltk):
    said = lemmas_of(case)
    module = Nltk({case["caption"].lower(): said})
    line = read_caption(case["caption"], case["gt_objects"], nltk(module))
    theirs = case[SCRIPT]
    assert [word["class"] for word in line["words"]] == theirs["node_words"]
    assert [word["word"] for word in line["words"]] == theirs["generated_words"]
    assert [[line["words"][at]["word"], line["words"][at]["class"]] for at in line["hallucinated"]] == theirs[
        "hallucinated"
    ]
    assert (line["CHAIRs"], line["CHAIRi"]) == (theirs["CHAIRs"], pytest.approx(theirs["CHAIRi"], abs=1e-9))
    assert line["recall"] == pytest.approx(theirs["Recall"], abs=1e-9)
    assert module.tagged == [[token for token, _ in said]], "a caption is tagged as a whole"
    for word in line["words"]:
        tokens = [token for token, _ in said][slice(*word["tokens"])]
        assert " ".join(tokens) == " ".join(case["caption"].lower()[slice(*word["chars"])].split())


def test_the_dialects_differ_where_the_scripts_do(nltk):
    (case,) = (case for case in GOLDEN["cases"] if case["caption"].startswith("A woman is seated"))
    opera = nltk(Nltk({case["caption"].lower(): lemmas_of(case)}))
    found = [[word["class"] for word in read_caption(case["caption"], [], words)["words"]] for words in (COCO, opera)]
    assert found == [["person", "dining table", "laptop"], ["person", "chair", "dining table", "laptop"]]


def test_scores_and_truth_carry_the_dialect(nltk, record):
    captions = {"Two men on a bench.": "two men on a bench .", "Vases.": "vas ."}
    told = {text.lower(): list(zip(_cut(text), lemmas.split(), strict=True)) for text, lemmas in captions.items()}
    opera = nltk(Nltk(told))
    notes = [{"image_id": place, "caption": text} for place, text in enumerate(captions)]
    truth = build_ground_truth([], [{"annotations": notes}], vocabulary=opera)
    assert truth == {0: ["bench"], 1: []}, "the script misses men and vases"
    score = score_chair([record(1, "Vases.", image_id=1)], truth, vocabulary=opera)
    assert (score["variant"], score["vocabulary"], score["n_words"]) == ("opera", "coco", 0)


def _cut(text):
    return text.lower().replace(".", " .").split()


def test_parts_of_speech(monkeypatch):
    tags = [("better", "JJR"), ("seated", "VBN"), ("men", "NNS"), ("well", "RB"), ("the", "DT")]
    module = SimpleNamespace(pos_tag=lambda words: tags)
    monkeypatch.setitem(sys.modules, "nltk", module)
    monkeypatch.setattr(nltk_words, "_lemmatizer", lambda: SimpleNamespace(lemmatize=lambda word, part: word + part))
    assert nltk_words.lemmas([word for word, _ in tags]) == ["bettera", "seatedv", "menn", "wellr", "then"]


def test_places_of_tokens():
    text = lowered('He said "STOP" \u0130 to a dog\'s cat')
    assert len(text) == len('He said "STOP" \u0130 to a dog\'s cat')
    found = placed(["he", "said", "``", "stop", "''", "to", "a", "dog", "'s", "cat"], text)
    assert [text[token.start : token.end] for token in found[2:6]] == ['"', "stop", '"', "to"]
    assert [token.start for token in found] == sorted(token.start for token in found)


def test_unknown_dialects_are_named():
    with pytest.raises(ScoringError, match=r"Unknown dialect 'oprea'. Did you mean 'opera'\? Known: portable, opera"):
        in_dialect(COCO, "oprea")


def test_without_nltk_the_error_says_what_to_install(nltk):
    with pytest.raises(ScoringError, match=r"NLTK, which is not installed.*sightline\[nltk\].*" + FETCH):
        nltk(None).read("A dog.")


@pytest.mark.parametrize("missing", nltk_words.PACKAGES)
def test_without_its_data_the_error_says_how_to_get_them(missing, nltk):
    def lacks(*args):
        raise LookupError(f"\n****\n  Resource \x1b[93m{missing}\x1b[0m not found.\n")

    module = Nltk({"a dog.": [("a", "a"), ("dog", "dog"), (".", ".")]})
    setattr(
        module, dict(zip(nltk_words.PACKAGES, ("word_tokenize", "pos_tag", "lemmatize"), strict=True))[missing], lacks
    )
    with pytest.raises(ScoringError, match=rf"NLTK's {missing} is not installed. Fetch it with {FETCH}"):
        nltk(module).read("A dog.")


def test_runs_are_scored_and_compared_in_it(nltk, tmp_path, capsys):
    """A run of captions from the command line: refused without NLTK, scored and compared with it."""
    run = tmp_path / "run"
    asked = ["task=chair_scenes", "run.limit=2", "run.cost_requests=0", "generation.max_new_tokens=12", "run.threads=1"]
    assert main(["run", *asked, f"run.dir={run}"]) == 0
    assert main(["run", *asked, "decoder=vcd", f"run.dir={tmp_path / 'vcd'}"]) == 0
    portable = json.loads((run / "metrics.json").read_text())
    nltk(None)
    assert main(["score", str(run), "--parser", "opera"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("sightline: This dialect reads captions with NLTK, which is not installed.")
    assert "sightline[nltk]" in said
    nltk(Simple())
    assert main(["score", str(run), "--parser", "opera"]) == 0
    scored = json.loads((run / "metrics.json").read_text())
    assert scored["parser"] == "opera"
    assert scored["tables"]["free"]["CHAIRi"]["value"] == portable["tables"]["free"]["CHAIRi"]["value"]
    assert json.loads((run / "truth-opera.json").read_text())["variant"] == "opera"
    assert (run / "truth.json").is_file(), "the truth of the other dialect stays"
    capsys.readouterr()
    assert main(["compare", str(run), str(tmp_path / "vcd"), "--parser", "opera"]) == 0
    assert "CHAIRs" in capsys.readouterr().out
    assert (tmp_path / "vcd" / "truth-opera.json").is_file()


class Simple(Nltk):
    """Reads words of scenes: blanks and full stops part them, and a final s is a plural."""

    def __init__(self):
        super().__init__({})

    def word_tokenize(self, text):
        return re.findall(r"\w+|[^\w\s]", text)

    def pos_tag(self, tokens):
        return [(token, "NN") for token in tokens]

    def lemmatize(self, word, part):
        return word.removesuffix("s")
