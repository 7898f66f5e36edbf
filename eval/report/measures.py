"""The measures that a report knows: how each is called, set, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .text import interval, number


@dataclass(frozen=True)
class Measure:
    """One column of a leaderboard.

    Args:
        key: its name in `metrics.json`.
        label: its name for readers.
        meaning: one sentence.
        percent: shown times 100.
        digits: decimals shown.
        better: which way is better; None where neither is.
    """

    key: str
    label: str
    meaning: str = ""
    percent: bool = False
    digits: int = 3
    better: Literal["higher", "lower"] | None = None

    @property
    def heading(self) -> str:
        """The label with its unit."""
        return f"{self.label},\u00a0%" if self.percent else self.label

    @property
    def noun(self) -> str:
        """The label within a sentence."""
        return self.label.lower() if self.label in ("Accuracy", "Score", "Recall", "Length") else self.label

    @property
    def suffix(self) -> str:
        """The unit after a value in a sentence."""
        return "\u00a0%" if self.percent else ""

    @property
    def points(self) -> str:
        """The noun of a difference, with a blank before it."""
        return " points" if self.percent else ""

    def scaled(self, value: float) -> float:
        """The value in the unit that is shown."""
        return value * 100 if self.percent else value

    def show(self, value: float, signed: bool = False) -> str:
        """The value as it is printed."""
        return number(self.scaled(value), self.digits, signed)

    def show_interval(self, low: float, high: float, signed: bool = False) -> str:
        """The interval as it is printed."""
        return interval(self.scaled(low), self.scaled(high), self.digits, signed)

    def gain(self, difference: float) -> float:
        """The difference, positive where it is an improvement."""
        return -difference if self.better == "lower" else difference


def _percent(key: str, label: str, meaning: str, better: Literal["higher", "lower"] | None) -> Measure:
    return Measure(key, label, meaning, percent=True, digits=1, better=better)


_KNOWN = (
    _percent("accuracy", "Accuracy", "share of right answers", "higher"),
    _percent("em", "Exact match", "share of answers equal to a right answer", "higher"),
    _percent("subspan_em", "Contained", "share of answers that contain a right answer", "higher"),
    _percent("other_em", "From the other passage", "share of answers that are right in the other passage", "lower"),
    _percent("other_subspan_em", "Contains the other", "share of answers that contain it", "lower"),
    _percent("MC1", "MC1", "share of questions whose best answer beats every false one", "higher"),
    _percent("MC2", "MC2", "probability on the true answers", "higher"),
    _percent("MC3", "MC3", "share of true answers above the best false one", "higher"),
    Measure("margin", "Margin", "log-probability of the asked ending over the best other", digits=2, better="higher"),
    Measure("score", "Score", "100 acc + 100 acc+ in each subtask, added up", digits=1, better="higher"),
    _percent("acc", "acc", "share of right answers", "higher"),
    _percent("acc_plus", "acc+", "share of images with both questions right", "higher"),
    _percent("CHAIRs", "CHAIRs", "share of captions that name an absent object", "lower"),
    _percent("CHAIRi", "CHAIRi", "share of named objects that are not in the image", "lower"),
    _percent("recall", "Recall", "share of what is there that was said to be", "higher"),
    _percent("precision", "Precision", "share of what was said to be there that is", "higher"),
    _percent("f1", "F1", "harmonic mean of precision and recall", "higher"),
    Measure("auc", "AUC", "area under the ROC curve of the yes-no margin: no threshold", better="higher"),
    _percent("yes_ratio", "Yes-ratio", "share of answers that say yes", None),
    Measure("length", "Length", "mean words of a caption, punctuation included", digits=1),
    _percent("share_cut_off", "Cut off", "share of captions that hit the token limit", None),
    Measure("output_tokens", "Answer length", "mean tokens of an answer, end token included", digits=1),
    _percent("unparsed_rate", "Unparsed", "share of answers the strict parser cannot read as yes or no", "lower"),
)
MEASURES = {measure.key: measure for measure in _KNOWN}
MAIN = ("accuracy", "em", "MC2", "score", "CHAIRs", "CHAIRi", "f1")


def measure(key: str) -> Measure:
    """The measure of this name; one that is not known is shown under its own name, with three decimals."""
    return MEASURES.get(key) or Measure(key, key.replace("_", " "))


def ordered(keys: set[str]) -> list[Measure]:
    """Known measures in their order, then the others by name."""
    return [item for item in _KNOWN if item.key in keys] + [measure(key) for key in sorted(keys - MEASURES.keys())]


def main_measure(keys: set[str]) -> Measure:
    """The measure that decides the order of a leaderboard."""
    for key in MAIN:
        if key in keys:
            return MEASURES[key]
    return ordered(keys)[0]
