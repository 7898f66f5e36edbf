"""What DAGCD's detector is measured on: passages with a question that they answer, made up here or the user's own.

Nobody has heard of the people and places of the made-up ones, so no model knows an answer by heart. All of it was
written for this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from .lines import read_lines

SENTENCES = (4, 8)
"""How many sentences a passage has: low and high, both included."""


@dataclass(frozen=True)
class Item:
    """A passage, a question on it, and all that counts as its answer."""

    context: str
    question: str
    answers: tuple[str, ...]


_STARTS = (
    "Bel",
    "Cor",
    "Dra",
    "Fen",
    "Gal",
    "Hos",
    "Jor",
    "Kel",
    "Lum",
    "Mar",
    "Nor",
    "Ost",
    "Pel",
    "Ruv",
    "Tam",
    "Vor",
)
_ENDS = ("ando", "brik", "dane", "essa", "gard", "ille", "mont", "nova", "otta", "ric", "stein", "ula", "vik", "wen")
_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "purple", "golden", "silver", "grey")
_THINGS = ("lantern", "violin", "kettle", "compass", "umbrella", "ladder", "clock", "basket", "mirror", "trumpet")
_ANIMALS = ("goats", "parrots", "horses", "turtles", "falcons", "rabbits", "donkeys", "owls", "foxes", "geese")
_PLACES = (
    "under the bridge", "behind the mill", "in the cellar", "near the harbour", "above the bakery", "beside the well",
    "on the roof", "in the old tower",
)  # fmt: skip
_RELATIONS = (
    ("{} was born in {town}.", "Where was {} born?", "{town}"),
    ("{} married {person} in the spring.", "Whom did {} marry?", "{person}"),
    ("The secret code of {} is {code}.", "What is the secret code of {}?", "{code}"),
    ("{} owns a {colour} {thing}.", "What does {} own?", "a {colour} {thing}"),
    ("The house of {} stands {place}.", "Where does the house of {} stand?", "{place}"),
    ("{} keeps {number} {animals}.", "How many animals does {} keep, and of which kind?", "{number} {animals}"),
    ("The boat of {} is called {ship}.", "What is the boat of {} called?", "{ship}"),
    ("{} moved to {town} in {year}.", "When did {} move?", "{year}"),
    ("The best friend of {} is {person}.", "Who is the best friend of {}?", "{person}"),
    ("{} studied in {town} for years.", "Where did {} study?", "{town}"),
)  # fmt: skip


def items(count: int, seed: int = 0) -> list[Item]:
    """So many passages, each with one question; the same for the same seed."""
    return [_item(Random(f"{seed}/{number}")) for number in range(count)]


def read_items(path: str | Path) -> list[Item]:
    """The user's own: JSON lines with `context`, `question` and `answers` (a list of texts).

    Raises:
        CalibrationMissing: there is no such file.
        CalibrationInvalid: it holds nothing, or a line says something else; names the line.
    """
    example = '{"context": "", "question": "", "answers": [""]}'
    return read_lines(path, _read, example, "context and question, texts, and answers, a list of texts; none empty")


def _read(held: Mapping[str, Any]) -> Item | None:
    context, question, answers = (held.get(name) for name in ("context", "question", "answers"))
    texts = [context, question, *(answers if isinstance(answers, list) and answers else [None])]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return None
    return Item(str(context), str(question), tuple(str(text) for text in texts[2:]))


def _item(rng: Random) -> Item:
    size = rng.randint(*SENTENCES)
    told, asked = [], []
    for _ in range(size):
        said, question, answer = rng.choice(_RELATIONS)
        name, parts = _name(rng), _parts(rng)
        told.append(said.format(name, **parts))
        asked.append(Item("", question.format(name), (answer.format(**parts),)))
    chosen = rng.choice(asked)
    return Item(" ".join(told), chosen.question, chosen.answers)


def _word(rng: Random) -> str:
    return rng.choice(_STARTS) + rng.choice(_ENDS)


def _name(rng: Random) -> str:
    return f"{_word(rng)} {_word(rng)}"


def _parts(rng: Random) -> dict[str, str]:
    letters = "".join(rng.choice("BCDFGHKLMNPRSTVXZ") for _ in range(3))
    return {
        "town": _word(rng),
        "person": _name(rng),
        "code": f"{letters}-{rng.randint(100, 999)}",
        "colour": rng.choice(_COLOURS),
        "thing": rng.choice(_THINGS),
        "place": rng.choice(_PLACES),
        "number": str(rng.randint(2, 99)),
        "animals": rng.choice(_ANIMALS),
        "ship": f"the {rng.choice(_COLOURS).title()} {rng.choice(_THINGS).title()}",
        "year": str(rng.randint(1801, 1999)),
    }
