"""Intervals and paired tests for scores whose questions share images.

The unit of chance is the image (the *cluster*): its questions move together, so that errors that take answers as
independent are too small. Background: "Adding Error Bars to Evals", arXiv 2411.00640.

Bootstraps take counts summed within clusters, ``[C, ...]``, and a statistic of count sums, ``[..., *trailing] ->
[...]``. A resample gives each cluster a multinomial weight, so that all resamples are one matrix product
``[B, C] @ [C, K]``. Everything random is seeded: same input and seed, same numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]

RESAMPLES = 10_000
FLIPS = 10_000
CONFIDENCE = 0.95
_BLOCK = 4_000_000  # numbers held at once; bounds memory, changes no result


class StatisticsError(ValueError):
    """Arguments that no interval or test is defined for."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of sums with its cluster-robust standard error (None for one cluster)."""

    value: float
    stderr: float | None
    n_clusters: int


@dataclass(frozen=True)
class Bootstrap:
    """A statistic with its percentile interval and the standard deviation over resamples.

    ``value`` is None where the statistic is undefined on the data. Resamples where it is undefined are counted in
    ``n_undefined`` and left out; ``low``, ``high`` and ``stderr`` are None where that leaves too few.
    """

    value: float | None
    low: float | None
    high: float | None
    stderr: float | None
    n_clusters: int
    n_resamples: int
    n_undefined: int


@dataclass(frozen=True)
class McNemar:
    """Exact McNemar test: ``b`` = only the first is right, ``c`` = only the second."""

    b: int
    c: int
    p_value: float
    mid_p: float


@dataclass(frozen=True)
class PairedT:
    """Paired t-test; ``t`` and ``p_value`` are None where all differences are equal."""

    mean_difference: float
    stderr: float
    low: float
    high: float
    t: float | None
    p_value: float | None
    n: int


def clustered_ratio(numerators: ArrayLike, denominators: ArrayLike, *, correction: bool = True) -> Ratio:
    """``R = sum N_c / sum D_c`` with ``sqrt(C / (C - 1) * sum (N_c - R D_c)^2) / sum D_c``.

    Args:
        numerators: ``[C]``, sums within clusters, such as right answers per image.
        denominators: ``[C]``, such as questions per image.
        correction: Whether the factor ``C / (C - 1)`` is applied.

    Raises:
        StatisticsError: The shapes differ or the denominators sum to 0.
    """
    top, bottom = _pair(numerators, denominators)
    total = float(bottom.sum())
    if total == 0:
        raise StatisticsError("The denominators sum to 0: the ratio is undefined. Score at least one answer.")
    n, value = len(top), float(top.sum()) / total
    if n < 2:
        return Ratio(value, None, n)
    squares = float(np.sum((top - value * bottom) ** 2)) * (n / (n - 1) if correction else 1.0)
    return Ratio(value, squares**0.5 / total, n)


