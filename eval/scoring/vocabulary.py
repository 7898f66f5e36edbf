"""Object words in captions: a closed vocabulary, a tokeniser and a singulariser that need no language library.

This is the *portable* dialect of CHAIR. It gives the classes that both published scripts (NLTK with
``pattern.en``, and NLTK with WordNet) give wherever they agree, and it differs from each of them where they differ
from each other. Scores of different dialects move by up to a point, so results carry the name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from .coco_words import COCO_CLASSES, COCO_DOUBLE_WORDS, COCO_DROPPED_BESIDE
from .errors import ScoringError

VARIANT = "portable"

_STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_CHUNK = re.compile(r"\S+")
_CUT = re.compile(r'(\.{3,}|--+|[;!?()\[\]{}"]|[,:](?!\d))')
_OUTER = "'`*"
_CONTRACTION = re.compile(r"(.+?)('s|'re|'ve|'ll|'d|'m|n't)", re.IGNORECASE)

_IRREGULAR = MappingProxyType(
    {
        "men": "man",
        "women": "woman",
        "people": "person",
        "children": "child",
        "geese": "goose",
        "mice": "mouse",
        "knives": "knife",
        "calves": "calf",
        "oxen": "ox",
        "vases": "vase",
    }
)
_SUFFIXES = (
    ("ies", "y"),
    ("ves", "f"),
    ("ves", "fe"),
    ("sses", "ss"),
    ("shes", "sh"),
    ("ches", "ch"),
    ("xes", "x"),
    ("ses", "s"),
    ("oes", "o"),
    ("s", ""),
)


class Token(NamedTuple):
    """A lower-cased token; the caption's characters ``start:end`` are what it was read from."""

    text: str
    start: int
    end: int


class Word(NamedTuple):
    """A word after merging; it was read from the tokens ``start:end``."""

    text: str
    start: int
    end: int


class Mention(NamedTuple):
    """An object word of a caption.

    Attributes:
        word: The word as the vocabulary lists it, such as ``"puppy"``.
        cls: Its class, such as ``"dog"``.
        start, end: Its tokens, ``tokenize(caption)[start:end]``.
        char_start, char_end: Its characters, ``caption[char_start:char_end]``.
    """

    word: str
    cls: str
    start: int
    end: int
    char_start: int
    char_end: int


class Reading(NamedTuple):
    """What a caption says: its object mentions and its length in words after merging, punctuation included."""

    mentions: list[Mention]
    length: int


def tokenize(caption: str) -> list[Token]:
    """Split a caption into lower-cased tokens with their places.

    Splits on white space, cuts out ``, ; : ! ? ( ) [ ] { } " -- ...`` and endings such as ``'s`` as tokens of
    their own, strips outer quotes, backticks and asterisks, and makes final stops one token. Hyphens and slashes
    inside a word stay, so ``bird/plane`` is one token that matches nothing, as in the published scripts.
    """
    text = caption.translate(_STRAIGHT)
    return [token for chunk in _CHUNK.finditer(text) for token in _split_chunk(text, *chunk.span())]


