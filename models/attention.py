"""The one attention function: SDPA as before, plus edits of heads and maps, and probes of the last query row.

Registered with transformers under the name ``sightline`` together with SDPA's mask function (without the second the
padding mask would be dropped silently). What a layer has to do hangs on its module, in `LayerState`, never in the
function: two models, or two attachments one after the other, cannot see each other's edits.

Shapes: query ``[rows, heads, q, d]``, key and value ``[rows, kv_heads, keys, d]``, output ``[rows, q, heads, d]``.
Nothing of size q x keys is made here: a head edit touches the query or the output, a probe reads one row, and an edited
map (`counterfactual`) is worked out for the rows of its stream alone, some query rows at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface, PreTrainedModel

from .counterfactual import Call, MapRule, full_map, replaced
from .errors import UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NAME = "sightline"
EditMode = Literal["uniform", "zero"]


@dataclass
class LayerState:
    """What one attention layer does for the attachment that owns it.

    A *stream* is the base (0) or a branch (1, 2, ...); a call's rows are its streams one after the other, each with
    the same number of rows.

    Attributes:
        uniform: query heads that attend uniformly, `[streams, heads]` of bool, or None.
        zero: query heads whose output is silenced, `[streams, heads]` of bool, or None.
        brief: streams whose head edits leave generated tokens alone.
        bias: from the last query row's scores `[rows, heads, keys]` (before the mask; scaled) and the keys that are
            image tokens `[rows, keys]` to what is added to the scores; or None. Other query rows are left alone.
        biased: streams that `bias` acts on.
        probe: whether to keep the last query row's attention.
        present: streams in the call that runs, in row order; all of them when empty.
        tail: streams that fork off the base one column before its last one; each has one more column, behind the
            base's, in which it is given that last token anew. It sees what stands before it and itself.
        maps: for each stream whose attention map is replaced, by what.
        spared: for each stream the number of leading query columns of the call that all edits leave alone.
        image: for each stream, which columns of its prompt hold image tokens, `[batch, columns]` of bool.
        seen: columns of a row up to the end of this call, in the cache or not.
        reading: the latest probe, `[rows, heads, keys]`, at least float32, softmaxed; None before the first call.
        gate: the latest edited map of a rule that only keeps it, averaged over heads, `[rows, q, keys]`.
        calls: how often the layer ran under this state.
        packed: columns of each image where a vision tower reads all images in one row; its layers are then called for
            a piece (an image, or a window of one) at a time, in order. Empty where each image is a row.
        place: columns of a packed row that earlier calls have had.
        shared: what the layers of one call of the decoder work out once for all of them.
    """

    uniform: Tensor | None = None
    zero: Tensor | None = None
    brief: tuple[int, ...] = ()
    bias: Callable[[Tensor, Tensor], Tensor] | None = None
    biased: tuple[int, ...] = ()
    probe: bool = False
    maps: dict[int, MapRule] = field(default_factory=dict)
    present: tuple[int, ...] = ()
    tail: tuple[int, ...] = ()
    spared: tuple[int, ...] = ()
    image: tuple[Tensor, ...] = ()
    seen: int = 0
    reading: Tensor | None = None
    gate: Tensor | None = None
    calls: int = 0
    packed: tuple[int, ...] = ()
    place: int = 0
    shared: dict[tuple, Any] = field(default_factory=dict)
    _keep: dict[tuple, Tensor] = field(default_factory=dict)

    def keep(self, which: Literal["uniform", "zero"], rows: int, columns: int, like: Tensor) -> Tensor | None:
        """Factor that is 0 for edited heads and 1 elsewhere, or None where nothing is edited.

        `[rows, heads, 1, 1]`, made once per row count; `[rows, heads, columns, 1]` where some columns are left alone.
        """
        mask = self.uniform if which == "uniform" else self.zero
        if mask is None:
            return None
        streams = self.present or tuple(range(mask.shape[0]))
        spans = [self._edited_columns(stream, columns) for stream in streams]
        if all(start >= end for start, end in spans):
            return None
        partly = any(span != (0, columns) for span in spans)
        key = (which, rows, streams, partly and (columns, *spans), like.dtype, like.device)
        if key not in self._keep:
            edited = mask[list(streams)][:, :, None, None]
            if partly:
                starts, ends = torch.tensor(spans).T[:, :, None]
                places = torch.arange(columns)
                edited = edited & ((places >= starts) & (places < ends))[:, None, :, None]
            for old in [old for old in self._keep if partly and old[0] == which and old[3]]:
                del self._keep[old]  # without a cache every step has another length
            per_row = (~edited).repeat_interleave(rows // len(streams), dim=0)
            self._keep[key] = per_row.to(like.device, like.dtype)
        return self._keep[key]

    def _edited_columns(self, stream: int, columns: int) -> tuple[int, int]:
        """The first query column of a call that head edits of a stream act on, and the first one after them."""
        start = self.spared[stream] if self.spared else 0
        if stream not in self.brief or not self.image:
            return start, columns
        past = self.seen - columns
        return start, min(max(self.image[stream].shape[1] - past, 0), columns)

    def biased_rows(self, rows: int, device: torch.device) -> Tensor | slice | None:
        """Rows that `bias` acts on in this call, a slice of them where they stand together; or None."""
        streams = self.present or tuple(range(1 + max(self.biased, default=-1)))
        each = rows // max(len(streams), 1)
        hit = [place for place, stream in enumerate(streams) if stream in self.biased]
        if self.bias is None or not hit:
            return None
        if hit == list(range(hit[0], hit[-1] + 1)):
            return slice(hit[0] * each, (hit[-1] + 1) * each)
        key = ("bias", each, *hit)
        if key not in self._keep:
            numbers = [row for place in hit for row in range(place * each, (place + 1) * each)]
            self._keep[key] = torch.tensor(numbers, device=device)
        return self._keep[key]

    def mapped(self, rows: int) -> list[tuple[int, slice]]:
        """Streams in this call whose map is replaced, each with its rows."""
        streams = self.present or tuple(range(1 + max(self.maps, default=0)))
        each = rows // len(streams)
        return [(s, slice(place * each, (place + 1) * each)) for place, s in enumerate(streams) if s in self.maps]

    def piece(self, columns: int) -> tuple[int, int]:
        """The image that the next piece of a packed row belongs to, and where in that image it begins.

        Raises:
            UnsupportedModel: the piece is not of one image.
        """
        ends = list(accumulate(self.packed))
        start, self.place = self.place, (self.place + columns) % ends[-1]
        image = bisect_right(ends, start)
        first = ends[image] - self.packed[image]
        if start + columns > ends[image]:
            raise UnsupportedModel(
                "The vision tower attends across images, or over all of them at once.",
                "Use a strategy that leaves the vision tower alone with this model.",
            )
        return image, start - first

    def image_keys(self, rows: int, keys: int, device: torch.device) -> Tensor:
        """Which keys of this call are image tokens, `[rows, keys]` of bool; none where no prompt is known.

        A window that has moved on holds the last keys alone, and a static buffer is longer than what was seen.
        """
        key = ("image", rows, keys, device, self.present)
        if key not in self.shared:
            self.shared[key] = self._image_keys(rows, keys, device)
        return self.shared[key]

    def _image_keys(self, rows: int, keys: int, device: torch.device) -> Tensor:
        if not self.image:
            return torch.zeros(rows, keys, dtype=torch.bool, device=device)
        streams = self.present or tuple(range(len(self.image)))
        each = rows // len(streams)
        prompts = [self.image[stream] for stream in streams]
        key = ("image", each, *map(id, prompts))  # they live as long as the attachment's streams
        if key not in self._keep:
            joined = torch.cat([prompt.repeat_interleave(each // len(prompt), dim=0) for prompt in prompts])
            self._keep[key] = joined.to(device)
        joined = self._keep[key]
        padded = nn.functional.pad(joined, (0, max(self.seen, keys) - joined.shape[1]))
        return padded[:, self.seen - keys : self.seen] if keys < self.seen else padded[:, :keys]


_STATES: WeakKeyDictionary[nn.Module, LayerState] = WeakKeyDictionary()


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention with the edits and the probe of `module`'s `LayerState`.

    A uniform head is a head whose post-RoPE query is zero: every visible key then gets the same score, also under
    grouped keys, padding and windows (DeCoRe's reference code, see its spec). A zero head loses its output.
    """
    state = _STATES.get(module)
    if state is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    state.calls += 1
    if state.tail:
        return _with_tail(module, state, (query, key, value, attention_mask), scaling=scaling, **kwargs), None
    return _edited(module, state, query, key, value, attention_mask, scaling, **kwargs), None


