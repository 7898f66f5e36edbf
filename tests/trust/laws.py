"""What every `combine` is tried on: decoders that act, the branches and the step that each of them reads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sightline
import torch
from hypothesis import strategies as st
from sightline.decoders.context_tokens import distinct
from sightline.decoders.contrast import cut, widen
from sightline.decoders.plan import Plan, Step
from torch import Tensor

BUILD = sightline.decoders.build
HUGE = 1e30
"""Logits go as far as this: beyond, products leave the range of float32."""
ORDINARY = st.floats(-30, 30, width=32)
ANY = st.one_of(ORDINARY, st.sampled_from([-torch.inf, 0.0, 1e4, -1e4, -2e4, 65504.0, -65504.0, HUGE, -HUGE]))


@dataclass(frozen=True)
class Law:
    """A decoder as it is tried.

    Attributes:
        decoder: with parameters that act.
        branches: how many it reads.
        context: from base logits `[batch, vocab]` to the context of its step.
        exits: how many early layers it reads, as they are given among the branches' logits, behind them.
        cuts: the same decoder with another beta; None where it has no cut of a beta.
    """

    decoder: Any
    branches: int = 1
    context: Callable[[Tensor], dict[str, Any]] = lambda base: {}
    exits: int = 0
    cuts: Callable[[float], Any] | None = None

    def step(self, base: Tensor, exits: list[Tensor]) -> Step:
        """The first step, with all that the decoder reads."""
        return Step(0, _probes(base), self.context(base), dict(enumerate(exits)))

    def combined(self, base: Tensor, others: list[Tensor]) -> Tensor:
        """Scores as the engine has them before the cut."""
        base, *others = (widen(logits) for logits in (base, *others))
        branches, exits = others[: self.branches], others[self.branches :]
        return self.decoder.combine(base, branches, self.step(base, exits))

    def kept(self, base: Tensor, others: list[Tensor]) -> Tensor | None:
        """Which tokens its cut leaves."""
        base, *others = (widen(logits) for logits in (base, *others))
        branches, exits = others[: self.branches], others[self.branches :]
        return self.decoder.keep(base, branches, self.step(base, exits))

    def decoded(self, base: Tensor, others: list[Tensor]) -> Tensor:
        """Scores as the engine hands them on."""
        scores, keep = self.combined(base, others), self.kept(base, others)
        return scores if keep is None else cut(scores, keep)


def _probes(base: Tensor) -> dict[int, Tensor]:
    """Attention of two heads over four columns, the same in every row."""
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.5, 0.1, 0.1, 0.3]], dtype=base.dtype)
    return {0: weights.expand(len(base), 2, 4)}


def _passage(base: Tensor, ends: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """What DAGCD reads: token 1 stands in the passage twice, token 2 once."""
    ids = torch.tensor([[0, 1, 2, 1]]).expand(len(base), 4)
    found = distinct(ids, ids > 0)
    real = {"dtype": base.dtype}
    return {
        **found._asdict(), "chosen": [(0, 0), (0, 1)], "coef": torch.tensor([3.0, 2.0], **real),
        "weights": torch.tensor([0.6, 0.4], **real), "intercept": -0.5, "ends": torch.tensor(ends),
    }  # fmt: skip


def _together(base: Tensor) -> dict[str, Any]:
    """What a chain of VCD and AVC reads, a branch each."""
    branch: Any = object()
    plan = Plan(branches=(branch,), combines=True)
    return {"plans": (plan, plan), "parts": ({}, {})}


def _chained(base: Tensor) -> dict[str, Any]:
    """What a chain of VCD and DAGCD reads: a branch, then a probe."""
    branch: Any = object()
    plans = Plan(branches=(branch,), combines=True), Plan(probes=(0,), combines=True)
    return {"plans": plans, "parts": ({}, _passage(base))}


def _described(base: Tensor) -> dict[str, Any]:
    return {"described": torch.arange(len(base))[:, None] % 3 < 2}


def _irrelevant(base: Tensor) -> dict[str, Any]:
    return {"irrelevant": torch.arange(len(base)) % 3 * -1 + 2}


def _of(make: Any, **settings: Any) -> dict[str, Any]:
    return {"decoder": make(**settings), "cuts": lambda beta: make(**(settings | {"beta": beta}))}


LAWS = {
    "vcd": Law(**_of(sightline.VCD, alpha=1.0)),
    "decore entropy": Law(**_of(sightline.DeCoRe, heads="none")),
    "decore jsd": Law(**_of(sightline.DeCoRe, heads="none", alpha_mode="jsd", scale_alpha=True)),
    "decore gain": Law(**_of(sightline.DeCoRe, heads="none", alpha_mode="entropy_gain", alpha_cap=0.5)),
    "random_heads": Law(**_of(sightline.RandomHeads, alpha_mode="static", alpha=2.0)),
    "masked_only": Law(BUILD("masked_only", {"heads": "none"})),
    "avc": Law(**_of(sightline.AVC, alpha=2.0)),
    "iava": Law(**_of(sightline.IAVA, alpha=2.0), context=_irrelevant),
    "code": Law(sightline.CODE(), context=_described),
    "code fixed": Law(
        sightline.CODE(alpha_mode="fixed", alpha=0.5, beta_mode="fixed", beta=0.1), context=_described
    ),
    "causalmm": Law(
        sightline.CausalMM(), 2, cuts=lambda beta: sightline.CausalMM(epsilon=beta)
    ),
    "hicd": Law(**_of(sightline.HICD, alpha=1.5)),
    "cgvlm": Law(sightline.CGVLM(), 0),
    "dola": Law(**_of(sightline.DoLa), branches=0, exits=3),
    "dola js": Law(**_of(sightline.DoLa, divergence="js"), branches=0, exits=3),
    "cad": Law(**_of(sightline.CAD, alpha=1.0)),
    "dagcd": Law(sightline.DAGCD(top_rank=2), 0, _passage),
    "cut_only": Law(**_of(sightline.CutOnly), branches=0),
    "shift": Law(sightline.Shift(delta=2.0), 0, lambda base: {"yes": torch.tensor([0, 2])}),
    "vcd+dagcd": Law(sightline.Together((sightline.VCD(), sightline.DAGCD(top_rank=2))), 1, _chained),
    "vcd+avc": Law(sightline.Together((sightline.VCD(), sightline.AVC(alpha=0.5))), 2, _together),
}  # fmt: skip
NEUTRAL = {
    "vcd": sightline.VCD(alpha=0, beta=0), "avc": sightline.AVC(alpha=0, beta=0),
    "decore": sightline.DeCoRe(heads="none", alpha_mode="static", alpha=0, beta=0),
    "hicd": sightline.HICD(alpha=0, beta=0), "cad": sightline.CAD(alpha=0, beta=0),
    "causalmm": sightline.CausalMM(gamma=0, epsilon=0), "iava": sightline.IAVA(alpha=0, beta=0),
    "code": sightline.CODE(alpha_mode="fixed", alpha=0, beta_mode="fixed", beta=0),
    "shift": sightline.Shift(delta=0), "dagcd": sightline.DAGCD(alpha=0),
}  # fmt: skip


@st.composite
def logits(draw: Any, count: int, numbers: st.SearchStrategy[float] = ANY, *, impossible: bool = True) -> list[Tensor]:
    """So many tensors `[batch, vocab]` of one shape, float64.

    Now and then a whole row is impossible, where that is allowed.
    """
    batch, vocab = draw(st.integers(1, 3)), draw(st.integers(3, 6))
    made = []
    for _ in range(count):
        row = st.lists(numbers, min_size=vocab, max_size=vocab)
        rows = st.one_of(row, row, row, st.just([-torch.inf] * vocab)) if impossible else row
        each = draw(st.lists(rows, min_size=batch, max_size=batch))
        made.append(torch.tensor(each, dtype=torch.float64))
    return made
