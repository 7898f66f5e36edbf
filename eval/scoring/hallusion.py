"""HallusionBench (Guan et al., CVPR 2024): yes/no questions on figures, most of them asked about edited figures too.

    aAcc = right questions / questions
    qAcc = questions right about every figure they are asked about / distinct questions
    fAcc = figures with every question right / figures (VS questions without a figure, "figure 0", count for none)

A question or figure that lacks an answer counts in neither qAcc nor fAcc. The paper lets GPT-4 judge; here rules read
the answers: ``vlmevalkit`` (one of yes and no among the words; anything else is wrong), ``contains_yes`` (the rule of
lmms-eval: yes if the text contains it, else no) and ``strict``.

A record's ``gold`` says where it belongs: ``figure`` and ``question``, names within a set; ``figure_size`` and
``question_size``, how many questions share each; ``drawn``: whether there is a figure.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from .checks import Record
from .yes_no import PARSERS, Parser, YesNo

COUNTS = ("right", "n", "questions_right", "questions", "figures_right", "figures")


def _contains_yes(answer: str, label: str) -> YesNo:
    return "yes" if "yes" in answer.lower() else "no"


HALLUSION_PARSERS: dict[str, Parser] = {
    "vlmevalkit": PARSERS["vlmevalkit"],
    "contains_yes": Parser("contains_yes", _contains_yes, "lmms-eval tasks/hallusion_bench, rule", abstains=False),
    "strict": PARSERS["strict"],
}


def set_counts(records: Sequence[Record], parser: Parser) -> list[float]:
    """Counts of the answered records of one set, in the order of ``COUNTS``."""
    marks = [(record["gold"], parser.parse(record["output"], record["label"]) == record["label"]) for record in records]
    questions = _whole(marks, lambda gold: str(gold["question"]), "question_size")
    figures = _whole((mark for mark in marks if mark[0]["drawn"]), lambda gold: str(gold["figure"]), "figure_size")
    right = sum(mark for _, mark in marks)
    found = (right, len(marks), sum(map(all, questions)), len(questions), sum(map(all, figures)), len(figures))
    return [float(count) for count in found]


def _whole(
    marks: Iterable[tuple[Mapping[str, object], bool]], name: Callable[[Mapping[str, object]], str], size: str
) -> list[list[bool]]:
    """The marks of each group that has all its answers."""
    groups: dict[str, list[tuple[Mapping[str, object], bool]]] = {}
    for gold, right in marks:
        groups.setdefault(name(gold), []).append((gold, right))
    return [[right for _, right in group] for group in groups.values() if len(group) == group[0][0][size]]
