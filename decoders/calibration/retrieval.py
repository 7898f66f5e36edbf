"""Retrieval heads: the heads that look at the very token that is about to be copied from the context.

Needle copying as in Wu et al. (arXiv 2404.15574), as DeCoRe uses it. A fact is hidden in prose, the model is asked for
it, and its answer is generated greedily. At every step, with w the token that this forward emits and j the key that
the newest query row of a head attends to most: the head scores 1 / (tokens of the answer in the needle) if j lies in
the hidden answer and the token there is w. A trial counts only if the answer came; a head's score is its mean.

Departures from the reference detector: everything is assembled in token space, so the answer's place is exact; sentence
ends are found from the text of tokens and not from one tokenizer's ids; word overlap is taken without a stemmer. Mode
`forced` feeds the true answer instead of the model's own, for models that look at the right place and cannot say it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ...models.errors import InvalidParameter
from ...models.versions import CACHE
from .errors import CalibrationFailed
from .needles import NEEDLES, Needle, prose
from .probing import probing
from .ranking import HeadRanking, fingerprint, rank

if TYPE_CHECKING:
    from ...models.adapter import Adapter
    from ...models.attention import LayerState

RECALL = 0.5
"""A trial counts if more than this share of the answer's words is in the response."""


@dataclass(frozen=True)
class Detection:
    """How retrieval heads are looked for.

    Args:
        lengths: of prompt and response together, in tokens.
        depths: where the needle is hidden, in percent of the context.
        max_new_tokens: of the response.
        mode: `generated` (the model answers; trials that fail do not count) or `forced` (it is fed the answer).
    """

    lengths: tuple[int, ...] = (1000, 2000, 4000)
    depths: tuple[int, ...] = (0, 25, 50, 75, 100)
    max_new_tokens: int = 50
    mode: Literal["generated", "forced"] = "generated"

    def __post_init__(self) -> None:
        rules = (
            ("lengths", bool(self.lengths) and min(self.lengths) > 0, "numbers of tokens"),
            ("depths", bool(self.depths) and all(0 <= depth <= 100 for depth in self.depths), "percentages"),
            ("max_new_tokens", self.max_new_tokens >= 1, ">= 1"),
            ("mode", self.mode in ("generated", "forced"), "generated or forced"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise InvalidParameter(f"detection: {name} must be {rule}, got {getattr(self, name)!r}.")


@dataclass(frozen=True)
class Trial:
    """One prompt with a hidden fact.

    Attributes:
        ids: the prompt.
        span: first position of the hidden answer, and the first one after it.
        answer: what is hidden, as text.
    """

    ids: tuple[int, ...]
    span: tuple[int, int]
    answer: str


def detect(
    adapter: Adapter,
    tokenizer: Any,
    settings: Detection | None = None,
    *,
    name: str = "",
    needles: Sequence[Needle] = NEEDLES,
    story: Callable[[int], str] = prose,
    track: Callable[[list[Trial]], Iterable[Trial]] = iter,
) -> HeadRanking:
    """Rank the heads of a model by how much they copy from the context.

    Args:
        adapter: of the model; for image-text models its text decoder is measured, without an image.
        tokenizer: the model's, or its processor.
        settings: lengths, depths and mode.
        name: of the model, kept in the file.
        needles: facts to hide.
        story: from a number of sentences to prose that hides them.
        track: gives the trials back one by one, for a progress bar.

    Raises:
        InvalidParameter: a prompt is too short for its needle, or longer than the model reads.
        CalibrationFailed: no trial was answered.
    """
    settings = settings or Detection()
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    _check_length(adapter, settings)
    trials = [
        build_trial(tokenizer, needle, length, depth, settings.max_new_tokens, story)
        for length in settings.lengths
        for depth in settings.depths
        for needle in needles
    ]
    scores = [score for trial in track(trials) if (score := run_trial(adapter, tokenizer, trial, settings)) is not None]
    if not scores:
        raise CalibrationFailed(
            f"The model answered none of {len(trials)} trials, so its copying shows no heads.",
            "Use shorter prompts (lengths=...), or feed it the answers (mode=forced).",
        )
    kept = {**asdict(settings), "needles": len(needles), "trials": len(trials), "trials_kept": len(scores)}
    ranked = rank(torch.stack(scores).mean(dim=0))
    return HeadRanking("retrieval", name, adapter.layers, adapter.heads, ranked, kept, fingerprint(adapter))


def build_trial(
    tokenizer: Any, needle: Needle, length: int, depth: int, reserve: int, story: Callable[[int], str] = prose
) -> Trial:
    """The prompt of `length - reserve` tokens that hides a needle at `depth` percent of its context.

    Raises:
        InvalidParameter: not one token of context would fit.
    """

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    start = [tokenizer.bos_token_id] if _starts_with_bos(tokenizer) else []
    lead, answer, end = encode(f" {needle.lead}"), encode(f" {needle.answer}"), encode(".")
    asked = encode(f"\nBased on the content of the book, Question: {needle.question}\nAnswer:")
    room = length - reserve - len(start) - len(lead) - len(answer) - len(end) - len(asked)
    if room < 1:
        shortest = length - room + 1
        raise InvalidParameter(
            f"detection: a prompt of {length} tokens has no room for a needle.", f"Use lengths of {shortest} and more."
        )
    sentences = 8
    while len(context := encode(story(sentences))) < room:
        sentences *= 2
    context = context[:room]
    ends = {token for token in set(context) if str(tokenizer.decode([token])).rstrip().endswith(".")}
    at = insertion_index(context, depth, ends)
    first = len(start) + at + len(lead)
    ids = (*start, *context[:at], *lead, *answer, *end, *context[at:], *asked)
    return Trial(ids, (first, first + len(answer)), needle.answer)


def insertion_index(context: Sequence[int], depth: int, ends: Collection[int]) -> int:
    """Where a needle goes: at `depth` percent, then left until a sentence ends before it; at 100 percent, the end."""
    at = len(context) if depth == 100 else int(len(context) * depth / 100)
    while depth < 100 and at and context[at - 1] not in ends:
        at -= 1
    return at


def run_trial(adapter: Adapter, tokenizer: Any, trial: Trial, settings: Detection) -> Tensor | None:
    """Scores `[layers, heads]` of one trial; None if the model did not give the answer."""
    begin, end = trial.span
    forced = list(trial.ids[begin:end]) if settings.mode == "forced" else None
    device = next(adapter.decoder.parameters()).device
    columns, cache = torch.tensor([trial.ids], device=device), None
    said: list[int] = []
    total = torch.zeros(adapter.layers, adapter.heads)
    with probing(adapter) as states:
        while len(said) < (settings.max_new_tokens if forced is None else len(forced)):
            call: Any = adapter.owner
            out = call(input_ids=columns, **{CACHE: cache}, use_cache=True, logits_to_keep=1)
            cache = out[CACHE]
            token = int(out.logits[0, -1].argmax()) if forced is None else forced[len(said)]
            looked = most_attended(states, len(trial.ids) + len(said))
            total += copied(looked.cpu(), torch.tensor(trial.ids), trial.span, token) / (end - begin)
            said.append(token)
            if forced is None and _stops(adapter, tokenizer, token):
                break
            columns = torch.tensor([[token]], device=device)
    if forced is None and recall(trial.answer, str(tokenizer.decode(said))) <= RECALL:
        return None
    return total


def most_attended(states: Sequence[LayerState], length: int) -> Int[Tensor, "layers heads"]:
    """The position that the newest query row of every head attends to most, in a text of `length` tokens."""
    found = []
    for state in states:
        assert state.reading is not None
        keys = state.reading.shape[-1]
        found.append(state.reading[0].argmax(dim=-1) + (length - keys))  # a window has dropped the first ones
    return torch.stack(found)


def copied(
    looked: Int[Tensor, "layers heads"], ids: Int[Tensor, " length"], span: tuple[int, int], token: int
) -> Bool[Tensor, "layers heads"]:
    """Which heads looked into `span` at the token that was emitted."""
    inside = (looked >= span[0]) & (looked < span[1])
    return inside & (ids[looked.clamp(max=len(ids) - 1)] == token)


def recall(answer: str, response: str) -> float:
    """ROUGE-1 recall: the share of the answer's words that are in the response, each as often as it is there."""
    wanted, got = (Counter(re.findall(r"\w+", text.lower())) for text in (answer, response))
    return (wanted & got).total() / max(wanted.total(), 1)


def _stops(adapter: Adapter, tokenizer: Any, token: int) -> bool:
    ends = adapter.owner.generation_config.eos_token_id if adapter.owner.generation_config is not None else None
    return token in (ends if isinstance(ends, list) else [ends]) or "\n" in str(tokenizer.decode([token]))


def _starts_with_bos(tokenizer: Any) -> bool:
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos is not None and list(tokenizer.encode("a", add_special_tokens=True))[:1] == [bos]


def _check_length(adapter: Adapter, settings: Detection) -> None:
    longest, reads = max(settings.lengths), getattr(adapter.decoder.config, "max_position_embeddings", None)
    if reads is not None and longest > reads:
        raise InvalidParameter(
            f"detection: lengths must be at most {reads}, what this model reads, got {longest}.",
            f"Use lengths such as {reads // 2} and {reads}.",
        )
