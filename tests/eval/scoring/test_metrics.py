"""The `evaluate.Metric` classes: the pure functions, reachable offline."""

import os
import subprocess
import sys

import pytest
import sightline.eval.scoring as scoring
from sightline.eval.scoring import ScoringError, Vocabulary, score_chair, score_mme, score_pope


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No hub, and the library's cache in a folder that goes away."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_pope_equals_the_pure_function(record, offline):
    answers, labels, margins = ["Yes", "No", "maybe", "no"], ["yes", "yes", "no", "no"], [2.0, 1.0, 1.5, None]
    found = scoring.Pope(cache_dir=str(offline)).compute(
        predictions=answers, references=labels, parser="strict", margins=margins
    )
    rows = enumerate(zip(answers, labels, margins, strict=True))
    records = [record(place, text, label=label, margin=margin) for place, (text, label, margin) in rows]
    assert found == {"parser": "strict"} | score_pope(records, parser="strict")["pooled"]
    assert found["auc"] == 0.5


def test_pope_in_batches(offline):
    metric = scoring.Pope(cache_dir=str(offline))
    metric.add_batch(predictions=["Yes", "No"], references=["Yes", " no "])
    metric.add(prediction="Yes", reference="no")
    found = metric.compute()
    assert (found["n"], found["TP"], found["TN"], found["FP"]) == (3, 1, 1, 1)


def test_pope_edges(offline):
    metric = scoring.Pope(cache_dir=str(offline))
    assert metric.compute(predictions=[], references=[])["accuracy"] is None
    with pytest.raises(ScoringError, match="1 margins for 2 answers"):
        metric.compute(predictions=["Yes", "No"], references=["yes", "no"], margins=[1.0])
    with pytest.raises(ScoringError, match="label 'perhaps'"):
        scoring.Pope(cache_dir=str(offline)).compute(predictions=["Yes"], references=["perhaps"])


def test_chair_equals_the_pure_function(record, offline):
    captions, truths = ["A dog and a cat.", "A blue sky. A man"], [["dog"], []]
    records = [record(place, caption, image_id=place) for place, caption in enumerate(captions)]
    for trim in (False, True):
        found = scoring.Chair(cache_dir=str(offline)).compute(
            predictions=captions, references=truths, trim_incomplete_sentence=trim
        )
        expected = score_chair(records, dict(enumerate(truths)), trim_incomplete_sentence=trim)
        assert found == {name: expected[name] for name in found}
        assert {"CHAIRs", "CHAIRi", "recall", "precision", "f1", "mean_length", "variant"} <= set(found)
        assert found["CHAIRs"] == (0.5 if trim else 1.0)


def test_chair_with_a_vocabulary(offline):
    scenes = Vocabulary.of("scenes", ["star", "moon"])
    found = scoring.Chair(cache_dir=str(offline)).compute(
        predictions=["Two stars."], references=[["moon"]], vocabulary=scenes
    )
    assert (found["CHAIRi"], found["vocabulary"]) == (1.0, "scenes")


def test_mme_equals_the_pure_function(record, offline):
    rows = [("Yes", "yes", "count", "a"), ("n", "no", "count", "a"), ("y", "yes", "OCR", "a"), ("y", "no", "OCR", "a")]
    answers, labels, categories, images = (list(column) for column in zip(*rows, strict=True))
    found = scoring.Mme(cache_dir=str(offline)).compute(
        predictions=answers,
        references=[label.title() for label in labels],
        categories=categories,
        image_ids=images,
        parser="lmms_eval",
    )
    records = [
        record(place, answer, label=label, split=category, image_id=image)
        for place, (answer, label, category, image) in enumerate(rows)
    ]
    expected = score_mme(records, parser="lmms_eval")
    assert found == {name: expected[name] for name in found}
    assert found["subtasks"]["count"]["score"] == 200
    assert found["subtasks"]["OCR"]["score"] == 50


def test_public_names_exist_and_no_other():
    assert all(hasattr(scoring, name) for name in scoring.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Bleu'"):
        scoring.Bleu  # noqa: B018


def test_scoring_does_not_import_the_metric_library():
    code = "import sys, sightline.eval.scoring; sys.exit('evaluate' in sys.modules)"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
