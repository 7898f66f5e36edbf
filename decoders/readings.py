"""What the probes of the base's rows say, in columns of the base's own prompt and on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..models.attention import LayerState


def base_probes(states: Mapping[int, LayerState], rows: int, width: int) -> dict[int, Tensor]:
    """Layer -> attention of the last query row, `[rows, heads, columns]`; column 0 is the prompt's first one.

    A static buffer's empty end and the padding before the prompt are cut off; columns that have left a window are 0.

    Args:
        states: of the probed layers.
        rows: of the base, which come first in a call.
        width: columns of the base's prompt.
    """
    found = {}
    for layer, state in states.items():
        if state.reading is None or not state.probe:
            continue
        reading = state.reading[:rows, :, : state.seen]
        if reading.shape[-1] < state.seen:
            reading = nn.functional.pad(reading, (state.seen - reading.shape[-1], 0))
        found[layer] = reading[:, :, state.image[0].shape[1] - width :]
    return found


def looked(probes: Mapping[int, Tensor], image: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Mean over layers and heads, `[rows, columns]`, and which columns are image tokens.

    Args:
        probes: as `base_probes` gives them.
        image: image columns of the prompt, `[batch, width]` of bool.
    """
    if not probes:
        return None, None
    mean = torch.stack([reading.mean(dim=1) for reading in probes.values()]).mean(dim=0)
    shown = image.to(mean.device).repeat_interleave(len(mean) // len(image), dim=0)
    return mean, nn.functional.pad(shown, (0, mean.shape[1] - image.shape[1]))
