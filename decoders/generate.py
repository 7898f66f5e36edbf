"""`attach` and `generate`: one argument order everywhere, model, decoder, inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessorList, PreTrainedModel

from ..models.auto import adapter_for
from ..models.errors import InputsMismatch, SightlineError, UnsupportedMode
from .approximate import approximated
from .attachment import Attachment
from .branching import Branching
from .plan import Request
from .registry import build
from .stats import Stats
from .strategy import Strategy
from .tracing import TokenTrace


def attach(
    model: PreTrainedModel,
    decoder: Strategy | str,
    inputs: Mapping[str, Any],
    *,
    processor: Any = None,
    spans: Any = None,
    branching: Branching = "auto",
    approximate: float | None = None,
    trace: bool = False,
) -> Attachment:
    """Attach a decoder to a model for one `generate()`.

    Use it as a block; the value is a `LogitsProcessor` that goes into the list::

        with sightline.attach(model, sightline.VCD(alpha=1.0), inputs) as p:
            ids = model.generate(**inputs, logits_processor=[p], max_new_tokens=64)

    Args:
        model: as loaded by transformers; left as it is.
        decoder: a strategy, or its key for the defaults.
        inputs: what `generate()` gets: `input_ids` `[batch, length]`, padded on the left, `pixel_values`, ...
        processor: the model's own; strategies with text of their own need it.
        spans: which part of each prompt is context, for text strategies: the passage itself (a string, or several, for
            each row), columns `(start, end)`, or a mask `[batch, length]` of bool.
        branching: `rows` (branches in the base's forward), `sequential` (one forward each: less memory at a time, the
            same tokens), or `auto`, which is `rows`.
        approximate: None decodes as the method says. A probability: rows whose base gives a token that much keep the
            base's scores at that step; another decoder, with tokens of its own (`Approximate`).
        trace: keep what the decoder does at each step in `attachment.tracer`; greedy has a trace too.

    Raises:
        SightlineError: whatever the strategy lacks, before the first forward, with advice (see `models.errors`).
    """
    if not hasattr(model, "generate"):
        raise SightlineError(
            f"The arguments are model, decoder, inputs; the first one is a {type(model).__name__}.",
            "Give the model as transformers loads it.",
        )
    strategy, adapter = approximated(as_strategy(decoder), approximate), adapter_for(model)
    request = Request(Given(inputs), adapter, processor, spans=spans)
    return Attachment(adapter, strategy, request, branching, trace=trace)


class Given(dict[str, Any]):
    """Attached inputs; to ask for one that was not given is a declared error."""

    def __missing__(self, name: str) -> Any:
        """Raise `InputsMismatch`."""
        raise InputsMismatch(
            f"The attached inputs hold no {name!r}.",
            "Attach with all that the processor returns; generate() may be given inputs_embeds of the same prompt.",
        )


def as_strategy(decoder: Strategy | str) -> Strategy:
    """A strategy as given, or the one of a key with its defaults.

    Raises:
        UnknownDecoder: no such key.
        SightlineError: it is neither; arguments were given in another order.
    """
    strategy = build(decoder) if isinstance(decoder, str) else decoder
    if not isinstance(strategy, Strategy):
        raise SightlineError(
            f"The arguments are model, decoder, inputs; the second one is a {type(decoder).__name__}.",
            "Give a strategy such as sightline.VCD(), or a key such as 'vcd'.",
        )
    return strategy


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    decoder: Strategy | str,
    inputs: Mapping[str, Any],
    *,
    processor: Any = None,
    spans: Any = None,
    logits_processor: Any = None,
    branching: Branching = "auto",
    approximate: float | None = None,
    **kwargs: Any,
) -> Any:
    """`model.generate()` under a decoder, in one line.

    Args:
        model, decoder, inputs, processor, spans, branching, approximate: as for `attach`.
        logits_processor: the caller's own processors; they see contrasted scores.
        kwargs: everything else that `model.generate()` takes. The controls `greedy` and `sample` set `do_sample`.

    Returns:
        What `model.generate()` returns.

    Raises:
        UnsupportedMode: a mode of `generate()` that cannot be contrasted, before the first forward.
    """
    how: dict[str, Any] = {"processor": processor, "spans": spans, "branching": branching, "approximate": approximate}
    with attach(model, decoder, inputs, **how) as attachment:
        return _run(model, attachment, inputs, logits_processor, kwargs)


@dataclass(frozen=True, eq=False)
class Traced:
    """What `trace` gives.

    Attributes:
        output: what `model.generate()` returned.
        tokens: for each sequence, what was done at each of its new tokens, its end token included.
        stats: what it cost.
        branches: names of the branches, in the order of `Chances.branches`.
    """

    output: Any
    tokens: list[list[TokenTrace]]
    stats: Stats
    branches: tuple[str, ...] = ()


@torch.no_grad()
def trace(
    model: PreTrainedModel,
    decoder: Strategy | str,
    inputs: Mapping[str, Any],
    *,
    processor: Any = None,
    spans: Any = None,
    logits_processor: Any = None,
    branching: Branching = "auto",
    approximate: float | None = None,
    **kwargs: Any,
) -> Traced:
    """`generate`, and what the decoder did at each token: probabilities, cut, gate, and attention on the image.

    The tokens are those of `generate`. Every strategy, and greedy, can be traced; each step is read back to the CPU.

    Args:
        model, decoder, inputs, processor, spans, logits_processor, branching, approximate, kwargs: as for `generate`.
    """
    how: dict[str, Any] = {"processor": processor, "spans": spans, "branching": branching, "approximate": approximate}
    with attach(model, decoder, inputs, **how, trace=True) as attachment:
        output = _run(model, attachment, inputs, logits_processor, kwargs)
    sequences = output if isinstance(output, torch.Tensor) else output.sequences
    assert attachment.tracer is not None
    names = tuple(branch.name for branch in attachment.plan.branches)
    return Traced(output, attachment.tracer.traces(sequences), attachment.stats, names)


def _run(
    model: PreTrainedModel,
    attachment: Attachment,
    inputs: Mapping[str, Any],
    logits_processor: Any,
    kwargs: dict[str, Any],
) -> Any:
    if kwargs.get("custom_generate") is not None and not attachment.plan.is_neutral:
        raise UnsupportedMode(
            f"{attachment.strategy.key} cannot be combined with custom_generate.",
            "Leave it out, or decode with the control 'greedy'.",
        )
    if attachment.strategy.mode is not None:
        kwargs.setdefault("do_sample", attachment.strategy.mode == "sample")
    processors = LogitsProcessorList([attachment, *(logits_processor or [])])
    run: Any = model.generate
    return run(**inputs, logits_processor=processors, **kwargs)
