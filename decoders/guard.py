"""What `generate()` is asked for, looked at before it starts.

Some modes of `generate()` would run the model in ways that no branch can follow, and would show it only after the first
tokens. While a strategy is attached, `generate` and `init_continuous_batching` of the model are therefore wrapped, on
that one object: they refuse such modes, and are taken off again with the hooks.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any
from weakref import WeakSet

import transformers
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache, QuantizedLayer

from ..models.adapter import Adapter
from ..models.errors import AttachmentError, NotContrasted, UnsupportedMode
from ..models.versions import PIECES
from .in_sequence import SequentialRunner
from .plan import Plan
from .rows import takes_whole_mask
from .runner import Runner

DRAFTS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
"""Arguments that have tokens drafted and verified several at a time."""
LOOPS = ("dola_layers", "penalty_alpha", "num_beam_groups", "constraints", "force_words_ids")
"""Arguments that hand generation to a loop from a repository of the hub."""
SECOND = ("guidance_scale",)
"""Arguments that call the model a second time within a step."""
_NEUTRAL = {"guidance_scale": 1, "num_beam_groups": 1}
"""Numbers that switch an argument off, beside 0."""

_ATTACHED: WeakSet[nn.Module] = WeakSet()
_LOCK = Lock()


@contextmanager
def alone(decoder: nn.Module) -> Iterator[None]:
    """Inside, no other attachment may open on this text decoder, from another thread neither.

    Raises:
        AttachmentError: one is open.
    """
    with _LOCK:
        if decoder in _ATTACHED:
            raise AttachmentError(
                "This model has an open attachment already.",
                "Close it first: leave its block, or call its close().",
            )
        _ATTACHED.add(decoder)
    try:
        yield
    finally:
        _ATTACHED.discard(decoder)


@contextmanager
def guarded(adapter: Adapter, who: str) -> Iterator[None]:
    """Inside, the model refuses what the strategy `who` cannot serve, before the first forward.

    With a static cache on an accelerator, `generate()` compiles the whole model unasked, for CUDA graphs, which were
    not tried with hooks between them. Inside, it does so only where a `compile_config` asks for it.
    """
    model: Any = adapter.model
    owner: Any = adapter.owner
    wrapped = [(model, "generate"), (model, "init_continuous_batching"), (owner, "get_compiled_call")]
    held = [(module, name, vars(module).get(name)) for module, name in wrapped]
    if hasattr(owner, "get_compiled_call"):
        owner.get_compiled_call = _only_if_asked(owner, owner.get_compiled_call)
    if hasattr(model, "init_continuous_batching"):
        model.init_continuous_batching = _refusing_batches(model.init_continuous_batching, who)
    model.generate = _checked(model, model.generate, adapter, who)
    try:
        yield
    finally:
        for module, name, before in held:
            vars(module).pop(name, None)
            if before is not None:
                vars(module)[name] = before


def _only_if_asked(owner: Any, compiled: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(compiled)
    def get_compiled_call(compile_config: Any) -> Any:
        return owner.__call__ if compile_config is None else compiled(compile_config)

    return get_compiled_call


def _checked(model: Any, run: Callable[..., Any], adapter: Adapter, who: str) -> Callable[..., Any]:
    signature = inspect.signature(type(model).generate)

    @functools.wraps(run)
    def generate(*args: Any, **kwargs: Any) -> Any:
        given = dict(signature.bind_partial(model, *args, **kwargs).arguments)
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                given |= given.pop(name, {})
        refuse(given, adapter, who)
        return run(*args, **kwargs)

    return generate


def refuse(given: Mapping[str, Any], adapter: Adapter, who: str) -> None:
    """Refuse modes that cannot be contrasted.

    Args:
        given: arguments of `generate()`; what they leave open is read from the generation configs.
        adapter: of the model that generates.
        who: key of the strategy.

    Raises:
        UnsupportedMode: names the argument and what to do.
    """
    configs = (given.get("generation_config"), adapter.model.generation_config, adapter.owner.generation_config)

    def asked(name: str) -> Any:
        values = (given.get(name), *(getattr(config, name, None) for config in configs))
        return next((value for value in values if value is not None), None)

    for names, why in (
        (DRAFTS, "drafted tokens are verified several at a time, and branches go on one at a time"),
        (LOOPS, "its loop is not one of transformers' own"),
        (SECOND, "it runs the model a second time within a step"),
    ):
        found = [name for name in names if _on(name, asked(name))]
        if found:
            raise UnsupportedMode(
                f"{who} cannot be combined with {', '.join(found)}: {why}.",
                "Leave it out, or decode with the control 'greedy'.",
            )
    if asked("cache_implementation") == "paged":
        raise _batches(who)
    if getattr(asked("compile_config"), "fullgraph", False) and not asked("disable_compile"):
        raise UnsupportedMode(
            f"{who} cannot be combined with fullgraph=True: its hooks stand between compiled graphs.",
            "Leave fullgraph out of compile_config, or compile the text decoder in place: "
            "model.get_decoder().compile().",
        )
    if asked("prefill_chunk_size") is not None and adapter.image_inputs and not PIECES:
        raise UnsupportedMode(
            f"{who} cannot be combined with prefill_chunk_size: transformers {transformers.__version__} loses the "
            "images of a prompt that it takes in pieces.",
            "Leave it out, or install transformers 5.23 or newer.",
        )
    if asked("use_cache") is False and asked("max_new_tokens") != 1 and forgets_types(adapter):
        raise UnsupportedMode(
            f"{who} cannot be combined with use_cache=False: without a cache, transformers {transformers.__version__} "
            f"counts the tokens that a {type(adapter.model).__name__} generates as part of its prompt.",
            "Leave it out, or install transformers 5.23 or newer.",
        )
    if _mixed_adapters(adapter):
        raise UnsupportedMode(
            f"{who} cannot be combined with adapter_names: rows of branches would get no adapter, or another row's.",
            "Generate for one PEFT adapter at a time (model.set_adapter).",
        )


def forgets_types(adapter: Adapter) -> bool:
    """Whether generated tokens are of another type than the prompt's, and `generate()` forgets it (before 5.23)."""
    update = "_update_model_kwargs_for_generation"
    return bool(adapter.new_type) and getattr(type(adapter.owner), update) is getattr(GenerationMixin, update)


