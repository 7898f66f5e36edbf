"""Reading every layer's newest query row, outside of any attachment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from ...models.attention import LayerState, installed

if TYPE_CHECKING:
    from ...models.adapter import Adapter


@contextmanager
def probing(adapter: Adapter) -> Iterator[list[LayerState]]:
    """Inside, every forward leaves the attention of its last query row in the `reading` of each layer's state.

    Raises:
        SelfCheckFailed: probes would not show what the model does.
        UnsupportedModel: an attachment holds the model, or its attention cannot be read.
    """
    adapter.self_check()
    states = {module: LayerState(probe=True) for module in adapter.attention_modules()}
    with installed(adapter.decoder, states), torch.no_grad():
        yield list(states.values())
