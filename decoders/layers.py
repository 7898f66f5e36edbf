"""From the edits, biases and probes of a plan to what each attention layer has to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..models.adapter import Adapter
from ..models.attention import LayerState, installed
from ..models.counterfactual import MapRule, gate
from ..models.errors import UnsupportedMode, UnsupportedModel
from .plan import HeadEdit, KeyBias, MapEdit


def layer_states(
    edits: Sequence[Sequence[HeadEdit | MapEdit]],
    biases: Sequence[KeyBias | None],
    probes: Sequence[int],
    shape: tuple[int, int],
) -> dict[int, LayerState]:
    """One state per layer that is edited, biased or probed.

    Args:
        edits, biases: stream by stream.
        probes: layers.
        shape: layers and heads there are.
    """
    states = {layer: LayerState(probe=True) for layer in probes}
    for stream, (stream_edits, bias) in enumerate(zip(edits, biases, strict=True)):
        for edit in stream_edits:
            if isinstance(edit, MapEdit):
                _edit_maps(states, stream, edit, shape)
            else:
                _edit_heads(states, (stream, len(edits)), edit, shape)
        for layer in bias.layers if bias else ():
            state = states.setdefault(layer, LayerState())
            state.bias, state.biased = bias.act if bias else None, (*state.biased, stream)
    return states


@contextmanager
def edited_vision(adapter: Adapter, edits: Sequence[HeadEdit | MapEdit], inputs: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the vision tower encodes the images of `inputs` under `edits`; nothing is done where there are none.

    Raises:
        UnsupportedModel: a layer that is edited was not called.
    """
    if not edits:
        yield
        return
    modules = adapter.vision_attention_modules()
    states = layer_states([edits], [None], (), (len(modules), adapter.vision_heads))
    for state in states.values():
        state.packed = adapter.packed_columns(inputs) or ()
    with ExitStack() as stack:
        stack.enter_context(installed(adapter.vision_tower, {modules[layer]: states[layer] for layer in states}))
        for state in states.values():
            if any(rule.gate for rule in state.maps.values()):
                stack.callback(adapter.projector.register_forward_pre_hook(_gated(state)).remove)
        yield
    silent = [layer for layer, state in states.items() if not state.calls]
    if silent:
        raise UnsupportedModel(
            f"Layers {silent} of the vision tower never call the attention interface.",
            "Use a strategy that leaves the vision tower alone with this model.",
        )


def _gated(state: LayerState) -> Callable[..., Any]:
    """A hook that multiplies the features `[rows, patches, hidden]` a projector is given by the state's gate."""

    def hook(_module: nn.Module, args: tuple) -> tuple:
        features, *rest = args
        if features.dim() != 3:
            raise UnsupportedModel(
                "The gate needs one square grid of patches for each image, and this tower packs its images in one row.",
                "Use vision_mode in_layer with this model.",
            )
        if state.gate is not None:
            features = features * gate(state.gate, features.shape[1])[..., None].to(features)
        return (features, *rest)

    return hook


def _edit_heads(states: dict[int, LayerState], place: tuple[int, int], edit: HeadEdit, shape: tuple[int, int]) -> None:
    """Note an edit of heads; `place` is the stream and how many there are."""
    stream, streams = place
    _check_heads(edit.layer, edit.heads, shape)
    state = states.setdefault(edit.layer, LayerState())
    held = any(mask is not None and mask[stream].any() for mask in (state.uniform, state.zero))
    brief = edit.when == "prefill_only"
    if held and brief != (stream in state.brief):
        raise UnsupportedMode(
            f"Heads of layer {edit.layer} are edited in the prefill alone and at every step.", "Choose one of them."
        )
    if brief and not held:
        state.brief = (*state.brief, stream)
    if getattr(state, edit.mode) is None:
        setattr(state, edit.mode, torch.zeros(streams, shape[1], dtype=torch.bool))
    getattr(state, edit.mode)[stream, list(edit.heads)] = True


def _check_heads(layer: int, heads: Sequence[int], shape: tuple[int, int]) -> None:
    """Refuse a layer or heads that are not there."""
    outside = [head for head in heads if not 0 <= head < shape[1]]
    if not 0 <= layer < shape[0] or outside:
        raise UnsupportedMode(
            f"There is no head {outside or list(heads)} in layer {layer}: this model has {shape[0]} layers of "
            f"{shape[1]} heads.",
            "Use a head list that was made for this model (sightline calibrate).",
        )


def _edit_maps(states: dict[int, LayerState], stream: int, edit: MapEdit, shape: tuple[int, int]) -> None:
    """Note an edit of maps."""
    outside = [layer for layer in edit.layers if not 0 <= layer < shape[0]]
    if outside:
        raise UnsupportedMode(
            f"There is no layer {outside}: this model has {shape[0]} layers.", "Count layers from 0, in this model."
        )
    prompt_only = edit.when == "prefill_only"
    together, kept = () if edit.heads else tuple(edit.layers), {}
    for layer in edit.layers:
        _check_heads(layer, edit.heads or (), shape)
        state = states.setdefault(layer, LayerState())
        if stream in state.maps:
            raise UnsupportedMode(f"Layer {layer} has two map edits in one stream.", "Give each layer one of them.")
        state.maps[stream] = MapRule(
            layer,
            edit.kind,
            edit.norm,
            edit.seeds,
            edit.lengths,
            prompt_only,
            edit.gate,
            edit.heads,
            edit.scope,
            edit.shown,
            together,
            kept,
        )
