"""Attention whose map is replaced: by one that knows nothing of the content, as CausalMM intervenes on it, or blurred.

With A the softmaxed map of a head, V the values, o = A V what plain attention gives, and for each query n visible keys:

    uniform   sum(V) / n                           over visible keys
    reversed  (m sum(V) - o) / (m n - 1)           m the largest weight: max(A) - A, made to sum to 1
    random    sum(u V) / sum(u)                    u drawn uniformly from (0, 1) for each query and key
    shuffle   P(A) V, rows made to sum to 1        P permutes the entries of the whole map (vision alone)
    blurred   o - sum_S(a V) + sum_S(a) mean_S(V)  S: the visible keys of a scope, which share what A gives them (HICD)

So but for `shuffle` no map is kept, and scores are made for `reversed` and `blurred` alone, `CHUNK` query rows at a
time; where a rule names heads, for those heads only. Draws depend on a row's seed, layer, head, and the positions of
query and key among the row's own tokens, never on batch, padding, cache or call order: they are hashes, not a
generator's next numbers.

Norms: `visible` (language) and `row` (vision) are the forms above; `reference` (language) and `none` (vision) are those
of CausalMM's released code, whose rows do not sum to 1. Visible keys get weight, no other.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from .draws import draw, permutation
from .errors import UnsupportedMode

Kind = Literal["uniform", "random", "reversed", "shuffle", "blurred"]
Norm = Literal["visible", "reference", "row", "none"]
CHUNK = 128
"""Query rows whose scores exist at a time."""
HIDDEN = -1e4
"""An additive mask this low hides a key: masks hold the least number of some float type, or minus infinity."""
AHEAD = 16
"""Queries whose draws are made at a time where tokens are generated one by one, for all layers of an edit ..."""
MOST = 2**22
"""... unless they were more numbers than these."""


@dataclass(frozen=True, eq=False)
class MapRule:
    """What stands in for the attention map of one layer in one stream.

    Attributes:
        layer: 0-based; draws differ by layer.
        kind, norm: as above.
        seeds: of the draws, one a prompt or image, `[batch]` of int64; None for kinds without any.
        lengths: tokens of each prompt without padding, `[batch]`; None in a vision tower, where nothing is padded.
        prompt_only: leave generated tokens alone.
        gate: leave the output alone and keep the map, which is to weigh features (CausalMM's released code).
        heads: the query heads that are edited, by which draws are then numbered; None: all.
        scope: columns of each prompt that a blurred map evens out, `[batch, columns]` of bool, right-aligned.
        shown: columns of each prompt that are no padding, `[batch, columns]` of 1 or 0, right-aligned; where it is None
            all padding stands on the left, as `lengths` has it.
        layers: all layers of the edit that the rule is of, where their draws may be made together.
        kept: what was drawn ahead for all of them, while one attachment lasts.
    """

    layer: int
    kind: Kind
    norm: Norm
    seeds: Tensor | None = None
    lengths: Tensor | None = None
    prompt_only: bool = False
    gate: bool = False
    heads: tuple[int, ...] | None = None
    scope: Tensor | None = None
    shown: Tensor | None = None
    layers: tuple[int, ...] = ()
    kept: dict[tuple, Any] = field(default_factory=dict)

    def of_image(self, image: int) -> MapRule:
        """The rule for one image alone."""
        seeds = None if self.seeds is None else self.seeds[image : image + 1]
        return dataclasses.replace(self, seeds=seeds, layers=(), kept={})

    @property
    def whole(self) -> bool:
        """True if statistics are those of a head's whole map (vision), not of each query's row (language)."""
        return self.norm in ("row", "none")


@dataclass(frozen=True, eq=False)
class Call:
    """Some rows of one call of an attention layer.

    Attributes:
        query: after RoPE, `[rows, heads, q, d]`.
        key, value: `[rows, kv_heads, keys, d]`, not repeated.
        mask: boolean (true = visible) or additive, `[rows or 1, 1, q, keys]`; None: see `causal`.
        scaling: factor on the scores; 1/sqrt(d) when None.
        causal: whether without a mask and at q > 1 a query sees the keys up to its own alone; else it sees all.
        prompt: columns of a row that hold its prompt, padding included; 0: all of them.
        seen: columns of a row up to the end of this call, in the cache or not; 0: as many as there are keys.
        spared: leading query columns that are left alone.
        shared: what the layers of one call of the decoder work out once for all of them; None: nothing.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None
    scaling: float | None = None
    causal: bool = True
    prompt: int = 0
    seen: int = 0
    spared: int = 0
    shared: dict[tuple, Any] | None = None

    @property
    def wide(self) -> torch.dtype:
        """What is computed in: float32 at least."""
        return torch.promote_types(self.query.dtype, torch.float32)

    @property
    def parts(self) -> list[slice]:
        """The query columns, `CHUNK` at a time."""
        return [slice(start, start + CHUNK) for start in range(0, self.query.shape[2], CHUNK)]

    def visible(self, part: slice) -> Bool[Tensor, "some q keys"]:
        """Which keys the queries of a part see."""
        columns, keys = self.query.shape[2], self.key.shape[2]
        if self.mask is not None:
            rows = self.mask[:, 0, part, :keys]
            return rows if rows.dtype == torch.bool else rows > HIDDEN
        every = torch.ones(1, len(range(columns)[part]), keys, dtype=torch.bool, device=self.key.device)
        return every.tril(part.start or 0) if self.causal and columns > 1 else every

    def scores(self, part: slice) -> Float[Tensor, "rows heads q keys"]:
        """Masked scores of the queries of a part."""
        query = self.query[:, :, part].to(self.wide)
        rows, heads, columns, dim = query.shape
        grouped = query.reshape(rows, self.key.shape[1], -1, dim) @ self.key.to(self.wide).mT
        scores = grouped.view(rows, heads, columns, -1) * (dim**-0.5 if self.scaling is None else self.scaling)
        if self.mask is not None and self.mask.dtype != torch.bool:
            scores = scores + self.mask[:, :, part, : scores.shape[-1]].to(self.wide)
        return scores.masked_fill(~self.visible(part)[:, None], -torch.inf)

    @property
    def first(self) -> int:
        """The column of the first key: a window that has moved on holds the last keys alone."""
        return max((self.seen or self.key.shape[2]) - self.key.shape[2], 0)

    def positions(
        self, lengths: Tensor | None, shown: Tensor | None = None
    ) -> tuple[Int[Tensor, "rows q"], Int[Tensor, "rows keys"]]:
        """Where queries and keys stand among the tokens of their row; numbers of padding mean nothing."""
        keys, seen, first = self.key.shape[2], self.seen or self.key.shape[2], self.first
        places = self.places(max(seen, first + keys), lengths, shown)  # a static buffer is longer than what was seen
        return places[:, seen - self.query.shape[2] : seen], places[:, first : first + keys]

    def places(self, columns: int, lengths: Tensor | None, shown: Tensor | None) -> Int[Tensor, "rows columns"]:
        """Where so many columns from the left stand among the tokens of their row."""
        rows, device = len(self.query), self.query.device
        if shown is not None:
            prompt = self.prompt or shown.shape[1]
            wide = nn.functional.pad(shown.to(device).long(), (prompt - shown.shape[1], 0))
            wide = nn.functional.pad(wide, (0, columns - prompt), value=1)
            return (wide.cumsum(dim=1) - 1).repeat_interleave(rows // len(wide), dim=0)
        starts = torch.zeros(rows, dtype=torch.long, device=device)
        if lengths is not None:
            starts = _each(self.prompt or int(lengths.max()), rows, device) - _each(lengths, rows, device)
        return torch.arange(columns, device=device) - starts[:, None]

    def weigh(self, weights: Float[Tensor, "rows heads q keys"]) -> Float[Tensor, "rows heads q d"]:
        """The values under given weights."""
        rows, heads, columns, keys = weights.shape
        grouped = weights.reshape(rows, self.value.shape[1], -1, keys) @ self.value.to(self.wide)
        return grouped.view(rows, heads, columns, -1)

    def inside(self, scope: Bool[Tensor, "batch columns"]) -> Bool[Tensor, "rows keys"]:
        """Which keys belong to the columns of a scope, whose last column is the prompt's last."""
        keys, seen, first = self.key.shape[2], self.seen or self.key.shape[2], self.first
        prompt = self.prompt or scope.shape[1]
        wide = nn.functional.pad(scope, (prompt - scope.shape[1], max(seen, keys) - prompt)).to(self.key.device)
        return wide[:, first : first + keys].repeat_interleave(len(self.query) // len(scope), dim=0)

    def of_heads(self, heads: Int[Tensor, " heads"]) -> Call:
        """The same for some of the query heads, each with keys and values of its own."""
        count = self.query.shape[1]
        key, value = (each[:, heads * each.shape[1] // count] for each in (self.key, self.value))
        return dataclasses.replace(self, query=self.query[:, heads], key=key, value=value)

    def summed(self, visible: Bool[Tensor, "some q keys"]) -> Float[Tensor, "rows heads q d"]:
        """The sum of the values that each query sees."""
        sums = visible[:, None].to(self.wide) @ self.value.to(self.wide)
        return sums.repeat_interleave(self.query.shape[1] // self.value.shape[1], dim=1)


def replaced(rule: MapRule, call: Call, output: Float[Tensor, "rows heads q d"]) -> Float[Tensor, "rows heads q d"]:
    """What attention gives under the map of `rule`.

    Args:
        rule, call: what is asked for, and the rows that it is asked for.
        output: what plain attention gave; kept for queries that are left alone, see nothing, or have no mass.
    """
    if rule.heads is not None:
        heads, every = torch.tensor(rule.heads, device=output.device), dataclasses.replace(rule, heads=None)
        return output.index_copy(1, heads, replaced(every, call.of_heads(heads), output[:, heads]))
    columns = output.shape[2]
    start, end = call.spared, columns
    if rule.prompt_only and call.prompt:
        end = min(call.prompt - (call.seen or call.key.shape[2]) + columns, columns)
    if start >= end:
        return output
    top = _tops(rule, call) if rule.kind == "reversed" else None
    parts = [slice(None)] if rule.kind == "shuffle" else call.parts
    pieces = [_made(rule, call, output[:, :, part], top, part) for part in parts]
    made = torch.cat(pieces, dim=2) if len(pieces) > 1 else pieces[0]
    if (start, end) == (0, columns):
        return made.to(output.dtype)
    places = torch.arange(columns, device=output.device)
    acts = (places >= start) & (places < end)
    return torch.where(acts[:, None], made, output.to(call.wide)).to(output.dtype)


def full_map(rule: MapRule, call: Call) -> Float[Tensor, "rows heads q keys"]:
    """The map itself, written out: what attention gives where the values are unit vectors."""
    keys = call.key.shape[2]
    unit = torch.eye(keys, dtype=call.wide, device=call.key.device).expand(len(call.key), 1, keys, keys)
    return replaced(rule, dataclasses.replace(call, value=unit), _plain_map(call))


def gate(mean: Float[Tensor, "rows q keys"], patches: int) -> Float[Tensor, "rows patches"]:
    """The factor of each patch in CausalMM's released code, which takes a map for an image and resizes it to the grid.

    Args:
        mean: map averaged over heads (which may come first, for resizing is linear).
        patches: features that reach the projector, row by row of a square grid.

    Raises:
        UnsupportedMode: they are no square.
    """
    side = math.isqrt(patches)
    if side * side != patches:
        raise UnsupportedMode(
            f"The gate needs a square grid of patches, and {patches} features reach the projector.",
            "Use vision_mode in_layer with this model.",
        )
    sized = nn.functional.interpolate(mean[:, None], size=(side, side), mode="bilinear", align_corners=False)
    return sized.flatten(1)


def _each(value: Tensor | int, rows: int, device: torch.device) -> Shaped[Tensor, " rows"]:
    """A value of each prompt for each row: beams and return sequences of a prompt share it."""
    found = torch.as_tensor(value, device=device).reshape(-1)
    return found.repeat_interleave(rows // len(found))


def _plain_map(call: Call, part: slice = slice(None)) -> Tensor:
    """Plain attention, `[rows, heads, q, keys]`; zero where a query sees nothing."""
    return call.scores(part).softmax(-1).nan_to_num(nan=0.0)


def _tops(rule: MapRule, call: Call) -> Tensor:
    """The largest weight of each query, `[rows, heads, q]`; in vision that of the whole map."""
    chunks = (call.scores(part) for part in call.parts)
    tops = torch.cat([(each.amax(-1) - each.logsumexp(-1)).exp() for each in chunks], dim=-1).nan_to_num(nan=0.0)
    return tops.amax(-1, keepdim=True).expand_as(tops) if rule.whole else tops


def _made(rule: MapRule, call: Call, output: Tensor, top: Tensor | None, part: slice) -> Tensor:
    """`replaced` for the queries of a part, all of them edited; in the wide type."""
    output = output.to(call.wide)
    if rule.kind == "random" and rule.norm == "visible" and rule.layers and call.query.shape[2] == 1:
        return _made_together(rule, call, output)
    visible = call.visible(part)
    if rule.kind == "blurred":
        return _blurred(rule, call, output, part, visible)
    count = visible.sum(-1)[:, None].to(call.wide)
    if rule.kind == "uniform":
        found, mass = call.summed(visible), count
    elif top is not None:
        found, mass = top[:, :, part, None] * call.summed(visible) - output, top[:, :, part] * count - 1
        mass = mass.masked_fill(mass < 64 * torch.finfo(mass.dtype).eps, 0)  # rounding is no mass
    else:
        weights = (_random if rule.kind == "random" else _shuffled)(rule, call, part)
        weights = weights.masked_fill(~visible[:, None], 0)
        found, mass = call.weigh(weights), weights.sum(-1)
    divisor = mass if rule.norm in ("visible", "row") else _literal(rule, call, part)
    keeps = (divisor > 0) & (count > 0)
    return torch.where(keeps[..., None], found / divisor.where(keeps, 1)[..., None], output)


def _made_together(rule: MapRule, call: Call, output: Tensor) -> Tensor:
    """`_made` for random maps of one query a row, with weights and sums of all layers worked out by the first."""
    mask, shared = call.mask, {} if call.shared is None else call.shared
    key = ("random", id(rule.kept), call.seen, call.key.shape[2], None if mask is None else mask.data_ptr())
    if key not in shared:  # the mask is kept beside, so that no other one can stand where it stands
        visible = call.visible(slice(None)) if mask is not None else None
        shared[key] = mask, *_weights(rule, call, visible)
    _, weights, mass, keeps = shared[key]
    place = rule.layers.index(rule.layer)
    found = call.weigh(weights[place]) / mass[place]
    return found if keeps is None else torch.where(keeps, found, output)


def _weights(rule: MapRule, call: Call, visible: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """For all layers the weights `[layers, rows, heads, 1, keys]` and their sums; and which queries see a key."""
    seen, keys = call.seen or call.key.shape[2], call.key.shape[2]
    prompt = call.prompt, len(call.query)
    begin, table = rule.kept.get(prompt, (seen, None))
    if table is None or not (0 <= seen - 1 - begin < table.shape[3] and call.first + keys <= table.shape[4]):
        begin, table = rule.kept[prompt] = seen - 1, _drawn_ahead(rule, call)
    weights = table[:, :, :, seen - 1 - begin, None, call.first : call.first + keys].to(call.wide)
    if visible is None:
        weights = weights.contiguous()
        return weights, weights.sum(-1, keepdim=True), None
    weights = weights.masked_fill(~visible[:, None], 0)
    keeps = visible.any(-1)[:, None, :, None]
    return weights, weights.sum(-1, keepdim=True).where(keeps, 1), keeps


def _drawn_ahead(rule: MapRule, call: Call) -> Float[Tensor, "layers rows heads ahead columns"]:
    """Draws for this query and for those that will follow it, over all columns that they will see."""
    rows, heads = call.query.shape[:2]
    seen, end = call.seen or call.key.shape[2], max(call.seen, call.first + call.key.shape[2])
    ahead = max(1, min(AHEAD, MOST // (len(rule.layers) * rows * heads * end)))
    places = call.places(end + ahead, rule.lengths, rule.shown)
    return draw(_seeds(rule, call), rule.layers, heads, places[:, seen - 1 : seen - 1 + ahead], places)


def _blurred(rule: MapRule, call: Call, output: Tensor, part: slice, visible: Tensor) -> Tensor:
    """Plain attention but for the visible keys of the scope, whose weights become their mean."""
    assert rule.scope is not None
    shared = visible & call.inside(rule.scope)[:, None]
    weights = _plain_map(call, part).masked_fill(~shared[:, None], 0)
    count = shared.sum(-1)[:, None, :, None].clamp(min=1).to(call.wide)
    return output - call.weigh(weights) + weights.sum(-1, keepdim=True) * (call.summed(shared) / count)


def _total(rule: MapRule, call: Call, part: slice) -> Tensor:
    """Keys that the released code counts, `[rows or 1, q]`: those of the call that first ran the query's token."""
    keys, rows, device = call.key.shape[2], len(call.query), call.query.device
    if rule.whole:
        return torch.full((1, 1), keys, dtype=call.wide, device=device)
    lengths = _each(call.prompt or keys if rule.lengths is None else rule.lengths, rows, device)
    return (call.positions(rule.lengths, rule.shown)[0][:, part] + 1).maximum(lengths[:, None]).to(call.wide)


def _literal(rule: MapRule, call: Call, part: slice) -> Tensor:
    """What the released code divides by, `[rows or 1, heads or 1, q]`; drawn anew for the decoder's random maps."""
    if rule.kind == "uniform":
        return _total(rule, call, part)[:, None]
    if rule.kind in ("reversed", "shuffle"):
        return torch.ones(1, 1, 1, dtype=call.wide, device=call.key.device)
    if rule.whole:
        return torch.full((1, 1, 1), 0.5, dtype=call.wide, device=call.key.device)  # 2 u, whatever A is
    total = _total(rule, call, part)
    every = torch.arange(int(total.max()), device=total.device).expand(len(total), -1)
    queries = call.positions(rule.lengths, rule.shown)[0][:, part]
    drawn = draw(_seeds(rule, call), rule.layer, call.query.shape[1], queries, every).to(call.wide)
    return drawn.masked_fill(every[:, None, None] >= total[:, None, :, None], 0).sum(-1)


def _random(rule: MapRule, call: Call, part: slice) -> Tensor:
    queries, keys = call.positions(rule.lengths, rule.shown)
    return draw(_seeds(rule, call), rule.layer, call.query.shape[1], queries[:, part], keys).to(call.wide)


def _shuffled(rule: MapRule, call: Call, part: slice) -> Tensor:
    """The entries of each head's map in another order; `part` is the whole. Sorted row by row, to save memory."""
    found, first = [], max(call.seen - call.query.shape[2], 0)
    for seed, one in zip(_seeds(rule, call).split(1), _plain_map(call, part).split(1), strict=True):
        order = permutation(seed, rule.layer, one.shape[1], one[0, 0].numel(), first)
        found.append(one.flatten(2).gather(-1, order).view(one.shape))
    return torch.cat(found)


def _seeds(rule: MapRule, call: Call) -> Tensor:
    seeds = torch.zeros(1, dtype=torch.long) if rule.seeds is None else rule.seeds
    return _each(seeds, len(call.query), call.query.device)
