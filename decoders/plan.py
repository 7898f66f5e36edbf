"""What a strategy asks the engine for, and what it is told: plain frozen values, no behaviour.

Words: a *stream* is the base or one branch. Rows of a forward are its streams one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from ..models.attention import EditMode
from ..models.counterfactual import Kind, Norm
from ..models.spans import context_mask

if TYPE_CHECKING:
    from ..models.adapter import Adapter


@dataclass(frozen=True)
class HeadEdit:
    """Query heads of one layer that attend uniformly, or lose their output, in one stream.

    Attributes:
        layer: 0-based.
        heads: 0-based query heads.
        mode: `uniform` (post-RoPE query set to zero) or `zero` (head output set to zero).
        when: `every_step`, or `prefill_only`, which leaves generated tokens alone; one of them for a layer's heads.
    """

    layer: int
    heads: tuple[int, ...]
    mode: EditMode = "uniform"
    when: Literal["every_step", "prefill_only"] = "every_step"


@dataclass(frozen=True, eq=False)
class MapEdit:
    """Attention maps of some layers replaced, in one stream, by maps that know nothing of the content, or blurred.

    Attributes:
        layers: 0-based.
        kind: `uniform`, `random`, `reversed`, `blurred` (which needs a scope), or (vision) `shuffle`; the formulas are
            those of models/counterfactual.py.
        norm: in the decoder `visible` (rows sum to 1 over visible keys) or `reference` (as published); in the vision
            tower `row` (rows sum to 1) or `none` (as published).
        when: `every_step`, or `prefill_only`, which leaves generated tokens alone.
        seeds: of random and shuffled maps, one for each prompt (decoder) or row of the vision tower, int64.
        lengths: tokens of each prompt without padding (decoder); None in the vision tower.
        shown: the prompts' padding mask, `[batch, length]`, where padding does not all stand on the left (decoder).
        gate: in the vision tower, leave attention alone and multiply the features by the resized map of these layers.
        heads: query heads of these layers that are edited; None: all.
        scope: columns of `input_ids` whose weights a blurred map evens out, `[batch, length]` of bool.
    """

    layers: tuple[int, ...]
    kind: Kind
    norm: Norm = "visible"
    when: Literal["every_step", "prefill_only"] = "every_step"
    seeds: Tensor | None = None
    lengths: Tensor | None = None
    gate: bool = False
    heads: tuple[int, ...] | None = None
    scope: Tensor | None = None
    shown: Tensor | None = None


@dataclass(frozen=True, eq=False)
class KeyBias:
    """An additive bias on the attention scores of the last query row, in some layers.

    Attributes:
        layers: 0-based.
        act: from scaled scores before the mask, `[rows, heads, keys]`, and the keys that are image tokens,
            `[rows, keys]` of bool, to what is added to the scores (broadcastable).
    """

    layers: tuple[int, ...]
    act: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Branch:
    """A row of the batch beside every base row, with altered evidence and the base's own new tokens.

    Attributes:
        name: how traces and errors call it.
        inputs: model inputs that replace those attached (other `pixel_values`, or a whole prompt of another length:
            `input_ids` with its `attention_mask`); the rest is shared.
        edits: attention edits on this branch alone.
        fork: share the base's prefill and edit from the last prompt token on; else edits act on the prompt too.
        vision_edits: attention edits in the vision tower while this branch's image is encoded.
        bias: key bias on this branch alone.
        refined: its prompt is the base's with embeddings that `Strategy.refine` alters, after the base's `prefill`, or
            at `every_step` (which needs generation without a cache: the altered prompt is run anew).
        alter: from its prompt's embeddings `[batch, length, hidden]` and the columns that are image tokens
            `[batch, length]` to what enters the decoder in their place.
        twin: the base's own other version: where `Strategy.gate` opens, the base takes this branch's logits and the
            keys and values of its newest position; where it stays shut, this branch takes the base's.
    """

    name: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    edits: tuple[HeadEdit | MapEdit, ...] = ()
    fork: bool = False
    vision_edits: tuple[HeadEdit | MapEdit, ...] = ()
    bias: KeyBias | None = None
    refined: Literal["prefill", "every_step"] | None = None
    twin: bool = False
    alter: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def own_prompt(self) -> bool:
        """True if its embeddings are not the base's."""
        return bool(self.inputs or self.vision_edits or self.alter)


