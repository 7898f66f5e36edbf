"""Beginnings of prompts that are prefilled once for all rows that have them in common.

Stands for the forward of the text decoder, beneath the hooks of the engine, so that rows of branches are served like
those of the base. A prefill of `R` rows and `C` columns, padded on the left, becomes two calls: the first `C - S`
columns of one row for each group of neighbours with the same beginning; then, once their keys and values stand where
each row would have them, the last `S` columns of all rows. `S` is the length of the longest ending that is some row's
own, so that everything before it is common. Masks and positions are those of the whole call; the cache that comes of it
is the cache that the whole call would have made.

What columns have in common is seen in what enters the decoder (embeddings, DeepStack features), masks and positions,
bit for bit. An encoder that reads the question (a Q-Former) leaves nothing in common.

An attachment does so for the rows of one prompt, where CG-VLM's coalitions with one image have all before the question
in common; the harness does so for those of a batch, where questions about one image stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from ..models.adapter import Adapter
from ..models.resting import own_columns, resting
from ..models.versions import CACHE
from .rows import columns_of, takes_whole_mask

SPARED = 0.25
"""Share of a call's columns that has to be spared for two calls to be worth it, and on an accelerator ..."""
LEAST = 512
"""... how many: a second call reads all weights again, in which time that many columns could be worked out."""
_PASSED_ON = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "visual_pos_masks", "cache_position")


@dataclass(frozen=True)
class Beginnings:
    """How a call falls in two.

    Attributes:
        columns: of the first call, `C - S`.
        rows: those that stand for their groups in the first call, `[groups]`.
        group: of each row, `[rows]`.
        shift: how many columns further to the right than in its group's row a row's tokens stand, `[rows]`.
    """

    columns: int
    rows: Tensor
    group: Tensor
    shift: Tensor

    @property
    def spared(self) -> int:
        """Columns that are not run, padding included, rows times columns."""
        return (len(self.group) - len(self.rows)) * self.columns


