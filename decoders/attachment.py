"""The engine: one model with one strategy attached for one `generate()`.

Branches enter as extra rows by a pre-hook on the text decoder and leave by a post-hook on the owner of the generate
loop, which hands contrasted logits on; generate's own processors then act on the contrast, as in the references. The
`LogitsProcessor` in the user's list vouches that every step was contrasted. docs/engine.md explains why there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor
from transformers.cache_utils import Cache

from ..models.adapter import Adapter
from ..models.attention import LayerState, installed
from ..models.errors import (
    AttachmentClosed,
    AttachmentError,
    AttachmentReused,
    InputsMismatch,
    NotContrasted,
    UnsupportedMode,
)
from .contrast import widen
from .rows import base_rows, join, reordering
from .strategy import HeadEdit, Plan, Request, Step, Strategy

_ATTACHED: WeakSet[nn.Module] = WeakSet()


@dataclass
class Stats:
    """What a generation cost. Plain decoding (nothing attached) is not counted.

    Attributes:
        encodes: forwards that only built a branch's embeddings (vision tower and projector).
        forwards: calls of the decoder.
        rows: rows summed over forwards.
        prompt_columns: columns of the prefill, times rows.
        tokens: tokens chosen, summed over base rows.
    """

    encodes: int = 0
    forwards: int = 0
    rows: int = 0
    prompt_columns: int = 0
    tokens: int = 0


class Attachment(LogitsProcessor):
    """A strategy at work on a model. Make it with `sightline.attach`; pass it in `logits_processor=[...]`.

    Attributes:
        strategy: as given.
        plan: what it asked for.
        stats: forwards, rows and tokens so far.
    """

    def __init__(self, adapter: Adapter, strategy: Strategy, request: Request):
        self.strategy = strategy
        self.stats = Stats()
        self.plan: Plan = strategy.prepare(request)
        self._adapter = adapter
        self._ids: Tensor | None = request.inputs.get("input_ids")
        self._prompts: list[Tensor | None] = []
        self._states: dict[int, LayerState] = {}
        self._stack = ExitStack()
        self._closed = False
        self._past = 0
        self._last_columns = 0
        self._rows = 0
        self._contrasted = 0
        self._vouched = 0
        self._cache: Cache | None = None
        if not self.plan.is_neutral:
            self._open(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        unvouched = self._contrasted > self._vouched and not self._closed
        self.close()
        if kind is None and unvouched:
            raise _not_passed()

    def close(self) -> None:
        """Take every hook, edit and cache row away again; the model is as before. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._stack.close()
        self._states.clear()
        self._prompts.clear()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Vouch that these scores `[batch, vocab]` are contrasted; they are returned as they came.

        Raises:
            AttachmentClosed: used outside its block.
            NotContrasted: the engine's hooks did not see this step.
        """
        if self._closed:
            raise AttachmentClosed(
                f"This {self.strategy.key} attachment is closed.",
                "Call generate() inside its block, or attach again.",
            )
        self.stats.tokens += scores.shape[0]
        if self.plan.is_neutral:
            return scores
        self._vouched += 1
        if self._contrasted != self._vouched:
            raise NotContrasted(
                f"{self.strategy.key}: step {self._vouched} did not pass through the engine's hooks.",
                "Generate with the model that was attached, uncompiled, without an assistant model or prompt lookup, "
                "and pass the processor once.",
            )
        return scores

    def _open(self, request: Request) -> None:
        decoder, owner = self._adapter.decoder, self._adapter.owner
        if decoder in _ATTACHED:
            raise AttachmentError(
                "This model has an open attachment already.", "Close it first: leave its block, or call its close()."
            )
        with ExitStack() as stack:
            _ATTACHED.add(decoder)
            stack.callback(_ATTACHED.discard, decoder)
            if self.plan.needs_attention:
                self._adapter.self_check()
                self._states = _layer_states(self._adapter, self.plan)
                modules = self._adapter.attention_modules()
                held = {modules[layer]: state for layer, state in self._states.items()}
                stack.enter_context(installed(self._adapter.decoder, held))
            for branch in self.plan.branches:
                self._prompts.append(
                    self._branch_prompt({**request.inputs, **branch.inputs}) if branch.inputs else None
                )
            stack.callback(self._release_cache)
            for handle in (
                owner.register_forward_pre_hook(_uncompiled(self._before_owner), with_kwargs=True),
                decoder.register_forward_pre_hook(_uncompiled(self._before_decoder), with_kwargs=True),
                owner.register_forward_hook(_uncompiled(self._after_owner)),
            ):
                stack.callback(handle.remove)
            self._stack = stack.pop_all()

    def _branch_prompt(self, inputs: Mapping[str, Any]) -> Tensor:
        self.stats.encodes += 1
        return self._adapter.decoder_inputs(inputs)["inputs_embeds"]

    @property
    def _streams(self) -> int:
        return 1 + len(self.plan.branches)

    def _before_owner(self, _module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
        if self.stats.forwards:
            return
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length() != 0:
            raise UnsupportedMode(
                f"{self.strategy.key}: the given past_key_values hold {cache.get_seq_length()} tokens already, and its "
                "branches would not know them.",
                "Pass the whole prompt without past_key_values.",
            )
        ids = kwargs.get("input_ids")
        if ids is None or self._ids is None:
            return
        times = ids.shape[0] // self._ids.shape[0]
        expected = self._ids.to(ids.device).repeat_interleave(max(times, 1), dim=0)
        chunk = expected[:, : ids.shape[1]]
        if chunk.shape != ids.shape or not torch.equal(chunk, ids):
            raise InputsMismatch(
                f"generate() was given input_ids of shape {list(ids.shape)} that are not those attached "
                f"({list(self._ids.shape)}).",
                "Attach with the same inputs that generate() gets.",
            )

    def _before_decoder(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if args:
            raise UnsupportedMode("The text decoder was called with positional arguments.", "Report this model family.")
        if self._contrasted > self._vouched:
            raise _not_passed()
        columns = kwargs["inputs_embeds"] if kwargs.get("inputs_embeds") is not None else kwargs["input_ids"]
        self._rows, q_len = columns.shape[:2]
        cache = kwargs.get("past_key_values")
        past = self._past if cache is not None else 0
        self._check_step(cache, q_len)
        joined = join(kwargs, self._prompts, past)
        if cache is not None and self._cache is None:
            self._take_cache(cache)
        self._past = past + q_len
        self._last_columns = q_len
        self.stats.forwards += 1
        self.stats.rows += self._rows * self._streams
        if past == 0:
            self.stats.prompt_columns += self._rows * self._streams * q_len
        return args, joined

    def _check_step(self, cache: Cache | None, q_len: int) -> None:
        """Refuse what would be silently wrong: a second prefill, several new tokens at once."""
        if self._cache is None and not self.stats.forwards:
            return
        if cache is not self._cache or (cache is None and q_len != self._last_columns + 1):
            raise AttachmentReused(
                f"This {self.strategy.key} attachment has served a generate() call already.",
                "Attach again for each call; one attachment serves one generate().",
            )
        if cache is not None and self._vouched and q_len > 1:
            raise UnsupportedMode(
                f"{self.strategy.key} was given {q_len} new tokens at once; assisted and prompt-lookup decoding "
                "cannot be contrasted.",
                "Generate without assistant_model and prompt_lookup_num_tokens.",
            )

    def _take_cache(self, cache: Cache) -> None:
        self._cache = cache
        if self._streams > 1:
            cache.reorder_cache = reordering(cache.reorder_cache, self._streams)

    def _release_cache(self) -> None:
        """Give the cache back with base rows alone, for a caller who keeps it."""
        cache, self._cache = self._cache, None
        if cache is None or self._streams == 1:
            return
        cache.__dict__.pop("reorder_cache", None)
        for layer in cache.layers:
            for name in ("keys", "values"):
                tensor = getattr(layer, name, None)
                if isinstance(tensor, Tensor) and tensor.shape[0] == self._rows * self._streams:
                    setattr(layer, name, tensor[: self._rows])

    def _after_owner(self, _module: nn.Module, _args: tuple, output: Any) -> Any:
        if self._states and not all(state.calls for state in self._states.values()):
            raise NotContrasted(
                "The attention function was changed while attached; edits and probes no longer act.",
                "Leave the attention implementation alone inside the block.",
            )
        logits = widen(output.logits[:, -1])
        base, *branches = logits.split(self._rows)
        step = Step(self._vouched, self._probes(), self.plan.context)
        contrasted = self.strategy.combine(base, branches, step)
        for name, value in output.items():
            if name != "past_key_values":
                output[name] = base_rows(value, self._rows)
        output["logits"] = contrasted[:, None]
        self._contrasted += 1
        return output

    def _probes(self) -> dict[int, Tensor]:
        return {layer: state.reading for layer, state in self._states.items() if state.reading is not None}


def _layer_states(adapter: Adapter, plan: Plan) -> dict[int, LayerState]:
    """One state per layer that is edited or probed."""
    streams = [plan.edits, *(branch.edits for branch in plan.branches)]
    states = {layer: LayerState(probe=True) for layer in plan.probes}
    for stream, edits in enumerate(streams):
        for edit in edits:
            state = states.setdefault(edit.layer, LayerState())
            _mark(state, edit, stream, (len(streams), adapter.heads))
    return states


def _mark(state: LayerState, edit: HeadEdit, stream: int, shape: tuple[int, int]) -> None:
    if getattr(state, edit.mode) is None:
        setattr(state, edit.mode, torch.zeros(shape, dtype=torch.bool))
    getattr(state, edit.mode)[stream, list(edit.heads)] = True


def _uncompiled(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook as torch.compile has to leave it: ordinary Python between graphs."""
    disable: Any = torch.compiler.disable
    return disable(hook)


def _not_passed() -> NotContrasted:
    return NotContrasted(
        "A step was generated without the attached processor in the list.",
        "Pass it: model.generate(**inputs, logits_processor=[processor]).",
    )
