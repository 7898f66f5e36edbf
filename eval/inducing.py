"""What inducing heads are measured on: questions with a right and a wrong answer, of several kinds.

* `passages`: made-up passages in English, whose wrong answer is what they say of somebody else;
* `facts`: the same in the world of facts, for a model that reads the words of no other;
* `scenes`: validation scenes, and whether there is some object in them, for image-text models;
* a file of the user's own, see `read_questions`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..decoders.calibration.importance import Triple
from ..decoders.calibration.triples import Question, questions, read_questions, tokenised, tokens_per_word
from ..models import Loaded
from .choosing import continuation
from .errors import ConfigError
from .facts import knowledge, language, passages, world
from .plan import renderer
from .scenes import draw_scene, existence, world_hash

PASSAGES, FACTS, SCENES = DATA = ("passages", "facts", "scenes")
TRIPLES = 128
"""How many questions are asked unless a number is given."""
READABLE = 3.0
"""A vocabulary that takes more tokens a word than this does not hold a text's words."""
PEOPLE = (2, 4)
"""How many subjects a passage tells the same thing of: low and high, both included."""


def triples(loaded: Loaded, data: str | None, count: int | None) -> tuple[list[Triple], dict[str, Any]]:
    """Questions for a model, and how they were made.

    Args:
        loaded: model and processor.
        data: one of `DATA`, or a file; None: scenes where the model sees, else passages, or facts where its vocabulary
            holds the words of these alone.
        count: how many; None: `TRIPLES`, or all of a file.

    Raises:
        ConfigError: scenes are asked for and the model takes no images, or a file has too few questions.
        CalibrationMissing, CalibrationInvalid: the file cannot be read.
    """
    data = data or usual(loaded)
    if data == SCENES:
        if not loaded.adapter.image_inputs:
            raise ConfigError(f"{loaded.name} takes no images.", f"Use data={PASSAGES}, or an image-text model.")
        count = count or TRIPLES
        return list(scenes(loaded, count)), {"data": SCENES, "split": "validation", "world": world_hash()}
    if data in (PASSAGES, FACTS):
        found, about = (questions if data == PASSAGES else facts)(count or TRIPLES), {"data": data}
        about |= {"split": "validation", "world": knowledge.world_hash()} if data == FACTS else {}
    else:
        if not Path(data).suffix and not Path(data).exists():
            raise ConfigError(f"There is no data {data!r}.", f"Give {', '.join(DATA)}, or a file of JSON lines.")
        found, about = read_questions(data), {"data": "file"}
        if count and count > len(found):
            raise ConfigError(f"{data!r} holds {len(found)} questions, and {count} are asked for.", "Set triples=.")
        found = found[:count]
    return tokenised(found, loaded.adapter, loaded.processor), about


def usual(loaded: Loaded) -> str:
    """What a model is asked about unless something is given."""
    if loaded.adapter.image_inputs:
        return SCENES
    for data, made in ((PASSAGES, questions), (FACTS, facts)):
        if tokens_per_word(made(8), loaded.adapter, loaded.processor) <= READABLE:
            return data
    return PASSAGES


def facts(count: int) -> list[Question]:
    """Passages on validation's fresh subjects that all state the same relation; the wrong answer is another's value."""
    return [_of_facts(number) for number in range(count)]


def _of_facts(number: int) -> Question:
    rng = world.generator("triples", number)
    relation, size = knowledge.pick(rng, world.RELATIONS), int(rng.randint(PEOPLE[0], PEOPLE[1] + 1))
    told: list[passages.Sentence] = []
    while len(told) < size:
        new = passages.extending(rng, "validation", relation)
        if all(new.subject != old.subject and new.value != old.value for old in told):
            told.append(new)
    asked = knowledge.pick(rng, told)
    question = language.asked_after(language.question(relation, asked.subject, passages.way_of(rng)))
    context = language.context([sentence.text for sentence in told]) + question
    return Question(context, f" {asked.value}", tuple(f" {other.value}" for other in told if other is not asked))


def scenes(loaded: Loaded, count: int) -> Iterator[Triple]:
    """Is there one of a scene's kinds, and is there one that is absent? The wrong answer is the other of yes and no."""
    render, wide = renderer(loaded.processor, ""), loaded.model.dtype
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    for number in range(count):
        scene = draw_scene("validation", number // 2, pairs="broken")
        absent = (*scene.missing_partners, *scene.absent)[0]
        asked = existence(scene, scene.kinds[0] if number % 2 == 0 else absent)
        text = render(asked.text)
        made = loaded.processor(images=[scene.image()], text=[text], return_tensors="pt").to(loaded.model.device)
        inputs = {key: value.to(wide) if value.is_floating_point() else value for key, value in made.items()}
        right, wrong = ("Yes", "No") if asked.answer == "Yes" else ("No", "Yes")
        answers = [tuple(continuation(tokenizer, text, f" {answer}")) for answer in (right, wrong)]
        yield Triple(inputs, *answers)
