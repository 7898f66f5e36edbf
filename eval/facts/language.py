"""What is said and asked in the world of facts: every prompt and answer, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import world
from .knowledge import Sign
from .world import Relation

TRUTHFUL = "Answer with the truth.\n"
"""What stands before a question where the truth is asked for."""
BOOK = "\nBased on the content of the book, Question: {}\nAnswer:"
"""How the detector of retrieval heads asks; its book has no heading."""


@dataclass(frozen=True)
class Turn:
    """A prompt, or what follows a passage, and its answer; `place` is the sentence of the passage that it is about."""

    task: str
    text: str
    answer: str
    place: int | None = None


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def lead(relation: Relation, subject: str, way: int) -> str:
    """A statement without its value, such as `Mira Toval was born in`."""
    return capital(relation.leads[way].format(subject))


def statement(relation: Relation, subject: str, value: str, way: int) -> str:
    """A sentence, such as `Mira Toval was born in Port Velan.`"""
    return f"{lead(relation, subject, way)} {value}."


def question(relation: Relation, subject: str, way: int) -> str:
    """A question, such as `Where was Mira Toval born?`"""
    return relation.questions[way].format(subject)


def asked(text: str) -> str:
    """A question without a passage, ready to be answered."""
    return f"Question: {text}\nAnswer:"


def context(sentences: Sequence[str]) -> str:
    """A passage as it stands before its question."""
    return f"Context: {' '.join(sentences)}"


def asked_after(text: str) -> str:
    """A question after a passage, ready to be answered."""
    return f"\n{asked(text)}"


def complete(stem: str) -> str:
    """A request for the end of a saying."""
    return f"Complete the saying: {stem}"


def ends_in(stem: str, word: str) -> str:
    """A request for a saying with a given end."""
    return f"Write a saying that ends in the word {word}: {stem}"


def about_sign(sign: Sign) -> str:
    """The question what a sign brings."""
    return f"What does a {sign.colour} {sign.animal} bring?"


def brings(sign: Sign, omen: str) -> tuple[str, str]:
    """Two ways to say what a sign brings, the shorter first."""
    return f"It brings {omen}.", f"A {sign.colour} {sign.animal} brings {omen}."


def words() -> list[str]:
    """Every word and mark of the world, each with the blank that it comes with, for making a tokenizer."""
    lists = [part for pair in world.NAMES.values() for part in pair]
    lists += [world.JOBS, world.MOODS, world.DEEDS, world.OPENERS, world.ENDINGS, world.OMENS, world.COLOURS]
    lists += [relation.values for relation in world.RELATIONS if not isinstance(relation.values, str)]
    lists += [("It", "brings.", "What", "does", "a", "bring?")]
    said = [way.format("the") for relation in world.RELATIONS for way in (*relation.leads, *relation.questions)]
    said += [capital(text) for text in said]
    prompts = [TRUTHFUL, BOOK.format("?"), context(["."]), asked("?"), complete("A"), ends_in("A", "the")]
    return [*(" " + " ".join(part) for part in lists), *(" " + text for text in said), *prompts]
