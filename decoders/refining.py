"""Between the base's prefill and that of the branches which depend on it: probes in, prompts out.

Other prompts may be read on the way (the same image under another instruction). Where the base's cache allows, such a
prompt is run from the columns it shares with the base's prompt: image and system text are not run again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from ..models.adapter import Adapter
from ..models.attention import LayerState
from ..models.versions import CACHE
from .plan import Altered, Plan, Prompt, Reading, Refinement
from .readings import base_probes
from .rows import pad_left, pad_positions, positions_of
from .runner import Runner, Stream
from .stats import Stats


class Refiner:
    """Fills in the prompts of a plan's refined branches.

    Args:
        adapter: the model family.
        plan: of the strategy that refines.
        refine: `Strategy.refine`.
        inputs: what was attached.
        states: of the probed layers.
        stats: counts the forwards that encode an image again.
        context: takes what `refine` adds to the plan's context.
    """

    def __init__(
        self,
        adapter: Adapter,
        plan: Plan,
        refine: Callable[[Prompt], Refinement],
        inputs: Mapping[str, Any],
        states: Mapping[int, LayerState],
        stats: Stats,
        context: Callable[[Mapping[str, Any]], None],
    ):
        self._adapter = adapter
        self._plan = plan
        self._refine = refine
        self._inputs = inputs
        self._states = states
        self._stats = stats
        self._context = context
        self._readings: tuple[Reading, ...] | None = None

    def __call__(self, runner: Runner, kwargs: Mapping[str, Any], cache: Cache | None) -> None:
        """Give every pending stream its prompt.

        Args:
            runner: its streams are filled in.
            kwargs: the decoder call of the base's prompt, embedded.
            cache: of the base, the prompt in it; None without one.
        """
        base = runner.streams[0]
        batch, width = base.mask.shape
        embeds = self._adapter.entering(kwargs)
        times = embeds.shape[0] // batch
        mask, image = (each.to(embeds.device) for each in (base.mask, base.image))
        probes = base_probes(self._states, batch * times, width)
        probes = {layer: reading[::times] for layer, reading in probes.items()}
        if self._readings is None:  # a refresh reads the base again, and not what other prompts said
            shadow = _shadow(cache, times)
            self._readings = tuple(self._read(runner, prompt, shadow) for prompt in self._plan.readings)
        prompt = Prompt(probes, image, embeds[::times, :width], mask, self._readings, self._plan.context)
        refinement = self._refine(prompt)
        refreshed = False
        for place, altered in zip(runner.pending, refinement.branches, strict=True):
            _fill(runner.streams[place], altered, base)
            refreshed |= runner.streams[place].refined == "every_step"
        if self._plan.probed == "prefill" and not refreshed:
            for state in self._states.values():
                state.probe, state.reading = False, None
        self._context(refinement.context)

    def _read(self, runner: Runner, prompt: Mapping[str, Any], shadow: Cache | None) -> Reading:
        """The last row of another prompt, from the prefix it shares with the base's where that is possible."""
        ids, mask = prompt["input_ids"], prompt["attention_mask"]
        words = any(name in prompt for name in self._adapter.words_inputs)  # then the image is seen otherwise, too
        same = not words and not self._adapter.whole_prompt
        shared = self._shared(ids, mask, runner.streams[0]) if same else None
        if shadow is not None and shared is not None:
            return self._read_on(runner, prompt, copy.copy(shadow), shared)
        self._stats.encodes += 1
        image = self._adapter.image_mask(ids)
        runner.present((0,), [image], ids.shape[1])
        call = self._adapter.decoder_inputs({**self._inputs, **prompt})
        self._adapter.decoder(**{**call, "use_cache": False, CACHE: None})
        return Reading(self._last_rows(ids.shape[1]), image)

    def _read_on(self, runner: Runner, prompt: Mapping[str, Any], cache: Cache, shared: Sequence[int]) -> Reading:
        base = runner.streams[0]
        ids, mask = prompt["input_ids"], prompt["attention_mask"]
        rest = [row[seen.bool()][length:] for row, seen, length in zip(ids, mask, shared, strict=True)]
        longest = max(map(len, rest))
        tail = pad_left([row[None] for row in rest], longest)
        seen = pad_left([torch.ones_like(row[None]) for row in rest], longest)
        own = base.mask.to(ids.device)
        kept = own * (own.cumsum(dim=1) <= torch.tensor(shared, device=ids.device)[:, None])
        joined = torch.cat([kept.to(seen.dtype), seen], dim=1)
        image = torch.cat([base.image.to(ids.device), torch.zeros_like(seen, dtype=torch.bool)], dim=1)
        runner.present((0,), [image], joined.shape[1])
        self._adapter.decoder(
            inputs_embeds=self._adapter.decoder.get_input_embeddings()(tail),
            attention_mask=joined,
            position_ids=self._tail_positions(prompt, joined, shared, longest),
            **{CACHE: cache},
            use_cache=True,
        )
        return Reading(self._last_rows(joined.shape[1]), image)

    def _tail_positions(self, prompt: Mapping[str, Any], joined: Tensor, shared: Sequence[int], longest: int) -> Tensor:
        """Positions of what comes after the shared columns of each row, padded on the left."""
        places = self._adapter.positions({**self._inputs, **prompt})
        if places is None:
            return positions_of(joined)[:, -longest:]
        seen = prompt["attention_mask"].bool()
        tails = [places[:, row, own][:, None, same:] for row, (own, same) in enumerate(zip(seen, shared, strict=True))]
        return torch.cat([pad_positions([tail], longest) for tail in tails], dim=1)

    def _last_rows(self, columns: int) -> dict[int, Tensor]:
        readings = ((layer, state.reading) for layer, state in self._states.items() if state.probe)
        return {layer: reading[:, :, :columns] for layer, reading in readings if reading is not None}

    def _shared(self, ids: Tensor, mask: Tensor, base: Stream) -> list[int] | None:
        """Leading tokens that each row has in common with the base; None where an image lies behind them."""
        lengths = []
        theirs, shown = self._inputs["input_ids"].to(ids.device), base.mask.to(ids.device).bool()
        for row, seen, other, visible in zip(ids, mask.bool(), theirs, shown, strict=True):
            mine, its = row[seen], other[visible]
            short = min(len(mine), len(its)) - 1  # the last token is run in any case: its row is what is read
            same = int((mine[:short] == its[:short]).cumprod(dim=0).sum())
            if self._adapter.image_mask(mine[None, same:]).any():
                return None
            lengths.append(same)
        return lengths


def _shadow(cache: Cache | None, times: int) -> Cache | None:
    """A cache that holds what `cache` holds, one row a prompt, and grows without touching it; None where none can.

    Only layers that grow by concatenation can be shared so; windows drop columns and static buffers are written into.
    """
    if cache is None or not all(type(layer) is DynamicLayer for layer in cache.layers):
        return None
    shadow = copy.copy(cache)
    shadow.__dict__.pop("reorder_cache", None)
    shadow.layers = [copy.copy(layer) for layer in cache.layers]
    layers: list[Any] = shadow.layers
    for layer in layers:
        layer.keys, layer.values = layer.keys[::times], layer.values[::times]
    return shadow


def _fill(stream: Stream, altered: Altered, base: Stream) -> None:
    stream.prompt = altered.embeds
    if altered.mask is not None:
        stream.mask, stream.counted, stream.aside = altered.mask.to(base.mask), base.mask, True
