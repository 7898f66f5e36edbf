"""DAGCD's detector: its regression, its rows, a head that is found because it was planted, its file, the command."""

import json
import logging
import math

import pytest
import sightline
import torch
from copier import HEAD, NEEDLE, Words, copier
from naive_dagcd import CHOSEN, PROBED, eager, made, rank, ratios
from sightline.decoders import calibration
from sightline.decoders.calibration import (
    CalibrationFailed,
    CalibrationInvalid,
    CalibrationMismatch,
    CalibrationMissing,
    detector_rows,
    detector_training,
    logistic,
    passages,
)
from sightline.decoders.calibration.detector import FILE, load
from sightline.decoders.calibration.detector_rows import Asking, Rows
from sightline.decoders.context_tokens import attention_ratio, distinct
from sightline.eval import calibrate, cli, detector, runner
from sightline.eval.errors import ConfigError
from sightline.eval.training.tiny_llama_words import build_tokenizer
from sightline.models import Loaded, adapter_for, errors

DAGCD = sightline.DAGCD
SPANS = [(2, 9)]


@pytest.fixture
def batch():
    return {"input_ids": torch.arange(10, 22)[None], "attention_mask": torch.ones(1, 12, dtype=torch.long)}


# The regression


@pytest.fixture(scope="module")
def probe(golden):
    held = golden("dagcd_probe")
    return torch.tensor(held["X"]).double(), torch.tensor(held["y"]).bool(), held["fits"]


@pytest.mark.parametrize("place", range(6))
def test_regressions_equal_the_optimum(probe, place):
    rows, labels, fits = probe
    case = fits[place]
    found = logistic.fit(rows, labels, case["C"])
    assert found.coef.tolist() == pytest.approx(case["coef"], abs=1e-6)
    assert found.intercept == pytest.approx(case["intercept"], abs=1e-6)
    assert logistic.accuracy(found, rows, labels) == pytest.approx(case["train_acc"])
    kept = logistic.largest(found, 3)
    assert kept == case["top3"]
    again = logistic.fit(rows[:, kept], labels, case["C"], start=logistic.Fit(torch.ones(3).double(), 5.0))
    assert again.coef.tolist() == pytest.approx(case["coef_top3_refit"], abs=1e-6)
    assert again.intercept == pytest.approx(case["intercept_top3_refit"], abs=1e-6)
    chosen = tuple((0, head, value) for head, value in enumerate(again.coef.tolist()))
    assert made(chosen).weights("sum") == pytest.approx(case["head_weights"], abs=1e-5)


def test_rows_that_can_be_parted_have_an_optimum_too():
    rows, labels = torch.tensor([[0.0], [1.0]]).double(), torch.tensor([False, True])
    found = logistic.fit(rows, labels, 1e6)
    slope = torch.autograd.functional.jacobian(
        lambda w: (w * w).sum() / 2 + 1e6 * torch.nn.functional.softplus(-(w * 0.5)).sum() * 2, found.coef
    )
    assert abs(float(slope)) < 1e-3  # by symmetry b = -w / 2, so both rows have margin w / 2
    assert found.intercept == pytest.approx(-float(found.coef) / 2, rel=1e-6)


def test_the_strength_is_that_of_the_best_fold(probe):
    """By hand: each fold's accuracy from fits of its own; a tie goes to the stronger penalty."""
    rows, labels, _ = probe
    groups = torch.arange(40) // 2
    means = []
    for c in logistic.STRENGTHS:
        parts = []
        for fold in range(4):
            held = groups % 4 == fold
            parts.append(logistic.accuracy(logistic.fit(rows[~held], labels[~held], c), rows[held], labels[held]))
        means.append(sum(parts) / 4)
    assert len(set(means)) > 2
    assert logistic.choose(rows, labels, groups, 4) == logistic.STRENGTHS[means.index(max(means))]