def wilson_interval(successes: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson score interval of a proportion of ``n`` independent trials.

    Raises:
        StatisticsError: ``n`` is 0 or ``successes`` lies outside ``0..n``.
    """
    if n < 1 or not 0 <= successes <= n:
        raise StatisticsError(f"Expected 0 <= successes <= n and n >= 1, got {successes} of {n}.")
    interval = stats.binomtest(successes, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def roc_auc(scores: ArrayLike, positives: ArrayLike) -> float | None:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counted half.

    Args:
        scores: ``[n]``, infinities allowed.
        positives: ``[n]`` of bool.

    Returns:
        The area, or None where one class is absent.

    Raises:
        StatisticsError: The lengths differ or a score is not a number.
    """
    values, is_positive = _scores(scores, positives)
    n_positive = int(is_positive.sum())
    n_negative = len(values) - n_positive
    if n_positive == 0 or n_negative == 0:
        return None
    rank_sum = float(stats.rankdata(values)[is_positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def cluster_bootstrap(
    sums: ArrayLike,
    statistic: Statistic,
    *,
    versus: ArrayLike | None = None,
    n_resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    strata: ArrayLike | None = None,
) -> Bootstrap:
    """Percentile interval of a statistic of count sums, or of a paired difference, resampling clusters.

    Args:
        sums: ``[C, ...]``, counts summed within each cluster.
        statistic: Maps weighted sums ``[..., *trailing]`` to values ``[...]``, NaN where undefined.
        versus: ``[C, ...]`` of a second system, the same clusters in the same order: the result is the first
            minus the second, both under the same weights.
        n_resamples: Number of resamples B.
        confidence: Share of resamples inside the interval.
        seed: Seed of the weights.
        strata: ``[C]`` labels; clusters are drawn within their stratum (MME: within the subtask).

    Raises:
        StatisticsError: There is no cluster, a count is not finite, the shapes differ, or B or the confidence
            is out of range.
    """
    systems = [_clusters(sums)] + ([] if versus is None else [_clusters(versus)])
    shape = systems[0].shape
    if systems[-1].shape != shape:
        raise StatisticsError(f"Paired systems need counts of one shape, got {shape}, {systems[-1].shape}.")

    def difference(weights: Floats) -> Floats:
        flat = [(weights @ counts.reshape(shape[0], -1)) for counts in systems]
        values = [np.asarray(statistic(part.reshape(-1, *shape[1:])), dtype=np.float64) for part in flat]
        return values[0] - values[1] if len(values) > 1 else values[0]

    return _bootstrap(difference, shape[0], systems[0][0].size, n_resamples, confidence, seed, strata)


def auc_bootstrap(
    scores: ArrayLike,
    positives: ArrayLike,
    clusters: Sequence[object],
    *,
    versus: ArrayLike | None = None,
    n_resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Bootstrap:
    """Interval of the area under the ROC curve, or of the difference of two, resampling clusters.

    Args:
        scores: ``[n]``, such as yes-no margins.
        positives: ``[n]`` of bool.
        clusters: ``[n]`` labels, such as image ids; their order does not matter.
        versus: ``[n]`` scores of a second system on the same questions: the result is first minus second.
        n_resamples: Number of resamples.
        confidence: Share of resamples inside the interval.
        seed: Seed of the weights.

    Raises:
        StatisticsError: Lengths differ, there is no question, a score is not a number, or B or the confidence
            is out of range.
    """
    systems = [_scores(scores, positives)] + ([] if versus is None else [_scores(versus, positives)])
    if len(clusters) != len(systems[0][0]):
        raise StatisticsError(f"Got {len(clusters)} clusters for {len(systems[0][0])} scores.")
    names, member = np.unique([str(name) for name in clusters], return_inverse=True)
    areas = [_AreaUnderWeights(values, is_positive, member) for values, is_positive in systems]

    def difference(weights: Floats) -> Floats:
        return areas[0](weights) - (areas[1](weights) if len(areas) > 1 else 0.0)

    return _bootstrap(difference, len(names), len(member), n_resamples, confidence, seed, None)


def discordant_pairs(right_a: ArrayLike, right_b: ArrayLike) -> tuple[int, int]:
    """``(b, c)``: how often only the first is right, and how often only the second, on the same samples."""
    a, b = (np.asarray(side, dtype=bool) for side in (right_a, right_b))
    if a.shape != b.shape:
        raise StatisticsError(f"Paired systems need the same samples, got {a.shape} and {b.shape}.")
    return int((a & ~b).sum()), int((b & ~a).sum())


def mcnemar(b: int, c: int) -> McNemar:
    """Exact two-sided McNemar test of discordant pairs; p = 1 where there is none.

    Raises:
        StatisticsError: A count is negative.
    """
    if b < 0 or c < 0:
        raise StatisticsError(f"Discordant counts cannot be negative, got b={b}, c={c}.")
    if b + c == 0:
        return McNemar(b, c, 1.0, 1.0)
    p_value = float(stats.binomtest(min(b, c), b + c, 0.5).pvalue)
    point = float(stats.binom.pmf(min(b, c), b + c, 0.5))
    return McNemar(b, c, p_value, p_value - point if b != c else 1.0)


def sign_flip_test(differences: ArrayLike, *, n_flips: int = FLIPS, seed: int = 0) -> float:
    """Two-sided p of the permutation test that flips the sign of each cluster's difference.

    ``p = (1 + #extreme) / (1 + n_flips)``; a flip is extreme if its absolute sum reaches the observed one.

    Args:
        differences: ``[C]``, score of the first minus score of the second, summed within each image.
        n_flips: Number of random sign vectors.
        seed: Seed of the signs.

    Raises:
        StatisticsError: There is no cluster, a difference is not finite, or ``n_flips`` is below 1.
    """
    values = _clusters(differences)
    if values.ndim != 1 or n_flips < 1:
        raise StatisticsError(f"Expected [C] differences and n_flips >= 1, got {values.shape}, {n_flips}.")
    bound = abs(float(values.sum())) - 1e-12 * float(np.abs(values).sum())
    generator = np.random.default_rng(seed)
    extreme = 0
    for size in _block_sizes(n_flips, len(values)):
        signs = generator.integers(0, 2, size=(size, len(values))) * 2 - 1
        extreme += int((np.abs(signs @ values) >= bound).sum())
    return (1 + extreme) / (1 + n_flips)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given.

    Raises:
        StatisticsError: A p-value lies outside 0..1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if not np.all((p >= 0) & (p <= 1)):
        raise StatisticsError(f"p-values lie in 0..1, got {list(p_values)}.")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return [float(value) for value in adjusted]


def paired_t(a: ArrayLike, b: ArrayLike, *, confidence: float = CONFIDENCE) -> PairedT:
    """Paired t-test of ``a - b`` with the t interval of the mean difference.

    Raises:
        StatisticsError: The shapes differ or there are fewer than two pairs.
    """
    first, second = _pair(a, b)
    n = len(first)
    if n < 2:
        raise StatisticsError(f"A paired t-test needs at least two pairs, got {n}.")
    gaps = first - second
    mean, stderr = float(gaps.mean()), float(gaps.std(ddof=1)) / n**0.5
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * stderr
    t = mean / stderr if stderr > 0 else None
    p_value = None if t is None else float(2 * stats.t.sf(abs(t), n - 1))
    return PairedT(mean, stderr, mean - reach, mean + reach, t, p_value, n)


class _AreaUnderWeights:
    """Area under the ROC curve as a function of cluster weights ``[b, C] -> [b]``."""

    def __init__(self, scores: Floats, positives: NDArray[np.bool_], member: NDArray[np.int64]) -> None:
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        self._member = member[order]
        self._positive = positives[order].astype(np.float64)
        self._ties = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # first place of each tied group

    def __call__(self, weights: Floats) -> Floats:
        every = weights[:, self._member]
        positive = np.add.reduceat(every * self._positive, self._ties, axis=1)
        negative = np.add.reduceat(every, self._ties, axis=1) - positive
        below = np.cumsum(negative, axis=1) - negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sum(positive * below, axis=1) / pairs


def _bootstrap(
    statistic: Callable[[Floats], Floats],
    n_clusters: int,
    width: int,
    n_resamples: int,
    confidence: float,
    seed: int,
    strata: ArrayLike | None,
) -> Bootstrap:
    """Percentile interval of a function of cluster weights ``[b, C] -> [b]``."""
    if not 0 < confidence < 1:
        raise StatisticsError(f"The confidence lies between 0 and 1, got {confidence}.")
    blocks = _weight_blocks(n_clusters, n_resamples, seed, width, strata)
    draws = np.concatenate([statistic(block) for block in blocks])
    value = float(statistic(np.ones((1, n_clusters)))[0])
    finite = draws[np.isfinite(draws)]
    low = high = stderr = None
    if len(finite):
        tail = (1 - confidence) / 2
        low, high = (float(end) for end in np.quantile(finite, [tail, 1 - tail]))
        stderr = float(finite.std(ddof=1)) if len(finite) > 1 else None
    point = value if np.isfinite(value) else None
    return Bootstrap(point, low, high, stderr, n_clusters, len(draws), len(draws) - len(finite))


def _block_sizes(total: int, width: int) -> Iterator[int]:
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, total, step):
        yield min(step, total - start)


def _weight_blocks(
    n_clusters: int, n_resamples: int, seed: int, width: int, strata: ArrayLike | None = None
) -> Iterator[Floats]:
    """Multinomial weights in blocks ``[b, C]``; ``width`` is what the caller needs per resample."""
    if n_clusters < 1 or n_resamples < 1:
        raise StatisticsError(f"Expected clusters and resamples, got {n_clusters} and {n_resamples}.")
    groups = np.zeros(n_clusters, dtype=np.int64)
    if strata is not None:
        groups = np.unique(np.asarray(strata), return_inverse=True)[1]
    if groups.shape != (n_clusters,):
        raise StatisticsError(f"Expected one stratum for each of {n_clusters} clusters, got {groups.shape}.")
    members = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
    generators = [np.random.default_rng([seed, group]) for group in range(len(members))]
    for size in _block_sizes(n_resamples, max(n_clusters, width)):
        weights = np.empty((size, n_clusters))
        for columns, generator in zip(members, generators, strict=True):
            weights[:, columns] = _multinomial(generator, size, len(columns))
        yield weights


def _multinomial(generator: np.random.Generator, size: int, n: int) -> Floats:
    """``size`` draws of n balls into n boxes, ``[size, n]``."""
    boxes = generator.integers(0, n, size=(size, n)) + np.arange(size)[:, None] * n
    return np.bincount(boxes.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _clusters(sums: ArrayLike) -> Floats:
    counts = np.asarray(sums, dtype=np.float64)
    if counts.ndim == 0 or len(counts) == 0 or not np.all(np.isfinite(counts)):
        raise StatisticsError(f"Expected finite counts [C, ...] of at least one cluster, got {counts.shape}.")
    return counts


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise StatisticsError(f"Expected two [n] of one length, got {first.shape} and {second.shape}.")
    return first, second


def _scores(scores: ArrayLike, positives: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    values, is_positive = np.asarray(scores, dtype=np.float64), np.asarray(positives, dtype=bool)
    if values.ndim != 1 or values.shape != is_positive.shape or np.isnan(values).any():
        raise StatisticsError(
            f"Expected scores [n] without NaN and as many classes, got {values.shape}, {is_positive.shape}."
        )
    return values, is_positive
