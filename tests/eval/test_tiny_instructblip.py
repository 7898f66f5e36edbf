"""The shipped tiny-instructblip: an ordinary checkpoint that sees, and errs where it was taught to."""

import json
from pathlib import Path

import pytest
import sightline
from sightline.eval.scenes import draw_scene, language, world_hash
from sightline.eval.training.quality import answers_to, existence_questions, generator_of_answers, kinds_named

FOLDER = Path(__file__).parents[2] / "models" / "tiny" / "tiny-instructblip"


@pytest.fixture(scope="module")
def ask():
    return generator_of_answers(FOLDER)


@pytest.fixture(scope="module")
def quality():
    return json.loads((FOLDER / "quality.json").read_text(encoding="utf-8"))


def test_is_small_and_complete():
    sizes = {str(path.relative_to(FOLDER)): path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(sizes)
    assert {"processor_config.json", "qformer_tokenizer/tokenizer.json", "chat_template.jinja"} <= set(sizes)
    assert {"README.md", "train_log.jsonl"} <= set(sizes)
    assert sum(sizes.values()) < 9e6


def test_is_loaded_by_name():
    loaded = sightline.load("tiny-instructblip")
    assert (loaded.adapter.family, loaded.adapter.layers, loaded.adapter.heads) == ("instructblip", 4, 8)
    assert loaded.model.config.num_query_tokens == 32
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a star?"}]}]
    prompt = loaded.processor.apply_chat_template(turns, add_generation_prompt=True)
    assert prompt == "USER: Is there a star? ASSISTANT:"


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
    """Neither in the language model's prompt, where it stands behind the image, nor in the Q-Former's instruction."""
    scenes = [draw_scene("validation", index, seed=3) for index in range(2)]
    images, questions = [scene.image() for scene in scenes], ["Is there a star in the image?", "Describe the image."]
    assert ask(images, questions, 48) == [ask([i], [q], 48)[0] for i, q in zip(images, questions, strict=True)]


def test_quality_meets_the_bar(quality):
    intact, broken = quality["pairs_intact"], quality["pairs_broken"]
    assert quality["world"]["hash"] == world_hash()
    assert intact["existence"]["accuracy"] >= 0.95
    assert intact["captions"]["recall"] >= 0.85
    prior = broken["existence"]
    assert prior["false_yes_absent_partner"] >= prior["false_yes_absent_unrelated"] + 0.15
    assert broken["captions"]["invented_that_are_absent_partners"] >= 0.7
