"""Intervals and tests against scipy, the golden values and plain loops."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from sightline.eval.statistics import (
    StatisticsError,
    auc_bootstrap,
    cluster_bootstrap,
    clustered_ratio,
    discordant_pairs,
    holm,
    mcnemar,
    paired_t,
    roc_auc,
    sign_flip_test,
    wilson_interval,
)


def mean(sums):
    return sums[..., 0] / sums[..., 1]


@pytest.fixture(scope="module")
def data(golden):
    """The golden inputs: scores of two systems, and the sums within clusters."""
    inputs = golden("stats")["inputs"]
    a, b, clusters = (np.array(inputs[name]) for name in ("scores_a", "scores_b", "clusters"))
    members = [clusters == name for name in np.unique(clusters)]
    return a, b, np.array([a[m].sum() for m in members]), np.array([m.sum() for m in members])


@pytest.fixture(scope="module")
def sums():
    """Right answers and questions of 40 images whose questions move together."""
    generator = np.random.default_rng(5)
    skill = generator.beta(2, 1, 40)
    questions = generator.integers(3, 9, 40)
    return np.stack([generator.binomial(questions, skill), questions], axis=1).astype(float)


@pytest.fixture(scope="module")
def margins():
    """Margins with ties, classes and images of 60 questions; a second system that is a little better."""
    generator = np.random.default_rng(11)
    positive = generator.integers(0, 2, 60).astype(bool)
    first = np.round(generator.normal(size=60) + positive, 1)
    images = [f"image-{image}" for image in generator.integers(0, 12, 60)]
    return first, np.round(first + 0.8 * positive, 1), positive, images


def brute_auc(scores, positive):
    wins = [(a > b) + (a == b) / 2 for a, b in product(scores[positive], scores[~positive])]
    return sum(wins) / len(wins)


def test_clustered_ratio_equals_the_golden(golden, data):
    a, _, right, questions = data
    expected = golden("stats")
    plain = clustered_ratio(right, questions, correction=False)
    assert plain.value == pytest.approx(expected["mean_a"], abs=1e-9)
    assert plain.stderr == pytest.approx(expected["cluster_robust_stderr_a_plain"], abs=1e-9)
    robust = clustered_ratio(right, questions)
    assert robust.n_clusters == 4
    assert robust.stderr == pytest.approx(plain.stderr * (4 / 3) ** 0.5)
    alone = clustered_ratio(a, np.ones(len(a)))
    assert alone.stderr == pytest.approx(expected["naive_stderr_a"], abs=1e-9), "clusters of one are independent"


def test_clustered_ratio_edges():
    assert clustered_ratio([1], [2]).stderr is None
    assert clustered_ratio([1, 2], [1, 2]).stderr == 0
    for bad in (([], []), ([0.0], [0.0]), ([1, 2], [1]), ([[1]], [[1]])):
        with pytest.raises(StatisticsError):
            clustered_ratio(*bad)


def test_wilson_equals_the_golden(golden):
    for case in golden("stats")["wilson_95"]:
        assert wilson_interval(case["k"], case["n"]) == pytest.approx(case["ci"], abs=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, n):
    with pytest.raises(StatisticsError, match=f"{successes} of {n}"):
        wilson_interval(successes, n)


def test_mcnemar_equals_the_golden(golden, data):
    a, b, _, _ = data
    expected = golden("stats")
    first = expected["mcnemar"]
    assert discordant_pairs(a, b) == (first["b_a_right_b_wrong"], first["c_a_wrong_b_right"])
    test = mcnemar(*discordant_pairs(a, b))
    assert test.p_value == pytest.approx(first["exact_two_sided_p"], abs=1e-9)
    assert test.mid_p == pytest.approx(first["mid_p"], abs=1e-9)
    for case in expected["mcnemar_more"]:
        assert mcnemar(case["b"], case["c"]).p_value == pytest.approx(case["exact_two_sided_p"], abs=1e-9)


def test_mcnemar_edges():
    assert (mcnemar(0, 0).p_value, mcnemar(0, 0).mid_p) == (1, 1)
    assert mcnemar(5, 5).mid_p == 1
    assert mcnemar(3, 9).p_value == mcnemar(9, 3).p_value < 1
    with pytest.raises(StatisticsError, match="b=-1"):
        mcnemar(-1, 2)
    with pytest.raises(StatisticsError, match="same samples"):
        discordant_pairs([1, 0], [1])


def test_paired_t_equals_the_golden_and_scipy(golden, data):
    a, b, _, _ = data
    expected, found = golden("stats")["paired_ttest_a_minus_b"], paired_t(a, b)
    assert found.mean_difference == pytest.approx(expected["mean_diff"], abs=1e-9)
    assert found.stderr == pytest.approx(expected["se_diff"], abs=1e-9)
    assert (found.low, found.high) == pytest.approx((expected["ci_lower"], expected["ci_upper"]), abs=1e-9)
    assert (found.t, found.p_value) == pytest.approx((expected["t_stat"], expected["p_value"]), abs=1e-9)
    assert found.n == expected["n"]
    theirs = stats.ttest_rel(a, b)
    assert (found.t, found.p_value) == pytest.approx((theirs.statistic, theirs.pvalue))


def test_paired_t_edges():
    same = paired_t([1, 2], [0, 1])
    assert (same.mean_difference, same.stderr, same.t, same.p_value) == (1, 0, None, None)
    with pytest.raises(StatisticsError, match="two pairs, got 1"):
        paired_t([1], [2])
    with pytest.raises(StatisticsError, match="one length"):
        paired_t([1, 2], [2])


def test_bootstrap_agrees_with_the_robust_error(sums):
    found, formula = cluster_bootstrap(sums, mean), clustered_ratio(sums[:, 0], sums[:, 1])
    assert found.value == pytest.approx(formula.value)
    assert found.stderr == pytest.approx(formula.stderr, rel=0.06)
    assert found.low < found.value < found.high
    assert (found.high - found.low) == pytest.approx(2 * 1.96 * formula.stderr, rel=0.08)
    assert (found.n_clusters, found.n_resamples, found.n_undefined) == (40, 10_000, 0)


def test_bootstrap_equals_a_loop_over_resampled_images(sums):
    generator = np.random.default_rng(99)
    loop = [mean(sums[generator.integers(0, len(sums), len(sums))].sum(axis=0)) for _ in range(4000)]
    found = cluster_bootstrap(sums, mean, seed=3)
    assert (found.low, found.high) == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=0.012)


def test_bootstrap_is_seeded_and_scales_with_confidence(sums):
    assert cluster_bootstrap(sums, mean, seed=1) == cluster_bootstrap(sums, mean, seed=1)
    assert cluster_bootstrap(sums, mean, seed=1) != cluster_bootstrap(sums, mean, seed=2)
    narrow, wide = (cluster_bootstrap(sums, mean, confidence=share) for share in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_blocks_do_not_change_the_result(sums, margins, monkeypatch):
    scores, _, positive, images = margins
    before = cluster_bootstrap(sums, mean, n_resamples=500), auc_bootstrap(scores, positive, images, n_resamples=500)
    flips = sign_flip_test(sums[:, 0] - 3)
    monkeypatch.setattr("sightline.eval.statistics._BLOCK", 700)
    after = cluster_bootstrap(sums, mean, n_resamples=500), auc_bootstrap(scores, positive, images, n_resamples=500)
    assert after == before
    assert sign_flip_test(sums[:, 0] - 3) == flips


def test_bootstrap_of_trailing_axes(sums):
    pair = np.stack([sums, sums[::-1]], axis=1)
    found = cluster_bootstrap(pair, lambda weighted: mean(weighted).mean(axis=-1), n_resamples=200)
    one = cluster_bootstrap(sums, mean, n_resamples=200)
    assert found.value == pytest.approx(one.value), "two splits with the same questions"
    f1 = cluster_bootstrap(
        np.ones((5, 3)), lambda s: 2 * s[..., 0] / (2 * s[..., 0] + s[..., 1] + s[..., 2]), n_resamples=50
    )
    assert (f1.low, f1.value, f1.high) == pytest.approx((0.5, 0.5, 0.5))


def test_pairing_uses_the_same_weights(sums):
    better = sums.copy()
    better[:, 0] = np.minimum(better[:, 0] + 1, better[:, 1])
    paired = cluster_bootstrap(better, mean, versus=sums)
    assert paired.value == pytest.approx(mean(better.sum(axis=0)) - mean(sums.sum(axis=0)))
    alone = [cluster_bootstrap(side, mean, seed=seed).stderr for seed, side in enumerate((better, sums))]
    assert paired.stderr < 0.6 * (alone[0] ** 2 + alone[1] ** 2) ** 0.5
    same = cluster_bootstrap(sums, mean, versus=sums)
    assert (same.low, same.value, same.high) == (0, 0, 0)
    swapped = cluster_bootstrap(sums, mean, versus=better)
    assert (swapped.low, swapped.high) == pytest.approx((-paired.high, -paired.low))


def test_strata_keep_their_sizes():
    counts = np.zeros((6, 2, 1))
    counts[:2, 0, 0] = counts[2:, 1, 0] = 1
    strata = ["a", "a", "b", "b", "b", "b"]
    for place, size in enumerate((2, 4)):
        found = cluster_bootstrap(counts, lambda s, place=place: s[..., place, 0], strata=strata, n_resamples=300)
        assert (found.low, found.value, found.high, found.stderr) == (size, size, size, 0)
    free = cluster_bootstrap(counts, lambda s: s[..., 0, 0], n_resamples=300)
    assert free.low < 2 < free.high


def test_undefined_resamples_are_counted_and_left_out():
    def share(sums):
        with np.errstate(invalid="ignore"):
            return sums[..., 0] / sums[..., 1]

    found = cluster_bootstrap([[1, 1], [0, 0]], share, n_resamples=1000)
    assert (found.value, found.low, found.high) == (1, 1, 1)
    assert found.n_undefined == pytest.approx(250, abs=60), "both draws take the image without questions"
    never = cluster_bootstrap([[0, 0], [0, 0]], share, n_resamples=10)
    assert (never.value, never.low, never.high, never.stderr, never.n_undefined) == (None, None, None, None, 10)


def test_bootstrap_refusals(sums):
    for bad in ([], [[np.nan, 1]], 3.0):
        with pytest.raises(StatisticsError, match="at least one cluster"):
            cluster_bootstrap(bad, mean)
    with pytest.raises(StatisticsError, match="one shape"):
        cluster_bootstrap(sums, mean, versus=sums[:-1])
    with pytest.raises(StatisticsError, match="got 40 and 0"):
        cluster_bootstrap(sums, mean, n_resamples=0)
    with pytest.raises(StatisticsError, match=r"got 1\.0"):
        cluster_bootstrap(sums, mean, confidence=1.0)
    with pytest.raises(StatisticsError, match="stratum"):
        cluster_bootstrap(sums, mean, strata=[0, 1])


def test_auc_equals_all_pairs(margins):
    first, second, positive, _ = margins
    for scores in (first, second, -first, np.zeros(60)):
        assert roc_auc(scores, positive) == pytest.approx(brute_auc(scores, positive))
    assert roc_auc([1.0, 2.0], [True, True]) is None
    assert roc_auc([], []) is None
    for bad in (([1.0], [True, False]), ([np.nan], [True])):
        with pytest.raises(StatisticsError, match="without NaN"):
            roc_auc(*bad)


def test_auc_bootstrap_equals_a_loop_over_repeated_images(margins):
    first, _, positive, images = margins
    found = auc_bootstrap(first, positive, images, n_resamples=4000)
    assert found.value == pytest.approx(brute_auc(first, positive))
    generator, names = np.random.default_rng(2), sorted(set(images))
    members = {name: [place for place, image in enumerate(images) if image == name] for name in names}
    loop = []
    for _ in range(2000):
        drawn = [place for name in generator.choice(names, len(names)) for place in members[name]]
        loop.append(roc_auc(first[drawn], positive[drawn]))
    assert (found.low, found.high) == pytest.approx(np.quantile(loop, [0.025, 0.975]), abs=0.02)
    assert found.stderr == pytest.approx(np.std(loop), rel=0.08)


def test_auc_bootstrap_of_one_resample_is_the_area_of_its_images(margins):
    """Weights are exact: one resample is the area of its questions, repeated."""
    first, _, positive, images = margins
    names = sorted(set(images))
    for seed in range(20):
        caught = []

        def keep(sums, caught=caught):
            caught.append(sums)
            return sums[..., 0]

        cluster_bootstrap(np.eye(len(names)), keep, n_resamples=1, seed=seed)
        weights = dict(zip(names, caught[0].ravel().astype(int), strict=True))
        drawn = [place for place, image in enumerate(images) for _ in range(weights[image])]
        found = auc_bootstrap(first, positive, images, n_resamples=1, seed=seed)
        assert found.low == pytest.approx(roc_auc(first[drawn], positive[drawn]))


def test_auc_bootstrap_of_a_difference(margins):
    first, second, positive, images = margins
    found = auc_bootstrap(second, positive, images, versus=first, n_resamples=1000)
    assert found.value == pytest.approx(roc_auc(second, positive) - roc_auc(first, positive))
    assert found.low > 0, "the second system is the first with every yes raised"
    same = auc_bootstrap(first + 5, positive, images, versus=first, n_resamples=50)
    assert (same.low, same.high) == (0, 0), "a constant shift leaves the area alone"


def test_auc_bootstrap_does_not_depend_on_the_order_of_questions(margins):
    first, _, positive, images = margins
    order = np.random.default_rng(0).permutation(60)
    shuffled = auc_bootstrap(first[order], positive[order], [images[place] for place in order], n_resamples=300)
    plain = auc_bootstrap(first, positive, images, n_resamples=300)
    assert (shuffled.value, shuffled.low, shuffled.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_auc_bootstrap_edges():
    found = auc_bootstrap([1.0, 2.0], [True, True], ["a", "b"], n_resamples=10)
    assert (found.value, found.low, found.n_undefined) == (None, None, 10)
    with pytest.raises(StatisticsError, match="1 clusters for 2"):
        auc_bootstrap([1.0, 2.0], [True, False], ["a"])
    with pytest.raises(StatisticsError, match="without NaN"):
        auc_bootstrap([1.0, 2.0], [True, False], ["a", "b"], versus=[1.0])
    with pytest.raises(StatisticsError, match="got 0 and 10000"):
        auc_bootstrap([], [], [])


def test_a_benchmark_of_usual_size():
    """500 images, 3,000 questions: a loop over resamples would make this test crawl."""
    generator = np.random.default_rng(0)
    positive = np.tile([True, False], 1500)
    margins, images = generator.normal(size=3000) + positive, list(np.repeat(range(500), 6))
    found = auc_bootstrap(margins, positive, images, n_resamples=2000)
    spread = ((found.value * (1 - found.value)) / 1500) ** 0.5  # the order of the error of an area
    assert found.low < found.value < found.high
    assert 0.3 * spread < found.stderr < 1.5 * spread
    assert found.n_undefined == 0


def test_sign_flips_approach_the_exact_permutation():
    differences = np.array([2, 1, 1, 3, -1, 2, 0, 1])
    every = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=len(differences))]
    exact = np.mean(np.array(every) >= abs(differences.sum()))
    assert sign_flip_test(differences) == pytest.approx(exact, abs=0.01)
    assert sign_flip_test(differences) == sign_flip_test(-differences)
    assert sign_flip_test(differences, seed=4) == sign_flip_test(differences, seed=4)


def test_sign_flip_edges():
    assert sign_flip_test([0, 0, 0]) == 1
    assert sign_flip_test([0.1] * 3, n_flips=4000) == pytest.approx(0.25, abs=0.03), "equal sums count as extreme"
    assert sign_flip_test([1] * 60, n_flips=999) == 1 / 1000
    for bad, flips in (([], 10), ([[1, 2]], 10), ([1], 0), ([np.inf], 10)):
        with pytest.raises(StatisticsError):
            sign_flip_test(bad, n_flips=flips)


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.04]) == [0.04]
    assert holm([]) == []
    for bad in ([1.2], [-0.1], [float("nan")]):
        with pytest.raises(StatisticsError, match=r"0\.\.1"):
            holm(bad)
