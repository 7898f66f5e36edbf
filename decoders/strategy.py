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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor

from ..models.errors import InvalidParameter, MissingProcessor
from .plan import Plan, Prompt, Refinement, Request, Step

if TYPE_CHECKING:
    from ..models.adapter import Adapter

Kind = Literal["strategy", "control"]


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
    needs_context: ClassVar[bool] = False
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

    def refine(self, prompt: Prompt) -> Refinement:
        """Moment 2: the prompts of branches that the plan left open (`Branch.refined`)."""
        raise NotImplementedError(f"{self.key} plans a refined branch and does not refine it.")

    def gate(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor | None:
        """Moment 3: rows whose base gives way to its twin at this step, `[batch]` of bool; None where none does.

        Args:
            base, branches, step: as for `combine`, which comes after and is given the base that was chosen.
        """
        return None

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

        Apart from `combine`, so that a margin between two words can be read before the cut, which would tie it. The
        default is `left`; a cut that asks the branches overrides it.
        """
        return self.left(base, step)

    def left(self, base: Tensor, step: Step) -> Tensor | None:
        """The cut where it follows from the base alone, as `keep`; None where there is none or it asks the branches."""
        return None

    def decided(self, base: Tensor, step: Step) -> Tensor | None:
        """Rows whose next token no branch can change, `[batch]` of bool; None where that cannot be known.

        By default those in which `left` leaves one token. Branches may be left out of a step where all rows are settled
        (`deferring`); the scores are then the base's, cut by `left`.
        """
        left = self.left(base, step)
        return None if left is None else left.sum(dim=-1) == 1

    def sure(self, base: Tensor, step: Step) -> Tensor | None:
        """Rows that keep the base's scores at this step, `[batch]` of bool; None, always, unless approximate."""
        return None

    def numbers(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Mapping[str, Tensor]:
        """What a trace shall say of this step: name -> `[batch]`. Called only where a trace is asked for."""
        return {}

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


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _coerce(strategy: Strategy, name: str, kind: str) -> Any:
    """The field's value with its declared type: ints become floats where a float is asked for, nothing else moves."""
    value: Any = getattr(strategy, name)
    optional = "None" in kind
    if value is None and optional:
        return value
    if kind.startswith("float"):
        strategy.check(is_finite(value), name, "a finite number")
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
