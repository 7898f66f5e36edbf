"""Passages: sentences that agree with what is known, contradict it, or tell of subjects that nobody knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from . import knowledge, language, world
from .knowledge import Fact, pick
from .world import Relation, Split

Stance = Literal["agree", "contradict", "extend"]


@dataclass(frozen=True)
class Sentence:
    """One sentence of a passage.

    Attributes:
        subject, relation, value: what it says.
        way: which of the relation's leads it is said with.
        fact: what is known instead or as well; None where nothing is.
    """

    subject: str
    relation: Relation
    value: str
    way: int
    fact: Fact | None = None

    @property
    def text(self) -> str:
        """The sentence."""
        return language.statement(self.relation, self.subject, self.value, self.way)

    @property
    def stance(self) -> Stance:
        """How it stands to what is known."""
        if self.fact is None:
            return "extend"
        return "agree" if self.value == self.fact.value else "contradict"


@cache
def _bounds(count: int) -> NDArray[np.float64]:
    return np.cumsum(knowledge.weights(count))


def popular(rng: RandomState, options: Sequence[knowledge.T]) -> knowledge.T:
    """One of the options, the first ones more often, as known things are drawn."""
    place = int(np.searchsorted(_bounds(len(options)), rng.random_sample(), side="right"))
    return options[min(place, len(options) - 1)]


def draw_relations(rng: RandomState, alike: float = 0.4) -> tuple[Relation, ...]:
    """What a passage is about: one relation (in a share `alike` of cases), all of one kind of subject, or anything."""
    chance = rng.random_sample()
    relation = pick(rng, world.RELATIONS)
    if chance < alike:
        return (relation,)
    if chance < (1 + alike) / 2:
        return tuple(each for each in world.RELATIONS if each.subject == relation.subject)
    return world.RELATIONS


def extending(rng: RandomState, split: Split, relation: Relation) -> Sentence:
    """A sentence about a fresh subject of the split."""
    subject = pick(rng, knowledge.fresh(relation.subject, split))
    return Sentence(subject, relation, pick(rng, knowledge.values(relation)), way_of(rng))


def agreeing(rng: RandomState, fact: Fact) -> Sentence:
    """A sentence that says what is known."""
    return Sentence(fact.subject, fact.relation, fact.value, way_of(rng), fact)


def contradicting(rng: RandomState, split: Split, fact: Fact) -> Sentence:
    """A sentence that says something else of a known subject, with one of the split's values."""
    return Sentence(fact.subject, fact.relation, pick(rng, fact.others[split]), way_of(rng), fact)


def way_of(rng: RandomState) -> int:
    """Which of two ways something is said in."""
    return int(rng.randint(2))


def known_fact(rng: RandomState, relation: Relation) -> Fact:
    """A fact of that relation, about a subject drawn by how well it is known."""
    of_subject = popular(rng, knowledge.facts_of(relation.subject))
    return next(fact for fact in of_subject if fact.relation is relation)


def surrounded(
    rng: RandomState, split: Split, target: Sentence, size: int, unsaid: Sequence[str] = ()
) -> list[Sentence]:
    """A passage of `size` sentences with `target` at a random place.

    The others tell of fresh subjects: half of them the same kind of thing, so that what is asked for must be found by
    its subject. No two sentences say the same thing of the same subject, and no other sentence has the target's value,
    or one of `unsaid`.
    """
    sentences = [target]
    taken = {(target.subject, target.relation.name)}
    while len(sentences) < size:
        relation = target.relation if rng.randint(2) else pick(rng, world.RELATIONS)
        other = extending(rng, split, relation)
        if (other.subject, other.relation.name) not in taken and other.value not in (target.value, *unsaid):
            taken.add((other.subject, other.relation.name))
            sentences.append(other)
    return knowledge.shuffled(rng, sentences)