def _with_tail(
    module: nn.Module, state: LayerState, call: tuple[Tensor, Tensor, Tensor, Tensor | None], **kwargs
) -> Tensor:
    """The columns of all rows, then those of forked streams, a row each: `[rows, columns + tail, heads, d]`."""
    query, key, value, mask = call
    present, tail = state.present, state.tail
    each, width = len(query) // len(present), query.shape[2] - len(tail)
    end = key.shape[2] - len(tail)  # more than `width` where the prompt's beginning is in the cache already
    whole = None if mask is None else mask[:, :, :width, :end]
    output = _edited(module, state, query[:, :, :width], key[:, :, :end], value[:, :, :end], whole, **kwargs)
    first = state.reading
    keys, values = (
        torch.cat([torch.cat([x[:each, :, : end - 1], x[:each, :, column : column + 1]], dim=2)
                   for column in range(end, end + len(tail))])
        for x in (key, value)
    )  # fmt: skip
    queries = query[:each, :, width:].transpose(1, 2).transpose(0, 1).flatten(0, 1)[:, :, None]
    seen = None if whole is None else whole[:each, :, -1:].repeat(len(tail) if len(whole) > 1 else 1, 1, 1, 1)
    state.present = tail
    try:
        own = _edited(module, state, queries, keys, values, seen, **kwargs)
    finally:
        state.present = present
    if state.probe and first is not None and state.reading is not None:
        state.reading = torch.cat([first, state.reading])
    padded = output.new_zeros(len(query), len(tail), *output.shape[2:])
    padded[:each] = own.view(len(tail), each, *output.shape[2:]).transpose(0, 1)
    return torch.cat([output, padded], dim=1)


