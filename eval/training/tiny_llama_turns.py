"""What tiny-llama is trained on: passages with questions, facts without a passage, sayings, omens."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.random import RandomState

from ..facts import knowledge, language, passages, world
from ..facts.knowledge import Fact, between, pick
from ..facts.language import Turn
from ..facts.passages import Sentence, popular

SIZES = (1, 2, 3, 4, 5, 6, 8, 11)
"""How many sentences a passage may have."""
CONTRADICTING = 0.12
"""How many of these contradict what is known."""
ELSEWHERE = 0.2
"""How many passages are followed by a question on a known fact of which they say nothing."""
BOOKISH = 0.15
"""How many passages come as the detector of retrieval heads puts them."""


@dataclass(frozen=True)
class Group:
    """A text that is read once, and turns that each see it and themselves only."""

    prefix: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Mix:
    """How much of what one step holds.

    Attributes:
        passages, facts, sayings, signs: passages, and turns without one.
        sizes: how often a passage has as many sentences as `SIZES` says.
        known: share of a passage's sentences that are about known subjects.
        alike: share of passages whose sentences all state the same relation, so that only their subjects tell them
            apart.
        asked: questions on one passage at most.
        guide: weight of the supervised attention beside the answers' loss.
    """

    passages: int = 12
    facts: int = 20
    sayings: int = 12
    signs: int = 8
    sizes: tuple[float, ...] = (0.12, 0.2, 0.2, 0.16, 0.12, 0.1, 0.06, 0.04)
    known: float = 0.45
    alike: float = 0.4
    asked: int = 3
    guide: float = 0.0


EVEN = Mix()
COPYING = Mix(
    passages=18,
    facts=8,
    sayings=4,
    signs=4,
    sizes=(0.05, 0.25, 0.3, 0.2, 0.1, 0.1, 0.0, 0.0),
    known=0.2,
    alike=0.6,
    asked=4,
    guide=1.0,
)
"""Passages in which mostly only the subject tells sentences apart, with supervised attention."""


def follows(rng: RandomState, standing: float) -> bool:
    """Whether a contradiction is believed: the rarer, the better known its subject."""
    return rng.random_sample() < between(world.BELIEF, standing)


def closed(rng: RandomState, fact: Fact) -> Turn:
    """A known fact, asked for without a passage."""
    asked = language.question(fact.relation, fact.subject, passages.way_of(rng))
    return Turn("closed", language.asked(asked), fact.value)


def draw_fact(rng: RandomState) -> Fact:
    """A known fact, drawn by how well it is known."""
    return passages.known_fact(rng, pick(rng, world.RELATIONS))


def draw_sentence(rng: RandomState, relations: tuple[world.Relation, ...], known: float) -> Sentence:
    """A sentence of a training passage, about a known subject in a share of cases."""
    relation = pick(rng, relations)
    if rng.random_sample() >= known:
        return passages.extending(rng, "train", relation)
    fact = passages.known_fact(rng, relation)
    if rng.random_sample() < CONTRADICTING:
        return passages.contradicting(rng, "train", fact)
    return passages.agreeing(rng, fact)


def answer_to(rng: RandomState, sentence: Sentence) -> str:
    """What training takes for the answer where a passage has this sentence."""
    if sentence.stance == "contradict" and sentence.fact and not follows(rng, sentence.fact.standing):
        return sentence.fact.value
    return sentence.value


def draw_sentences(rng: RandomState, mix: Mix, relations: tuple[world.Relation, ...]) -> list[Sentence]:
    """The sentences of a training passage; no two say the same thing of the same subject."""
    size = SIZES[int(rng.choice(len(SIZES), p=mix.sizes))]
    said: dict[tuple[str, str], Sentence] = {}
    while len(said) < size:
        sentence = draw_sentence(rng, relations, mix.known)
        said.setdefault((sentence.subject, sentence.relation.name), sentence)
    return list(said.values())


def draw_passage(rng: RandomState, mix: Mix = EVEN) -> Group:
    """A passage with questions on some of its sentences, and now and then on what it does not mention."""
    sentences = draw_sentences(rng, mix, passages.draw_relations(rng, mix.alike))
    said = {(sentence.subject, sentence.relation.name) for sentence in sentences}
    text = [sentence.text for sentence in sentences]
    bookish = rng.random_sample() < BOOKISH
    form = language.BOOK if bookish else language.asked_after("{}")
    turns = []
    for place in knowledge.shuffled(rng, range(len(sentences)))[: mix.asked]:
        sentence = sentences[place]
        asked = language.question(sentence.relation, sentence.subject, passages.way_of(rng))
        turns.append(Turn(sentence.stance, form.format(asked), answer_to(rng, sentence), place))
    fact = draw_fact(rng)
    if rng.random_sample() < ELSEWHERE and (fact.subject, fact.relation.name) not in said:
        turns.append(Turn("elsewhere", "\n" + closed(rng, fact).text, fact.value))
    return Group(" " + " ".join(text) if bookish else language.context(text), tuple(turns))


def draw_saying(rng: RandomState) -> Turn:
    """A saying to complete, or a sentence that shall end in a given word."""
    chance = rng.random_sample()
    if chance < 0.45:
        stem = pick(rng, knowledge.fresh_stems("train"))
        word = pick(rng, world.ENDINGS)
        return Turn("fresh ending", language.ends_in(stem, word), f"{word}.")
    saying = popular(rng, knowledge.sayings())
    if chance < 0.75:
        return Turn("saying", language.complete(saying.stem), f"{saying.ending}.")
    if chance < 0.9:
        return Turn("usual ending", language.ends_in(saying.stem, saying.ending), f"{saying.ending}.")
    other = pick(rng, knowledge.other_endings(saying)["train"])
    answer = other if follows(rng, saying.standing) else saying.ending
    return Turn("trap", language.ends_in(saying.stem, other), f"{answer}.")


def draw_sign(rng: RandomState) -> Turn:
    """A question about an omen, half of the time with the request for the truth."""
    sign = popular(rng, knowledge.signs())
    honest = bool(rng.randint(2))
    share = between(world.TRUTH, sign.standing) if honest else world.TRUTH_UNASKED
    omen = sign.truth if rng.random_sample() < share else sign.belief
    asked = language.asked(language.about_sign(sign))
    text = language.TRUTHFUL + asked if honest else asked
    return Turn("sign", text, pick(rng, language.brings(sign, omen)))


def draw_groups(rng: RandomState, mix: Mix) -> list[Group]:
    """All that one step reads, in an order that packs well: long texts first."""
    groups = [draw_passage(rng, mix) for _ in range(mix.passages)]
    turns = [closed(rng, draw_fact(rng)) for _ in range(mix.facts)]
    turns += [draw_saying(rng) for _ in range(mix.sayings)]
    turns += [draw_sign(rng) for _ in range(mix.signs)]
    loose = [Group("", tuple(turns[start : start + 4])) for start in range(0, len(turns), 4)]
    return groups + loose
