"""Parsers of yes/no answers, named by the script whose rule they keep.

The public scripts disagree on the same answers, so a yes/no score means nothing without its parser's name.
Every parser here has one interface, ``parse(answer, label)``, and one result: the prediction that the script
counts, ``"yes"``, ``"no"`` or None where it finds neither.

==============  =========================================================================================
pope_official   POPE ``evaluate.py`` (LLaVA's ``eval_pope`` is the same): text before the first full stop,
                commas deleted, split on blanks; no if a token is ``No``, ``no`` or ``not``, else yes
opera           OPERA and AvisC: stops and commas deleted; no if a token is ``No no not NO`` or ends with
                ``n't``, else yes
vcd             VCD: a yes label is met if ``yes`` is a substring, a no label if ``no`` is ("know" counts);
                whatever misses its label counts as the opposite answer
lmms_eval       lmms-eval: the whole answer, lower-cased and stripped, must equal the label
vlmevalkit      VLMEvalKit: VQA punctuation rule, then yes iff there is a token ``yes`` and none ``no``, no iff
                the reverse
strict          ours, three classes: the leading word decides, or else the words of the first sentence
==============  =========================================================================================

The rules are kept with their faults (the empty answer is a yes for pope_official). They do not strip: the
scorers do, as the scripts that wrote the answer files did.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .errors import unknown_name

YesNo = Literal["yes", "no"]
Rule = Callable[[str, str], YesNo | None]

_VQA_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_FREE_STOP = re.compile(r"\.(?!\d)")

_MARKDOWN = str.maketrans("", "", "*_`~#")
_STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_SENTENCE_END = re.compile(r"[.!?。](?=\s|$)|\n")
_LEADING_YES = frozenset({"yes", "yeah", "yep"})
_LEADING_NO = frozenset({"no", "nope", "nah"})
_NEGATIONS = frozenset({"no", "not", "cannot", "none"})


@dataclass(frozen=True)
class Parser:
    """A rule that turns an answer into a prediction.

    Attributes:
        name: The dialect's name, as results carry it.
        rule: ``(answer, label) -> "yes" | "no" | None``.
        source: The script whose rule it is.
        needs_label: Whether the prediction depends on the gold label (vcd only).
        abstains: Whether the rule ever answers None.
    """

    name: str
    rule: Rule
    source: str
    needs_label: bool = False
    abstains: bool = True

    def parse(self, answer: str, label: str) -> YesNo | None:
        """The prediction that this dialect counts for ``answer``; None = neither yes nor no.

        Args:
            answer: The text to parse, as the model gave it.
            label: The gold label, ``"yes"`` or ``"no"``; only a parser with ``needs_label`` looks at it.
        """
        return self.rule(answer, label)


def _pope_official(answer: str, label: str) -> YesNo:
    tokens = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(tokens) else "yes"


def _opera(answer: str, label: str) -> YesNo:
    tokens = answer.replace(".", "").replace(",", "").split(" ")
    negative = {"No", "no", "not", "NO"} & set(tokens) or any(token.endswith("n't") for token in tokens)
    return "no" if negative else "yes"


def _vcd(answer: str, label: str) -> YesNo:
    text = answer.lower()
    if label == "yes":
        return "yes" if "yes" in text else "no"
    return "no" if "no" in text else "yes"


def _lmms_eval(answer: str, label: str) -> YesNo | None:
    text = answer.lower().strip()
    return text if text in ("yes", "no") else None


def vqa_words(text: str) -> list[str]:
    """The words of ``text`` under the VQA punctuation rule.

    A mark that touches a blank somewhere is deleted everywhere, any other mark becomes a blank; a comma between
    digits makes every mark go. Stops go unless a digit follows. Colons, quotes and asterisks stay.
    """
    deletes_all = _DIGIT_COMMA_DIGIT.search(text) is not None
    cleaned = text
    for mark in _VQA_MARKS:
        deletes = deletes_all or f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if deletes else " ")
    return _FREE_STOP.sub("", cleaned).split()


def _vlmevalkit(answer: str, label: str) -> YesNo | None:
    words = vqa_words(answer.lower())
    if ("yes" in words) == ("no" in words):
        return None
    return "yes" if "yes" in words else "no"


def _strict(answer: str, label: str) -> YesNo | None:
    text = unicodedata.normalize("NFKC", answer).translate(_STRAIGHT).translate(_MARKDOWN).lower()
    words = _WORD.findall(text)
    if not words:
        return None
    if words[0] in _LEADING_YES or words == ["y"]:
        return "yes"
    if words[0] in _LEADING_NO or words == ["n"]:
        return "no"
    start = _WORD.search(text)
    first = _SENTENCE_END.split(text[start.start() :] if start else text)[0]
    said = _WORD.findall(first)
    affirms = "yes" in said
    denies = any(word in _NEGATIONS or word.endswith("n't") for word in said)
    if affirms == denies:
        return None
    return "yes" if affirms else "no"


PARSERS: dict[str, Parser] = {
    parser.name: parser
    for parser in (
        Parser("pope_official", _pope_official, "POPE evaluate.py", abstains=False),
        Parser("opera", _opera, "OPERA pope_eval.py", abstains=False),
        Parser("vcd", _vcd, "VCD eval_pope.py", needs_label=True, abstains=False),
        Parser("lmms_eval", _lmms_eval, "lmms-eval tasks/pope"),
        Parser("vlmevalkit", _vlmevalkit, "VLMEvalKit YOrN_Extraction"),
        Parser("strict", _strict, "Sightline"),
    )
}


def get_parser(parser: str | Parser) -> Parser:
    """The parser of that name; a ``Parser`` is handed back as it is.

    Raises:
        ScoringError: No parser has that name.
    """
    if isinstance(parser, Parser):
        return parser
    if parser not in PARSERS:
        raise unknown_name("yes/no parser", parser, PARSERS)
    return PARSERS[parser]
