"""The contract between strategies and the engine.

A strategy is a frozen dataclass: a decoding method with its hyper-parameters. It knows formulas, no model, no cache and
no tokenizer. The engine asks it at four moments, of which most strategies use two:

* **plan**, before the prefill: which branches run beside the base, which attention is edited, which is probed;
* **refine**, after the base prefill: branches that depend on its probes, or on text generated first;
* **gate**, within a step and per row: whether a branch counts;
* **combine**, at every step: logits in, logits out.

docs/engine.md has the table of which method uses which.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from ..models.attention import EditMode
from ..models.errors import InvalidParameter, MissingProcessor

if TYPE_CHECKING:
    from ..models.adapter import Adapter

Kind = Literal["strategy", "control"]


@dataclass(frozen=True)
class HeadEdit:
    """Query heads of one layer that attend uniformly, or lose their output, in one stream.

    Attributes:
        layer: 0-based.
        heads: 0-based query heads.
        mode: `uniform` (post-RoPE query set to zero) or `zero` (head output set to zero).
    """

    layer: int
    heads: tuple[int, ...]
    mode: EditMode = "uniform"


@dataclass(frozen=True, eq=False)
class KeyBias:
    """An additive bias on the attention scores of the last query row, in some layers.

    Attributes:
        layers: 0-based.
        act: from scaled scores before the mask, `[rows, heads, keys]`, to what is added to them (broadcastable).
    """

    layers: tuple[int, ...]
    act: Callable[[Tensor], Tensor]


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
    """

    name: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    edits: tuple[HeadEdit, ...] = ()
    fork: bool = False
    vision_edits: tuple[HeadEdit, ...] = ()
    bias: KeyBias | None = None

    @property
    def own_prompt(self) -> bool:
        """True if its embeddings are not the base's."""
        return bool(self.inputs or self.vision_edits)


@dataclass(frozen=True)
class Plan:
    """What one `generate()` needs. The empty plan is plain decoding: no hook is placed.

    Attributes:
        branches: in the order in which `combine` gets their logits.
        edits: attention edits on the base rows.
        bias: key bias on the base rows.
        probes: layers whose last query row is read at each step.
        combines: whether logits are changed at all.
        context: tensors or numbers worked out once, handed to `combine` at each step.
    """

    branches: tuple[Branch, ...] = ()
    edits: tuple[HeadEdit, ...] = ()
    bias: KeyBias | None = None
    probes: tuple[int, ...] = ()
    combines: bool = False
    context: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def is_neutral(self) -> bool:
        """True if nothing would differ from plain decoding."""
        return not (self.branches or self.edits or self.bias or self.probes or self.combines)

    @property
    def is_stepwise(self) -> bool:
        """True if something acts on the newest query row alone, so that a text cannot be scored in one forward."""
        return bool(self.probes or self.bias or any(branch.bias for branch in self.branches))

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
    """

    inputs: Mapping[str, Any]
    adapter: Adapter
    processor: Any = None
    scoring: bool = False


@dataclass(frozen=True, eq=False)
class Step:
    """One decoding step, as `combine` sees it.

    Attributes:
        index: 0 for the first generated token.
        probes: layer -> attention of the last query row, `[streams * batch, heads, keys]`.
        context: the plan's context.
    """

    index: int
    probes: Mapping[int, Tensor] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Strategy:
    """Base of all strategies and controls. Fields are choices of the method; class attributes are capabilities.

    Raises:
        InvalidParameter: a field has the wrong type or is out of range; says the rule and the value got.
    """

    key: ClassVar[str]
    title: ClassVar[str]
    kind: ClassVar[Kind] = "strategy"
    needs_image: ClassVar[bool] = False
    needs_attention: ClassVar[bool] = False
    needs_processor: ClassVar[bool] = False
    max_branches: ClassVar[int] = 0
    calibrates: ClassVar[str | None] = None
    mode: ClassVar[Literal["greedy", "sample"] | None] = None
    """A reference control that exists in one generation mode only; None for all others."""

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            object.__setattr__(self, spec.name, _coerce(self, spec.name, str(spec.type)))
        self.validate()

    def validate(self) -> None:
        """Check the fields against each other and their ranges; called once they have their types."""

    def plan(self, request: Request) -> Plan:
        """Moment 1: what this generation needs. The default is plain decoding."""
        return Plan()

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """Moment 4: the logits to decode from.

        Args:
            base: raw logits of the base rows, `[batch, vocab]`, at least float32.
            branches: the same of each branch, in the plan's order.
            step: where we are.
        """
        return base

    def keep(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor | None:
        """Moment 4, the cut: which tokens may be chosen at all, `[batch, vocab]` of bool; None keeps every token.

        Apart from `combine`, so that a margin between two words can be read before the cut, which would tie it.
        """
        return None

    def prepare(self, request: Request) -> Plan:
        """Check capabilities against the request, then plan.

        Raises:
            MissingImage: an image strategy without images.
            MissingProcessor: a strategy with text of its own without a processor.
        """
        if self.needs_processor and request.processor is None:
            raise MissingProcessor(
                f"{self.key} needs the model's processor to tokenise text of its own.",
                "Pass processor=processor to attach() or generate().",
            )
        if self.needs_image:
            request.adapter.require_images(request.inputs, self.key)
        return self.plan(request)

    def calibration(self, adapter: Adapter) -> str | None:
        """What a calibration makes of this strategy on this model, as text for keys; None where none is used."""
        return None

    def params(self) -> dict[str, Any]:
        """The fields as plain values, for manifests."""
        return dataclasses.asdict(self)

    def check(self, holds: bool, name: str, rule: str, remedy: str = "") -> None:
        """Raise `InvalidParameter` unless `holds`: field, rule, value got, remedy."""
        if not holds:
            raise InvalidParameter(f"{self.key}: {name} must be {rule}, got {getattr(self, name)!r}.", remedy)


def _coerce(strategy: Strategy, name: str, kind: str) -> Any:
    """The field's value with its declared type: ints become floats where a float is asked for, nothing else moves."""
    value: Any = getattr(strategy, name)
    optional = "None" in kind
    if value is None and optional:
        return value
    if kind.startswith("float"):
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        strategy.check(number, name, "a finite number")
        return float(value or 0)
    if kind.startswith("int"):
        strategy.check(isinstance(value, int) and not isinstance(value, bool), name, "a whole number")
    elif kind.startswith("bool"):
        strategy.check(isinstance(value, bool), name, "true or false")
    elif kind.startswith("str"):
        strategy.check(isinstance(value, str), name, "a string")
    elif kind.startswith("tuple") and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value)
    return value
