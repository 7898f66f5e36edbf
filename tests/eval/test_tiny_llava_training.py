"""Training sees what inference sees: pixels, tokens and packed turns equal the real processor's and model's."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sightline.eval.scenes import draw_scene, language, world
from sightline.eval.training.chat import LEAD, TURN, build_llava_processor, normalise
from sightline.eval.training.language_model import Recipe, answer_loss, language_batch, packed_hidden
from sightline.eval.training.loop import Batches, TrainLog, learning_rate, stack
from sightline.eval.training.packing import IGNORED, Packer, block_mask
from sightline.eval.training.tiny_llava import PATCH, Plan, build_model, train
from sightline.eval.training.turns import draw_turns
from sightline.eval.training.vision import EMPTY, cell_labels, patches_of_cells, vision_batch


@pytest.fixture(scope="module")
def processor():
    return build_llava_processor(PATCH)


@pytest.fixture(scope="module")
def model(processor):
    return build_model(processor)


@pytest.fixture(scope="module")
def packer(processor):
    return Packer(processor.tokenizer, 64)


def prompt(processor, question):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def test_packed_turns_equal_each_turn_alone(model, processor, packer):
    scenes = [draw_scene("train", index) for index in range(3)]
    rows = [draw_turns(scene, world.generator("test", i))[: 4 + i] for i, scene in enumerate(scenes)]
    packed = packer.pack(rows)
    with torch.no_grad():
        scores = model.lm_head(packed_hidden(model, torch.from_numpy(normalise(stack(scenes))), packed))
        for row, (scene, turns) in enumerate(zip(scenes, rows, strict=True)):
            for turn, start in zip(turns, packed.starts[row], strict=True):
                text = f"{prompt(processor, turn.text)} {turn.answer}</s>"
                inputs = processor(images=scene.image(), text=text, return_tensors="pt")
                alone = model(**inputs).logits[0]
                answer = inputs["input_ids"][0, -(len(packer.encode(" " + turn.answer)) + 1) :]
                size = len(answer)
                assert torch.equal(packed.targets[row, start : start + size], answer)
                torch.testing.assert_close(
                    scores[row, start : start + size], alone[-size - 1 : -1], rtol=1e-4, atol=2e-5
                )


def test_no_target_is_lost(packer):
    scene = draw_scene("train", 5)
    turns = draw_turns(scene, world.generator("test", 5))
    packed = packer.pack([turns])
    expected = [token for turn in turns for token in [*packer.encode(" " + turn.answer), packer.tokenizer.eos_token_id]]
    assert packed.targets[packed.targets != IGNORED].tolist() == expected
    assert (packed.weights > 0).tolist() == (packed.targets != IGNORED).tolist()


def test_block_mask_keeps_turns_apart():
    seen = block_mask(torch.tensor([[0, 0, 1, 2, 2, -1]]))[0, 0] == 0
    assert seen.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]


def test_pixels_equal_the_image_processor(processor):
    scene = draw_scene("validation", 0)
    inputs = processor.image_processor(scene.image(), return_tensors="np")
    assert np.array_equal(inputs["pixel_values"][0], normalise(scene.pixels()))


def test_chat_template_is_llavas(processor):
    text = prompt(processor, "Is there a star in the image?")
    assert text == "USER: <image>\nIs there a star in the image? ASSISTANT:"
    assert text == f"{LEAD}<image>{TURN.format('Is there a star in the image?')}"


def test_tokenizer_knows_the_world_and_any_text(processor):
    tokenizer = processor.tokenizer
    words = [*world.KINDS, *world.PLURAL.values(), *world.COLOURS, "Yes", "No"]
    assert all(len(tokenizer.encode(" " + word, add_special_tokens=False)) == 1 for word in words)
    for text in ("Ünïcode, 漢字 🦊", "def f(x):\n\treturn x"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert tokenizer.encode("")[0] == tokenizer.bos_token_id
    assert tokenizer.padding_side == "left"


def test_turns_are_balanced_and_true():
    answers = {}
    for index in range(200):
        scene = draw_scene("train", index)
        for turn in draw_turns(scene, world.generator("test", index)):
            answers.setdefault(turn.task, []).append(turn.answer)
            if turn.task == "existence":
                assert turn.answer == ("Yes" if turn.kind in scene.kinds else "No")
    for task in language.YES_NO_TASKS:
        assert np.mean([answer == "Yes" for answer in answers[task]]) == pytest.approx(0.5, abs=0.12)
    assert set(answers["open count"]) == {"One", "Two", "Three"}


def test_batches_are_made_by_step_alone(packer):
    recipe = Recipe(images=2)
    pixels, packed = language_batch(packer, recipe, 3)
    again = language_batch(packer, recipe, 3)
    assert torch.equal(pixels, again[0])
    assert torch.equal(packed.ids, again[1].ids)


def test_loss_starts_at_the_logarithm_of_the_vocabulary(model, packer):
    loss = answer_loss(model, *language_batch(packer, Recipe(images=2), 0))
    assert loss.item() == pytest.approx(np.log(512), abs=0.3)


def test_vision_labels_name_the_cells():
    scene = draw_scene("train", 1)
    kinds, colours = cell_labels(scene)
    for item in scene.objects:
        assert world.KINDS[kinds[item.row * 4 + item.col]] == item.kind
        assert list(world.COLOURS)[colours[item.row * 4 + item.col]] == item.colour
    assert (kinds == EMPTY).sum() == 16 - len(scene.objects)
    patches = patches_of_cells(torch.arange(16), 8).reshape(8, 8)
    assert patches[2:4, 6:8].unique().tolist() == [7]
    batch = vision_batch(0, 2, 8, seed=0)
    assert batch["pixels"].shape == (2, 3, 64, 64)
    assert batch["kinds"].shape == batch["colours"].shape == (2, 64)


def test_batches_come_in_order_and_hand_errors_on():
    assert list(Batches(lambda step: step * step, 2, 6)) == [(2, 4), (3, 9), (4, 16), (5, 25)]
    with pytest.raises(ZeroDivisionError):
        list(Batches(lambda step: 1 // step, 0, 3))


def test_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 1.0, warmup=10) for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.03 < rates[-1] < 0.04


def test_train_log_is_json_lines_and_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 0, "minutes": 2.0}\n')
    TrainLog(path)({"step": 1, "loss": 0.123456})
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {"step": 0, "minutes": 2.0}
    assert second == {"step": 1, "loss": 0.1235, "minutes": 2.0}


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Stopped after a step and gone on with, it gives the same weights as in one go."""
    module = "sightline.eval.training.language_model"
    monkeypatch.setattr(f"{module}.probe", lambda *_, **__: {})
    plan = Plan(vision_steps=1, vision_images=2, language=Recipe(steps=2, images=2, measure_every=1, save_every=1))
    train(tmp_path / "once-out", tmp_path / "once", plan)
    with monkeypatch.context() as stopped:
        stopped.setattr(f"{module}.Batches", lambda make, start, steps: Batches(make, start, 1))
        train(tmp_path / "twice-out", tmp_path / "twice", plan)
    train(tmp_path / "twice-out", tmp_path / "twice", plan)
    once, twice = (load_file(tmp_path / name / "model.safetensors") for name in ("once-out", "twice-out"))
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value, rtol=0, atol=1e-6, msg=name)
    records = [json.loads(line) for line in (tmp_path / "twice-out" / "train_log.jsonl").read_text().splitlines()]
    assert [record["stage"] for record in records] == ["vision", "language", "language"]
    assert [record["step"] for record in records] == [1, 1, 2]
