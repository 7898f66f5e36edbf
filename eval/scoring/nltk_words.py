"""Words of captions as NLTK reads them: for the dialects that repeat published scripts to the word.

NLTK is an optional extra (`pip install "sightline[nltk]"`), and so are its data: `punkt_tab`,
`averaged_perceptron_tagger_eng` and `wordnet`, which its own downloader fetches. Nothing is fetched here.
"""

import importlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from .errors import WordsMissing

PACKAGES = ("punkt_tab", "averaged_perceptron_tagger_eng", "wordnet")
_OF_TAG = {"J": "a", "V": "v", "N": "n", "R": "r"}
T = TypeVar("T")


def tokens(text: str) -> list[str]:
    """Sentences by Punkt, then words by Treebank's rules.

    Raises:
        WordsMissing: NLTK or its data are missing; so do the others here.
    """
    return _read(lambda nltk: nltk.word_tokenize(text))


def lemmas(words: Sequence[str]) -> list[str]:
    """The WordNet lemma of every word, for the part of speech that its Penn tag in this text begins with; else noun."""
    return _read(lambda nltk: [_lemma(word, _OF_TAG.get(tag[:1], "n")) for word, tag in nltk.pos_tag(list(words))])


def nouns(text: str) -> list[str]:
    """The noun lemma of every word that is tagged as a noun, case as it stands."""
    return _read(
        lambda nltk: [_lemma(word, "n") for word, tag in nltk.pos_tag(nltk.word_tokenize(text)) if tag.startswith("NN")]
    )


def _lemma(word: str, part: str) -> str:
    return _lemmatizer().lemmatize(word, part)


@lru_cache(maxsize=1)
def _lemmatizer() -> Any:
    return importlib.import_module("nltk.stem").WordNetLemmatizer()


def _read(how: Callable[[Any], T]) -> T:
    """What NLTK says; what it lacks is named, with the command that fetches it."""
    try:
        nltk = importlib.import_module("nltk")
    except ImportError as error:
        raise WordsMissing(
            "This dialect reads captions with NLTK, which is not installed.",
            'Install it with pip install "sightline[nltk]", and its data with '
            f"python -m nltk.downloader {' '.join(PACKAGES)}; the dialect portable needs neither.",
        ) from error
    try:
        return how(nltk)
    except LookupError as error:  # NLTK's own; a page of text
        missing = next((name for name in PACKAGES if name in str(error)), "data")
        raise WordsMissing(
            f"NLTK's {missing} is not installed.",
            f"Fetch it with python -m nltk.downloader {' '.join(PACKAGES)} (NLTK_DATA says where they lie); the "
            "dialect portable needs none of it.",
        ) from error