def _edited(
    module: nn.Module,
    state: LayerState,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs,
) -> Tensor:
    rows, _, columns, _ = query.shape
    uniform = state.keep("uniform", rows, columns, query)
    if uniform is not None:
        query = query * uniform
    if state.probe:
        state.reading = last_row(query, key, attention_mask, scaling)
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    touched = state.biased_rows(rows, query.device)
    if touched is not None and state.bias is not None:
        output = _with_bias(output, touched, (query, key, value, attention_mask, scaling), state, state.bias)
    if state.maps:
        rules, start = state.maps, 0
        if state.packed:
            image, start = state.piece(columns)
            rules = {stream: rule.of_image(image) for stream, rule in rules.items()}
        causal = kwargs.get("is_causal")
        causal = getattr(module, "is_causal", True) if causal is None else causal
        call = Call(query, key, value, attention_mask, scaling, bool(causal), seen=start + columns if start else 0)
        output = _with_maps(output, call, state, rules)
    zero = state.keep("zero", rows, columns, output)
    return output if zero is None else output * zero.transpose(1, 2)


def _with_bias(
    output: Tensor,
    touched: Tensor | slice,
    call: tuple[Tensor, Tensor, Tensor, Tensor | None, float | None],
    state: LayerState,
    act: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """`output` with the last query row of the touched rows computed again under the key bias. O(keys) a row."""
    query, key, value, mask, scaling = call
    image = state.image_keys(query.shape[0], key.shape[2], query.device)[touched]
    query, key, value = query[touched], key[touched], value[touched]
    if mask is not None and mask.shape[0] > 1:
        mask = mask[touched]
    weights = last_row(query, key, mask, scaling, lambda scores: act(scores, image[:, : scores.shape[-1]]))
    if state.probe and state.reading is not None:
        state.reading[touched] = weights
    heads, groups = query.shape[1], value.shape[1]
    grouped = weights.view(len(weights), groups, heads // groups, -1).to(value.dtype)
    last = torch.einsum("rghk,rgkd->rghd", grouped, value[:, :, : weights.shape[-1]])
    output = output.clone() if output.requires_grad else output
    output[touched, -1] = last.reshape(len(weights), heads, -1)
    return output


def _with_maps(output: Tensor, call: Call, state: LayerState, rules: Mapping[int, MapRule]) -> Tensor:
    """`output` `[rows, q, heads, d]` with the rows of edited streams as their rules have them."""
    output = output.clone() if output.requires_grad else output
    for stream, rows in state.mapped(len(output)):
        query, key, value, mask = call.query[rows], call.key[rows], call.value[rows], call.mask
        if mask is None and call.causal and 1 < query.shape[2] < key.shape[2]:  # see `last_row`
            key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
        prompt = state.image[stream].shape[1] if state.image else 0
        own = Call(
            query, key, value, mask[rows] if mask is not None and len(mask) > 1 else mask, call.scaling, call.causal,
            prompt, state.seen or call.seen, state.spared[stream] if state.spared else 0, state.shared,
        )  # fmt: skip
        rule = rules[stream]
        if rule.gate:
            state.gate = full_map(rule, own).mean(1)
        else:
            output[rows] = replaced(rule, own, output[rows].transpose(1, 2)).transpose(1, 2)
    return output


def last_row(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scaling: float | None = None,
    bias: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Attention of the last query position over all keys.

    Args:
        query: `[rows, heads, q, d]` after RoPE.
        key: `[rows, kv_heads, keys, d]`, not repeated; heads must be a multiple of kv_heads.
        mask: boolean (true = visible) or additive, `[rows or 1, heads or 1, q, keys]`, or None for causal attention
            over the first q keys or, at q = 1, over all of them.
        scaling: factor on the scores; 1/sqrt(d) when None.
        bias: from the scaled scores `[rows, heads, keys]` to what is added to them before the mask.

    Returns:
        `[rows, heads, keys]`, at least float32, rows sum to 1 (a row that sees no key is all zero).
    """
    rows, heads, q_len, dim = query.shape
    kv_heads, keys = key.shape[1], key.shape[2]
    if mask is None and 1 < q_len < keys:  # prefill into a static cache: the rest of the buffer is empty
        key, keys = key[:, :, :q_len], q_len
    wide = torch.promote_types(query.dtype, torch.float32)
    grouped = query[:, :, -1].to(wide).view(rows, kv_heads, heads // kv_heads, dim)
    scores = torch.einsum("rghd,rgkd->rghk", grouped, key.to(wide)).reshape(rows, heads, keys)
    scores = scores * (dim**-0.5 if scaling is None else scaling)
    if bias is not None:
        scores = scores + bias(scores)
    if mask is not None:
        row = mask[:, :, -1, :keys]
        scores = scores.masked_fill(~row, -torch.inf) if row.dtype == torch.bool else scores + row.to(wide)
    return torch.nan_to_num(torch.softmax(scores, dim=-1), nan=0.0)


@contextmanager
def installed(decoder: PreTrainedModel, states: Mapping[nn.Module, LayerState]) -> Iterator[None]:
    """Run `decoder` on our attention function inside the block, with `states` in force; restore everything after.

    Raises:
        UnsupportedModel: another attachment holds one of the layers, the scores are soft-capped, or the model does
            not take its attention from transformers' attention interface.
    """
    _refuse(decoder, states)
    configs = {id(m.config): m.config for m in decoder.modules() if isinstance(m, PreTrainedModel)}.values()
    before = [(config, config._attn_implementation) for config in configs]
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    try:
        decoder.set_attn_implementation(NAME)
        if decoder.config._attn_implementation != NAME:
            raise UnsupportedModel(
                f"{type(decoder).__name__} does not take its attention from transformers' attention interface.",
                "Use a strategy that leaves attention alone with this model.",
            )
        _STATES.update(states)
        yield
    finally:
        for module in states:
            _STATES.pop(module, None)
        for config, implementation in before:
            config._attn_implementation_internal = implementation
        if not _STATES:
            AttentionInterface._global_mapping.pop(NAME, None)
            AttentionMaskInterface._global_mapping.pop(NAME, None)


def _refuse(decoder: PreTrainedModel, states: Mapping[nn.Module, LayerState]) -> None:
    if any(module in _STATES for module in states):
        raise UnsupportedModel(
            "Another attachment is already editing the attention of this model.",
            "Close it first (leave its block, or call attachment.close()).",
        )
    if getattr(decoder.config, "attn_logit_softcapping", None):
        raise UnsupportedModel(
            f"{type(decoder).__name__} soft-caps its attention scores, which SDPA cannot do.",
            "Use a strategy that leaves attention alone (for example vcd) with this model.",
        )
