"""`sightline explain` and `sightline.explain`: what is told equals what a trace says, in every form."""

import dataclasses
import json

import pytest
import sightline
import torch
from PIL import Image
from sightline.eval.cli import main
from sightline.eval.errors import UsageError
from sightline.eval.explain.command import parted
from sightline.eval.explain.drawing import Text
from sightline.eval.explain.picture import draw
from sightline.eval.scenes import draw_scene

QUESTION = "Please describe this image in detail."


@pytest.fixture(scope="module")
def told():
    tiny = sightline.load("tiny-llava")
    image = draw_scene("test", 3).image()
    inputs = tiny.processor(images=image, text=f"USER: <image>\n{QUESTION} ASSISTANT:", return_tensors="pt")
    strategy = sightline.VCD(alpha=3.0, noise_step=900)
    found = sightline.explain(tiny.model, strategy, inputs, processor=tiny.processor, image=image, max_new_tokens=24)
    trace = sightline.trace(tiny.model, strategy, inputs, max_new_tokens=24, do_sample=False)
    return found, trace, tiny, inputs


def test_steps_are_those_of_the_trace(told):
    found, trace, tiny, inputs = told
    assert [step.trace.token for step in found.steps] == [each.token for each in trace.tokens[0]]
    assert "".join(step.text for step in found.steps).replace("</s>", "").strip() == found.answer.strip()
    assert found.branches == ("noised",)
    plain = tiny.model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert found.plain.strip() == tiny.processor.decode(plain, skip_special_tokens=True).strip()


def test_an_ousted_word_is_what_the_plain_model_would_have_said_there(told):
    found, trace, tiny, inputs = told
    assert found.changed
    ids = inputs["input_ids"]
    for place, step in enumerate(found.steps):
        said = torch.tensor([[each.token for each in trace.tokens[0][:place]]], dtype=torch.long)
        given = {**inputs, "input_ids": torch.cat([ids, said], 1)}
        given["attention_mask"] = torch.ones_like(given["input_ids"])
        with torch.no_grad():
            chances = tiny.model(**given).logits[0, -1].softmax(-1)
        likeliest = int(chances.argmax())
        assert (step.ousted is None) == (likeliest == step.trace.token)
        assert step.chances.base == pytest.approx(float(chances[step.trace.token]), abs=1e-5)
        if step.ousted is not None:
            assert step.ousted.strip() == tiny.processor.decode([likeliest]).strip()
            assert step.trace.ousted_chances.base == pytest.approx(float(chances.max()), abs=1e-5)


def test_names_of_many_branches_do_not_run_into_the_next_column(told):
    found, *_ = told
    names = ("no instruction", "no image", "neither", "plain", "boosted")
    texts = [each for each in draw(dataclasses.replace(found, branches=names)).marks if isinstance(each, Text)]
    (first,) = (place for place, each in enumerate(texts) if each.text.startswith("probability: base"))
    (edge,) = (each.x - 9 * len(each.text) for each in texts if each.text == "looked at")
    lines = [each for each in texts[first : first + 3] if each.x == texts[first].x and each.size == texts[first].size]
    assert lines[-1].text.endswith("decoded")
    assert all(each.x + 7 * len(each.text) < edge for each in lines)


@pytest.mark.parametrize(
    "neutral", [sightline.Shift(delta=0), sightline.VCD(alpha=0, beta=0)], ids=lambda each: each.key
)
def test_of_plain_decoding_nothing_is_asked(told, neutral, monkeypatch):
    def combine(*_):
        raise AssertionError("asked")

    _, _, tiny, inputs = told
    monkeypatch.setattr(type(neutral), "combine", combine)
    found = sightline.explain(tiny.model, neutral, inputs, processor=tiny.processor, max_new_tokens=12)
    assert len(found.steps) == 12
    assert found.changed == []
    assert found.answer == found.plain


def test_attention_lies_on_the_image_and_adds_up(told):
    found, *_ = told
    shown = found.attention_at(0)
    assert shown.shape == (8, 8)
    assert shown.min() >= 0
    assert found.attention.shape == shown.shape


@pytest.mark.parametrize("form", [".html", ".svg", ".png", ".json", ".txt"])
def test_every_form_is_written(told, tmp_path, form):
    found, *_ = told
    file = found.save(tmp_path / f"told{form}")
    if form == ".png":
        with Image.open(file) as image:
            assert image.width > 400
    elif form == ".json":
        held = json.loads(file.read_text())
        assert held["decoder"]["key"] == "vcd" if isinstance(held["decoder"], dict) else held["decoder"] == "vcd"
    else:
        text = file.read_text()
        assert "VCD" in text or "vcd" in text
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")


def test_the_command_decodes_as_a_run_does(tmp_path, capsys):
    image = tmp_path / "scene.png"
    draw_scene("test", 3).image().save(image)
    out = tmp_path / "told.html"
    code = main(["explain", f"image={image}", f"prompt={QUESTION}", "decoder=vcd", "decoder.alpha=3.0", f"out={out}"])
    assert code == 0
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "noised" in printed
    assert out.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["image=nowhere.png", "prompt=x"], "There is no image"),
        (["decoder=vcd"], "There is no prompt"),
        (["prompt=x", "out=told.gif"], "has no form that is known"),
        (["prompt=x"], "asks about an image"),
        (["prompt=x", "model=tiny-llama", "context=passage"], "The context is not part of the prompt"),
    ],
)
def test_what_is_wrong_is_said(given, message, capsys):
    assert main(["explain", *given]) != 0
    assert message in capsys.readouterr().err


def test_own_arguments_and_overrides_are_told_apart():
    own, overrides = parted(["prompt=a=b", "decoder=vcd", "image=x.png"])
    assert own == {"prompt": "a=b", "image": "x.png"}
    assert overrides == ["decoder=vcd"]
    assert issubclass(UsageError, Exception)
