"""`sightline calibrate` on the random LLaVA, from the command line to a decoder that uses the file."""

import json
from pathlib import Path

import pytest
import sightline
from PIL import Image
from sightline.decoders import calibration
from sightline.eval import calibrate, cli, runner
from sightline.eval.errors import ConfigError, UsageError
from sightline.models.auto import SHIPPED


@pytest.fixture
def command(checkpoint, loaded, monkeypatch, capsys, tmp_path):
    """Runs the command on the random model: code, output, error output."""
    monkeypatch.setattr(runner, "load_model", lambda settings: loaded)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = cli.main(["calibrate", "model=local", f"model.path={checkpoint}", *arguments])
        return code, *capsys.readouterr()

    return call


def test_image_heads(command, loaded, checkpoint):
    code, out, err = command("what=image", "out=made/heads.json", "images=3", "batch_size=4")
    assert (code, err) == (0, "")
    assert "8 heads of random-llava ranked over 6 prompts; first" in out
    assert "decoder.heads=made/heads.json" in out
    held = json.loads(Path("made/heads.json").read_text())
    assert (held["what"], held["layers"], held["heads"], held["model"]) == ("image", 2, 4, "random-llava")
    assert held["settings"]["split"] == "validation"
    assert str(checkpoint) not in json.dumps(held)
    scores = [score for _, _, score in held["ranked"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[0] < 1
    assert calibration.find("made/heads.json", loaded.adapter).top(8) == [tuple(row[:2]) for row in held["ranked"]]
    first = Path("made/heads.json").read_bytes()
    assert command("what=image", "out=made/heads.json", "images=3", "batch_size=4")[0] == 0
    assert Path("made/heads.json").read_bytes() == first


def test_image_heads_do_not_depend_on_the_batch(command):
    found = []
    for size in (1, 4):
        assert command("what=image", "out=heads.json", "images=2", f"batch_size={size}")[0] == 0
        found.append({tuple(row[:2]): row[2] for row in json.loads(Path("heads.json").read_text())["ranked"]})
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_retrieval_heads_and_a_decoder_that_uses_them(command, loaded, inputs):
    options = ["what=retrieval", "out=heads.json", "lengths=[240]", "depths=0,100", "max_new_tokens=4"]
    code, _, err = command(*options)
    assert code == 2
    assert "answered none of 12 trials" in err
    assert "mode=forced" in err
    code, out, err = command(*options, "mode=forced")
    assert (code, err) == (0, "")
    assert "ranked over 12 trials" in out
    decoder = sightline.DeCoRe(num_heads=2, heads="heads.json")
    with sightline.attach(loaded.model, decoder, {"input_ids": inputs((5,))["input_ids"]}) as processor:
        assert len(processor.plan.branches) == 1


def test_threshold_and_a_decoder_that_uses_it(command, loaded, inputs):
    code, out, err = command("what=threshold", "out=made/k.json", "images=3", "max_new_tokens=4", "percentile=50")
    assert (code, err) == (0, "")
    assert "tokens of random-llava: 0 %: " in out
    assert "decoder.threshold=made/k.json" in out
    held = json.loads(Path("made/k.json").read_text())
    assert (held["percentile"], held["settings"]["split"], held["sensor"]["absent_image"]) == (
        50,
        "validation",
        "noise",
    )
    assert held["k"] == held["quantiles"]["50"] > 0
    assert sightline.CGVLM(threshold="made/k.json").level(loaded.adapter) == held["k"]
    options = ("what=threshold", "out=b.json", "images=3", "max_new_tokens=4", "batch_size=1", "percentile=50")
    assert command(*options)[0] == 0
    assert json.loads(Path("b.json").read_text())["k"] == pytest.approx(held["k"], rel=1e-3)


def test_threshold_over_images_of_the_user_s(command):
    Path("pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 30), (number * 80, 40, 200)).save(f"pictures/{number}.png")
    options = ("what=threshold", "out=k.json", "folder=pictures", "max_new_tokens=2", "absent_image=drop")
    assert command(*options, "images=3", "prompt=What is it?")[0] == 0
    held = json.loads(Path("k.json").read_text())
    assert held["settings"] == {"max_new_tokens": 2, "data": "folder", "images": 3, "prompt": "What is it?"}
    code, _, err = command(*options, "images=4")
    assert code == 2
    assert "'pictures' holds 3 images, and 4 are asked for" in err


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["image"], UsageError, "'image' is not NAME=VALUE"),
        (["what=image"], UsageError, "out= is not given"),
        (["out=a.json"], UsageError, "what= is not given. It is one of retrieval, image"),
        (["what=imag", "out=a.json"], ConfigError, "Did you mean 'image'"),
        (["what=image", "out=a.json", "lengths=100"], ConfigError, "no option of what=image 'lengths'"),
        (["what=image", "out=a.json", "images=0"], ConfigError, "images=0 cannot be read: it must be 1 or more"),
        (["what=threshold", "out=a.json", "percentile=101"], ConfigError, "it must be from 0 to 100"),
        (["what=retrieval", "out=a.json", "depths=x"], ConfigError, "depths=x cannot be read"),
        (["what=image", "out=a.json", "model=tiny-lava"], ConfigError, "Did you mean 'tiny-llava'"),
    ],
)
def test_bad_arguments_say_what_is_wrong(arguments, error, said):
    with pytest.raises(error) as caught:
        calibrate.parse(arguments)
    assert said in str(caught.value)


def test_settings_that_come_through():
    asked = calibrate.parse(["model=tiny-llava", "what=retrieval", "out=a.json", "lengths=50,60", "mode=forced"])
    assert (asked.model.path, asked.what, asked.out) == ("tiny-llava", "retrieval", "a.json")
    assert asked.options == {"lengths": (50, 60), "mode": "forced"}


def test_the_shipped_list_is_what_the_command_makes(tmp_path):
    own, shipped = tmp_path / "heads.json", SHIPPED / "tiny-llama" / "retrieval_heads.json"
    calibrate.calibrate(["model=tiny-llama", "what=retrieval", f"out={own}"])
    made, kept = (json.loads(path.read_text()) for path in (own, shipped))
    assert made["settings"] == kept["settings"]
    assert made["fingerprint"] == kept["fingerprint"]
    assert [head[:2] for head in made["ranked"][:6]] == [head[:2] for head in kept["ranked"][:6]]
