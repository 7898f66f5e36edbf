"""Short answers held against lists of right ones: exact match and sub-span match, as SQuAD and NQ-Swap count them.

Only the first line of an answer is read. Both sides are normalised: lower case, no ASCII punctuation, no a/an/the,
single blanks. An exact match is an equal text, a sub-span match a right answer that is contained in the text.

    from sightline.eval.scoring.short_answers import exact_match
    exact_match("The Anna Paquin.", ["Anna Paquin"])   # True

Departure: a right answer that normalises to nothing (such as "the") matches no answer; in the reference code it is
contained in every one. Source: the evaluation code of DeCoRe (NQ-Swap), after SQuAD's official script.
"""

import re
import string
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The text as it is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def first_line(text: str) -> str:
    """What of an answer counts: its first line, blank lines before it left out."""
    return text.lstrip().split("\n", 1)[0]


def exact_match(output: str, answers: Sequence[str]) -> bool:
    """Whether the first line is one of the answers."""
    said = normalise(first_line(output))
    return any(said == wanted for wanted in map(normalise, answers) if wanted)


def subspan_match(output: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers is contained in the first line."""
    said = normalise(first_line(output))
    return any(wanted in said for wanted in map(normalise, answers) if wanted)
