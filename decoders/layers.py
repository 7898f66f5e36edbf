"""From the edits, biases and probes of a plan to what each attention layer has to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..models.attention import LayerState
from ..models.errors import UnsupportedMode
from .plan import HeadEdit, KeyBias


def layer_states(
    edits: Sequence[Sequence[HeadEdit]],
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
    layers, heads = shape
    states = {layer: LayerState(probe=True) for layer in probes}
    for stream, (stream_edits, bias) in enumerate(zip(edits, biases, strict=True)):
        for edit in stream_edits:
            _check_heads(edit, layers, heads)
            state = states.setdefault(edit.layer, LayerState())
            if getattr(state, edit.mode) is None:
                setattr(state, edit.mode, torch.zeros(len(edits), heads, dtype=torch.bool))
            getattr(state, edit.mode)[stream, list(edit.heads)] = True
        for layer in bias.layers if bias else ():
            state = states.setdefault(layer, LayerState())
            state.bias, state.biased = bias.act if bias else None, (*state.biased, stream)
    return states


def _check_heads(edit: HeadEdit, layers: int, heads: int) -> None:
    outside = [head for head in edit.heads if not 0 <= head < heads]
    if not 0 <= edit.layer < layers or outside:
        raise UnsupportedMode(
            f"There is no head {outside or list(edit.heads)} in layer {edit.layer}: this model has {layers} layers of "
            f"{heads} heads.",
            "Use a head list that was made for this model (sightline calibrate).",
        )
