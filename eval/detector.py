"""What DAGCD's detector is measured on.

* `passages`: made-up passages in English;
* `facts`: the same in the world of facts, for a model that reads the words of no other;
* a file of the user's own, see `read_items`; what the model answers without the passage is left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..decoders.calibration import needles
from ..decoders.calibration.passages import Item, items, read_items
from ..decoders.calibration.triples import Question, tokens_per_word
from ..models import Loaded
from .errors import ConfigError
from .facts import knowledge, language, passages, world
from .inducing import READABLE

PASSAGES, FACTS = DATA = ("passages", "facts")
ITEMS = 300
"""How many questions are asked unless a number is given."""
SENTENCES = (3, 6)
"""How many sentences a passage of facts has: low and high, both included."""


def asked_items(loaded: Loaded, data: str | None, count: int | None) -> tuple[list[Item], dict[str, Any]]:
    """Passages with questions for a model, and where they are from.

    Args:
        loaded: model and processor.
        data: one of `DATA`, or a file; None: passages, or facts where the vocabulary holds the words of these alone.
        count: how many; None: `ITEMS`, or all of a file.

    Raises:
        ConfigError: neither one of these nor a file, or a file of fewer questions.
        CalibrationMissing, CalibrationInvalid: the file cannot be read.
    """
    data = data or usual(loaded)
    if data == PASSAGES:
        return items(count or ITEMS), {"data": data}
    if data == FACTS:
        about = {"data": data, "split": "validation", "world": knowledge.world_hash()}
        return facts(count or ITEMS), about
    if not Path(data).suffix and not Path(data).exists():
        raise ConfigError(f"There is no data {data!r}.", f"Give {', '.join(DATA)}, or a file of JSON lines.")
    found = read_items(data)
    if count and count > len(found):
        raise ConfigError(f"{data!r} holds {len(found)} questions, and {count} are asked for.", "Set items=.")
    return found[:count], {"data": "file"}


def usual(loaded: Loaded) -> str:
    """What a model is asked unless something is given."""
    texts = {PASSAGES: needles.prose(2), FACTS: " ".join(item.context for item in facts(2))}
    for data, text in texts.items():
        if tokens_per_word([Question(text, "", ())], loaded.adapter, loaded.processor) <= READABLE:
            return data
    return PASSAGES


def facts(count: int) -> list[Item]:
    """Passages on validation's fresh subjects, and what they say of one of them."""
    return [_of_facts(number) for number in range(count)]


def _of_facts(number: int) -> Item:
    rng = world.generator("detector", number)
    target = passages.extending(rng, "validation", knowledge.pick(rng, world.RELATIONS))
    told = passages.surrounded(rng, "validation", target, int(rng.randint(SENTENCES[0], SENTENCES[1] + 1)))
    question = language.question(target.relation, target.subject, passages.way_of(rng))
    return Item(" ".join(sentence.text for sentence in told), question, (target.value,))
