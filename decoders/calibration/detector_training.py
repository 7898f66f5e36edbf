"""Making DAGCD's detector: rows from answered passages, the heads that tell them apart, their regression.

A fifth of the answers is held out. On the rest all heads are fitted, with the penalty that does best over five folds;
the `top` heads of largest weight are kept and fitted again in the same way; the answers held out say how good that is.
The detector itself is then fitted to all rows of these heads. A detector whose weights add up to 0 or less would point
away from what it flags: its heads with negative weights are dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ...models.errors import InvalidParameter
from .detector import Detector
from .detector_rows import Asking, Rows, collect
from .errors import CalibrationFailed
from .logistic import Fit, accuracy, both, choose, fit, largest, without_negatives
from .passages import Item
from .ranking import fingerprint

if TYPE_CHECKING:
    from ...models.adapter import Adapter

TOP = 10
GOOD = 0.8
"""Accuracy on held-out answers below which a detector is doubtful."""
FEWEST = 20
"""Right answers that are needed at least."""
_HELD_OUT = 5
_LOG = logging.getLogger(__name__)


def measure(
    adapter: Adapter,
    tokenizer: Any,
    items: Sequence[Item],
    asking: Asking | None = None,
    *,
    top: int = TOP,
    name: str = "",
    settings: Mapping[str, Any] | None = None,
    track: Callable[[Sequence[Item]], Iterable[Item]] = iter,
) -> Detector:
    """Make a detector for a model.

    Args:
        adapter: of the model.
        tokenizer: the model's, or its processor.
        items: passages with questions; a few hundred.
        asking: how they are put to the model.
        top: how many heads to keep; all of a model that has fewer.
        name: of the model, kept in the file.
        settings: where the items are from, kept in the file.
        track: gives the items back one by one, for a progress bar.

    Raises:
        InvalidParameter: `top` is less than 1.
        CalibrationFailed: too few questions were answered, or no head looks at what is used.
    """
    asking = asking or Asking()
    if top < 1:
        raise InvalidParameter(f"detector: top must be 1 or more, got {top}.")
    rows = collect(adapter, tokenizer, track(items), asking)
    _check(rows)
    kept = {**asdict(asking), "top": top, "items": rows.asked, "answered": rows.answered, **(settings or {})}
    heads, found, c, share = fitted(rows, top)
    if share <= GOOD:
        _LOG.warning("the detector tells only %.0f %% of held-out tokens apart; more passages may help", 100 * share)
    chosen = zip(heads, found.coef.tolist(), strict=True)
    return Detector(
        model=name,
        layers=adapter.layers,
        heads=adapter.heads,
        chosen=tuple((place // adapter.heads, place % adapter.heads, float(f"{value:.8g}")) for place, value in chosen),
        intercept=float(f"{found.intercept:.8g}"),
        c=c,
        accuracy=round(share, 4),
        positives=int(rows.labels.sum()),
        negatives=int((~rows.labels).sum()),
        settings=kept,
        fingerprint=fingerprint(adapter),
    )


def fitted(rows: Rows, top: int) -> tuple[list[int], Fit, float, float]:
    """The detector's heads (largest weight first), their regression, its c, and its held-out accuracy.

    Args:
        rows: of both labels, in the answers that are held out and in the others.
        top: how many heads to keep.

    Raises:
        CalibrationFailed: no head looks at what is used.
    """
    held = held_out(rows)
    features, labels, groups = rows.features[~held], rows.labels[~held], rows.groups[~held]
    heads = largest(fit(features, labels, choose(features, labels, groups)), top)[::-1]
    c = choose(features[:, heads], labels, groups)
    if float(fit(features[:, heads], labels, c).coef.sum()) <= 0:
        _LOG.warning("the weights of the detector's heads add up to 0 or less; heads with negative ones are dropped")
        heads = [heads[place] for place in without_negatives(features[:, heads], labels, c)[1]]
    share = accuracy(fit(features[:, heads], labels, c), rows.features[held][:, heads], rows.labels[held])
    final = fit(rows.features[:, heads], rows.labels, c)
    if not float(final.coef.sum()) > 0:
        raise CalibrationFailed(
            "No head looks at the tokens of the passage that the model uses.", "Give more passages, or keep more heads."
        )
    return heads, final, c, share


def held_out(rows: Rows) -> Tensor:
    """Rows of every fifth answer, `[rows]` of bool."""
    return rows.groups % _HELD_OUT == _HELD_OUT - 1


def _check(rows: Rows) -> None:
    held = held_out(rows)
    if rows.answered < FEWEST or not both(rows.labels[held]) or not both(rows.labels[~held]):
        raise CalibrationFailed(
            f"The model answered {rows.answered} of {rows.asked} questions from their passages; {FEWEST} are needed at "
            "least.",
            "Ask more, in words that the model knows (data=FILE), in a form that it was trained on (prompt=...).",
        )
