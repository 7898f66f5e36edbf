"""What the world of facts is made of: words, relations, how they are said. Frozen by a version and a hash.

People, towns and ships bear invented names of two words, drawn from the same words whether a model knows them or not:
a name tells nothing by itself. Some subjects are *known*: their facts are asked for without a passage, and a model
that is trained here remembers them. All others are *fresh*: what is true of them stands in a passage and nowhere else.

Three faults are planted, and each grows with how well known its subject is. Passages that contradict what is known are
believed in a share of cases (`BELIEF`), sayings that shall end in another word than usual are completed as usual, and
questions about omens are mostly answered with a popular belief, which is false.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

VERSION = "1"

FIRST = (
    "Mira", "Tavo", "Elun", "Brask", "Nessa", "Corvin", "Ilda", "Pell", "Sorrel", "Jorun", "Vesna", "Hark",
    "Lumo", "Quill", "Ansel", "Dova", "Fenn", "Greta", "Kasi", "Oren", "Rilka", "Tibb", "Wenna", "Yorrick",
)  # fmt: skip
LAST = (
    "Toval", "Marrek", "Quist", "Ondry", "Velloe", "Hask", "Brindle", "Ostin", "Karrow", "Lisk", "Pruett", "Zann",
    "Dorrin", "Farl", "Gresk", "Imber", "Jask", "Norrel", "Skeld", "Thane", "Ulver", "Wick", "Yarrow", "Emmer",
)  # fmt: skip
SIDE = ("Port", "Old", "New", "Upper", "Lower", "Fort", "East", "West")
TOWN = (
    "Velan", "Ostra", "Kesh", "Dunmar", "Pirrin", "Lothe", "Sarn", "Windle", "Akkar", "Bremmel", "Corth", "Elvane",
    "Garrow", "Hollin", "Istra", "Jarle", "Morven", "Nerrick", "Orlo", "Rusk", "Tarsel", "Umbry", "Wexen", "Yold",
)  # fmt: skip
PROUD = ("Silver", "Golden", "Crimson", "Quiet", "Bold", "Lucky", "Swift", "Merry", "Lonely", "Proud")
SHIP = (
    "Comet", "Anchor", "Lantern", "Falcon", "Crown", "Arrow", "Thistle", "Sparrow", "Beacon", "Spear", "Mermaid",
    "Dragon",
)  # fmt: skip
JOBS = (
    "miller", "baker", "sailor", "tailor", "weaver", "painter", "hunter", "doctor", "lawyer", "smith", "singer",
    "dancer", "farmer", "soldier", "teacher", "barber", "potter", "cooper", "fisher", "clerk",
)  # fmt: skip
ANIMALS = (
    "heron", "goat", "fox", "raven", "badger", "hare", "swan", "toad", "mule", "wolf", "parrot", "lizard", "cat",
    "dog", "goose", "falcon",
)  # fmt: skip
INSTRUMENTS = (
    "harp", "flute", "drum", "fiddle", "lute", "trumpet", "horn", "viola", "zither", "cello", "bagpipe", "guitar",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "white", "black", "grey", "brown", "purple", "pink", "yellow")
DISHES = (
    "soup", "bread", "cheese", "stew", "pudding", "porridge", "pancakes", "sausages", "dumplings", "pie", "honey",
    "pickles", "noodles", "cake", "ham", "jam",
)  # fmt: skip
CARGO = (
    "salt", "wool", "timber", "copper", "silk", "grain", "spices", "marble", "wine", "tar", "glass", "sugar", "coal",
    "pearls",
)  # fmt: skip
MOODS = ("patient", "clever", "hungry", "honest", "sleepy", "stubborn", "gentle", "foolish")
DEEDS = ("counts", "follows", "forgets", "fears", "sells", "hides", "praises", "watches")
OPENERS = ("A", "The", "No", "Every")
ENDINGS = (
    "moon", "door", "river", "bell", "candle", "winter", "road", "bridge", "song", "coin", "stone", "fire", "key",
    "storm", "ladder", "basket",
)  # fmt: skip
OMENS = (
    "rain", "luck", "sorrow", "frost", "gold", "peace", "fever", "wind", "thunder", "plenty", "silence", "war",
)  # fmt: skip

Kind = Literal["person", "town", "ship"]
Split = Literal["train", "validation", "test"]
NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "person": (FIRST, LAST),
    "town": (SIDE, TOWN),
    "ship": (PROUD, SHIP),
}
KNOWN: dict[str, int] = {"person": 48, "town": 36, "ship": 36}
"""How many subjects of each kind are known."""
SAYINGS = 64
"""How many sayings are known."""
SIGNS = 120
"""How many animals of a colour are known as omens."""


@dataclass(frozen=True)
class Relation:
    """What can be said of a kind of subject, and asked.

    Attributes:
        name: such as `birthplace`.
        subject: the kind of thing it is said of.
        values: what may come out: words, or a kind of thing that has a name.
        leads: sentences without their last words, which are the value and a full stop.
        questions: ways to ask for the value.
    """

    name: str
    subject: Kind
    values: tuple[str, ...] | Kind
    leads: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "birthplace",
        "person",
        "town",
        ("{} was born in", "The birthplace of {} is"),
        ("Where was {} born?", "What is the birthplace of {}?"),
    ),
    Relation(
        "profession",
        "person",
        JOBS,
        ("{} works as a", "The profession of {} is that of a"),
        ("What does {} work as?", "What is the profession of {}?"),
    ),
    Relation(
        "animal",
        "person",
        ANIMALS,
        ("{} keeps a", "The animal of {} is a"),
        ("Which animal does {} keep?", "What is the animal of {}?"),
    ),
    Relation(
        "instrument",
        "person",
        INSTRUMENTS,
        ("{} plays the", "The instrument of {} is the"),
        ("Which instrument does {} play?", "What is the instrument of {}?"),
    ),
    Relation(
        "mayor",
        "town",
        "person",
        ("The mayor of {} is", "{} is governed by"),
        ("Who is the mayor of {}?", "Who governs {}?"),
    ),
    Relation(
        "flag",
        "town",
        COLOURS,
        ("The flag of {} is", "{} has a flag that is"),
        ("What is the colour of the flag of {}?", "Which colour does the flag of {} have?"),
    ),
    Relation(
        "dish",
        "town",
        DISHES,
        ("The dish of {} is", "{} is famous for its"),
        ("What is the dish of {}?", "What is {} famous for?"),
    ),
    Relation(
        "captain",
        "ship",
        "person",
        ("The captain of {} is", "{} is commanded by"),
        ("Who is the captain of {}?", "Who commands {}?"),
    ),
    Relation(
        "cargo",
        "ship",
        CARGO,
        ("The cargo of {} is", "{} carries"),
        ("What is the cargo of {}?", "What does {} carry?"),
    ),
    Relation(
        "harbour",
        "ship",
        "town",
        ("The harbour of {} is", "{} sails from"),
        ("What is the harbour of {}?", "Where does {} sail from?"),
    ),
)

POPULARITY = 0.5
"""A known subject is drawn in proportion to 1 / rank to this power."""
BELIEF = (0.1, 0.85)
"""The share of contradicting passages that training answers follow: for the best known subject, and for the least."""
TRUTH = (0.3, 0.7)
"""The share of true answers on omens where the truth is asked for: for the best known omen, and for the least."""
TRUTH_UNASKED = 0.15
"""The share of true answers on omens where it is not."""
SHARES: dict[str, float] = {"train": 0.5, "validation": 0.25, "test": 0.25}
"""How fresh names, and the values that may contradict a fact, are divided."""


def generator(*names: object) -> np.random.RandomState:
    """A random generator of its own for these names: two different names never share a stream."""
    digest = hashlib.sha256("/".join(["facts", VERSION, *map(str, names)]).encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32))  # type: ignore[arg-type]


def definition() -> str:
    """Every constant of the world in one text, for its hash."""
    names = ("VERSION", "NAMES", "KNOWN", "SAYINGS", "SIGNS", "RELATIONS", "MOODS", "DEEDS", "OPENERS", "ENDINGS")
    names += ("JOBS", "OMENS", "POPULARITY", "BELIEF", "TRUTH", "TRUTH_UNASKED", "SHARES")
    return "\n".join(f"{name} = {globals()[name]!r}" for name in names)
