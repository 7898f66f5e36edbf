"""The *opera* dialect of CHAIR: object words as OPERA's script finds them, with NLTK.

Lower-cased captions are cut into tokens by Punkt and Treebank's rules, tagged as a whole, and each token is brought to
the WordNet lemma of its part of speech; pairs of words are merged, and what the vocabulary lists is counted, as in the
portable dialect. So verbs can become objects ("is seated" is a seat, and a chair), and some plurals are missed
("vases" becomes "vas"): the script's own answers, on which published figures rest. Needs NLTK and its data
(`nltk_words`).

Source: OPERA (Huang et al., CVPR 2024), ``chair.py``, after the port of Rohrbach et al.'s script to Python 3.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

from . import nltk_words
from .errors import unknown_name
from .vocabulary import VARIANT, Reading, Token, Vocabulary

OPERA = "opera"
_QUOTES = ("``", "''")
_QUOTE_MARKS = ('"', "``", "''", "\u201c", "\u201d")


@dataclass(frozen=True)
class OperaVocabulary(Vocabulary):
    """A vocabulary whose words are found as OPERA's script finds them.

    Raises:
        ScoringError: from `read`: NLTK or its data are missing.
    """

    variant: ClassVar[str] = OPERA

    def read(self, caption: str) -> Reading:
        """As `Vocabulary.read`; the length counts NLTK's tokens, merged."""
        text = lowered(caption)
        said = nltk_words.tokens(text)
        return self.found(placed(said, text), nltk_words.lemmas(said))


def lowered(text: str) -> str:
    """The text in lower case, character by character, so that places stay what they are."""
    return "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)


def placed(tokens: Iterable[str], text: str) -> list[Token]:
    """NLTK's tokens with their places in the text; it writes quotation marks in its own way."""
    found, start = [], 0
    for token in tokens:
        marks = _QUOTE_MARKS if token in _QUOTES else (token,)
        at, mark = min(((at, mark) for mark in marks if (at := text.find(mark, start)) >= 0), default=(start, ""))
        found.append(Token(token, at, start := at + len(mark)))
    return found


DIALECTS: dict[str, type[Vocabulary]] = {VARIANT: Vocabulary, OPERA: OperaVocabulary}
"""How words of captions are read, by the names that results carry."""


def in_dialect(vocabulary: Vocabulary, name: str) -> Vocabulary:
    """The same words, read in another dialect.

    Raises:
        ScoringError: there is no such dialect.
    """
    if name not in DIALECTS:
        raise unknown_name("dialect", name, DIALECTS)
    return DIALECTS[name](**{field.name: getattr(vocabulary, field.name) for field in fields(vocabulary)})
