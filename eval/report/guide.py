"""What a reader has to know to judge the tables; only what the tables at hand need."""

from __future__ import annotations

from collections.abc import Sequence

from ..compare_paired import AUC_RESAMPLES
from ..statistics import RESAMPLES
from .board import Section


def guide(found: Sequence[Section]) -> list[tuple[str, str]]:
    """Headings with one paragraph each."""
    parts = [
        (
            "Controls",
            "Controls change decoding without looking at the image again: plain greedy decoding and plain "
            "sampling, the plausibility cut alone, and a constant shift between yes and no. A strategy earns its "
            "name only where it beats the best of them. That control is picked by its value on these very data, "
            "which makes the comparison harder for the strategy, not easier.",
        )
    ]
    if any(section.yes_no for section in found):
        parts += _YES_NO
    if any(section.captions for section in found):
        parts += _CAPTIONS
    if any(section.subtasks for section in found):
        parts += _SUBTASKS
    parts += [
        (
            "Intervals",
            "All intervals are 95 % and treat the image as the unit of chance, since questions about one image "
            f"succeed and fail together. Differences are paired: images are resampled {RESAMPLES:,} times "
            f"({AUC_RESAMPLES:,} for the AUC) with all their questions, the same draw for both runs, on the samples "
            "that both answered.",
        ),
        (
            "Better, worse, no clear difference",
            "Better or worse is said only where the paired interval leaves out zero and, for a strategy's main "
            "measure, a sign-flip test over images stays below 5 % after Holm's correction for all strategy runs of "
            "the section. \u201cNo clear difference\u201d does not mean equal: the interval says how much is still "
            "possible.",
        ),
        (
            "Generation modes",
            "Decoders are compared within one generation mode, for a method that wins over sampling may only have "
            "undone the sampling. Greedy decoding and plain sampling are shown in every mode for reference.",
        ),
        (
            "Cost",
            "Time is this decoder over plain greedy generate(), timed in turns on the same requests in one process. "
            "Rows and forwards are counted, not timed; greedy decoding has one of each. Rows are those that went "
            "through the text decoder over those of plain decoding; forwards are calls of it for each position of a "
            "batch, so what a decoder does once for a batch (a description, a fork) weighs more the shorter the "
            "answers are.",
        ),
    ]
    return parts


_YES_NO = [
    (
        "Why the yes-ratio",
        "Models that hallucinate objects say yes too often. Whatever makes them say no more often raises accuracy "
        "on such questions, without any look at the image. A gain whose yes-ratio moves, and that a constant "
        "yes/no shift gives as well, is a shift of the threshold and not grounding.",
    ),
    (
        "Why the AUC",
        "The area under the ROC curve of the yes-no margin asks whether present objects get a larger margin than "
        "absent ones, whatever the threshold. A constant shift cannot change it. A strategy that grounds answers "
        "in the image can raise it; one that only shifts cannot.",
    ),
]
_CAPTIONS = [
    (
        "Why recall and length beside CHAIR",
        "Whoever says less hallucinates less. CHAIRs is the share of captions that name an absent object, CHAIRi the "
        "share of such words among all object words; both fall when captions get shorter. So the difference is shown "
        "again with both captions of every image cut to the words of the shorter one, and captions are scored cut to "
        "the length of greedy decoding's. A gain that is gone at the same length was one of length.",
    ),
]
_SUBTASKS = [
    (
        "acc, acc+ and score",
        "Each image of a subtask has two questions, one to be answered yes and one no. acc is the share of right "
        "answers, acc+ the share of images with both right; a subtask's score is 100 acc + 100 acc+, at most 200. "
        "Saying the same to everything gives 50. Images are drawn within the subtasks that ask about them.",
    ),
]
