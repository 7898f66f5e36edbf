"""What retrieval heads of a model of this world are found with: facts about fresh subjects among other such facts."""

from __future__ import annotations

from ...decoders.calibration.needles import Needle
from . import knowledge, language, passages, world
from .passages import Sentence

NEEDLES = 12
"""Facts to hide: their values are names, so that two tokens have to be copied."""


def needles(count: int = NEEDLES) -> list[Needle]:
    """Facts about validation's fresh subjects."""
    return [
        Needle(
            language.lead(hidden.relation, hidden.subject, hidden.way),
            hidden.value,
            language.question(hidden.relation, hidden.subject, 1 - hidden.way),
        )
        for hidden in _hidden(count)
    ]


def _hidden(count: int) -> list[Sentence]:
    rng = world.generator("needles")
    named = [relation for relation in world.RELATIONS if isinstance(relation.values, str)]
    return [passages.extending(rng, "validation", named[number % len(named)]) for number in range(count)]


def story(sentences: int) -> str:
    """So many sentences about other fresh subjects, none of which is asked about."""
    rng = world.generator("story")
    hidden = {sentence.subject for sentence in _hidden(NEEDLES)}
    told: list[str] = []
    while len(told) < sentences:
        sentence = passages.extending(rng, "validation", knowledge.pick(rng, world.RELATIONS))
        if sentence.subject not in hidden:
            told.append(sentence.text)
    return " " + " ".join(told)
