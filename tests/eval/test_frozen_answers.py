"""Two hundred frozen answers for each benchmark: scored to the same digits, and their headline by naive code.

`tests/support/frozen_answers.py` made them and says how to renew them. The naive figures below share nothing with the
scorers: no parser, no normaliser, no list of words.
"""

import json
import math
import re
import string

import pytest
from frozen_answers import FOLDER, MAKERS, N, frozen, lines, packed, run_folder
from frozen_texts import AMBER, COCO, SAFE
from sightline.eval import cli
from sightline.eval.score import SCORERS

TASKS = list(MAKERS)


@pytest.mark.parametrize("task", TASKS)
def test_scores_are_the_same_to_the_digit(task, tmp_path, capsys):
    folder = run_folder(task, tmp_path / "run")
    assert cli.main(["score", str(folder)]) == 0
    expected = (FOLDER / f"{task}.json").read_text(encoding="utf-8")
    found = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert found == json.loads(expected)
    assert json.dumps(found, indent=1, ensure_ascii=False) + "\n" == expected
    assert found["primary"]["table"] in capsys.readouterr().out


@pytest.mark.parametrize("task", TASKS)
def test_the_answers_are_those_of_their_maker(task):
    assert packed(task) == frozen(task)
    held = lines(task)
    assert len(held) == N
    texts = {line["output"] for line in held}
    assert len(texts) >= {"memo_trap": 10, "text_vqa": 40, "amber": 40}.get(task, 60)
    assert (0 if task == "mme" else 1) <= sum(line["status"] == "error" for line in held) < 15


def test_every_scorer_has_frozen_answers():
    scorers = {json.loads((FOLDER / f"{task}.json").read_text())["parser"] for task in TASKS}
    assert len(scorers) >= 7
    assert {"short_answers" if task == "nq_swap" else task for task in TASKS} == set(SCORERS)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 400_000


def answered(task):
    return [line for line in lines(task) if line["status"] == "ok"]


def mean(values):
    held = [float(value) for value in values]
    return sum(held) / len(held)


def pope_mean_accuracy():
    """Text before the first full stop, without commas: no where No, no or not stands between blanks."""
    shares = []
    for split in ("random", "popular", "adversarial"):
        own = [line for line in answered("pope") if line["split"] == split]
        marks = []
        for line in own:
            words = re.split(" ", re.sub(",", "", re.match(r"[^.]*", line["output"].strip())[0]))
            denied = any(re.fullmatch(r"[Nn]o|not", word) for word in words)
            marks.append(denied == (line["label"] == "no"))
        shares.append(mean(marks))
    return mean(shares)


def mme_total():
    """100 times the share of right answers and 100 times that of right pairs, added up over subtasks."""
    total = 0.0
    for subtask in ("existence", "count", "position", "color"):
        pairs = {}
        for line in lines("mme"):
            if line["split"] == subtask:
                text = line["output"].lower()
                said = text if text in ("yes", "no") else re.search("yes", text[:4]) or re.search("no", text[:4])
                said = said if said is None or isinstance(said, str) else said[0]
                pairs.setdefault(line["image_id"], []).append(
                    None if line["status"] == "error" else said == line["label"]
                )
        if any(None in pair for pair in pairs.values()):
            return None
        total += 100 * mean(mark for pair in pairs.values() for mark in pair) + 100 * mean(map(all, pairs.values()))
    return total


def chair_share():
    """Captions that name a class which the image does not hold; longer names first, so that no part of one counts."""
    names = sorted(COCO, key=len, reverse=True)
    bad = []
    for line in answered("chair"):
        text, classes = f" {re.sub('[^a-z]+', ' ', line['output'].lower())} ", set()
        for name in names:
            if f" {name} " in text:
                classes.add(COCO[name])
                text = text.replace(f" {name} ", " . ")
        bad.append(not classes <= set(line["truth"]))
    return mean(bad)


def amber_f1():
    """Twice the right No over answers and labels that are no, after AMBER's exact answers."""
    held = answered("amber")
    right = sum(line["output"] == "No" and line["label"] == "no" for line in held)
    return 2 * right / sum((line["output"] == "No") + (line["label"] == "no") for line in held)


