"""The engine: one model with one strategy attached for one `generate()`.

Branches enter by a pre-hook on the text decoder and leave by a post-hook on the owner of the generate loop, which hands
contrasted logits on; generate's own processors then act on the contrast, as in the references. The `LogitsProcessor` in
the user's list vouches that every step was contrasted. docs/engine.md explains why there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import LogitsProcessor
from transformers.cache_utils import Cache

from ..models.adapter import Adapter
from ..models.attention import LayerState, installed
from ..models.errors import AttachmentClosed, AttachmentReused, NotContrasted, UnsupportedMode
from ..models.versions import CACHE
from .branching import Branching, choose
from .contrast import cut, widen
from .deferring import all_settled, deferrable
from .exits import Exits, uncompiled
from .guard import alone, check_cache, check_prompt, guarded, not_passed
from .in_rows import RowsRunner
from .layers import edited_vision, layer_states
from .plan import Branch, Plan, Request, Step
from .prefixes import prefilled_once
from .readings import base_probes, looked
from .refining import Refiner
from .rows import columns_of
from .runner import Runner, Stream
from .same_inputs import SameInputs
from .stats import Stats
from .strategy import Strategy
from .tracing import Moment, Tracer, traced


class Attachment(LogitsProcessor):
    """A strategy at work on a model. Make it with `sightline.attach`; pass it in `logits_processor=[...]`.

    Attributes:
        strategy: as given.
        plan: what it asked for.
        stats: forwards, rows and tokens so far.
        uncut: scores of the latest step before the cut, `[batch, vocab]`; None where nothing is contrasted.
        gates: for each step the rows in which the gate opened, `[rows]` of bool; under beams as they then stood.
        tracer: what it did at each step, where that was asked for, else None.
    """

    def __init__(
        self,
        adapter: Adapter,
        strategy: Strategy,
        request: Request,
        branching: Branching = "auto",
        *,
        trace: bool = False,
    ):
        kind = choose(branching, adapter.model.device, adapter.model.dtype)
        adapter.check_inputs(request.inputs)
        self.strategy = strategy
        self.stats = Stats()
        self.uncut: Tensor | None = None
        self.gates: list[Tensor] = []
        self._runner: Runner | None = None
        self._stack = ExitStack()
        self._states: dict[int, LayerState] = {}
        self._closed = False
        self._past = self._scored = self._last_columns = self._rows = 0
        self._contrasted = self._vouched = 0
        self._cache: Cache | None = None
        self._adapter = adapter
        with ExitStack() as stack:
            stack.enter_context(alone(adapter.decoder))  # what is prepared runs the model, too
            plan = self._prepared(request, adapter)
            check_prompt(plan, adapter, strategy.key)
            self.plan: Plan = traced(plan, adapter, request.inputs) if trace else plan
            self._acting = Strategy() if plan.is_neutral else strategy  # a trace of plain decoding asks no strategy
            self.tracer = Tracer(*request.inputs["input_ids"].shape, end=adapter.end_tokens) if trace else None
            self._attached = SameInputs(adapter, request.inputs, strategy.key, bool(plan.branches))
            self._context: dict[str, Any] = dict(self.plan.context)
            self._exits = Exits(adapter, self.plan.exits, strategy.key)
            if not self.plan.is_neutral:
                self._open(request, kind, stack)
                self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        unvouched = self._contrasted > self._vouched and not self._closed
        self.close()
        if kind is None and unvouched:
            raise not_passed()

    def close(self) -> None:
        """Take every hook, edit and cache row away again; the model is as before. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._stack.close()
        self._states.clear()
        self.uncut = None
        self._runner = None

    @property
    def focus(self) -> float | None:
        """Share of rows and steps in which the gate opened; None without a gate.

        Rows that are done count on until the whole batch is: look at `gates` for less.
        """
        return float(torch.stack(self.gates).double().mean()) if self.gates else None

    def score_last(self, positions: int) -> None:
        """Contrast that many last positions of one forward over the prompt and tokens that follow it (`scoring`)."""
        self._scored = positions
        if self._runner is not None:
            self._runner.columns = positions

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Vouch that these scores `[batch, vocab]` are contrasted; they are returned as they came.

        Raises:
            AttachmentClosed: used outside its block.
            NotContrasted: the engine's hooks did not see this step.
        """
        if self._closed:
            raise AttachmentClosed(
                f"This {self.strategy.key} attachment is closed.", "Call generate() inside its block, or attach again."
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
        if self.tracer is not None:
            self.tracer.chose(input_ids)
        return scores

    def _prepared(self, request: Request, adapter: Adapter) -> Plan:
        """The strategy's plan; what it runs for it (a description) is counted."""
        handle = adapter.decoder.register_forward_pre_hook(uncompiled(self._count), with_kwargs=True)
        try:
            return self.strategy.prepare(request)
        finally:
            handle.remove()

    def _open(self, request: Request, kind: type[Runner], stack: ExitStack) -> None:
        stack.enter_context(guarded(self._adapter, self.strategy.key))
        if self.plan.needs_attention:
            self._install_attention(stack)
        stack.enter_context(self._exits.heard(self._entering))
        if kind is RowsRunner and self.plan.branches and len(request.inputs["input_ids"]) == 1:
            stack.enter_context(prefilled_once(self._adapter, self.stats.count_split))
        self._runner = self._made(request, kind)
        stack.callback(self._release_cache)
        for handle in self._hooks():  # one at a time, so that an error in between leaves none behind
            stack.callback(handle.remove)

    def _hooks(self) -> Iterator[RemovableHandle]:
        decoder, owner = self._adapter.decoder, self._adapter.owner
        yield owner.register_forward_pre_hook(uncompiled(self._before_owner), with_kwargs=True)
        yield decoder.register_forward_pre_hook(uncompiled(self._before_decoder), with_kwargs=True)
        yield decoder.register_forward_pre_hook(uncompiled(self._count), with_kwargs=True)
        yield decoder.register_forward_hook(uncompiled(self._after_decoder))
        yield owner.register_forward_hook(uncompiled(self._after_owner))
        yield from self._image_hooks()

    def _made(self, request: Request, kind: type[Runner]) -> Runner:
        """The runner of this plan's streams."""
        places = self._adapter.positions(request.inputs)
        base = Stream(None, _mask(request.inputs), self._image(request.inputs), places=places)
        streams = [base, *(self._stream(branch, request, base) for branch in self.plan.branches)]
        runner = kind(self._adapter, streams, self._states)
        if runner.pending:
            settings = self.plan, self.strategy.refine, request.inputs, self._states, self.stats, self._context.update
            refiner = Refiner(self._adapter, *settings)
            runner.refine = lambda kwargs, cache: refiner(runner, kwargs, cache)
        runner.idle = self._idle if self.tracer is None and deferrable(self.strategy, self.plan, request) else None
        return runner

    def _image(self, inputs: Mapping[str, Any]) -> Tensor:
        """Which columns of these inputs hold image tokens, `[batch, length]` of bool."""
        return self._adapter.image_mask(inputs["input_ids"])

    def _install_attention(self, stack: ExitStack) -> None:
        self._adapter.self_check()
        edits = [self.plan.edits, *(branch.edits for branch in self.plan.branches)]
        biases = [self.plan.bias, *(branch.bias for branch in self.plan.branches)]
        self._states = layer_states(edits, biases, self.plan.probes, (self._adapter.layers, self._adapter.heads))
        if any(branch.fork for branch in self.plan.branches):  # every layer has to know its forked rows
            self._states = {layer: LayerState() for layer in range(self._adapter.layers)} | self._states
        modules = self._adapter.attention_modules()
        held = {modules[layer]: state for layer, state in self._states.items()}
        stack.enter_context(installed(self._adapter.decoder, held))

    def _stream(self, branch: Branch, request: Request, base: Stream) -> Stream:
        """A branch with its prompt's embeddings, from the model's own forward on the branch's inputs."""
        if not branch.own_prompt:
            mask, image = _mask(request.inputs), self._image(request.inputs)
            return Stream(None, mask, image, branch.fork, refined=branch.refined, places=base.places)
        inputs = {**request.inputs, **branch.inputs}
        self.stats.encodes += 1
        with edited_vision(self._adapter, branch.vision_edits, inputs):
            prompt = self._adapter.prompt_embeddings(inputs)
        image = self._image(inputs)
        prompt = prompt if branch.alter is None else branch.alter(prompt, image.to(prompt.device))
        mask, places = _mask(inputs), self._adapter.positions(inputs) if branch.inputs else base.places
        aside = not (_same(mask, base.mask) and _same(places, base.places))
        return Stream(prompt, mask, image, branch.fork, aside, places=places)

    def _before_owner(self, _module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
        if self._running.busy:
            return
        self._running.owner_kwargs = kwargs
        if self.stats.forwards:
            return
        self._past = check_cache(kwargs.get(CACHE), self.plan, self._running, self.strategy.key) or 0
        self._attached.check(kwargs, self._past, scored=bool(self._scored))

    def _image_hooks(self) -> list[RemovableHandle]:
        """A listener to what the vision tower is given, where there is one."""

        def listen(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if not self._running.busy:
                self._attached.check_pixels(args[0] if args else kwargs["pixel_values"])

        towers = [self._adapter.vision_tower] if self._adapter.image_inputs else []
        return [tower.register_forward_pre_hook(uncompiled(listen), with_kwargs=True) for tower in towers]

    def _before_decoder(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if args:
            raise UnsupportedMode("The text decoder was called with positional arguments.", "Report this model family.")
        runner = self._running
        if runner.busy:
            return args, runner.inner(kwargs)
        if self._contrasted > self._vouched:
            raise not_passed()
        if self._scored:  # generate() keeps a cache for embeddings whatever it is told
            kwargs = {**kwargs, CACHE: None, "use_cache": False}
        self._rows, columns = columns_of(kwargs).shape[:2]
        cache = kwargs.get(CACHE)
        past = self._past if cache is not None else 0
        self._check_step(cache, columns)
        called = runner.before(kwargs, past, cache)
        self._cache, self._past, self._last_columns = cache, past + columns, columns
        self.stats.forwards += 1
        return args, called

    def _after_decoder(self, _module: nn.Module, _args: tuple, output: Any) -> Any:
        runner = self._running
        if runner.busy:
            return output
        self._check_called()
        return runner.after(output)

    def _check_called(self) -> None:
        """Every edited or probed layer has run under its state in this step."""
        states = self._states.values()
        if not all(state.calls for state in states):
            raise NotContrasted(
                "The attention function was changed while attached; edits and probes no longer act.",
                "Leave the attention implementation alone inside the block.",
            )
        for state in states:
            state.calls = 0

    def _entering(self, hidden: Tensor) -> Tensor | None:
        """The base's part of what enters a layer; None for calls that the runner makes itself."""
        return None if self._running.busy else self._running.last(hidden, self._rows)

    def _count(self, _module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
        """Runs after `_before_decoder` on every call of the decoder, the runner's own included."""
        rows, columns = columns_of(kwargs).shape[:2]
        self.stats.passes += 1
        self.stats.rows += rows
        self.stats.columns += rows * columns

    def _check_step(self, cache: Cache | None, columns: int) -> None:
        """Refuse what would be silently wrong: a second prefill, several new tokens at once."""
        if cache is None and any(state.biased for state in self._states.values()):
            raise UnsupportedMode(
                f"{self.strategy.key} biases the newest query row, and without a cache earlier rows are computed anew.",
                "Generate with use_cache=True.",
            )
        if not self.stats.forwards:
            return
        if cache is not self._cache or (cache is None and columns != self._last_columns + 1):
            raise AttachmentReused(
                f"This {self.strategy.key} attachment has served a generate() call already.",
                "Attach again for each call; one attachment serves one generate(). A loop of your own passes one "
                "cache, such as DynamicCache(), from its first forward on.",
            )
        if cache is not None and self._vouched and columns > 1:
            raise UnsupportedMode(
                f"{self.strategy.key} was given {columns} new tokens at once; assisted and prompt-lookup decoding "
                "cannot be contrasted.",
                "Generate without assistant_model and prompt_lookup_num_tokens.",
            )

    def _release_cache(self) -> None:
        cache, self._cache = self._cache, None
        self._running.release(cache, self._rows)

    def _after_owner(self, _module: nn.Module, _args: tuple, output: Any) -> Any:
        if self._running.busy:
            return output
        if not self._contrasted:
            self._attached.check_encoded()
        streams = self._running.logits(output, self._rows)
        if self._cache is not None and self._past < self._running.width:
            output["logits"] = streams[0]  # a chunk of the prompt: nothing is chosen from it
            return output
        positions, exits = zip(*(logits.unbind(1) for logits in streams), strict=True), self._exits.logits()
        scores = [self._contrast(place, exits, *each) for place, each in enumerate(positions)]
        output["logits"] = torch.stack(scores, dim=1) if len(scores) > 1 else scores[0][:, None]
        self._contrasted += 1
        return output

    def _contrast(self, place: int, early: Mapping[int, Tensor], *streams: Tensor) -> Tensor:
        """Scores `[rows, vocab]` of one position; `place` counts the positions of this forward."""
        plain, *branches = (widen(logits) for logits in streams)
        probes = base_probes(self._states, self._rows, self._running.width)
        exits = {layer: logits[:, place] for layer, logits in early.items()}
        step = Step(self._vouched + place, probes, self._context, exits)
        self.stats.count_scores(len(plain), self._acting.sure(plain, step))
        if len(branches) < len(self.plan.branches):  # left out of a step at which they cannot matter
            self.uncut, keep = plain, self._acting.left(plain, step)
            return plain if keep is None else cut(plain, keep)
        opened = self._acting.gate(plain, branches, step)
        base = plain if opened is None else self._gated(plain, branches, opened)
        self.uncut = self._acting.combine(base, branches, step)
        keep = self._acting.keep(base, branches, step)
        scores = self.uncut if keep is None else cut(self.uncut, keep)
        if self.tracer is not None:
            numbers = self._acting.numbers(base, branches, step)
            self.tracer.note(
                Moment(plain, branches, scores, opened, numbers, *looked(probes, self._running.streams[0].image))
            )
        return scores

    def _idle(self, logits: Tensor) -> bool:
        """Whether no row of this step needs a branch, from the base's logits `[rows, vocab]`; a prompt always does."""
        step = Step(self._vouched, context=self._context)
        return self._contrasted > 0 and all_settled(self.strategy, widen(logits), step)

    def _gated(self, base: Tensor, branches: Sequence[Tensor], opened: Tensor) -> Tensor:
        """The base, or its twin in the rows where the gate is open; both go on from the one that was chosen."""
        if self._cache is None:
            return base
        twin = next(place for place, branch in enumerate(self.plan.branches) if branch.twin)
        self._running.settle(self._cache, opened, twin + 1)
        self.gates.append(opened)
        return torch.where(opened[:, None], branches[twin], base)

    @property
    def _running(self) -> Runner:
        if self._runner is None:
            raise AttachmentClosed(f"This {self.strategy.key} attachment is closed.", "Attach again.")
        return self._runner


def _mask(inputs: Mapping[str, Any]) -> Tensor:
    """Padding mask `[batch, length]` of model inputs; all ones where none is given."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)
