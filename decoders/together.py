"""Several strategies at once: what one makes of the base is the base of the next.

Law: with strategies 1 .. n and their branches,

    l_0 = raw logits of the base (of its twin where a gate is open),    l_i = combine_i(l_{i-1}, branches of i)
    keep = keep_1 and ... and keep_n, each asked with l_0

An edit or a bias that one of them puts on the base's attention is there for all: CG-VLM's boost together with VCD's
contrast is a boosted base that is pushed away from a noised image (`sightline.Together((CGVLM(), VCD()))`, `cgvlm+vcd`
by name). Two contrasts one after the other differ in their order. Source: ours; the papers combine nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from ..models.errors import InvalidParameter
from .plan import Branch, Plan, Prompt, Refinement, Request, Step
from .strategy import Strategy

if TYPE_CHECKING:
    from ..models.adapter import Adapter


@dataclass(frozen=True)
class Together(Strategy):
    """Strategies that act one after the other on the same generation.

    Args:
        parts: in the order in which they act; one of them at most may gate or bias the base.
    """

    key: ClassVar[str] = "together"
    title: ClassVar[str] = "Together"

    parts: tuple[Strategy, ...] = ()

    def __post_init__(self) -> None:
        whole = isinstance(self.parts, tuple) and len(self.parts) > 1
        if not whole or not all(isinstance(part, Strategy) for part in self.parts):
            raise InvalidParameter(
                f"together: parts must be two strategies or more, got {self.parts!r}.",
                "Give Together((CGVLM(), VCD())).",
            )
        refused = [part.key for part in self.parts if part.mode is not None or isinstance(part, Together)]
        if refused:
            raise InvalidParameter(f"together: {refused[0]} cannot be a part.", "Set the generation mode by itself.")
        for name, glue in (("key", "+"), ("title", " + ")):
            object.__setattr__(self, name, glue.join(getattr(part, name) for part in self.parts))

    def params(self) -> dict[str, Any]:
        """The fields of each part, under its place and key."""
        return {f"{place}_{part.key}": part.params() for place, part in enumerate(self.parts)}

    def calibration(self, adapter: Adapter) -> str | None:
        """What calibrations make of the parts."""
        found = [part.calibration(adapter) for part in self.parts]
        return " ; ".join(each or "-" for each in found) if any(found) else None

    def prepare(self, request: Request) -> Plan:
        """The plans of all parts in one; each part checks what it lacks."""
        plans = [part.prepare(request) for part in self.parts]
        biased = [part.key for part, plan in zip(self.parts, plans, strict=True) if plan.bias or _gates(plan)]
        if len(biased) > 1:
            raise InvalidParameter(f"{self.key}: {' and '.join(biased)} both act on the base.", "Keep one of them.")
        return Plan(
            branches=tuple(branch for plan in plans for branch in plan.branches),
            edits=tuple(edit for plan in plans for edit in plan.edits),
            bias=next((plan.bias for plan in plans if plan.bias), None),
            probes=tuple(sorted({layer for plan in plans for layer in plan.probes})),
            probed="steps" if any(plan.probes and plan.probed == "steps" for plan in plans) else "prefill",
            readings=tuple(reading for plan in plans for reading in plan.readings),
            exits=tuple(sorted({exit for plan in plans for exit in plan.exits})),
            combines=any(plan.combines for plan in plans),
            context={"plans": plans, "parts": [dict(plan.context) for plan in plans]},
        )

    def refine(self, prompt: Prompt) -> Refinement:
        """Each part that left branches open fills them in from what it asked to be read."""
        altered, contexts, read = [], [], 0
        for part, plan, context in zip(self.parts, prompt.context["plans"], prompt.context["parts"], strict=True):
            readings = prompt.readings[read : read + len(plan.readings)]
            read += len(plan.readings)
            if any(branch.refined for branch in plan.branches):
                probes = {layer: prompt.probes[layer] for layer in plan.probes}
                changes = {"readings": readings, "context": plan.context, "probes": probes}
                refinement = part.refine(dataclasses.replace(prompt, **changes))
                altered += refinement.branches
                context = {**context, **refinement.context}
            contexts.append(context)
        return Refinement(tuple(altered), {"parts": contexts})

    def gate(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor | None:
        """The gate of the part that has one."""
        for part, own, view in self._each(branches, step):
            if (opened := part.gate(base, own, view)) is not None:
                return opened
        return None

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """l_n."""
        for part, own, view in self._each(branches, step):
            base = part.combine(base, own, view)
        return base

    def keep(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor | None:
        """Tokens that every part keeps; None where no part cuts."""
        kept = [part.keep(base, own, view) for part, own, view in self._each(branches, step)]
        cuts = [keep for keep in kept if keep is not None]
        for other in cuts[1:]:
            cuts[0] = cuts[0] & other
        return cuts[0] if cuts else None

    def numbers(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Mapping[str, Tensor]:
        """What each part has to say, under its key."""
        found = {}
        for part, own, view in self._each(branches, step):
            found |= {f"{part.key}.{name}": value for name, value in part.numbers(base, own, view).items()}
        return found

    def _each(self, branches: Sequence[Tensor], step: Step) -> list[tuple[Strategy, Sequence[Tensor], Step]]:
        """Each part that does something, with its branches and its view of the step."""
        found, start = [], 0
        for part, plan, context in zip(self.parts, step.context["plans"], step.context["parts"], strict=True):
            if plan.is_neutral:
                continue
            probes = {layer: step.probes[layer] for layer in plan.probes if layer in step.probes}
            exits = {layer: step.exits[layer] for layer in plan.exits}
            own = branches[start : start + len(plan.branches)]
            found.append((part, own, Step(step.index, probes, context, exits)))
            start += len(plan.branches)
        return found


def _gates(plan: Plan) -> bool:
    return any(isinstance(branch, Branch) and branch.twin for branch in plan.branches)
