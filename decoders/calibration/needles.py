"""What retrieval heads are found with: facts to hide, and prose to hide them in. All of it was written for this."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Needle:
    """A sentence with a fact, `lead + answer + "."`, and the question that only the sentence answers."""

    lead: str
    answer: str
    question: str


NEEDLES = (
    Needle(
        "The best thing to do in Marlow Green is to",
        "feed the grey geese under the stone bridge at noon",
        "What is the best thing to do in Marlow Green?",
    ),
    Needle(
        "The secret of Aunt Petra's plum cake is",
        "a spoon of black pepper and two cups of cold tea",
        "What is the secret of Aunt Petra's plum cake?",
    ),
    Needle(
        "The old lighthouse keeper hid his silver watch",
        "inside the hollow oak behind the second fishing hut",
        "Where did the old lighthouse keeper hide his silver watch?",
    ),
    Needle(
        "To start the machine in the cellar of the Hotel Verona one has to",
        "turn the green wheel twice and whistle an easy tune",
        "What does one have to do to start the machine in the cellar of the Hotel Verona?",
    ),
    Needle(
        "The winner of the kite race of Ostrava was",
        "a retired violin teacher with a yellow paper dragon",
        "Who was the winner of the kite race of Ostrava?",
    ),
    Needle(
        "The only animal that Doctor Lindqvist is afraid of is",
        "the tame white goat of his neighbour across the lane",
        "Which is the only animal that Doctor Lindqvist is afraid of?",
    ),
)

_WHEN = (
    "In the early spring", "Long before sunrise", "On most market days", "After the heavy rain", "During the harvest",
    "When the bells fell silent", "Late in the evening", "At the end of winter",
)  # fmt: skip
_WHO = (
    "the miller", "a young sailor", "the baker's daughter", "an old soldier", "the schoolmaster", "two brothers",
    "the ferryman", "a travelling clockmaker", "the widow next door", "a shy gardener", "the stable boy", "the judge",
)  # fmt: skip
_DID = (
    "carried a basket of apples", "repaired a wooden cart", "read a long letter aloud", "waited for the mail coach",
    "painted the window frames", "counted the sheep once more", "argued about the price of salt",
    "searched for a lost umbrella", "sang a song without words", "told a story about the sea",
)  # fmt: skip
_WHERE = (
    "by the river", "near the town gate", "in the narrow courtyard", "on the road to the coast", "behind the chapel",
    "under the chestnut trees", "at the edge of the forest", "beside the frozen pond", "in the back of the shop",
    "on the steps of the library",
)  # fmt: skip
_STRIDE = 4567
"""Prime to the number of sentences, so that neighbours have little in common and none comes twice."""


def prose(sentences: int) -> str:
    """The first sentences of a quiet, endless story. There are 9,600 different ones."""
    sizes = (len(_WHEN), len(_WHO), len(_DID), len(_WHERE))
    total = math.prod(sizes)
    told = []
    for number in range(sentences):
        place = number * _STRIDE % total
        parts = []
        for words in (_WHEN, _WHO, _DID, _WHERE):
            place, at = divmod(place, len(words))
            parts.append(words[at])
        told.append(f"{parts[0]} {parts[1]} {parts[2]} {parts[3]}.")
    return " ".join(told)