def test_heads_with_negative_weights_can_be_dropped(probe):
    rows, labels, _ = probe
    found, kept = logistic.without_negatives(rows, labels, 10.0)
    assert kept == [1, 4, 5]
    assert bool((found.coef > 0).all())
    assert logistic.without_negatives(rows, rows.sum(1) < rows.sum(1).median(), 10.0)[1] == []


# Rows


def test_rows_equal_the_reference(golden):
    """Its positive and its kept negatives at the last token that matched are among ours, with the same ranks."""
    held = golden("dagcd_training_rows")
    ids = torch.tensor([held["input_ids"]])
    context = torch.zeros_like(ids, dtype=torch.bool)
    context[:, held["context_start"] : held["context_end"] + 1] = True
    tables = distinct(ids, context)
    step = held["steps"][1]  # the second token is the one that matched
    attention = torch.tensor(step["attention_last_row"]).double().flatten(0, 1)[None, :, : ids.shape[1]]
    ratio = attention_ratio(attention, tables.inverse, tables.counts)[0]
    by_id = dict(zip(tables.ids[0].tolist(), ratio.T.tolist(), strict=True))
    logits = torch.tensor(step["logits"]).double()
    used, unused = detector_rows.step_rows(ratio, logits, tables.ids[0], 6, held["gold_ids"], 10)
    torch.testing.assert_close(used, torch.tensor(held["positive_row"]).double(), atol=1e-6, rtol=1e-5)
    firsts = [entity[0] for entity in held["context_entity_ids"]]
    for token, row, place in zip(firsts, held["entity_rows"], held["entity_ranks"], strict=True):
        assert by_id[token] == pytest.approx(row, abs=1e-6)
        assert rank(step["logits"], token) == place
    theirs = [*held["kept_entity_rows"], *held["kept_non_entity_rows"]]
    assert all(any(ours == pytest.approx(row, abs=1e-6) for ours in unused.tolist()) for row in theirs)
    wanted = [t for t in by_id if t not in held["gold_ids"] and rank(step["logits"], t) > 10]
    assert unused.tolist() == [by_id[token] for token in wanted]
    assert len(detector_rows.step_rows(ratio, logits, tables.ids[0], 12, [12], 10)[0]) == 0


def questions(count):
    """Passages of the copier's words; the hidden chain is its answer."""
    filler = ["the cat sat .", "the dog ran .", "the cat ran .", "on the book, content ."]
    made = []
    for number in range(count):
        told = [filler[(number + place) % 4] for place in range(2 + number % 3)]
        told.insert(number % len(told), "hidden: gold silver copper iron .")
        made.append(passages.Item(" ".join(told), "what ?", (NEEDLE.answer, "nothing")))
    return made


ASKING = Asking(prompt="based on {context}\nquestion: {question}\nanswer:", max_new_tokens=6, top_rank=2)


@pytest.fixture(scope="module", name="copier")
def copying_model():
    return copier()


def test_rows_are_the_ratios_of_every_head(copier):
    """Against eager attention over the whole text, in Python numbers."""
    [item] = questions(1)
    found = detector_rows.collect(adapter_for(copier), Words(), [item], ASKING)
    assert (found.answered, found.asked, found.labels.tolist()) == (1, 1, [True, False] * 4)
    ids = Words().encode(ASKING.text(item))
    first, said = 3, Words().encode(NEEDLE.answer, add_special_tokens=False)  # <s> based on
    last = first + len(Words().encode(item.context, add_special_tokens=False))
    with eager(copier), torch.no_grad():
        for step, token in enumerate(said):
            out = copier(torch.tensor([ids + said[:step]]), output_attentions=True, use_cache=False)
            assert int(out.logits[0, -1].argmax()) == token
            heads = [row for layer in out.attentions for row in layer[0, :, -1].tolist()]
            shares = ratios(heads, ids, first, last)
            assert found.features[2 * step].tolist() == pytest.approx([share[token] for share in shares], abs=1e-6)
            logits = out.logits[0, -1].tolist()
            others = [t for t in shares[0] if t not in said and rank(logits, t) > 2]
            negative = found.features[2 * step + 1].tolist()
            assert any(negative == pytest.approx([share[t] for share in shares], abs=1e-6) for t in others)


