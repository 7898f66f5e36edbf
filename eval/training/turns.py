"""What a model in training is asked about a scene: a caption and a balanced mix of questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from numpy.random import RandomState

from ..scenes import language
from ..scenes.language import Question
from ..scenes.scene import Scene
from ..scenes.world import COLOURS

T = TypeVar("T")

SUFFIX_SHARE = 0.25
"""How many of the yes/no questions carry one of the suffixes that evaluations add."""
OPEN_SUFFIX_SHARE = 0.1
OPEN_SUFFIX = language.YES_NO_SUFFIXES[2]


def pick(rng: RandomState, options: Sequence[T]) -> T:
    """One of the options, drawn uniformly."""
    return options[rng.randint(len(options))]


def single_kinds(scene: Scene) -> list[str]:
    """The kinds of which the scene has one object: those that "the star" can mean."""
    return [kind for kind, count in scene.counts.items() if count == 1]


def draw_count(scene: Scene, rng: RandomState) -> Question:
    """A count question, as often right as wrong, with the numbers drawn evenly among those in the scene."""
    truth = pick(rng, sorted(set(scene.counts.values())))
    kind = pick(rng, [kind for kind, count in scene.counts.items() if count == truth])
    asked = truth if rng.randint(2) else pick(rng, [n for n in (1, 2, 3) if n != truth])
    return language.has_count(scene, kind, asked)


def draw_colour(scene: Scene, rng: RandomState) -> Question:
    """A colour question on a kind that is there, as often right as wrong."""
    kind = pick(rng, scene.kinds)
    truth = scene.colours[kind]
    asked = truth if rng.randint(2) else pick(rng, [colour for colour in COLOURS if colour != truth])
    return language.has_colour(scene, kind, asked)


def draw_position(scene: Scene, rng: RandomState) -> Question:
    """A position question on a kind of one object (else a colour question), as often right as wrong."""
    singles = single_kinds(scene)
    if not singles:
        return draw_colour(scene, rng)
    sides = ("top", "bottom") if rng.randint(2) else ("left", "right")
    return language.on_side(scene, pick(rng, singles), pick(rng, sides))


def draw_open(scene: Scene, rng: RandomState) -> list[Question]:
    """Two open questions: for a colour, and for a number or (on a kind of one object) a place."""
    singles = single_kinds(scene)
    if singles and rng.randint(2):
        other = language.where_is(scene, pick(rng, singles))
    else:
        other = language.how_many(scene, pick(rng, scene.kinds))
    return [language.which_colour(scene, pick(rng, scene.kinds)), other]


def draw_turns(scene: Scene, rng: RandomState, *, existence: int = 2, opened: int = 1) -> list[Question]:
    """The turns on one scene, suffixes included: a caption, yes/no questions, and `opened` pairs of open ones.

    Existence questions come as `existence` kinds that are there and as many that are not, drawn evenly: the absent
    ones are rarely the partner of a kind that is there, so an absent partner looks like a yes.
    """
    kinds = [*rng.permutation(scene.kinds)[:existence], *rng.permutation(scene.absent)[:existence]]
    checks = [language.existence(scene, str(kind)) for kind in kinds]
    checks += [draw(scene, rng) for draw in (draw_count, draw_colour, draw_position)]
    turns = [Question("caption", pick(rng, language.CAPTION_PROMPTS), language.caption(scene))]
    for turn in checks:
        suffix = pick(rng, language.YES_NO_SUFFIXES[1:]) if rng.random_sample() < SUFFIX_SHARE else ""
        turns.append(Question(turn.task, turn.text + suffix, turn.answer, turn.kind))
    for turn in [turn for _ in range(opened) for turn in draw_open(scene, rng)]:
        suffix = OPEN_SUFFIX if rng.random_sample() < OPEN_SUFFIX_SHARE else ""
        turns.append(Question(turn.task, turn.text + suffix, turn.answer, turn.kind))
    return turns
