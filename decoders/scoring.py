"""`score`: how likely given continuations are under a decoder, by teacher forcing."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from ..models.adapter import Adapter
from ..models.auto import adapter_for
from ..models.errors import InputsMismatch
from .attachment import Attachment
from .branching import Branching
from .generate import as_strategy
from .plan import Request
from .strategy import Strategy

Candidate = Tensor | Sequence[int] | Sequence[Sequence[int]]
"""Token ids of one continuation: the same for every prompt, or one for each prompt."""
_PER_TOKEN = ("token_type_ids", "mm_token_type_ids")


@torch.no_grad()
def score(
    model: PreTrainedModel,
    decoder: Strategy | str,
    inputs: Mapping[str, Any],
    candidates: Sequence[Candidate],
    *,
    processor: Any = None,
    spans: Any = None,
    normalise: bool = True,
    branching: Branching = "auto",
) -> Tensor:
    """Log-probabilities of given continuations under a decoder.

    One forward for each candidate, over prompt and continuation, without a cache; strategies that read or bias the
    newest token alone take one forward for each token. Every position counts as in generation, branches and cut
    included: a token that is cut has log-probability minus infinity.

    Args:
        model, decoder, inputs, processor, spans, branching: as for `attach`.
        candidates: for each its token ids, end tokens included where they shall count; all of them the same for every
            prompt (`[[5, 2], [9, 2]]`), or a list of one for each prompt in place of a candidate.
        normalise: make the decoder's scores log-probabilities at each position; False adds them up as they are.

    Returns:
        `[batch, candidates]`, at least float32.

    Raises:
        InputsMismatch: there is no candidate, or one is empty, or has not one continuation for each prompt.
        SightlineError: as `attach`.

    Source: the multiple-choice scores of DeCoRe's reference code (`normalise` is its `post_softmax`).
    """
    if not len(candidates):
        raise InputsMismatch("There is no candidate to score.", "Give a list of lists of token ids.")
    how: dict[str, Any] = {"processor": processor, "spans": spans, "branching": branching}
    found = []
    for candidate in candidates:
        scores, ids, lengths = continuation_scores(model, decoder, inputs, candidate, **how)
        found.append(added(scores.log_softmax(-1) if normalise else scores, ids, lengths))
    return torch.stack(found, dim=1)


@torch.no_grad()
def continuation_scores(
    model: PreTrainedModel,
    decoder: Strategy | str,
    inputs: Mapping[str, Any],
    candidate: Candidate,
    *,
    processor: Any = None,
    spans: Any = None,
    branching: Branching = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """What `score` adds up: the decoder's scores at every position of one candidate.

    Args:
        model, decoder, inputs, processor, spans, branching: as for `score`.
        candidate: its token ids, for all prompts or for each.

    Returns:
        Scores `[batch, length, vocab]`, at least float32, up to a constant at each position; the candidate's ids
        `[batch, length]`, with the last one repeated behind the shorter of them; and lengths `[batch]`.

    Raises:
        SightlineError: as `score`.
    """
    strategy, adapter = as_strategy(decoder), adapter_for(model)
    request = Request(dict(inputs), adapter, processor, True, spans)
    ids, lengths = _padded(candidate, inputs["input_ids"])
    return _scores(Attachment(adapter, strategy, request, branching), adapter, inputs, ids), ids, lengths


def added(
    scores: Float[Tensor, "batch length vocab"], ids: Int[Tensor, "batch length"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """The scores of `ids`, added up over the first `lengths` positions of each row."""
    each = scores.gather(-1, ids[..., None])[..., 0]
    counts = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    return each.masked_fill(~counts, 0.0).sum(dim=1)


def _padded(candidate: Candidate, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Ids `[batch, length]` with each row's last id repeated at its end, and lengths `[batch]`."""
    given: list[Any] = candidate.tolist() if isinstance(candidate, Tensor) else list(candidate)
    shared = not given or isinstance(given[0], int)
    rows: list[list[int]] = [given] * len(prompts) if shared else [list(row) for row in given]
    if len(rows) != len(prompts) or not all(rows):
        raise InputsMismatch(
            f"A candidate must hold token ids, or one list of them for each of {len(prompts)} prompts, got {given!r}.",
            "Give every candidate at least one token; tokenise it with add_special_tokens=False.",
        )
    longest = max(map(len, rows))
    ids = torch.tensor([row + row[-1:] * (longest - len(row)) for row in rows], device=prompts.device)
    return ids, torch.tensor([len(row) for row in rows], device=prompts.device)


def _scores(attachment: Attachment, adapter: Adapter, inputs: Mapping[str, Any], ids: Tensor) -> Tensor:
    """The decoder's scores at every position of a continuation, `[batch, length, vocab]`."""
    length = ids.shape[1]
    with attachment, _listening(adapter) as heard:
        if attachment.plan.is_stepwise:
            forcing: list[LogitsProcessor] = [attachment, _Forced(ids)]
            ends = {"eos_token_id": None, "max_new_tokens": length, "use_cache": True}
            _generate(adapter, dict(inputs), forcing, **ends)
        else:
            attachment.score_last(length)
            cuts = "logits_to_keep" in inspect.signature(adapter.owner.forward).parameters
            kept = {"logits_to_keep": length} if cuts else {}
            _generate(adapter, extended(inputs, ids[:, :-1], adapter.new_type), [attachment], use_cache=False, **kept)
    scores = torch.cat([logits[:, -length:] for logits in heard], dim=1)
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _generate(adapter: Adapter, inputs: dict[str, Any], processors: list[LogitsProcessor], **settings: Any) -> None:
    """`generate()` as the engine expects it; what it returns is of no use, what the owner's forward gave is heard."""
    run: Any = adapter.model.generate
    fixed = {"max_new_tokens": 1, "do_sample": False, "num_beams": 1, "num_return_sequences": 1}
    run(**inputs, logits_processor=LogitsProcessorList(processors), **(fixed | settings))


@contextmanager
def _listening(adapter: Adapter) -> Iterator[list[Tensor]]:
    """Keeps the logits that leave the owner inside the block: contrasted ones, for the engine's hook stands before."""
    heard: list[Tensor] = []
    handle = adapter.owner.register_forward_hook(lambda module, args, output: heard.append(output["logits"]))
    try:
        yield heard
    finally:
        handle.remove()


def extended(inputs: Mapping[str, Any], ids: Tensor, new_type: int = 0) -> dict[str, Any]:
    """Model inputs whose prompts go on with `ids` `[batch, length]`, tokens of type `new_type`."""
    prompt = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(prompt) if mask is None else mask
    grown = {"input_ids": torch.cat([prompt, ids], 1), "attention_mask": torch.cat([mask, mask.new_ones(ids.shape)], 1)}
    for name in _PER_TOKEN:
        if inputs.get(name) is not None:
            grown[name] = torch.cat([inputs[name], inputs[name].new_full(ids.shape, new_type)], 1)
    return {**inputs, **grown}


class _Forced(LogitsProcessor):
    """Lets nothing but the next given token through."""

    def __init__(self, ids: Tensor):
        self._ids = ids
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = self._ids[:, self._step, None]
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)
