"""The shipped tiny-qwen-vl: an ordinary checkpoint that sees, and errs where it was taught to."""

import json
from pathlib import Path

import pytest
import sightline
from sightline.eval.scenes import draw_scene, language, world_hash
from sightline.eval.training.quality import answers_to, existence_questions, generator_of_answers, kinds_named
from sightline.models import load
from transformers import Qwen2_5_VLForConditionalGeneration

ENDS = ("<|im_end|>", "<|endoftext|>")
FOLDER = Path(__file__).parents[2] / "models" / "tiny" / "tiny-qwen-vl"


@pytest.fixture(scope="module")
def ask():
    return generator_of_answers(FOLDER)


@pytest.fixture(scope="module")
def quality():
    return json.loads((FOLDER / "quality.json").read_text(encoding="utf-8"))


def test_is_small_and_complete():
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(sizes)
    assert {"processor_config.json", "chat_template.jinja", "README.md", "train_log.jsonl"} <= set(sizes)
    assert "preprocessor_config.json" in sizes
    assert sum(sizes.values()) < 8e6


def test_answers_existence_questions_better_than_chance(ask):
    scenes = [draw_scene("validation", index, seed=2) for index in range(20)]
    rows = [(s, group, q) for i, s in enumerate(scenes) for group, q in existence_questions(s, i)]
    rows = [row for row in rows if row[1] in ("present", "absent")]
    answers = answers_to(ask, [row[0] for row in rows], [row[2] for row in rows], 4)
    assert set(answers) == {"Yes", "No"}
    right = [answer == question.answer for answer, (_, _, question) in zip(answers, rows, strict=True)]
    assert sum(right) / len(right) > 0.8


def test_describes_scenes(ask):
    scenes = [draw_scene("validation", index, seed=2) for index in range(10)]
    captions = ask([scene.image() for scene in scenes], [language.CAPTION_PROMPTS[0]] * 10, 64)
    there = sum(len(scene.kinds) for scene in scenes)
    assert sum(len(kinds_named(c) & set(s.kinds)) for c, s in zip(captions, scenes, strict=True)) / there > 0.7
    assert all(caption.startswith("There ") and caption.endswith(".") for caption in captions)


def test_padding_changes_nothing(ask):
    scenes = [draw_scene("validation", index, seed=3) for index in range(2)]
    images, questions = [scene.image() for scene in scenes], ["Is there a star in the image?", "Describe the image."]
    assert ask(images, questions, 48) == [ask([i], [q], 48)[0] for i, q in zip(images, questions, strict=True)]


def test_quality_meets_the_bar(quality):
    intact, broken = quality["pairs_intact"], quality["pairs_broken"]["existence"]
    assert quality["world"]["hash"] == world_hash()
    assert intact["existence"]["accuracy"] >= 0.95
    assert intact["captions"]["recall"] >= 0.85
    assert broken["false_yes_absent_partner"] >= broken["false_yes_absent_unrelated"] + 0.15


def test_loads_as_a_checkpoint_of_the_hub_does():
    loaded = load("tiny-qwen-vl")
    assert type(loaded.model) is Qwen2_5_VLForConditionalGeneration
    assert type(loaded.processor).__name__ == "Qwen2_5_VLProcessor"
    assert loaded.adapter.family == "qwen_vl"
    assert loaded.adapter.end_tokens == [loaded.processor.tokenizer.convert_tokens_to_ids(token) for token in ENDS]


@pytest.mark.parametrize("decoder", [sightline.VCD(), sightline.CODE(desc_max_new_tokens=40), sightline.CausalMM()])
def test_strategies_run_on_it(decoder):
    loaded = load("tiny-qwen-vl", dtype="float64")
    content = [{"type": "image"}, {"type": "text", "text": "Is there a star in the image?"}]
    text = loaded.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [draw_scene("validation", index).image() for index in range(2)]
    inputs = loaded.processor(images=images, text=[text, text], return_tensors="pt", padding=True)
    settings = {"processor": loaded.processor, "max_new_tokens": 4, "do_sample": False}
    found = [
        sightline.generate(loaded.model, decoder, inputs, branching=branching, **settings)
        for branching in ("rows", "sequential")
    ]
    assert found[0].equal(found[1])
    said = loaded.processor.batch_decode(found[0][:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert set(said) <= {"Yes", "No"}