def test_wrong_answers_and_known_ones_are_left_out(copier):
    wrong = passages.Item(questions(1)[0].context, "what ?", ("gold",))
    found = detector_rows.collect(adapter_for(copier), Words(), [wrong, *questions(2)], ASKING)
    assert (found.answered, found.asked) == (2, 3)
    assert found.groups.tolist() == [0] * 8 + [1] * 8
    memory = Asking(ASKING.prompt, 6, 2, from_memory=True)
    told = questions(1)[0].context
    known = passages.Item("the cat ran .", f"{told} what ?", (NEEDLE.answer,))
    assert memory.text(known, passage=False) == f"question: {told} what ?\nanswer:"
    for asking, answered in ((ASKING, 2), (memory, 1)):
        found = detector_rows.collect(adapter_for(copier), Words(), [*questions(1), known], asking)
        assert (found.answered, found.asked) == (answered, 2)


def test_answers_are_compared_without_their_dress():
    assert detector_rows.normalised("The  Silver, Spoon.") == detector_rows.normalised("silver spoon") == "silver spoon"
    assert detector_rows.normalised("a an the") == ""


# The detector


@pytest.fixture(scope="module")
def measured(copier):
    return detector_training.measure(
        adapter_for(copier), Words(), questions(25), ASKING, top=3, name="copier", settings={"data": "chain"}
    )


def test_the_planted_head_is_found(measured, copier):
    assert measured.chosen[0][:2] == HEAD
    assert len(measured.chosen) == 3
    assert sum(measured.coef) > 0
    assert measured.accuracy == 1.0
    assert (measured.positives, measured.negatives) == (100, 100)
    assert measured.settings["answered"] == measured.settings["items"] == 25
    assert measured.settings["data"] == "chain"
    assert measured.fingerprint == calibration.fingerprint(adapter_for(copier))


def test_an_unsure_copier_says_what_its_head_looks_at(measured, tmp_path):
    """Its head's output made so small that it would repeat its last word; the detector still sees where it looks."""
    weak = copier()
    with torch.no_grad():
        weak.model.layers[HEAD[0]].self_attn.o_proj.weight.mul_(0.02)
    [item] = questions(1)
    ids = torch.tensor([Words().encode(ASKING.text(item))])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    path = str(measured.save(tmp_path / "d.json"))
    settings = {"max_new_tokens": 4, "do_sample": False, "spans": [item.context], "processor": Words()}
    said = sightline.generate(weak, DAGCD(detector=path), batch, **settings)[0, ids.shape[1] :].tolist()
    assert Words().decode(said) == NEEDLE.answer
    plain = sightline.generate(weak, "greedy", batch, **settings)[0, ids.shape[1] :].tolist()
    assert calibration.retrieval.recall(NEEDLE.answer, Words().decode(plain)) == 0