def _on(name: str, value: Any) -> bool:
    if value is None or (isinstance(value, (bool, int, float)) and not value):
        return False
    return not (name in _NEUTRAL and value == _NEUTRAL[name])


def _mixed_adapters(adapter: Adapter) -> bool:
    """Whether PEFT has given each row of the batch an adapter of its own."""
    hooks = (hook for module in adapter.decoder.modules() for hook in module._forward_pre_hooks.values())
    return any("adapter_names" in (getattr(hook, "keywords", None) or {}) for hook in hooks)


def _refusing_batches(run: Callable[..., Any], who: str) -> Callable[..., Any]:
    @functools.wraps(run)
    def init_continuous_batching(*args: Any, **kwargs: Any) -> Any:
        raise _batches(who)

    return init_continuous_batching


def _batches(who: str) -> UnsupportedMode:
    return UnsupportedMode(
        f"{who} cannot be combined with continuous batching: its requests come and go, and branches would not follow.",
        "Generate the prompts as one batch, padded on the left.",
    )


def check_prompt(plan: Plan, adapter: Adapter, who: str) -> None:
    """Refuse branches that share a prompt up to its last token, where all of it sees that token.

    Raises:
        UnsupportedMode: there is such a branch.
    """
    if adapter.whole_prompt and any(branch.fork for branch in plan.branches):
        raise UnsupportedMode(
            f"{who} edits from the last prompt token on, and in a {type(adapter.model).__name__} the tokens before it "
            "see that token.",
            "Use a strategy that shares no prompt (vcd, avc, causalmm, hicd); decore and its controls have "
            "mask_prefill=true.",
        )


def check_cache(cache: Cache | None, plan: Plan, runner: Runner, who: str) -> int:
    """Refuse caches in which the rows of branches would have no place.

    Args:
        cache: what `generate()` starts with; None without one.
        plan: of the strategy.
        runner: of its streams.
        who: key of the strategy.

    Returns:
        How many tokens it holds already.

    Raises:
        UnsupportedMode: it holds tokens that branches or edits have not seen (forked ones share them, where no
            window or buffer may have dropped some), is static with a window that a forked
            prompt does not fit, or is quantised in a way that branches cannot share.
    """
    if cache is None:
        return 0
    held = int(cache.get_seq_length())
    apart = [branch for branch in plan.branches if not (branch.fork and takes_whole_mask(runner.adapter, cache))]
    if held and (apart or plan.edits or plan.bias):
        raise UnsupportedMode(
            f"{who}: the given past_key_values hold {held} tokens already, and its branches would not know them.",
            "Pass the whole prompt without past_key_values.",
        )
    layers: list[Any] = cache.layers
    windows = [layer.max_cache_len for layer in layers if layer.is_sliding] if cache.is_compileable else []
    width = runner.width
    if any(branch.fork for branch in plan.branches) and width > min(windows, default=width):
        raise UnsupportedMode(
            f"{who} shares a prefill of {width} tokens, and a static cache with a window of {min(windows)} drops some.",
            "Generate without cache_implementation='static'.",
        )
    # older layers get their attributes when the first keys come; other kinds are known by these alone
    if not any(isinstance(layer, QuantizedLayer) or hasattr(layer, "_quantized_keys") for layer in layers):
        return held
    if any(branch.twin for branch in plan.branches):
        raise UnsupportedMode(
            f"{who} writes the keys and values of one row into another, which a quantised cache does not allow.",
            "Generate without cache_implementation='quantized'.",
        )
    if plan.branches and not isinstance(runner, SequentialRunner):
        raise UnsupportedMode(
            f"{who}: in a quantised cache the rows of base and branches would share a scale, or not be told apart.",
            "Attach with branching='sequential', or generate without cache_implementation='quantized'.",
        )
    return held


def not_passed() -> NotContrasted:
    """The error of a step that nobody vouched for."""
    return NotContrasted(
        "A step was generated without the attached processor in the list, or the model was called twice for a step.",
        "Pass it: model.generate(**inputs, logits_processor=[processor]); leave guidance_scale out.",
    )
