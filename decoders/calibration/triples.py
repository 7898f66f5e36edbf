"""Questions with a right and a wrong answer: made up here, or the user's own. All of it was written for this.

A made-up passage says the same kind of thing of two to four people whom nobody has heard of; the right answer is what
it says of the one who is asked about, the wrong one what it says of another. So only the passage tells them apart.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .importance import Triple
from .lines import read_lines

if TYPE_CHECKING:
    from ...models.adapter import Adapter


@dataclass(frozen=True)
class Question:
    """A text to go on with.

    Attributes:
        context: passage and question, up to where the answer begins.
        correct: right continuation, with the blank it begins with.
        wrong: wrong ones; that with the most nearly as many tokens as the right one is taken.
    """

    context: str
    correct: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class _Relation:
    says: str
    asks: str
    values: tuple[str, ...]


_FIRST = (
    "Orla", "Tibor", "Maren", "Casimir", "Ione", "Lucan", "Petra", "Anselm", "Sunniva", "Ravi", "Yara", "Fintan",
    "Delia", "Marek", "Noor", "Elio",
)  # fmt: skip
_LAST = (
    "Tenwick", "Farrow", "Oduya", "Halvorsen", "Brack", "Castellan", "Imre", "Lowell", "Quennell", "Sato", "Varga",
    "Whitlock", "Zeller", "Abernathy", "Moreau", "Kask",
)  # fmt: skip
_RELATIONS = (
    _Relation(
        "{} works as a {}.",
        "What does {} work as?",
        ("baker", "lawyer", "sailor", "teacher", "painter", "carpenter", "nurse", "pilot", "farmer", "butcher"),
    ),
    _Relation(
        "{} lives in {}.",
        "Where does {} live?",
        ("Lisbon", "Oslo", "Cairo", "Vienna", "Toronto", "Dublin", "Prague", "Lima", "Kyoto", "Athens"),
    ),
    _Relation(
        "The favourite colour of {} is {}.",
        "What is the favourite colour of {}?",
        ("red", "blue", "green", "yellow", "purple", "orange", "black", "white", "brown", "pink"),
    ),
    _Relation(
        "{} plays the {}.",
        "Which instrument does {} play?",
        ("piano", "violin", "flute", "guitar", "trumpet", "cello", "harp", "drums", "organ", "clarinet"),
    ),
    _Relation(
        "{} was born in the year {}.",
        "In which year was {} born?",
        ("1902", "1911", "1924", "1937", "1946", "1953", "1968", "1975", "1981", "1990"),
    ),
)


def questions(count: int) -> list[Question]:
    """Made-up passages with a question each; the first of them are the same whatever the count."""
    return [_passage(random.Random(number)) for number in range(count)]


def _passage(rng: random.Random) -> Question:
    relation, people = rng.choice(_RELATIONS), rng.randint(2, 4)
    names = [" ".join(pair) for pair in zip(rng.sample(_FIRST, people), rng.sample(_LAST, people), strict=True)]
    values, asked = rng.sample(relation.values, people), rng.randrange(people)
    told = " ".join(relation.says.format(name, value) for name, value in zip(names, values, strict=True))
    context = f"{told}\nQuestion: {relation.asks.format(names[asked])}\nAnswer:"
    wrong = [f" {value}" for place, value in enumerate(values) if place != asked]
    return Question(context, f" {values[asked]}", tuple(wrong))


def read_questions(path: str | Path) -> list[Question]:
    """The user's own: JSON lines with `context`, `correct` and `wrong` (a text, or a list of texts).

    Answers are taken letter by letter; one that follows a blank begins with it.

    Raises:
        CalibrationMissing: there is no such file.
        CalibrationInvalid: a line says something else; names it.
    """
    example = '{"context": "", "correct": "", "wrong": ""}'
    return read_lines(path, _read, example, "context, correct and wrong, texts, none empty; only wrong may be a list")


def _read(held: Mapping[str, Any]) -> Question | None:
    wrong = held.get("wrong")
    wrong = [wrong] if isinstance(wrong, str) else wrong
    texts = [held.get("context"), held.get("correct"), *(wrong if isinstance(wrong, list) and wrong else [None])]
    if not all(isinstance(text, str) and text for text in texts):
        return None
    context, correct, *others = (str(text) for text in texts)
    return Question(context, correct, tuple(others))


def tokenised(found: Iterable[Question], adapter: Adapter, processor: Any) -> list[Triple]:
    """Questions as token ids; contexts begin with what the tokenizer puts before every text.

    An answer is tokenised where it stands, after its context, so that its first token is the one that the model would
    have to choose; where the two would run together, by itself.
    """
    device = next(adapter.decoder.get_input_embeddings().parameters()).device
    triples = []
    for question in found:
        context = adapter.text_ids(question.context, processor, special=True)

        def answer(text: str, asked: Question = question, context: Sequence[int] = context) -> tuple[int, ...]:
            whole = adapter.text_ids(asked.context + text, processor, special=True)
            follows = whole[: len(context)] == context and len(whole) > len(context)
            return tuple(whole[len(context) :] if follows else adapter.text_ids(text, processor))

        correct = answer(question.correct)
        wrong = min(map(answer, question.wrong), key=lambda ids: abs(len(ids) - len(correct)))
        ids = torch.tensor([context], device=device)
        triples.append(Triple({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, correct, wrong))
    return triples


def tokens_per_word(found: Sequence[Question], adapter: Adapter, processor: Any) -> float:
    """How many tokens a word of these texts takes; infinite where the tokenizer does not know them all."""
    unknown = getattr(getattr(processor, "tokenizer", processor), "unk_token_id", None)
    ids = [adapter.text_ids(question.context, processor) for question in found]
    if any(unknown in each for each in ids):
        return float("inf")
    return sum(map(len, ids)) / sum(len(question.context.split()) for question in found)
