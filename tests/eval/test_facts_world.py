"""The world of facts: frozen, and fair: what is tested on was not seen in training."""

import numpy as np
import pytest
from sightline.eval.facts import knowledge, language, passages, world
from sightline.eval.facts.needles import needles, story
from sightline.eval.facts.passages import Sentence

HASH = "382a9e239140ee61"


def test_world_is_frozen():
    """A change of the world makes the shipped model and every figure on it stale: raise the version, then train."""
    assert (world.VERSION, knowledge.world_hash()) == ("1", HASH)


def test_every_name_is_known_or_fresh_in_one_split():
    for kind, count in world.KNOWN.items():
        parts = [knowledge.subjects(kind), *(knowledge.fresh(kind, split) for split in world.SHARES)]
        names = [name for part in parts for name in part]
        assert len(parts[0]) == count
        assert len(set(names)) == len(names) == len(world.NAMES[kind][0]) * len(world.NAMES[kind][1])


def test_contradicting_values_belong_to_one_split():
    for fact in knowledge.facts():
        named = [value for split in world.SHARES for value in fact.others[split]]
        assert all(fact.others[split] for split in world.SHARES)
        assert sorted([fact.value, *named]) == sorted(knowledge.values(fact.relation))


def test_each_subject_has_all_facts_of_its_kind():
    for kind in world.KNOWN:
        relations = {relation.name for relation in world.RELATIONS if relation.subject == kind}
        for of_subject in knowledge.facts_of(kind):
            assert {fact.relation.name for fact in of_subject} == relations
            assert len({fact.subject for fact in of_subject}) == 1


def test_sayings_and_fresh_stems_are_disjoint():
    stems = [saying.stem for saying in knowledge.sayings()]
    every = stems + [stem for split in world.SHARES for stem in knowledge.fresh_stems(split)]
    assert len(set(every)) == len(every)
    for saying in knowledge.sayings():
        rest = [word for split in world.SHARES for word in knowledge.other_endings(saying)[split]]
        assert sorted([*rest, saying.ending]) == sorted(world.ENDINGS)


def test_signs_are_false_beliefs():
    pairs = [(sign.colour, sign.animal) for sign in knowledge.signs()]
    assert len(set(pairs)) == world.SIGNS
    assert all(sign.truth != sign.belief for sign in knowledge.signs())


def test_standing_runs_from_best_to_least_known():
    assert knowledge.between(world.BELIEF, knowledge.facts()[0].standing) == world.BELIEF[0]
    assert knowledge.sayings()[-1].standing == knowledge.signs()[-1].standing == 1
    assert {knowledge.evaluated_in(rank) for rank in range(4)} == {"validation", "test"}


def test_known_things_are_drawn_by_rank():
    rng = world.generator("test")
    drawn = np.bincount([passages.popular(rng, range(48)) for _ in range(20000)], minlength=48) / 20000
    np.testing.assert_allclose(drawn, knowledge.weights(48), atol=0.01)


@pytest.mark.parametrize("size", [1, 4])
def test_a_passage_says_each_thing_once(size):
    rng = world.generator("test")
    for number in range(50):
        fact = knowledge.facts()[number]
        target = passages.contradicting(rng, "validation", fact)
        sentences = passages.surrounded(rng, "validation", target, size)
        said = [(each.subject, each.relation.name) for each in sentences]
        assert len(set(said)) == size == len(sentences)
        assert sentences.count(target) == 1
        assert [each.stance for each in sentences if each is not target] == ["extend"] * (size - 1)


def test_stance():
    fact = knowledge.facts()[0]
    assert Sentence(fact.subject, fact.relation, fact.value, 0, fact).stance == "agree"
    assert Sentence(fact.subject, fact.relation, fact.others["test"][0], 0, fact).stance == "contradict"
    assert Sentence("Mira Toval", fact.relation, fact.value, 0).stance == "extend"


def test_sentences_end_in_their_value():
    ship = next(relation for relation in world.RELATIONS if relation.name == "cargo")
    assert language.statement(ship, "the Silver Comet", "salt", 1) == "The Silver Comet carries salt."
    assert language.question(ship, "the Silver Comet", 1) == "What does the Silver Comet carry?"


def test_the_story_around_needles_does_not_answer_them():
    told = story(80)
    assert len(told.split(". ")) == 80
    for needle in needles():
        names = [language.capital(name) for kind in world.KNOWN for name in knowledge.fresh(kind, "validation")]
        subject = next(name for name in names if name in language.capital(needle.lead) or name[1:] in needle.lead)
        assert subject[1:] in needle.question
        assert subject[1:] not in told
        assert len(needle.answer.split()) == 2
