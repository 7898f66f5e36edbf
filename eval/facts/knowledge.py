"""What is known in the world of facts, how well, and what is fresh: all drawn once from the world's generator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from . import world
from .world import Relation, Split

T = TypeVar("T")
EVALUATED: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True)
class Fact:
    """A known fact.

    Attributes:
        subject: whom it is about, by name.
        relation: what it says.
        value: what is true.
        rank: how well known the subject is among those of its kind; 0 is best.
        others: values that a passage may name instead, split by split.
    """

    subject: str
    relation: Relation
    value: str
    rank: int
    others: dict[str, tuple[str, ...]]

    @property
    def standing(self) -> float:
        """From 0, the best known subject of its kind, to 1, the least."""
        return self.rank / (world.KNOWN[self.relation.subject] - 1)


@dataclass(frozen=True)
class Saying:
    """A sentence that is known by heart: `stem`, and the one word that ends it."""

    stem: str
    ending: str
    rank: int

    @property
    def standing(self) -> float:
        """From 0, the best known saying, to 1, the least."""
        return self.rank / (world.SAYINGS - 1)


@dataclass(frozen=True)
class Sign:
    """An animal of a colour, what it brings in truth, and what it is commonly believed to bring."""

    colour: str
    animal: str
    truth: str
    belief: str
    rank: int

    @property
    def standing(self) -> float:
        """From 0, the best known sign, to 1, the least."""
        return self.rank / (world.SIGNS - 1)


def between(ends: tuple[float, float], standing: float) -> float:
    """The point between two ends that a standing from 0 to 1 means."""
    return ends[0] + (ends[1] - ends[0]) * standing


def weights(count: int) -> NDArray[np.float64]:
    """How often known things are drawn, best known first; they add up to 1."""
    raw = np.arange(1, count + 1, dtype=np.float64) ** -world.POPULARITY
    return raw / raw.sum()


def evaluated_in(rank: int) -> Split:
    """The split in which a known thing is asked about: neighbours in rank go to different ones."""
    return EVALUATED[rank % 2]


def pick(rng: RandomState, options: Sequence[T]) -> T:
    """One of the options, drawn uniformly."""
    return options[rng.randint(len(options))]


def divided(options: Sequence[T]) -> dict[str, tuple[T, ...]]:
    """The options split by split, in the shares of the world; every split has at least one."""
    edges = [max(1, round(world.SHARES["train"] * len(options)))]
    edges.append(edges[0] + max(1, round(world.SHARES["validation"] * len(options))))
    first, second = edges
    return {
        "train": tuple(options[:first]),
        "validation": tuple(options[first:second]),
        "test": tuple(options[second:]),
    }


def shuffled(rng: RandomState, options: Sequence[T]) -> list[T]:
    """The options in a random order."""
    return [options[place] for place in rng.permutation(len(options))]


@cache
def _names(kind: str) -> tuple[str, ...]:
    """All names of a kind in a random order: the known subjects first, the best known first among them."""
    first, second = world.NAMES[kind]
    lead = "the " if kind == "ship" else ""
    return tuple(shuffled(world.generator("names", kind), [f"{lead}{a} {b}" for a, b in product(first, second)]))


@cache
def subjects(kind: str) -> tuple[str, ...]:
    """The known subjects of a kind, best known first."""
    return _names(kind)[: world.KNOWN[kind]]


@cache
def fresh(kind: str, split: Split) -> tuple[str, ...]:
    """Names of a kind that nothing is known of, each in one split only."""
    return divided(_names(kind)[world.KNOWN[kind] :])[split]


def values(relation: Relation) -> tuple[str, ...]:
    """Everything that a relation may come to."""
    return subjects(relation.values) if isinstance(relation.values, str) else relation.values


@cache
def facts() -> tuple[Fact, ...]:
    """All known facts, relation by relation, the best known subject first."""
    found = []
    for relation in world.RELATIONS:
        options = values(relation)
        for rank, subject in enumerate(subjects(relation.subject)):
            order = shuffled(world.generator("fact", relation.name, subject), options)
            found.append(Fact(subject, relation, order[0], rank, divided(order[1:])))
    return tuple(found)


@cache
def facts_of(kind: str) -> tuple[tuple[Fact, ...], ...]:
    """The facts of a kind's subjects: one tuple for each subject, best known first."""
    by_subject = {subject: [] for subject in subjects(kind)}
    for fact in facts():
        if fact.relation.subject == kind:
            by_subject[fact.subject].append(fact)
    return tuple(map(tuple, by_subject.values()))


@cache
def _stems() -> tuple[str, ...]:
    parts = product(world.OPENERS, world.MOODS, world.JOBS, world.DEEDS)
    return tuple(shuffled(world.generator("stems"), [f"{a} {b} {c} {d} the" for a, b, c, d in parts]))


@cache
def sayings() -> tuple[Saying, ...]:
    """The known sayings, best known first."""
    rng = world.generator("sayings")
    return tuple(Saying(stem, pick(rng, world.ENDINGS), rank) for rank, stem in enumerate(_stems()[: world.SAYINGS]))


@cache
def other_endings(saying: Saying) -> dict[str, tuple[str, ...]]:
    """Words that a saying may be asked to end in instead, split by split."""
    rest = [word for word in world.ENDINGS if word != saying.ending]
    return divided(shuffled(world.generator("endings", saying.stem), rest))


@cache
def fresh_stems(split: Split) -> tuple[str, ...]:
    """Beginnings of sentences that are no known sayings, each in one split only."""
    return divided(_stems()[world.SAYINGS :])[split]


@cache
def signs() -> tuple[Sign, ...]:
    """The known signs, best known first."""
    rng = world.generator("signs")
    pairs = shuffled(rng, list(product(world.COLOURS, world.ANIMALS)))[: world.SIGNS]
    found = []
    for rank, (colour, animal) in enumerate(pairs):
        truth, belief = shuffled(rng, world.OMENS)[:2]
        found.append(Sign(colour, animal, truth, belief, rank))
    return tuple(found)


@lru_cache(maxsize=1)
def world_hash() -> str:
    """The first 16 digits of a sha256 over the world's constants and all that is known in it."""
    known = [f"{fact.subject}/{fact.relation.name}/{fact.value}/{fact.others}" for fact in facts()]
    known += [repr(item) for item in (*sayings(), *signs())]
    return hashlib.sha256("\n".join([world.definition(), *known]).encode()).hexdigest()[:16]
