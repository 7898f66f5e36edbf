"""Logistic regression with an L2 penalty, in float64, by Newton's method; and the choice of its strength and features.

Minimised is 1/2 |w|^2 + c * sum ln(1 + exp(-s (w . x + b))) with s = 1 for label 1 and -1 for label 0; b is not
penalised. That is scikit-learn's objective, and `c` its `C`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Values of c to choose from; the reference's."""
_STEPS = 100
_EXACT = 1e-10


class Fit(NamedTuple):
    """A fitted regression: `coef` `[features]` of float64, and its intercept."""

    coef: Tensor
    intercept: float


def fit(rows: Float[Tensor, "rows features"], labels: Bool[Tensor, " rows"], c: float, start: Fit | None = None) -> Fit:
    """The regression at its optimum. Newton's steps are halved until the objective falls.

    Args:
        rows: features.
        labels: true for positives; both labels must be there.
        c: inverse strength of the penalty, > 0.
        start: where to begin, such as the optimum for another c.
    """
    design = torch.cat([rows.double(), torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
    signs = labels.double() * 2 - 1
    penalty = torch.ones(design.shape[1], dtype=torch.float64)
    penalty[-1] = 0
    point = (
        torch.zeros_like(penalty)
        if start is None
        else torch.cat([start.coef, torch.tensor([start.intercept]).double()])
    )

    def objective(at: Tensor) -> float:
        losses = torch.nn.functional.softplus(-signs * (design @ at))
        return float((penalty * at * at).sum() / 2 + c * losses.sum())

    value = objective(point)
    for _ in range(_STEPS):
        chance = (design @ point).sigmoid()
        slope = penalty * point + c * (design.T @ (chance - labels.double()))
        if float(slope.abs().max()) < _EXACT * max(c, 1.0):
            break
        curve = c * (design.T @ (design * (chance * (1 - chance))[:, None])) + torch.diag(penalty)
        curve[-1, -1] += _EXACT  # a point at which no row is in doubt has no curvature in b
        step, length = torch.linalg.solve(curve, slope), 1.0
        while length > _EXACT and objective(point - length * step) > value:
            length /= 2
        if length <= _EXACT:
            break
        point = point - length * step
        value = objective(point)
    return Fit(point[:-1], float(point[-1]))


def accuracy(found: Fit, rows: Float[Tensor, "rows features"], labels: Bool[Tensor, " rows"]) -> float:
    """The share of rows that a regression puts on the right side."""
    return float((((rows.double() @ found.coef + found.intercept) > 0) == labels).double().mean())


def choose(
    rows: Float[Tensor, "rows features"],
    labels: Bool[Tensor, " rows"],
    groups: Int[Tensor, " rows"],
    folds: int = 5,
    strengths: Sequence[float] = STRENGTHS,
) -> float:
    """The strength with the best mean accuracy over folds; the stronger penalty of two that are as good.

    Args:
        rows, labels: as for `fit`.
        groups: rows of one group are never parted.
        folds: how many; those in which a label is missing on either side do not count.
        strengths: to choose from, ascending.
    """
    totals = [0.0] * len(strengths)
    for fold in range(folds):
        held = groups % folds == fold
        if not all(both(labels[side]) for side in (held, ~held)):
            continue
        start = None
        for place, c in enumerate(strengths):
            start = fit(rows[~held], labels[~held], c, start)
            totals[place] += accuracy(start, rows[held], labels[held])
    return strengths[totals.index(max(totals))]


def largest(found: Fit, count: int) -> list[int]:
    """The features of largest weight, whatever its sign, the smallest of them first."""
    return found.coef.abs().argsort(stable=True)[-count:].tolist()


def without_negatives(
    rows: Float[Tensor, "rows features"], labels: Bool[Tensor, " rows"], c: float
) -> tuple[Fit, list[int]]:
    """A regression on those features alone that keep a positive weight together, and which these are.

    Features with negative weights are dropped and the rest is fitted again until there is none.
    """
    kept = list(range(rows.shape[1]))
    while kept:
        found = fit(rows[:, kept], labels, c)
        if bool((found.coef > 0).all()):
            return found, kept
        kept = [feature for feature, value in zip(kept, found.coef.tolist(), strict=True) if value > 0]
    return Fit(torch.zeros(0, dtype=torch.float64), 0.0), []


def both(labels: Bool[Tensor, " rows"]) -> bool:
    """Whether there are positives and negatives."""
    return bool(labels.any()) and not bool(labels.all())
