"""Prompts in two parts: which columns edited layers need to see as they are, and how to run the others without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from .attention import _STATES


def own_columns(modules: Iterable[nn.Module]) -> int | None:
    """How many of the last columns of the coming call need these layers to do more than attend.

    None where edits may act on any column: then a prompt cannot be run in parts without their knowing.
    """
    columns = 0
    for state in (_STATES[module] for module in modules if module in _STATES):
        for mask in (state.uniform, state.zero):
            if mask is not None and mask[list(state.present or range(len(mask)))].any():
                return None
        if any(stream in state.maps for stream in state.present or state.maps):
            return None
        columns = max(columns, 1 + len(state.tail))
    return columns


@contextmanager
def resting(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, these layers attend and do nothing else."""
    held = {module: _STATES.pop(module) for module in list(modules) if module in _STATES}
    try:
        yield
    finally:
        _STATES.update(held)
