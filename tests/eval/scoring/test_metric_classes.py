"""Every scorer as an `evaluate.Metric` class, held against the frozen scores of the same answers."""

import json

import pytest
import sightline.eval.scoring as scoring
from frozen_answers import FOLDER, lines
from frozen_texts import AMBER, SAFE
from sightline.eval.score import SCORERS
from sightline.eval.scoring import ScoringError
from sightline.eval.scoring.amber import Associations

CLASSES = {
    "pope": "Pope", "chair": "Chair", "mme": "Mme", "amber": "Amber", "amber_captions": "AmberCaptions",
    "hallusion_bench": "HallusionBench", "text_vqa": "VqaAccuracy", "short_answers": "ShortAnswers",
    "memo_trap": "MemoTrap", "truthful_qa": "TruthfulQa",
}  # fmt: skip


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def made(tmp_path):
    """The class of a name, with its cache in a folder that goes away."""
    return lambda name: getattr(scoring, name)(cache_dir=str(tmp_path))


def answered(task, split=None):
    return [line for line in lines(task) if line["status"] == "ok" and split in (None, line["split"])]


def columns(held, **names):
    return {
        name: [of(line) for line in held] for name, of in {"predictions": lambda line: line["output"], **names}.items()
    }


def frozen(task, table):
    tables = json.loads((FOLDER / f"{task}.json").read_text(encoding="utf-8"))["tables"]
    return {name: figure["value"] for name, figure in tables[table].items()}


def label(line):
    return line["label"].title()


def same(found, expected, *names):
    assert names
    for name in names:
        assert found[name] == pytest.approx(expected[name], abs=6e-7), name


def test_every_scorer_has_a_class():
    assert set(CLASSES) == set(SCORERS)
    assert set(CLASSES.values()) <= set(scoring.__all__)
    assert set(CLASSES.values()) == set(scoring._METRICS)


@pytest.mark.parametrize("parser", ["amber", "strict"])
def test_amber(parser, made):
    held = columns(answered("amber"), references=label, types=lambda line: line["split"])
    found = made("Amber").compute(**held, parser=parser)
    if parser == "amber":
        for table in ("existence", "state", "attribute", "all"):
            same(found[table], frozen("amber", table), "accuracy", "precision", "recall", "f1")
        whole = json.loads((FOLDER / "amber.json").read_text())
        assert found["published"] == whole["published"]
    else:
        side = json.loads((FOLDER / "amber.json").read_text())["parsers"]["strict"]
        same(found["all"], side["all"], "accuracy", "f1")


def test_amber_by_hand(made):
    kinds = ["discriminative-hallucination", "relation", "discriminative-relation", "action"]
    found = made("Amber").compute(
        predictions=["No", "No", "Yes", "No."], references=["no", "yes", "yes", "no"], types=kinds
    )
    assert found["relation"] == {"accuracy": 0.5, "precision": 0.0, "recall": None, "f1": 0.0, "n": 2}
    assert found["all"] == {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "n": 4}
    with pytest.raises(ScoringError, match="part of AMBER"):
        made("Amber").compute(predictions=["No"], references=["no"], types=["colour"])
    with pytest.raises(ScoringError, match="AMBER parser"):
        made("Amber").compute(predictions=["No"], references=["no"], types=["state"], parser="vcd")
    with pytest.raises(ScoringError, match="'perhaps'"):
        made("Amber").compute(predictions=["No"], references=["perhaps"], types=["state"])


def test_amber_captions(made):
    lists = Associations({word: list(ways) for word, ways in AMBER.items()}, frozenset(SAFE))
    gold = {"references": lambda line: line["gold"]["truth"], "listed": lambda line: line["gold"]["listed"]}
    found = made("AmberCaptions").compute(**columns(answered("amber_captions"), **gold), associations=lists)
    same(found, frozen("amber_captions", "captions"), "CHAIR", "Cover", "Hal", "Cog")
    assert found["published"] == json.loads((FOLDER / "amber_captions.json").read_text())["published"]
    nothing = made("AmberCaptions").compute(predictions=["Fog."], references=[["sky"]], listed=[[]], associations=lists)
    assert (nothing["CHAIR"], nothing["Cover"], nothing["Hal"], nothing["Cog"]) == (None, 0.0, 0.0, None)


def places(line):
    category, kind, of = line["gold"]["set"].split("/")
    return category, f"{kind}/{of}", line["gold"]["figure"], line["gold"]["question"]


def hallusion(held):
    parts = ("categories", "set_ids", "figure_ids", "question_ids")
    more = {name: lambda line, at=at: places(line)[at] for at, name in enumerate(parts)}
    return columns(held, references=label, **more)


def test_hallusion_bench(made):
    held = answered("hallusion_bench")
    same(made("HallusionBench").compute(**hallusion(held)), frozen("hallusion_bench", "all"), "aAcc")
    failed = {line["gold"]["set"] for line in lines("hallusion_bench") if line["status"] != "ok"}
    whole = [line for line in held if line["gold"]["set"] not in failed]
    found = made("HallusionBench").compute(**hallusion(whole), parser="contains_yes")
    right = {places(line): ("yes" in line["output"].lower()) == (line["label"] == "yes") for line in whole}
    questions, figures = {}, {}
    for (category, of, figure, question), mark in right.items():
        questions.setdefault((of, question), []).append(mark)
        if (category, figure) != ("VS", "0"):
            figures.setdefault((of, figure), []).append(mark)
    share = {"aAcc": list(right.values()), "qAcc": list(map(all, questions.values()))}
    share["fAcc"] = list(map(all, figures.values()))
    same(found, {name: sum(marks) / len(marks) for name, marks in share.items()}, "aAcc", "qAcc", "fAcc")
    with pytest.raises(ScoringError, match="there twice"):
        made("HallusionBench").compute(**hallusion(whole + whole[:1]))


def test_vqa_accuracy(made):
    held = columns(answered("text_vqa"), references=lambda line: line["gold"]["answers"])
    same(made("VqaAccuracy").compute(**held), frozen("text_vqa", "validation"), "accuracy")
    assert made("VqaAccuracy").compute(predictions=[], references=[]) == {"accuracy": None, "n": 0}


@pytest.mark.parametrize("split", ["substituted", "closed"])
def test_short_answers(split, made):
    held = columns(answered("nq_swap", split), references=lambda line: line["gold"]["answers"])
    same(made("ShortAnswers").compute(**held), frozen("nq_swap", split), "em", "subspan_em")


def scored(task, **more):
    held = answered(task)
    gold = {"predictions": lambda line: line["logprobs"], "references": lambda line: line["gold"]["best"]}
    return {name: [of(line) for line in held] for name, of in {**gold, **more}.items()}


def test_memo_trap(made):
    found = made("MemoTrap").compute(**scored("memo_trap", subtasks=lambda line: line["split"]))
    for table in ("micro", "macro", "proverb_ending"):
        same({"accuracy": found[table]}, frozen("memo_trap", table), "accuracy")


def test_truthful_qa(made):
    found = made("TruthfulQa").compute(**scored("truthful_qa", true=lambda line: line["gold"]["true"]))
    same(found, frozen("truthful_qa", "multiple_choice"), "MC1", "MC2", "MC3")
    with pytest.raises(ScoringError, match="is none of 2 candidates"):
        made("TruthfulQa").compute(predictions=[[-1.0, -2.0]], references=[0], true=[[0, 5]])
