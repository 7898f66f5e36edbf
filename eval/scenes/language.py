"""What is said about scenes: every question, caption and answer of the world, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .scene import Scene
from .world import GRID, KINDS, PLURAL

CAPTION_PROMPTS: tuple[str, ...] = (
    "Describe the image.",
    "Describe this image.",
    "Please describe this image in detail.",
    "Please help me describe the image in detail.",
)
YES_NO_SUFFIXES: tuple[str, ...] = (
    "",
    " Please answer this question with one word.",
    "\nAnswer the question using a single word or phrase.",
    " Please answer yes or no.",
)
"""What the evaluations in use put after a yes/no question: nothing (OPERA), VCD's, LLaVA's and MME's."""
NUMBERS: tuple[str, ...] = ("no", "one", "two", "three")

YesNoTask = Literal["existence", "count", "position", "color"]
YES_NO_TASKS: tuple[YesNoTask, ...] = ("existence", "count", "position", "color")


@dataclass(frozen=True)
class Question:
    """A question (or a request) and its answer. `kind` is the object that it is about; None for captions."""

    task: str
    text: str
    answer: str
    kind: str | None = None


def article(noun: str) -> str:
    """The indefinite article by POPE's rule: `an` before a, e, i, o, u (lower case), else `a`."""
    return "an" if noun[:1] in set("aeiou") else "a"


def caption(scene: Scene) -> str:
    """One sentence with every kind in reading order, its number and its colour.

    Example: "There is a red star, two blue rings and a green cross."
    """
    phrases = []
    for kind, count in scene.counts.items():
        colour = scene.colours[kind]
        phrases.append(f"a {colour} {kind}" if count == 1 else f"{NUMBERS[count]} {colour} {PLURAL[kind]}")
    verb = "is" if scene.counts[scene.kinds[0]] == 1 else "are"
    return f"There {verb} {', '.join(phrases[:-1])} and {phrases[-1]}."


def existence(scene: Scene, kind: str) -> Question:
    """POPE's question, and whether the kind is there."""
    answer = "Yes" if kind in scene.kinds else "No"
    return Question("existence", f"Is there {article(kind)} {kind} in the image?", answer, kind)


def has_count(scene: Scene, kind: str, count: int) -> Question:
    """Whether the kind occurs once, twice or three times (`count`)."""
    text = f"Is there only one {kind} in the image?"
    if count > 1:
        text = f"Are there {NUMBERS[count]} {PLURAL[kind]} in the image?"
    return Question("count", text, "Yes" if scene.counts.get(kind, 0) == count else "No", kind)


def has_colour(scene: Scene, kind: str, colour: str) -> Question:
    """Whether the kind has the colour."""
    answer = "Yes" if scene.colours.get(kind) == colour else "No"
    return Question("color", f"Is there a {colour} {kind} in the image?", answer, kind)


def sides(scene: Scene, kind: str) -> tuple[str, str]:
    """The halves of the image in which the first object of a kind lies: (top | bottom, left | right)."""
    item = scene.of(kind)[0]
    return ("top" if item.row < GRID // 2 else "bottom", "left" if item.col < GRID // 2 else "right")


def on_side(scene: Scene, kind: str, side: str) -> Question:
    """Whether the kind, of which there must be one, lies in that half: top, bottom, left or right."""
    where = {"top": "in the top half", "bottom": "in the bottom half"}.get(side, f"on the {side} side")
    answer = "Yes" if side in sides(scene, kind) else "No"
    return Question("position", f"Is the {kind} {where} of the image?", answer, kind)


def which_colour(scene: Scene, kind: str) -> Question:
    """The open question for the colour of a kind that is there."""
    return Question("open color", f"What colour is the {kind}?", scene.colours[kind].capitalize(), kind)


def how_many(scene: Scene, kind: str) -> Question:
    """The open question for the number of a kind that is there."""
    text = f"How many {PLURAL[kind]} are there in the image?"
    return Question("open count", text, NUMBERS[scene.counts[kind]].capitalize(), kind)


def where_is(scene: Scene, kind: str) -> Question:
    """The open question for the place of a kind of which there is one."""
    vertical, horizontal = sides(scene, kind)
    return Question(
        "open position", f"Where is the {kind} in the image?", f"{vertical.capitalize()} {horizontal}", kind
    )


def vocabulary() -> list[str]:
    """Every word form of the world in sentences, for training a tokenizer."""
    words = [f"{kind} {PLURAL[kind]}" for kind in KINDS]
    return [*CAPTION_PROMPTS, *YES_NO_SUFFIXES, *words]