def rows_of(*columns):
    """Twenty answers of one token each, positives and negatives in turn, from the values of each head."""
    features = torch.tensor([[pair[row % 2] for pair in columns] for row in range(40)]).double()
    noise = torch.rand(features.shape, generator=torch.Generator().manual_seed(0)).double() / 100
    return Rows(features + noise, torch.arange(40) % 2 == 0, torch.arange(40) // 2, 20, 20)


def test_heads_that_look_away_are_dropped(caplog):
    away = rows_of((0.1, 0.9), (0.5, 0.3))
    with caplog.at_level(logging.WARNING):
        heads, found, _, share = detector_training.fitted(away, 2)
    assert "heads with negative ones are dropped" in caplog.text
    assert heads == [1]
    assert float(found.coef) > 0
    assert share > 0.8
    with pytest.raises(CalibrationFailed, match="No head looks"):
        detector_training.fitted(rows_of((0.1, 0.9), (0.3, 0.5)), 2)


def test_held_out_answers_are_not_fitted():
    """Heads are chosen, and accuracy is measured, on other answers: a fold that contradicts the rest is all wrong."""
    rows = rows_of((0.9, 0.1), (0.2, 0.2))
    held = detector_training.held_out(rows)
    assert held.sum() == 8
    contrary = rows._replace(labels=rows.labels ^ held)
    assert detector_training.fitted(rows, 1)[3] == 1.0
    heads, _, _, share = detector_training.fitted(contrary, 1)
    assert (heads, share) == ([0], 0.0)


def test_a_doubtful_detector_is_said_to_be_so(copier, caplog, monkeypatch):
    rows = rows_of(*[(0.9, 0.1)] + [(0.2, 0.2)] * 7)
    contrary = rows._replace(labels=rows.labels ^ detector_training.held_out(rows))
    monkeypatch.setattr(detector_training, "collect", lambda *_: contrary)
    with caplog.at_level(logging.WARNING):
        found = detector_training.measure(adapter_for(copier), Words(), [], top=1)
    assert "tells only 0 % of held-out tokens apart" in caplog.text
    assert found.accuracy == 0


def test_too_few_answers_are_refused(copier):
    with pytest.raises(CalibrationFailed, match="answered 3 of 3 questions"):
        detector_training.measure(adapter_for(copier), Words(), questions(3), ASKING)
    with pytest.raises(errors.InvalidParameter, match="top must be 1 or more, got 0"):
        detector_training.measure(adapter_for(copier), Words(), questions(3), ASKING, top=0)
    for bad in ({"prompt": "{question}"}, {"prompt": "{context} {question}"}, {"max_new_tokens": 0}, {"top_rank": 0}):
        with pytest.raises(errors.InvalidParameter, match=next(iter(bad))):
            Asking(**bad)


# Passages


def test_made_up_passages_hold_their_answers():
    found = passages.items(60)
    assert found == passages.items(61)[:60]
    assert len({item.question for item in found}) > 50
    assert passages.items(3, seed=1) != found[:3]
    for item in found:
        assert 4 <= item.context.count(".") <= 8
        assert all(answer in item.context for answer in item.answers)
        asked = item.question.removesuffix("?")
        assert not any(answer in asked for answer in item.answers)


def test_facts_are_about_validation_s_subjects():
    found = detector.facts(40)
    assert found == detector.facts(41)[:40]
    text = build_tokenizer()
    for item in found:
        assert item.answers[0] in item.context
        assert len(text.encode(Asking().text(item))) < 256
    loaded = Loaded("x", None, text, "")
    assert detector.usual(Loaded("x", copier(), text, "")) == "facts"
    assert loaded.processor is text


def test_a_file_of_the_user_s(tmp_path, copier):
    file = tmp_path / "own.jsonl"
    rows = [
        {"context": "a b", "question": "c?", "answers": ["b", "a"]},
        {"context": "d", "question": "e?", "answers": ["d"]},
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    loaded = Loaded("x", copier, Words(), "")
    found, about = detector.asked_items(loaded, str(file), None)
    assert found == [passages.Item("a b", "c?", ("b", "a")), passages.Item("d", "e?", ("d",))]
    assert about == {"data": "file"}
    assert detector.asked_items(loaded, str(file), 1)[0] == found[:1]
    with pytest.raises(ConfigError, match="holds 2 questions, and 3 are asked for"):
        detector.asked_items(loaded, str(file), 3)
    with pytest.raises(ConfigError, match="no data 'pasages'"):
        detector.asked_items(loaded, "pasages", None)
    with pytest.raises(CalibrationMissing, match="no file"):
        detector.asked_items(loaded, str(tmp_path / "none.jsonl"), None)
    for line, said in (("{", "line 1 is no JSON"), ("[]", "line 1 must have"), ("", "is empty"),
                       (json.dumps(rows[0] | {"answers": "b"}), "a list of texts")):  # fmt: skip
        file.write_text(line)
        with pytest.raises(CalibrationInvalid, match=said):
            detector.asked_items(loaded, str(file), None)


def test_the_command(copier, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(runner, "load_model", lambda settings: Loaded("copier", copier, Words(), ""))
    monkeypatch.chdir(tmp_path)
    lines = [
        {"context": item.context, "question": item.question, "answers": list(item.answers)} for item in questions(20)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = ("what=detector", "out=made/d.json", "data=own.jsonl", "heads=2", "top_rank=2", f"prompt={ASKING.prompt}")
    code = cli.main(["calibrate", "model=local", f"model.path={tmp_path / 'copier'}", *asked])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "2 heads of" in out
    assert "decoder=dagcd decoder.detector=made/d.json" in out
    found = load("made/d.json")
    assert found.chosen[0][:2] == HEAD
    assert found.settings["data"] == "file"
    assert found.settings["from_memory"] is True
    with pytest.raises(ConfigError, match="items=0 cannot be read"):
        calibrate.parse(["what=detector", "out=d.json", "items=0"])


# Files and refusals


def test_round_trip(llama, tmp_path, batch):
    held = made(settings={"data": "facts"}, fingerprint=sightline.decoders.calibration.fingerprint(adapter_for(llama)))
    path = held.save(tmp_path / "deep" / FILE)
    assert load(path) == held
    assert path.read_bytes() == load(path).save(tmp_path / "again.json").read_bytes()
    assert json.loads(path.read_text())["chosen"] == [list(entry) for entry in CHOSEN]
    assert held.read == PROBED
    assert held.weights("sum") == [value / 4 for value in held.coef]
    assert held.weights("relu_sum") == [3 / 5.5, 2.5 / 5.5, 0]
    one, two = (DAGCD(detector=str(place)).calibration(adapter_for(llama)) for place in (path, tmp_path / "again.json"))
    assert one == two
    assert one != DAGCD(detector=str(made(intercept=-1.0).save(tmp_path / "b.json"))).calibration(adapter_for(llama))
    assert DAGCD(alpha=0).calibration(adapter_for(llama)) is None


def test_a_model_brings_its_own_detector(llama, tmp_path, batch):
    llama.save_pretrained(tmp_path)
    own = type(llama).from_pretrained(tmp_path, dtype=torch.float64).eval()
    with pytest.raises(CalibrationMissing, match=r"No detector is known for .*sightline calibrate"):
        sightline.attach(own, "dagcd", batch, spans=SPANS)
    made().save(tmp_path / FILE)
    with sightline.attach(own, "dagcd", batch, spans=SPANS) as attached:
        assert attached.plan.probes == PROBED


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [({"layers": 4}, CalibrationMismatch, "from 4 layers of 4 heads, and this model has 3"),
     ({"fingerprint": "ab"}, CalibrationMismatch, "fingerprints differ"),
     ({"schema": 2}, CalibrationInvalid, "schema must be 1"),
     ({"what": "music"}, CalibrationInvalid, "what 'detector'"),
     ({"chosen": []}, CalibrationInvalid, "one head or more"),
     ({"chosen": [[0, 9, 1.0]]}, CalibrationInvalid, "no head 0-9"),
     ({"chosen": [[0, 1, 1.0], [0, 1, 2.0]]}, CalibrationInvalid, "each of them once"),
     ({"chosen": [[0, 1, 1.0], [0, 2, -1.0]]}, CalibrationInvalid, "add up to 0"),
     ({"intercept": math.nan}, CalibrationInvalid, "finite"),
     ({"intercept": "x"}, CalibrationInvalid, "is no detector"),
     ({"c": None}, None, None)],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused(llama, batch, tmp_path, change, error, said):
    path = made().save(tmp_path / "d.json")
    held = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in held.items() if value is not None or name != "c"}))
    error, said = error or CalibrationInvalid, said or "'c' missing"
    with pytest.raises(error, match=said):
        sightline.attach(llama, DAGCD(detector=str(path)), batch, spans=SPANS)