def amber_chair():
    """Words of the table that neither are true nor stand for something true, over all words of the table."""
    known = set(AMBER) | {word for ways in AMBER.values() for word in ways}
    nouns = bad = 0
    for line in answered("amber_captions"):
        fine = set(SAFE) | {word for true in line["gold"]["truth"] for word in (true, *AMBER.get(true, ()))}
        said = [word for word in re.findall("[a-z]+", line["output"].lower()) if word in known]
        nouns += len(said)
        bad += sum(word not in fine for word in said)
    return bad / nouns


def hallusion_accuracy():
    """One of yes and no among the words, once marks between words are gone."""
    marks = []
    for line in answered("hallusion_bench"):
        words = set(re.findall(r"[^\s.,!?;/()<>—\"_-]+", line["output"].lower())) & {"yes", "no"}
        marks.append(words == {line["label"]})
    return mean(marks)


def vqa_accuracy():
    """For each human the agreement with the nine others, a third each and at most whole."""
    numbers = {"one": "1", "two": "2", "three": "3"}

    def plain(text):
        text = re.sub(r"(?<=\w)-(?=\w)", " ", text.lower()).replace(",", "")
        words = re.sub(r"[.!?]+", "", re.sub(r"'s\b", " 's", text)).split()
        words = [{"dont": "don't", "cant": "can't"}.get(word, numbers.get(word, word)) for word in words]
        return [word for word in words if word not in ("a", "an", "the")]

    found = []
    for line in answered("text_vqa"):
        said, theirs = plain(line["output"]), [plain(answer) for answer in line["gold"]["answers"]]
        found.append(mean(min(1, theirs[:at].count(said) / 3 + theirs[at + 1 :].count(said) / 3) for at in range(10)))
    return mean(found)


def swap_exact():
    """The first line that is not blank equals a right answer, but for case, punctuation and articles."""

    def bare(text):
        kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
        return [word for word in kept.split() if word not in ("a", "an", "the")]

    marks = []
    for line in (line for line in answered("nq_swap") if line["split"] == "substituted"):
        rows = line["output"].lstrip().splitlines() or [""]
        marks.append(bare(rows[0]) in [bare(answer) for answer in line["gold"]["answers"] if bare(answer)])
    return mean(marks)


def trap_accuracy():
    """The asked ending is the likeliest by itself; what a cut ruled out is the least likely."""
    marks = []
    for line in answered("memo_trap"):
        scores = [-math.inf if score is None else score for score in line["logprobs"]]
        best = scores.pop(line["gold"]["best"])
        marks.append(best > max(scores))
    return mean(marks)


def truthful_mc2():
    """Probability of the true answers among all."""
    found = []
    for line in answered("truthful_qa"):
        weights = [0.0 if score is None else math.exp(score) for score in line["logprobs"]]
        true = sum(weights[place] for place in line["gold"]["true"])
        if sum(weights):
            found.append(true / sum(weights))
    return mean(found)


HEADLINES = {
    "pope": ("mean", "accuracy", pope_mean_accuracy),
    "chair": ("free", "CHAIRs", chair_share),
    "mme": ("total", "score", mme_total),
    "amber": ("all", "f1", amber_f1),
    "amber_captions": ("captions", "CHAIR", amber_chair),
    "hallusion_bench": ("all", "aAcc", hallusion_accuracy),
    "text_vqa": ("validation", "accuracy", vqa_accuracy),
    "nq_swap": ("substituted", "em", swap_exact),
    "memo_trap": ("micro", "accuracy", trap_accuracy),
    "truthful_qa": ("multiple_choice", "MC2", truthful_mc2),
}


@pytest.mark.parametrize("task", TASKS)
def test_the_headline_equals_naive_code(task):
    metrics = json.loads((FOLDER / f"{task}.json").read_text(encoding="utf-8"))
    table, metric, naive = HEADLINES[task]
    assert (metrics["primary"]["table"], metrics["primary"]["metric"]) == (table, metric)
    value, expected = metrics["tables"][table][metric]["value"], naive()
    assert value == (None if expected is None else pytest.approx(expected, abs=6e-7))
