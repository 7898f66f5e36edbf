"""How much attention heads matter for an answer: activation times gradient (HICD's measure, see its spec).

For a context of n tokens and a continuation of m, with A the outputs of all heads of a layer before its output
projection and G the gradient of the continuation's mean negative log-likelihood with respect to them:

    I[l, h] = sum over texts and tokens of | sum over the head's dimensions of A * G |

divided by the tokens of all texts (norm `uniform`), or in the last layer by those of the continuations alone (norm
`reference`, as the code that was published; only these have a gradient there). Heads of the last layer then stand out
by (n + m - 1) / m, and after short answers to long contexts they leave room for few others: `uniform` is the default.

No parameter gets a gradient, and the graph begins at the first layer's head outputs: the price of a forward and of a
backward over activations. Sums are kept in float32 at least.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...models.errors import InvalidParameter, UnsupportedModel
from ..contrast import widen
from ..scoring import extended
from .errors import CalibrationFailed
from .inducing import Importance
from .ranking import fingerprint

if TYPE_CHECKING:
    from ...models.adapter import Adapter

NORMS = ("uniform", "reference")
LOUD = 2.0**12
"""Half-precision gradients are made from a loss this much larger, or they would vanish."""


@dataclass(frozen=True, eq=False)
class Triple:
    """A question with a right and a wrong answer.

    Attributes:
        inputs: model inputs of the context, one row, without padding.
        correct, wrong: token ids of the answers.
    """

    inputs: Mapping[str, Any]
    correct: tuple[int, ...]
    wrong: tuple[int, ...]


def contributions(
    outputs: Float[Tensor, "batch tokens width"], gradients: Float[Tensor, "batch tokens width"], heads: int
) -> Float[Tensor, " heads"]:
    """For each head of a layer the sum over tokens of |sum over its dimensions of activation * gradient|."""
    each = (_wide(outputs) * _wide(gradients)).unflatten(-1, (heads, -1)).sum(dim=-1)
    return each.abs().sum(dim=(0, 1))


def normalised(
    totals: Float[Tensor, "layers heads"], tokens: int, answered: int, norm: str
) -> Float[Tensor, "layers heads"]:
    """Sums made comparable.

    Args:
        totals: of `contributions` over all texts.
        tokens: of all texts, the last one of each aside, for nothing is predicted from it.
        answered: of all continuations.
        norm: `uniform` or `reference`.
    """
    found = totals / tokens
    if norm == "reference":
        found[-1] = totals[-1] / answered
    return found


def measure(
    adapter: Adapter,
    triples: Sequence[Triple],
    *,
    norm: str = "uniform",
    name: str = "",
    settings: Mapping[str, Any] | None = None,
    track: Callable[[Sequence[Triple]], Iterable[Triple]] = iter,
) -> Importance:
    """Measure how much each head of a model matters for right answers, and for wrong ones to the same questions.

    Args:
        adapter: of the model, which is left as it was: gradients asked for, training mode, hooks.
        triples: questions with two answers each.
        norm: `uniform` or `reference`.
        name: of the model, kept in the file.
        settings: how the triples were made, kept in the file.
        track: gives the triples back one by one, for a progress bar.

    Raises:
        InvalidParameter: there is no such norm.
        CalibrationFailed: there is no triple, an answer is empty, or a gradient is not finite.
        UnsupportedModel: a layer's head outputs cannot be read.
    """
    if norm not in NORMS:
        raise InvalidParameter(f"inducing: norm must be one of {', '.join(NORMS)}, got {norm!r}.")
    if not triples or not all(triple.correct and triple.wrong for triple in triples):
        raise CalibrationFailed("There is no triple, or an answer has no token.", "Give context, correct and wrong.")
    totals = [torch.zeros(adapter.layers, adapter.heads) for _ in range(2)]
    tokens, answered, digest = [0, 0], [0, 0], hashlib.sha256()
    for triple in track(triples):
        _digest(digest, triple)
        for place, ids in enumerate((triple.correct, triple.wrong)):
            scores, length = head_scores(adapter, triple.inputs, ids)
            totals[place] = totals[place] + scores
            tokens[place] += length
            answered[place] += len(ids)
    parts = [normalised(totals[at], tokens[at], answered[at], norm) for at in range(2)]
    if not all(part.isfinite().all() for part in parts):
        raise CalibrationFailed("A gradient is not finite.", "Measure in float32: model.dtype=float32.")
    correct, wrong = (tuple(tuple(float(f"{each:.6g}") for each in row) for row in part.tolist()) for part in parts)
    kept = dict(settings or {})
    return Importance(name, correct, wrong, norm, len(triples), digest.hexdigest(), kept, fingerprint(adapter))


def head_scores(
    adapter: Adapter, inputs: Mapping[str, Any], ids: Sequence[int]
) -> tuple[Float[Tensor, "layers heads"], int]:
    """`contributions` of every layer for one continuation, on the CPU, and how many tokens were read."""
    device = inputs["input_ids"].device
    run: Any = adapter.model
    keeps = "logits_to_keep" in inspect.signature(run.forward).parameters
    with listening(adapter) as heard:
        answer = torch.tensor(ids, device=device)
        call = extended(inputs, answer[None, :-1])
        logits = run(**call, use_cache=False, **({"logits_to_keep": len(ids)} if keeps else {})).logits
        loss = nn.functional.cross_entropy(widen(logits[0, -len(ids) :]), answer.to(logits.device))
        outputs = [heard[layer] for layer in sorted(heard)]
        if len(outputs) != adapter.layers:
            raise UnsupportedModel("A layer never calls its output projection.", "Report this model family to us.")
        loud = LOUD if outputs[0].dtype == torch.float16 else 1.0
        gradients = torch.autograd.grad(loss * loud, outputs)
    pairs = zip(outputs, gradients, strict=True)
    found = [contributions(output.detach(), gradient, adapter.heads).cpu() / loud for output, gradient in pairs]
    return torch.stack(found), outputs[0].shape[1]


@contextmanager
def listening(adapter: Adapter) -> Iterator[dict[int, Tensor]]:
    """Inside, a forward leaves what enters each layer's output projection, all in one graph that begins with the first.

    The model is in evaluation mode, and its parameters take no gradient; afterwards flags, modes and hooks are as they
    were, also after an exception.

    Raises:
        UnsupportedModel: a layer has no output projection of a known name.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in adapter.model.parameters()]
    modes = [(module, module.training) for module in adapter.model.modules()]
    heard: dict[int, Tensor] = {}

    def listen(layer: int) -> Callable[..., tuple]:
        def hear(_module: nn.Module, args: tuple) -> tuple:
            output = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            heard[layer] = output
            return (output, *args[1:])

        return hear

    with ExitStack() as stack, torch.inference_mode(False), torch.enable_grad():
        stack.callback(_restore, flags, modes)
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        adapter.model.eval()
        for layer, module in enumerate(adapter.attention_modules()):
            stack.callback(_projection(module).register_forward_pre_hook(listen(layer)).remove)
        yield heard


def _projection(attention: nn.Module) -> nn.Module:
    for name in ("o_proj", "out_proj"):
        if isinstance(found := getattr(attention, name, None), nn.Module):
            return found
    raise UnsupportedModel(
        f"{type(attention).__name__} has no output projection of a known name.",
        "Give a list of heads in a file of your own.",
    )


def _restore(flags: list[tuple[nn.Parameter, bool]], modes: list[tuple[nn.Module, bool]]) -> None:
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    for module, training in modes:
        module.training = training


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _digest(into: Any, triple: Triple) -> None:
    """Add all that a model is given to a hash, whatever device it lies on."""
    into.update(json.dumps([triple.correct, triple.wrong]).encode())
    for name, value in sorted(triple.inputs.items()):
        if isinstance(value, Tensor):
            kept = value.detach().cpu()
            kept = kept.float() if kept.is_floating_point() else kept
            into.update(name.encode() + json.dumps(list(kept.shape)).encode() + kept.contiguous().numpy().tobytes())
