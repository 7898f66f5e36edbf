"""AMBER (Wang et al., arXiv 2311.07397): yes/no questions on existence, attributes and relations, and captions.

Source: the benchmark's ``inference.py`` (534babf). **Discriminative**: the positive class is *no*, as a model that
hallucinates says yes too often:

    accuracy = right / n        precision = right no / answers that are no        recall = right no / labels that are no
    F1 = 2 right no / (answers no + labels no)

Only the exact answers ``Yes`` and ``No`` count under ``amber``; anything else is wrong and neither.

**Generative**: the nouns of a caption that the association table knows, held against the words that are true of the
image and those that models are known to make up. A noun is fine if it is a safe word, true, or associated with
something true; every other one is hallucinated:

    CHAIR = hallucinated / nouns            Hal = captions with a hallucinated noun / captions
    Cover = true words mentioned / true words           Cog = listed inventions mentioned / listed ones

A word is mentioned if it or something associated with it is; what is fine is no invention. The script also takes nouns
for equal whose spaCy vectors (``en_core_web_lg``) are close; that is left out here, so CHAIR is higher and Cover lower
than the published ones. Dialects say how nouns are found: ``portable`` takes any word of the table, in singular or
plural, and needs no library; ``nltk`` keeps what NLTK's tagger calls a noun, case as it stands, as the script does.

``*_published`` round as the script does (percent, one decimal, denominators from 0.001).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from .nltk_words import nouns as nltk_nouns
from .vocabulary import Vocabulary
from .yes_no import PARSERS, Parser, YesNo

PARTS = ("existence", "state", "number", "action", "relation")
SUMMED = {"attribute": ("state", "number", "action"), "all": PARTS}
TYPES = {
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
"""Type in ``annotations.json`` -> part."""
GENERATIVE = "generative"
COUNTS = ("right", "right_no", "said_no", "label_no", "n")
CAPTION_COUNTS = ("hallucinated", "nouns", "covered", "truth", "bad", "captions", "cog", "listed")
_START = 0.001


def _exact(answer: str, label: str) -> YesNo | None:
    return {"Yes": "yes", "No": "no"}.get(answer)  # type: ignore[return-value]


AMBER_PARSERS: dict[str, Parser] = {
    "amber": Parser("amber", _exact, "AMBER inference.py"),
    **{name: PARSERS[name] for name in ("strict", "pope_official", "vlmevalkit")},
}


class Answered(NamedTuple):
    """Counts of yes/no answers, in the order of ``COUNTS``."""

    right: int
    right_no: int
    said_no: int
    label_no: int
    n: int


@dataclass(frozen=True)
class Associations:
    """AMBER's lists.

    Attributes:
        table: word -> words that may stand for it.
        safe: words that are never held against a caption.
    """

    table: Mapping[str, Sequence[str]]
    safe: frozenset[str] = frozenset()

    @cached_property
    def words(self) -> frozenset[str]:
        """All words that are looked for."""
        return frozenset(self.table) | {word for words in self.table.values() for word in words}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The same for the portable reader: each word a class of its own, pairs of words found as pairs."""
        short = {word for word in self.words if len(word.split(" ")) <= 2}
        pairs = {word: word for word in short if " " in word}
        return Vocabulary("amber", dict.fromkeys(sorted(short), ()), pairs)

    def means(self, word: str) -> frozenset[str]:
        """The words that mention this one."""
        return frozenset((word, *self.table.get(word, ())))


def portable_nouns(caption: str, lists: Associations) -> list[str]:
    """The words of the table in a caption, in order, in the singular."""
    return [mention.word for mention in lists.vocabulary.read(caption).mentions]


def tagged_nouns(caption: str, lists: Associations) -> list[str]:
    """The nouns that NLTK finds in a caption, those of the table only.

    Raises:
        ScoringError: NLTK or its data are missing.
    """
    return [noun for noun in nltk_nouns(caption) if noun in lists.words]


NOUNS: dict[str, Callable[[str, Associations], list[str]]] = {"portable": portable_nouns, "nltk": tagged_nouns}


def read_nouns(
    nouns: Iterable[str], truth: Sequence[str], listed: Sequence[str], lists: Associations
) -> dict[str, Any]:
    """What the nouns of one caption say of its image.

    Args:
        nouns: of the caption; those that the table does not know are left out.
        truth: words that are true of the image.
        listed: words that models are known to make up for it.
        lists: associations and safe words.

    Returns:
        ``nouns``: the kept ones; ``hallucinated``: those of them that are; ``covered`` and ``cog``: words of ``truth``
        and of ``listed`` that were mentioned.
    """
    kept = [noun for noun in nouns if noun in lists.words]
    true = {word: lists.means(word) for word in dict.fromkeys(truth)}
    fine = lists.safe.union(*true.values())
    said, wrong = set(kept) - lists.safe, [noun for noun in kept if noun not in fine]
    return {
        "nouns": kept,
        "hallucinated": wrong,
        "covered": [word for word, ways in true.items() if ways & said],
        "cog": [word for word in dict.fromkeys(listed) if lists.means(word) & set(wrong)],
    }


def caption_counts(read: Mapping[str, Any], truth: Sequence[str], listed: Sequence[str]) -> list[float]:
    """One caption's counts in the order of ``CAPTION_COUNTS``."""
    wrong = len(read["hallucinated"])
    found = [wrong, len(read["nouns"]), len(read["covered"]), len(set(truth)), wrong > 0, 1, len(read["cog"])]
    return [float(count) for count in (*found, len(set(listed)))]


def answer_counts(answers: Iterable[tuple[YesNo | None, str]]) -> Answered:
    """Counts of pairs of a parsed answer and a label."""
    pairs = list(answers)
    no = [pair for pair in pairs if pair[0] == "no"]
    return Answered(
        right=sum(said == label for said, label in pairs),
        right_no=sum(label == "no" for _, label in no),
        said_no=len(no),
        label_no=sum(label == "no" for _, label in pairs),
        n=len(pairs),
    )


def captions_published(sums: Sequence[float]) -> dict[str, float]:
    """CHAIR, Cover, Hal and Cog as the script prints them, from count sums in the order of ``CAPTION_COUNTS``."""
    wrong, nouns, covered, truth, bad, captions, cog, listed = sums
    return {
        "CHAIR": _percent(wrong, nouns + _START),
        "Cover": _percent(covered, truth + _START),
        "Hal": round(100 - _percent(captions - bad, captions + _START), 1),
        "Cog": _percent(cog, listed + _START),
    }


def answers_published(counts: Mapping[str, Answered]) -> dict[str, dict[str, float]]:
    """Accuracy, Precision, Recall and F1 of every table as the script prints them.

    Args:
        counts: part -> counts; parts that were not asked are left out.
    """
    found = {part: _published(own, _START, _START if part == "existence" else 0.0001) for part, own in counts.items()}
    for table, parts in SUMMED.items():
        own = [counts[part] for part in parts if part in counts]
        if own:
            start = _START if table == "all" else _START * len(own)
            found[table] = _published(Answered(*(sum(each) for each in zip(*own, strict=True))), start, 0.0001)
    return found


def _published(counts: Answered, start: float, end: float) -> dict[str, float]:
    precision = _percent(counts.right_no, counts.said_no + start)
    recall = _percent(counts.right_no, counts.label_no + start)
    return {
        "Accuracy": _percent(counts.right, counts.n + start),
        "Precision": precision,
        "Recall": recall,
        "F1": round(2 * precision * recall / (precision + recall + end), 1),
    }


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 1)
