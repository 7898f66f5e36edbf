"""What a small model is worth: its answers to questions on validation scenes, through `generate()`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image

from ...models import load
from ..scenes import language, world
from ..scenes.language import Question
from ..scenes.scene import Scene, draw_scene, world_hash
from .turns import draw_colour, draw_count, draw_position, pick

logger = logging.getLogger(__name__)

SCENES = 250
"""How many validation scenes of each pairing are asked about."""
BATCH = 50
Ask = Callable[[Sequence[Image.Image], Sequence[str], int], list[str]]
"""Answers to one question for each image, at most so many tokens long."""


def generator_of_answers(folder: Path) -> Ask:
    """Loads a checkpoint and returns what asks it: greedy `generate()` on padded batches."""
    loaded = load(str(folder), device="cpu")
    processor, model = loaded.processor, cast(Any, loaded.model)

    def ask(images: Sequence[Image.Image], questions: Sequence[str], length: int) -> list[str]:
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            for question in questions
        ]
        texts = processor.apply_chat_template(chats, add_generation_prompt=True)
        inputs = processor(images=list(images), text=texts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=length, do_sample=False)
        answers = processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [answer.strip() for answer in answers]

    return ask


def answers_to(ask: Ask, scenes: Sequence[Scene], questions: Sequence[Question], length: int) -> list[str]:
    """The answer to each question on its scene."""
    answers: list[str] = []
    for start in range(0, len(scenes), BATCH):
        images = [scene.image() for scene in scenes[start : start + BATCH]]
        answers += ask(images, [question.text for question in questions[start : start + BATCH]], length)
    return answers


def existence_questions(scene: Scene, index: int, each: int = 2) -> list[tuple[str, Question]]:
    """Kinds that are there and kinds that are not, drawn evenly, and the two absent kinds that tell the prior."""
    rng = world.generator("quality", scene.name, index)
    asked = [("present", str(kind)) for kind in rng.permutation(scene.kinds)[:each]]
    asked += [("absent", str(kind)) for kind in rng.permutation(scene.absent)[:each]]
    unrelated = [kind for kind in scene.absent if kind not in scene.missing_partners]
    if scene.missing_partners and unrelated:
        asked += [("absent_partner", pick(rng, scene.missing_partners)), ("absent_unrelated", pick(rng, unrelated))]
    return [(group, language.existence(scene, kind)) for group, kind in asked]


def measure_existence(ask: Ask, scenes: Sequence[Scene]) -> dict[str, Any]:
    """Accuracy on balanced existence questions, and the false-yes rates against absent partners and absent others."""
    rows = [
        (scene, group, question) for i, scene in enumerate(scenes) for group, question in existence_questions(scene, i)
    ]
    answers = answers_to(ask, [row[0] for row in rows], [row[2] for row in rows], 4)
    marks: dict[str, list[bool]] = {
        "present": [],
        "absent": [],
        "absent_partner": [],
        "absent_unrelated": [],
        "faint": [],
    }
    odd = 0
    for (scene, group, question), answer in zip(rows, answers, strict=True):
        right = answer == question.answer
        odd += answer not in ("Yes", "No")
        marks[group].append(right)
        if group == "present" and scene.evidence(str(question.kind)) < 40:
            marks["faint"].append(right)
    rates = {group: share(values) for group, values in marks.items()}
    return {
        "accuracy": round((rates["present"] + rates["absent"]) / 2, 4),
        "present_right": rates["present"],
        "faint_present_right": rates["faint"],
        "absent_right": rates["absent"],
        "false_yes_absent_partner": round(1 - rates["absent_partner"], 4),
        "false_yes_absent_unrelated": round(1 - rates["absent_unrelated"], 4),
        "neither_yes_nor_no": odd,
        "questions": {group: len(values) for group, values in marks.items()},
    }


def measure_yes_no(ask: Ask, scenes: Sequence[Scene]) -> dict[str, float]:
    """Accuracy on balanced questions of number, colour and place; chance is one half."""
    accuracy = {}
    for name, draw in (("count", draw_count), ("color", draw_colour), ("position", draw_position)):
        questions = [draw(scene, world.generator("quality", name, scene.name)) for scene in scenes]
        answers = answers_to(ask, scenes, questions, 4)
        accuracy[name] = share(a == q.answer for a, q in zip(answers, questions, strict=True))
    return accuracy


def measure_suffixes(ask: Ask, scenes: Sequence[Scene]) -> dict[str, float]:
    """Accuracy on existence questions, half of them on kinds that are there, under each suffix in use."""
    accuracy = {}
    for suffix in language.YES_NO_SUFFIXES:
        questions = []
        for index, scene in enumerate(scenes):
            rng = world.generator("quality", "suffix", scene.name)
            asked = language.existence(scene, pick(rng, scene.kinds if index % 2 else scene.absent))
            questions.append(Question(asked.task, asked.text + suffix, asked.answer, asked.kind))
        answers = answers_to(ask, scenes, questions, 4)
        accuracy[suffix.strip() or "none"] = share(a == q.answer for a, q in zip(answers, questions, strict=True))
    return accuracy


def kinds_named(caption: str) -> set[str]:
    """The kinds that a caption names, in the singular or the plural."""
    words = set(caption.lower().replace(",", " ").replace(".", " ").split())
    return {kind for kind in world.KINDS if kind in words or world.PLURAL[kind] in words}


def measure_captions(ask: Ask, scenes: Sequence[Scene]) -> dict[str, float]:
    """Recall and precision of the kinds that captions name, and the share of captions right to the letter."""
    requests = [
        Question("caption", language.CAPTION_PROMPTS[i % len(language.CAPTION_PROMPTS)], language.caption(scene))
        for i, scene in enumerate(scenes)
    ]
    captions = answers_to(ask, scenes, requests, 64)
    there = sum(len(scene.kinds) for scene in scenes)
    named = [kinds_named(caption) for caption in captions]
    hits = sum(len(kinds & set(scene.kinds)) for kinds, scene in zip(named, scenes, strict=True))
    invented = [kinds - set(scene.kinds) for kinds, scene in zip(named, scenes, strict=True)]
    partners = sum(len(kinds & set(s.missing_partners)) for kinds, s in zip(invented, scenes, strict=True))
    return {
        "recall": round(hits / there, 4),
        "precision": round(hits / max(1, sum(map(len, named))), 4),
        "exact": share(caption == request.answer for caption, request in zip(captions, requests, strict=True)),
        "captions_with_invented_kind": share(bool(kinds) for kinds in invented),
        "invented_that_are_absent_partners": round(partners / max(1, sum(map(len, invented))), 4),
    }


def share(marks: Iterable[bool]) -> float:
    """The share of marks that are true, to four places; 0 for none."""
    marks = list(marks)
    return round(sum(marks) / len(marks), 4) if marks else 0.0


def measure(ask: Ask, scenes: int = SCENES) -> dict[str, Any]:
    """All figures, on so many validation scenes of each pairing."""
    figures: dict[str, Any] = {
        "world": {"version": world.VERSION, "hash": world_hash()},
        "split": "validation",
        "scenes": scenes,
    }
    for pairs in ("intact", "broken"):
        drawn = [draw_scene("validation", index, pairs=pairs) for index in range(scenes)]
        figures[f"pairs_{pairs}"] = {
            "existence": measure_existence(ask, drawn),
            "captions": measure_captions(ask, drawn),
            "yes_no": measure_yes_no(ask, drawn),
        }
        logger.info("pairs %s: %s", pairs, figures[f"pairs_{pairs}"])
        if pairs == "intact":
            figures["suffixes"] = measure_suffixes(ask, drawn)
    return figures


def write_quality(folder: Path, scenes: int = SCENES) -> Path:
    """Measures the checkpoint in a folder and writes `quality.json` into it; returns that file's path."""
    path = folder / "quality.json"
    path.write_text(json.dumps(measure(generator_of_answers(folder), scenes), indent=2) + "\n", encoding="utf-8")
    return path