class PrefilledOnce:
    """A text decoder's forward with common beginnings run once.

    Args:
        adapter: of the model.
        told: is given each split of a call, as it is run.
    """

    def __init__(self, adapter: Adapter, told: Callable[[Beginnings], None] = lambda found: None):
        self.module = adapter.decoder
        self._adapter = adapter
        self._told = told
        self._asked = 0
        self._run = 0

    @staticmethod
    def serves(adapter: Adapter) -> bool:
        """Whether prompts of this model can be run in two parts, and may have beginnings in common."""
        compiled = getattr(adapter.decoder, "_compiled_call_impl", None) is not None
        in_pieces = not (adapter.whole_prompt or adapter.whole_images)
        return in_pieces and not compiled and not adapter.words_inputs

    def __call__(self, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The decoder's output; hidden states of columns that were not run again are zero."""
        if args or not self._is_prefill(kwargs):
            return plain(*args, **kwargs)
        mask = _mask(kwargs)
        self._asked += int(mask.sum())
        own = own_columns(self.module.modules()) if self._can_be_cut(kwargs) else None
        found = None if own is None else beginnings(self._adapter, kwargs, mask, max(own, 1))
        if found is None:
            self._run += int(mask.sum())
            return plain(**kwargs)
        self._told(found)
        first, last = self._first(kwargs, found), self._last(kwargs, found)
        self._run += int(mask[found.rows, : found.columns].sum()) + int(mask[:, found.columns :].sum())
        with resting(self.module.modules()):
            plain(**first)
        spread(kwargs[CACHE], found)
        output = plain(**last)
        own = output["last_hidden_state"]
        output["last_hidden_state"] = torch.nn.functional.pad(own, (0, 0, found.columns, 0))
        return output

    def counts(self) -> tuple[int, int]:
        """Prompt tokens asked for since the last time, and those that were run."""
        found = self._asked, self._run
        self._asked = self._run = 0
        return found

    def _is_prefill(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a call begins a sequence. Without a cache every call does, and runs everything."""
        cache = kwargs.get(CACHE)
        return cache is not None and columns_of(kwargs).shape[1] > 1 and cache.get_seq_length() == 0

    def _can_be_cut(self, kwargs: Mapping[str, Any]) -> bool:
        cache, mask = kwargs.get(CACHE), kwargs.get("attention_mask")
        unknown = (
            name
            for name, value in kwargs.items()
            if (isinstance(value, Tensor | Mapping) and name not in _PASSED_ON)
            or (name.startswith("output_") and value)
        )
        return (
            type(cache) is DynamicCache
            and len(columns_of(kwargs)) > 1
            and takes_whole_mask(self._adapter, cache)
            and kwargs.get("position_ids") is not None
            and (mask is None or (isinstance(mask, Tensor) and mask.dim() == 2))
            and kwargs.get("use_cache") is not False
            and next(unknown, None) is None
            and not torch.is_grad_enabled()
        )

    def _first(self, kwargs: Mapping[str, Any], found: Beginnings) -> dict[str, Any]:
        return _part(kwargs, found.rows, slice(0, found.columns), seen=found.columns)

    def _last(self, kwargs: Mapping[str, Any], found: Beginnings) -> dict[str, Any]:
        width = columns_of(kwargs).shape[1]
        return _part(kwargs, torch.arange(len(found.group)), slice(found.columns, width), seen=width)


@contextmanager
def prefilled_once(adapter: Adapter, told: Callable[[Beginnings], None]) -> Iterator[None]:
    """Inside, the decoder of `adapter` runs common beginnings once, unless its forward is another's to replace."""
    module = adapter.decoder
    if "forward" in vars(module) or not PrefilledOnce.serves(adapter):
        yield
        return
    once, plain = PrefilledOnce(adapter, told), module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return once(plain, *args, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def _mask(kwargs: Mapping[str, Any]) -> Tensor:
    """Which columns of a call are seen, `[rows, columns]` of bool; all where that is not known."""
    mask, columns = kwargs.get("attention_mask"), columns_of(kwargs)
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape == columns.shape[:2]:
        return mask != 0
    return torch.ones(columns.shape[:2], dtype=torch.bool, device=columns.device)


def beginnings(adapter: Adapter, kwargs: Mapping[str, Any], mask: Tensor, own: int) -> Beginnings | None:
    """Where a prefill falls in two; None where nothing worth while is common.

    Args:
        adapter: of the model.
        kwargs: of the decoder's call.
        mask: which columns are seen, `[rows, columns]` of bool.
        own: how many columns at the end have to be each row's own.
    """
    rows, width = mask.shape
    starts = mask.int().argmax(dim=1)  # padding: columns before the first that is seen
    same = common(_columns(adapter, kwargs, mask), starts).tolist()
    lengths = (width - starts).tolist()
    tried = [_grouped(lengths, same, least, own) for least in {*same, width}]
    groups, ending = min(tried, key=lambda way: _cost(way, rows, width))
    columns, spared = width - ending, rows * width - _cost((groups, ending), rows, width)
    least = max(SPARED * rows * width, LEAST if _accelerated(mask) else 0)
    if columns < 1 or spared < least:
        return None
    chosen = torch.tensor([max(group, key=lambda row: lengths[row]) for group in groups])
    group = torch.tensor([number for number, group in enumerate(groups) for _ in group])
    each = torch.tensor(lengths)
    return Beginnings(columns, chosen, group, each[chosen][group] - each)


def _accelerated(tensor: Tensor) -> bool:
    return tensor.device.type != "cpu"


Groups = list[list[int]]


def _grouped(lengths: list[int], same: list[int], least: int, own: int) -> tuple[Groups, int]:
    """Neighbours that have at least so many tokens in common as groups, and `S`, the columns that rows then keep."""
    groups: Groups = [[0]]
    for row, length in enumerate(same, start=1):
        if length >= least:
            groups[-1].append(row)
        else:
            groups.append([row])
    ending = own
    for group in groups:
        shared = min([same[row - 1] for row in group[1:]], default=lengths[group[0]])
        ending = max(ending, *(lengths[row] - shared for row in group))
    return groups, ending


def _cost(way: tuple[Groups, int], rows: int, width: int) -> int:
    """Columns that are run, padding included."""
    groups, ending = way
    return len(groups) * (width - ending) + rows * ending


def _columns(adapter: Adapter, kwargs: Mapping[str, Any], mask: Tensor) -> list[Tensor]:
    """All that there is to tell of columns, tensors `[rows, columns, ...]`."""
    ids = kwargs.get("inputs_embeds") is None
    places = kwargs["position_ids"]
    places = places.movedim(0, -1) if places.dim() == 3 else places
    return [kwargs["input_ids"] if ids else adapter.entering(kwargs), mask, places.expand(len(mask), *places.shape[1:])]


def common(columns: list[Tensor], starts: Tensor) -> Tensor:
    """How many leading tokens each row but the first has in common with the row before it, `[rows - 1]`.

    Args:
        columns: tensors `[rows, columns, ...]`; a token is what all of them hold at its column.
        starts: the column of each row's first token, `[rows]`.
    """
    rows, width = columns[0].shape[:2]
    device = columns[0].device
    tokens = torch.arange(width, device=device)
    places = (starts.to(device)[:, None] + tokens).clamp(max=width - 1)
    numbers = torch.arange(rows, device=device)[:, None]
    lengths = width - starts.to(device)
    same = tokens < torch.minimum(lengths[1:], lengths[:-1])[:, None]
    for each in columns:
        aligned = each.to(device)[numbers, places]
        same = same & (aligned[1:] == aligned[:-1]).reshape(rows - 1, width, -1).all(dim=2)
    return same.int().cumprod(dim=1).sum(dim=1)


def _part(kwargs: Mapping[str, Any], rows: Tensor, columns: slice, seen: int) -> dict[str, Any]:
    """Some rows and columns of a decoder call; masks reach to column `seen`."""
    part = dict(kwargs)
    every = len(columns_of(kwargs))

    def chosen(value: Tensor) -> Tensor:
        return value.index_select(0, rows.to(value.device))

    for name in ("input_ids", "inputs_embeds", "visual_pos_masks"):
        if isinstance(kwargs.get(name), Tensor):
            part[name] = chosen(kwargs[name][:, columns])
    if kwargs.get("attention_mask") is not None:
        part["attention_mask"] = chosen(kwargs["attention_mask"][:, :seen])
    places = kwargs["position_ids"][..., columns]
    batch = 1 if places.dim() == 3 else 0
    whole = places.shape[batch] == every
    part["position_ids"] = places.index_select(batch, rows.to(places.device)) if whole else places
    if kwargs.get("cache_position") is not None:
        part["cache_position"] = kwargs["cache_position"][columns]
    features, marked = kwargs.get("deepstack_visual_embeds"), kwargs.get("visual_pos_masks")
    if features is not None and marked is not None:
        wanted = _marked(marked, rows, columns)
        part["deepstack_visual_embeds"] = [each[wanted.to(each.device)] for each in features]
        if not len(wanted):
            part["visual_pos_masks"] = part["deepstack_visual_embeds"] = None
    return part


def _marked(marked: Tensor, rows: Tensor, columns: slice) -> Tensor:
    """Numbers of the marked places `[rows, columns]`, counted row after row, that lie in some rows and columns."""
    numbers = (marked.flatten().cumsum(0) - 1).view_as(marked)
    rows = rows.to(marked.device)
    return numbers[rows, columns][marked[rows, columns]]


def spread(cache: DynamicCache, found: Beginnings) -> None:
    """Give every row the keys and values of its group's row, where its own tokens stand."""
    shifted = bool(found.shift.any())
    for layer in cache.layers:
        held: Any = layer
        for name in ("keys", "values"):
            tensor: Tensor = getattr(held, name)  # [groups, heads, columns, d]
            group = found.group.to(tensor.device)
            if shifted:
                places = torch.arange(found.columns) - found.shift[:, None]
                places = places.clamp(min=0).to(tensor.device)
                spread = tensor.transpose(1, 2)[group[:, None], places].transpose(1, 2)
            else:
                spread = tensor.index_select(0, group)
            setattr(held, name, spread)
