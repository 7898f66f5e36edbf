"""`sightline calibrate what=inducing`: from the command line to a decoder that uses the file, on all kinds of data."""

import json
from pathlib import Path

import pytest
import sightline
from sightline.decoders.calibration import inducing as files
from sightline.eval import calibrate, cli, inducing, runner
from sightline.eval.errors import ConfigError


@pytest.fixture
def command(checkpoint, loaded, monkeypatch, capsys, tmp_path):
    """Runs the command on the random model: code, output, error output."""
    monkeypatch.setattr(runner, "load_model", lambda settings: loaded)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        given = ["calibrate", "model=local", f"model.path={checkpoint}", "what=inducing", "out=made/heads.json"]
        return cli.main([*given, *arguments]), *capsys.readouterr()

    return call


def test_scenes_are_what_an_image_text_model_is_asked_about(command, loaded, inputs, checkpoint):
    code, out, err = command("triples=3")
    assert (code, err) == (0, "")
    assert "right and for wrong answers to 3 questions (scenes); 1 of them are dispersed by default; first " in out
    assert "decoder=hicd decoder.heads=made/heads.json" in out
    text = Path("made/heads.json").read_text()
    held = json.loads(text)
    assert (held["layers"], held["heads"], held["model"], held["norm"]) == (2, 4, "random-llava", "uniform")
    assert held["settings"]["split"] == "validation"
    assert str(checkpoint) not in text
    assert command("triples=3")[0] == 0
    assert Path("made/heads.json").read_text() == text
    decoder = sightline.HICD(heads="made/heads.json", num_heads=3)
    with sightline.attach(loaded.model, decoder, inputs((5,))) as attached:
        assert sum(len(edit.heads) for edit in attached.plan.branches[0].edits) == 3
    held["correct"], held["wrong"] = held["wrong"], held["correct"]
    Path("turned.json").write_text(json.dumps(held))
    turned = sightline.HICD(heads="turned.json", num_heads=3, select="incorrect").chosen(loaded.adapter)
    assert turned == decoder.chosen(loaded.adapter)


def test_answers_about_scenes_are_yes_and_no(loaded):
    tokenizer = loaded.processor.tokenizer
    for triple in inducing.scenes(loaded, 4):
        said = {tokenizer.decode(ids).strip() for ids in (triple.correct, triple.wrong)}
        assert said == {"Yes", "No"}
        assert loaded.adapter.image_mask(triple.inputs["input_ids"]).any()


@pytest.mark.parametrize("data", ["passages", "facts"])
def test_texts_are_asked_about_on_request(command, data):
    code, out, _ = command("triples=2", f"data={data}", "norm=reference")
    assert code == 0
    assert f"2 questions ({data})" in out
    assert files.load("made/heads.json").norm == "reference"


def test_questions_of_the_user_s(command):
    line = json.dumps({"context": "Is it?", "correct": " Yes", "wrong": [" No", " Never"]})
    Path("mine.jsonl").write_text(f"{line}\n{line}\n")
    assert command("data=mine.jsonl")[0] == 0
    assert files.load("made/heads.json").triples == 2
    for arguments, said in (
        (("data=mine.jsonl", "triples=3"), "holds 2 questions, and 3 are asked for"),
        (("data=none.jsonl",), "There is no file 'none.jsonl'"),
        (("data=scene",), "There is no data 'scene'"),
        (("triples=1", "norm=l2"), "norm must be one of uniform, reference"),
    ):
        code, _, err = command(*arguments)
        assert code == 2
        assert said in err


def test_facts_hold_both_answers_and_ask_for_one_subject():
    made = inducing.facts(40)
    assert made[:5] == inducing.facts(5)
    for question in made:
        told = question.context.partition("\nQuestion:")[0]
        assert told.count(".") == 1 + len(question.wrong)
        assert all(f"{answer}." in told for answer in (question.correct, *question.wrong))
        assert question.correct not in question.wrong


def test_a_vocabulary_of_other_words_gets_other_questions(loaded, monkeypatch):
    monkeypatch.setattr(type(loaded.adapter), "image_inputs", ())
    for tokens, expected in ((lambda text: 1.5, "passages"), (lambda text: 9.0, "passages")):
        monkeypatch.setattr(inducing, "tokens_per_word", lambda made, *_, tokens=tokens: tokens(made))
        assert inducing.usual(loaded) == expected
    monkeypatch.setattr(inducing, "tokens_per_word", lambda made, *_: 1.2 if "Context:" in made[0].context else 5.0)
    assert inducing.usual(loaded) == "facts"
    with pytest.raises(ConfigError, match="takes no images"):
        inducing.triples(loaded, "scenes", 1)


def test_options_of_other_measurements_are_refused():
    with pytest.raises(ConfigError, match="no option of what=inducing 'lengths'"):
        calibrate.parse(["what=inducing", "out=a.json", "lengths=3"])