@dataclass(frozen=True)
class Plan:
    """What one `generate()` needs. The empty plan is plain decoding: no hook is placed.

    Attributes:
        branches: in the order in which `combine` gets their logits.
        edits: attention edits on the base rows.
        bias: key bias on the base rows.
        probes: layers whose last query row is read, at each step or up to `refine` (see `probed`).
        probed: `steps` (read at every step, for `combine`) or `prefill` (for `refine` alone; costs nothing later).
        readings: other prompts (model inputs) of which the probed layers' last rows are read for `refine`.
        exits: layers whose early logits are read at each step: those of what enters the layer (0: the embeddings).
        combines: whether logits are changed at all.
        context: tensors or numbers worked out once, handed to `combine` at each step.
    """

    branches: tuple[Branch, ...] = ()
    edits: tuple[HeadEdit | MapEdit, ...] = ()
    bias: KeyBias | None = None
    probes: tuple[int, ...] = ()
    probed: Literal["steps", "prefill"] = "steps"
    readings: tuple[Mapping[str, Any], ...] = ()
    exits: tuple[int, ...] = ()
    combines: bool = False
    context: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_neutral(self) -> bool:
        """True if nothing would differ from plain decoding."""
        return not (self.branches or self.edits or self.bias or self.probes or self.exits or self.combines)

    @property
    def is_stepwise(self) -> bool:
        """True if something acts on the newest query row alone, so that a text cannot be scored in one forward."""
        return bool(self.probes or self.bias or any(b.bias or b.refined or b.twin for b in self.branches))

    @property
    def needs_attention(self) -> bool:
        """True if our attention function has to run."""
        return bool(self.edits or self.bias or self.probes or any(b.edits or b.bias for b in self.branches))


@dataclass(frozen=True, eq=False)
class Request:
    """What a strategy may look at when it plans.

    Attributes:
        inputs: the model inputs that were attached; `input_ids` is `[batch, length]`.
        adapter: the model family.
        processor: the model's processor, or None if the caller gave none.
        scoring: True where given continuations are scored, False where text is generated.
        spans: what the caller marked as context, as he gave it; see `models.spans.context_mask`.
    """

    inputs: Mapping[str, Any]
    adapter: Adapter
    processor: Any = None
    scoring: bool = False
    spans: Any = None

    def context_mask(self, who: str) -> Tensor:
        """Which columns of `input_ids` hold the context, `[batch, length]` of bool.

        Raises:
            MissingContext: none was marked, or it is not in the prompt.
        """
        return context_mask(self.inputs, self.spans, self.processor, who)


@dataclass(frozen=True, eq=False)
class Step:
    """One decoding step, as `combine` sees it.

    Attributes:
        index: 0 for the first generated token.
        probes: layer -> attention of the base's last query row, `[batch, heads, columns]`, from the prompt's first one.
        context: the plan's context.
        exits: layer -> early logits of the base, `[batch, vocab]`.
        known: what `once` has worked out, by name.
    """

    index: int
    probes: Mapping[int, Tensor] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    exits: Mapping[int, Tensor] = field(default_factory=dict)
    known: dict[Hashable, tuple[tuple[Tensor, ...], Tensor]] = field(default_factory=dict)

    def once(self, name: Hashable, make: Callable[..., Tensor], *of: Tensor) -> Tensor:
        """`make(*of)`, worked out once at this step for all who ask under this name with the same tensors."""
        held = self.known.get(name)
        if held is None or any(one is not other for one, other in zip(held[0], of, strict=True)):
            held = self.known[name] = of, make(*of)
        return held[1]

    def per_row(self, name: str, like: Tensor) -> Tensor:
        """A context tensor `[batch, ...]` with its rows repeated to those of `like` (beams, return sequences)."""
        value = self.context[name].to(like.device)
        return value.repeat_interleave(like.shape[0] // value.shape[0], dim=0)


@dataclass(frozen=True, eq=False)
class Reading:
    """Attention of the last row of a prompt.

    Attributes:
        probes: layer -> `[batch, heads, length]`, at least float32, rows sum to 1 over visible keys.
        image: which positions hold image tokens, `[batch, length]` of bool.
    """

    probes: Mapping[int, Tensor]
    image: Tensor


@dataclass(frozen=True, eq=False)
class Prompt(Reading):
    """The base's prompt after its prefill, as `refine` sees it; one row a prompt, whatever the number of beams.

    Attributes:
        embeds: what entered the decoder, as `Adapter.entering` has it, `[batch, length, width]`.
        mask: what is seen, `[batch, length]`, 1 or 0.
        readings: of the plan's other prompts, in its order.
        context: of the plan.
        probes: as in `Reading`; at `every_step` the keys of new tokens follow those of the prompt.
    """

    embeds: Tensor
    mask: Tensor
    readings: tuple[Reading, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Altered:
    """The prompt of a refined branch.

    Attributes:
        embeds: `[batch, length, hidden]`.
        mask: what the branch sees, `[batch, length]`; None where it sees what the base sees. Positions do not move.
    """

    embeds: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Refinement:
    """What `refine` gives back.

    Attributes:
        branches: one for each refined branch, in the plan's order.
        context: added to the plan's context.
    """

    branches: tuple[Altered, ...]
    context: Mapping[str, Any] = field(default_factory=dict)
