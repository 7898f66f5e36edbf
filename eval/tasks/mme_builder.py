"""MME's questions for scenes: existence, count, position and color, two on each image, yes then no.

All four subtasks ask about the same scenes: those that hold a kind of one object, for "the star" must mean one. What a
scene is asked depends on the scene alone, and on its place in the order for the absent kind:

* existence: a kind that is there, drawn evenly; then one that is not. Scenes take turns: the first is asked for an
  absent partner of a kind that is there, the next for an absent kind whose partner is absent too, and so on (drawn
  evenly; a scene without such a kind is asked for any absent one). So half of the negatives go with the planted prior.
* count: a kind, drawn evenly among the numbers that the scene holds; its number, then one of the two others.
* position: a kind of one object; the half of the image in which it lies, then the opposite half.
* color: a kind that is there; its colour, then one of the five others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from numpy.random import RandomState

from ..scenes import language, world
from ..scenes.language import Question
from ..scenes.scene import Scene

T = TypeVar("T")
Row = tuple[str, str, str]
"""Image, question, and `Yes` or `No`."""

SUBTASKS = language.YES_NO_TASKS
SUFFIX = " Please answer yes or no."
NEGATIVES = "absent partners and absent kinds without their partner, in turn"
_OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}


def build_mme(scenes: Mapping[str, Scene]) -> dict[str, list[Row]]:
    """The rows of each subtask's file: image, question, answer.

    Args:
        scenes: file name -> scene. More scenes add rows at the end and change none.
    """
    rows: dict[str, list[Row]] = {subtask: [] for subtask in SUBTASKS}
    usable = [(name, scene) for name, scene in scenes.items() if 1 in scene.counts.values()]
    for place, (name, scene) in enumerate(usable):
        for question in _questions(scene, partner=place % 2 == 0):
            rows[question.task].append((name, question.text + SUFFIX, question.answer))
    return rows


def as_text(rows: Sequence[Row]) -> str:
    """The rows in MME's file format: one line each, fields parted by tabs."""
    return "".join("\t".join(row) + "\n" for row in rows)


def partner_share(rows: Sequence[Row], scenes: Mapping[str, Scene]) -> float:
    """The share of existence negatives that ask for an absent partner of a kind that is there; 0 for none."""
    negatives = [(scenes[name], question) for name, question, answer in rows if answer == "No"]
    hits = sum(
        any(question == language.existence(scene, kind).text + SUFFIX for kind in scene.missing_partners)
        for scene, question in negatives
    )
    return hits / len(negatives) if negatives else 0.0


def _questions(scene: Scene, *, partner: bool) -> list[Question]:
    """The eight questions on a scene, pair by pair, yes first."""
    rng = world.generator("mme", scene.name)
    return [*_existence(scene, rng, partner), *_count(scene, rng), *_position(scene, rng), *_colour(scene, rng)]


def _existence(scene: Scene, rng: RandomState, partner: bool) -> list[Question]:
    there = _pick(rng, scene.kinds)
    unrelated = tuple(kind for kind in scene.absent if kind not in scene.missing_partners)
    absent = (scene.missing_partners if partner else unrelated) or scene.absent
    return [language.existence(scene, there), language.existence(scene, _pick(rng, absent))]


def _count(scene: Scene, rng: RandomState) -> list[Question]:
    truth = _pick(rng, sorted(set(scene.counts.values())))
    kind = _pick(rng, [kind for kind, number in scene.counts.items() if number == truth])
    other = _pick(rng, [number for number in range(1, len(world.COUNT_SHARES) + 1) if number != truth])
    return [language.has_count(scene, kind, truth), language.has_count(scene, kind, other)]


def _position(scene: Scene, rng: RandomState) -> list[Question]:
    kind = _pick(rng, [kind for kind, number in scene.counts.items() if number == 1])
    side = _pick(rng, language.sides(scene, kind))
    return [language.on_side(scene, kind, side), language.on_side(scene, kind, _OPPOSITE[side])]


def _colour(scene: Scene, rng: RandomState) -> list[Question]:
    kind = _pick(rng, scene.kinds)
    truth = scene.colours[kind]
    other = _pick(rng, [colour for colour in world.COLOURS if colour != truth])
    return [language.has_colour(scene, kind, truth), language.has_colour(scene, kind, other)]


def _pick(rng: RandomState, options: Sequence[T]) -> T:
    """One of the options, drawn evenly."""
    return options[rng.randint(len(options))]