@dataclass(frozen=True)
class Vocabulary:
    """A closed list of classes and their words.

    Attributes:
        name: Name for results, such as ``"coco"``.
        classes: ``{class: words}``; the class itself need not be repeated among its words.
        double_words: ``{"two words": word}``: pairs of singular tokens that are read as one word. Entries of
            ``classes`` with a blank in them are only found if they are listed here.
        dropped_beside: ``{word: other}``: a caption that has both loses every mention of ``word``.

    Raises:
        ScoringError: There is no class, a word is empty or belongs to two classes, or a double word is not two
            words.
    """

    variant: ClassVar[str] = VARIANT
    """The dialect, as results carry it."""

    name: str
    classes: Mapping[str, tuple[str, ...]]
    double_words: Mapping[str, str] = field(default_factory=dict)
    dropped_beside: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.classes:
            raise ScoringError(f"The vocabulary {self.name!r} has no class.", "List at least one.")
        owner: dict[str, str] = {}
        for cls, words in self.classes.items():
            for word in (cls, *words):
                if not word or owner.setdefault(word, cls) != cls:
                    raise ScoringError(
                        f"The word {word!r} of class {cls!r} is empty or belongs to {owner.get(word)!r} too.",
                        "Give each word to one class.",
                    )
        for pair in self.double_words:
            if not all(pair.split(" ")) or len(pair.split(" ")) < 2:
                raise ScoringError(f"The double word {pair!r} is not two words.", "Separate them by a blank.")

    @classmethod
    def of(cls, name: str, classes: Mapping[str, Iterable[str]] | Iterable[str]) -> "Vocabulary":
        """A vocabulary of ``{class: other words}``, or of classes alone; two-word entries are found as such.

        Raises:
            ScoringError: As the class itself, or an entry has more than two words.
        """
        lists = classes if isinstance(classes, Mapping) else dict.fromkeys(classes, ())
        lowered = {entry.lower(): tuple(word.lower() for word in words) for entry, words in lists.items()}
        every = [word for entry, words in lowered.items() for word in (entry, *words)]
        for word in every:
            if len(word.split(" ")) > 2:
                raise ScoringError(f"The entry {word!r} has more than two words.", "Only pairs are merged.")
        return cls(name, lowered, {word: word for word in every if len(word.split(" ")) == 2})

    @cached_property
    def class_of(self) -> Mapping[str, str]:
        """``{word: class}`` for every word of every class, the class names among them."""
        return {word: cls for cls, words in self.classes.items() for word in (cls, *words)}

    @cached_property
    def _parts(self) -> frozenset[str]:
        """Words that a plural may come down to: one-word entries and the parts of double words."""
        single = {word for word in self.class_of if " " not in word}
        return frozenset(single | {part for pair in self.double_words for part in pair.split(" ")})

    def singular(self, token: str) -> str:
        """The singular of a lower-cased token if the vocabulary knows it, else the token unchanged.

        An entry or a part of a double word stays as it is (``skis``, ``people``, ``glass``); then come irregular
        plurals; then the first suffix rule whose result is an entry or a part of a double word.
        """
        if token in self._parts:
            return token
        if _IRREGULAR.get(token) in self._parts:
            return _IRREGULAR[token]
        for plural, singular in _SUFFIXES:
            stem = token.removesuffix(plural) + singular
            if token.endswith(plural) and stem in self._parts:
                return stem
        return token

    def words(self, singular: Sequence[str]) -> list[Word]:
        """Singular words, one for each token, with double words merged; each with the tokens it was read from."""
        merged: list[Word] = []
        place = 0
        while place < len(singular):
            single, pair = singular[place], " ".join(singular[place : place + 2])
            width = 2 if pair in self.double_words else 1
            merged.append(Word(self.double_words.get(pair, single), place, place + width))
            place += width
        return merged

    def read(self, caption: str) -> Reading:
        """The object mentions of a caption, in order and with repeats, and its length in words."""
        tokens = tokenize(caption)
        return self.found(tokens, [self.singular(token.text) for token in tokens])

    def found(self, tokens: Sequence[Token], singular: Sequence[str]) -> Reading:
        """What `read` gives, from tokens and the singular of each."""
        words = self.words(singular)
        said = {word.text for word in words}
        kept = [word for word in words if self.dropped_beside.get(word.text) not in said]
        mentions = [
            Mention(text, self.class_of[text], start, end, tokens[start].start, tokens[end - 1].end)
            for text, start, end in kept
            if text in self.class_of
        ]
        return Reading(mentions, len(words))


def _split_chunk(text: str, start: int, end: int) -> Iterator[Token]:
    """Tokens of one run of characters without white space."""
    for piece in _CUT.split(text[start:end]):
        place, start = start, start + len(piece)
        if _CUT.fullmatch(piece):
            yield Token(piece, place, start)
        elif piece:
            yield from _split_piece(piece, place)


def _split_piece(piece: str, place: int) -> Iterator[Token]:
    """Tokens of a piece without cut marks: the word, its contraction, its final stop."""
    begin = len(piece) - len(piece.lstrip(_OUTER))
    core = piece[begin:].rstrip(_OUTER + ".")
    stop = piece.find(".", begin + len(core))
    place_of_core = place + begin
    contraction = _CONTRACTION.fullmatch(core)
    for part in contraction.groups() if contraction else [core]:
        if part:
            yield Token(part.lower(), place_of_core, place_of_core + len(part))
        place_of_core += len(part)
    if stop >= 0:
        yield Token(".", place + stop, place + stop + 1)


def _coco() -> Vocabulary:
    lines = COCO_CLASSES.replace("\n  ", " ").splitlines()
    entries = (line.partition(":") for line in lines)
    classes = {
        cls: tuple(word.strip().replace("␣", " ") for word in words.split(",") if word.strip())
        for cls, _, words in entries
    }
    pairs = (line.partition(" -> ") for line in COCO_DOUBLE_WORDS.splitlines())
    return Vocabulary("coco", classes, {pair: word or pair for pair, _, word in pairs}, COCO_DROPPED_BESIDE)


COCO = _coco()
