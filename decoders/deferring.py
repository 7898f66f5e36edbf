"""Branches left out of a step at which they cannot matter, and caught up in one chunk once they do.

With `branching="sequential"` each branch costs a forward of its own. Where every row is settled (`Strategy.decided`:
the cut leaves one token, or an approximate decoder keeps the base's scores) that forward changes nothing. The columns
that the branch has missed are kept, and enter it together with those of the next step that asks for it: its cache is
then what it would have been. What is still kept when the text ends is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from ..models.versions import CACHE
from .plan import Plan, Request, Step
from .strategy import Strategy

_AXES = {"input_ids": 1, "inputs_embeds": 1, "position_ids": -1, "cache_position": 0}
"""Arguments of a decoder that hold something for each column, and the axis of the columns."""
_WHOLE = ("attention_mask", CACHE)


def deferrable(strategy: Strategy, plan: Plan, request: Request) -> bool:
    """Whether branches of this plan may be left out of steps at all.

    Not where continuations are scored (each position's score counts, settled or not), where the base follows its twin,
    where the newest row alone is biased (a chunk has one newest row), or where attention is read at every step.
    """
    stepwise = plan.bias or (plan.probes and plan.probed == "steps")
    bound = any(branch.twin or branch.bias or branch.refined == "every_step" for branch in plan.branches)
    asked = type(strategy).decided is not Strategy.decided or type(strategy).left is not Strategy.left
    return bool(plan.branches) and asked and not (request.scoring or stepwise or bound)


def all_settled(strategy: Strategy, base: Tensor, step: Step) -> bool:
    """Whether no row of the base's logits `[rows, vocab]` needs a branch; the host waits for the answer."""
    settled = strategy.decided(base, step)
    return settled is not None and bool(settled.all())


class Backlog:
    """Columns that the branches have missed: of each missed call what it held for them."""

    def __init__(self) -> None:
        self._missed: list[dict[str, Any]] = []

    def takes(self, kwargs: Mapping[str, Any], cache: Cache | None) -> bool:
        """Whether a call of the decoder can be caught up exactly.

        That asks for a cache that holds every column as it came (no window, no static buffer, no quantised states), for
        a padding mask or none (masks of single columns do not join to one of a chunk), and for nothing unknown.
        """
        if cache is None:
            return True  # every step runs the whole text anew
        mask, known = kwargs.get("attention_mask"), (*_AXES, *_WHOLE)
        plain = mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)
        others = (value for name, value in kwargs.items() if name not in known)
        simple = all(value is None or isinstance(value, (bool, int, float, str)) for value in others)
        return plain and simple and all(type(layer) is DynamicLayer for layer in cache.layers)

    def add(self, kwargs: Mapping[str, Any], cache: Cache | None) -> None:
        """Note a call that the branches miss."""
        if cache is not None:
            self._missed.append({name: kwargs.get(name) for name in _AXES})

    def clear(self) -> None:
        """Every branch is up to date."""
        self._missed.clear()

    def joined(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The call with the missed columns before its own."""
        if not self._missed:
            return kwargs
        wide = {}
        for name, axis in _AXES.items():
            if kwargs.get(name) is not None:
                wide[name] = torch.cat([*(call[name] for call in self._missed), kwargs[name]], dim=axis)
        return {**kwargs, **wide}
