"""Laws of the algebra: for every `combine` and cut, on any finite or impossible logits. `laws.py` says of which."""

import math
from dataclasses import dataclass, replace

import pytest
import sightline
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from laws import ANY, LAWS, NEUTRAL, ORDINARY, Law, logits
from sightline.decoders import contrast
from sightline.decoders.approximate import Approximate
from sightline.decoders.plan import Plan, Step

INF = torch.inf
BETAS = st.floats(0, 1)
HALVES = (torch.float16, torch.bfloat16)


def given_to(law: Law, numbers=ANY, *, impossible=True):
    return logits(1 + law.branches + law.exits, numbers, impossible=impossible)


@pytest.mark.parametrize("name", LAWS)
@given(data=st.data())
def test_no_score_is_nan_or_plus_infinity(name, data):
    """Also where rows of the base or of a branch hold no possible token; what is impossible in the base stays so."""
    law = LAWS[name]
    base, *others = data.draw(given_to(law))
    for kind in (torch.float64, torch.float32):
        scores = law.decoded(base.to(kind), [each.to(kind) for each in others])
        assert scores.shape == base.shape
        assert scores.dtype == kind
        assert not scores.isnan().any()
        assert not (scores == INF).any()
        if name != "masked_only":  # which hands on its branch
            assert (scores[base == -INF] == -INF).all()
            possible = (base > -INF).any(dim=1)
            assert ((scores > -INF).any(dim=1) == possible).all()


@pytest.mark.parametrize("name", LAWS)
@given(data=st.data())
def test_a_constant_on_a_row_changes_no_chance(name, data):
    law = LAWS[name]
    drawn = data.draw(given_to(law, st.one_of(ORDINARY, st.just(-INF))))
    base, *others = given = [(logits * 2**20).round() / 2**20 for logits in drawn]  # so that no sum makes a tie
    shifts = data.draw(st.lists(st.integers(-20, 20), min_size=len(given), max_size=len(given)))
    one = law.combined(base, others)
    moved = [logits + shift for logits, shift in zip(given, shifts, strict=True)]
    torch.testing.assert_close(chances(law.combined(moved[0], moved[1:])), chances(one), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("name", LAWS)
@given(data=st.data())
def test_rows_do_not_see_each_other(name, data):
    """A row has the same scores in a batch as alone. Decoders that choose rows read them from the step."""
    law = LAWS[name]
    given = data.draw(given_to(law))
    together = law.decoded(given[0], given[1:])
    last = len(given[0]) - 1
    for row in range(last + 1):
        swapped = [torch.cat([logits[:row], logits[row + 1 :], logits[row : row + 1]]) for logits in given]
        if law.context(given[0]).keys() & {"described", "irrelevant"}:  # which differ by row
            swapped = [logits.clone() for logits in given]
            for logits in swapped:
                logits[:row], logits[row + 1 :] = 1.0, 2.0
            torch.testing.assert_close(law.decoded(swapped[0], swapped[1:])[row], together[row], atol=0, rtol=1e-12)
        else:
            torch.testing.assert_close(law.decoded(swapped[0], swapped[1:])[last], together[row], atol=0, rtol=1e-12)


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("name", LAWS)
@given(data=st.data())
def test_half_floats_are_worked_on_in_float32(name, half, data):
    """Scores of half logits are float32, and as near those of the same logits in float64 as float32 allows.

    CODE's root of differences of probabilities makes much of an error of 1e-7: here it takes none (k = 1). DAGCD's
    scores are logarithms of sums of chances, held against each other as chances. DoLa takes the exit that disagrees
    most: examples where two are as good as even are left out.
    """
    law = replace(LAWS[name], decoder=sightline.CODE(k=1.0)) if name == "code" else LAWS[name]
    given = [each.to(half) for each in data.draw(given_to(law, ORDINARY, impossible=False))]
    scores = law.combined(given[0], given[1:])
    exact = law.combined(given[0].double(), [each.double() for each in given[1:]])
    assert scores.dtype == torch.float32
    if name.startswith("dola"):
        wide, narrow = ([each.to(kind) for each in given] for kind in (torch.float64, torch.float32))
        exits = [law.decoder.numbers(each[0], [], law.step(each[0], each[1:]))["exit"] for each in (wide, narrow)]
        assume(exits[0].equal(exits[1]))
    if "dagcd" in name:
        scores, exact = chances(scores), chances(exact)
    torch.testing.assert_close(scores.double(), exact, atol=2e-3, rtol=1e-4)


@given(st.data())
def test_widening_never_narrows(data):
    (one,) = data.draw(logits(1))
    for kind, wide in ((torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float32,) * 2):
        assert contrast.widen(one.to(kind)).dtype == wide
        assert contrast.widen(one.to(kind)).equal(one.to(kind).to(wide))
    assert contrast.widen(one).equal(one)


@pytest.mark.parametrize("name", NEUTRAL)
@given(data=st.data())
def test_neutral_parameters_hand_the_base_on(name, data):
    """Asked in spite of its plan, as in a chain, a neutral decoder's formula gives the base's chances."""
    law = Law(NEUTRAL[name], LAWS[name].branches if name in LAWS else 1, _context(name))
    base, *others = data.draw(given_to(law, st.one_of(ORDINARY, st.just(-INF))))
    torch.testing.assert_close(chances(law.decoded(base, others)), chances(base), atol=1e-9, rtol=1e-9)
    assert NEUTRAL[name].keep(base, others, Step(1)) is None
    if name != "dagcd":  # without a branch the base itself comes back
        assert NEUTRAL[name].combine(base, [], Step(1)) is base


def _context(name):
    return next((law.context for key, law in LAWS.items() if key.split()[0] == name), lambda base: {})


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.cuts is not None])
@given(data=st.data())
def test_a_larger_beta_keeps_less_and_never_nothing(name, data):
    law = LAWS[name]
    base, *others = data.draw(given_to(law))
    small, large = sorted(data.draw(st.tuples(BETAS, BETAS)))
    assert law.cuts is not None
    few, many = (
        Law(law.cuts(beta), law.branches, law.context, law.exits).kept(base, others) for beta in (large, small)
    )
    assert few is not None or large == 0
    few, many = (torch.ones_like(base, dtype=torch.bool) if keep is None else keep for keep in (few, many))
    assert (many | ~few).all()
    assert few.gather(1, base.argmax(dim=1, keepdim=True)).all()


@given(st.data(), BETAS)
def test_the_cut_is_the_ratio_of_chances(data, beta):
    """Held against chances worked out with Python's numbers, away from equality."""
    (base,) = data.draw(logits(1, ORDINARY, impossible=False))
    kept = contrast.plausible(base, beta)
    scores = contrast.cut(base, kept)
    for row, keeps, cut in zip(base.tolist(), kept.tolist(), scores.tolist(), strict=True):
        for value, keep, left in zip(row, keeps, cut, strict=True):
            ratio = math.exp(value - max(row))
            if abs(ratio - beta) > 1e-9 or beta in (0, 1):
                assert keep == (ratio >= beta or value == max(row))
            assert left == (value if keep else -INF)


@given(st.data(), st.floats(-3, 5))
def test_extrapolation_is_its_formula(data, alpha):
    """With Python's numbers, token by token; a branch without a possible token counts as even.

    Alpha may be negative: DeCoRe's gain of entropy is.
    """
    base, branch = data.draw(logits(2, st.one_of(ORDINARY, st.just(-INF), st.sampled_from([-5e4, -1e6]))))
    found = contrast.extrapolate(base, branch, alpha).tolist()
    per_row = contrast.extrapolate(base, branch, torch.full((len(base), 1), alpha, dtype=torch.float64)).tolist()
    assert per_row == found
    for ones, others, scores in zip(base.tolist(), branch.tolist(), found, strict=True):
        best = max(others) if max(others) > -INF else 0.0
        for one, other, score in zip(ones, others, scores, strict=True):
            expected = -INF if one == -INF else (1 + alpha) * one - alpha * max(other, best - 10_000)
            assert score == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_avc_leaves_alone_the_rows_whose_branch_is_not_a_number():
    base = torch.tensor([[1.0, 2.0, 0.5], [0.0, 3.0, 1.0]])
    branch = torch.tensor([[0.5, torch.nan, 1.0], [1.0, 2.0, 2.5]])
    found = sightline.AVC(alpha=2.0).combine(base, [branch], Step(0))
    torch.testing.assert_close(found, torch.stack([base[0], 3 * base[1] - 2 * branch[1]]))


@given(st.data(), st.permutations((0.05, 0.4, 0.9)))
def test_a_chain_keeps_what_every_part_keeps(data, betas):
    (base,) = data.draw(logits(1, ORDINARY, impossible=False))
    first, second, third = betas
    chain = sightline.Together((sightline.VCD(beta=first), sightline.AVC(beta=second), sightline.CutOnly(beta=third)))
    context = {"plans": (Plan(combines=True),) * 3, "parts": ({},) * 3}
    kept = chain.keep(base, [], Step(0, context=context))
    assert kept is not None
    assert kept.equal(contrast.plausible(base, 0.9))


@dataclass(frozen=True)
class Gated(sightline.VCD):
    """A decoder whose gate opens in the rows it is told, and where its branch says that a row is settled."""

    opens: tuple[bool, ...] | None = None
    settles: tuple[bool, ...] | None = None

    def gate(self, base, branches, step):
        return None if self.opens is None else torch.tensor(self.opens)

    def decided(self, base, step):
        return None if self.settles is None else torch.tensor(self.settles)


@pytest.mark.parametrize("beta", [0.0, 0.4])
@given(data=st.data(), threshold=st.floats(0, 1.2))
def test_approximate_leaves_sure_rows_alone(beta, data, threshold):
    """Sure is what a row's likeliest token is worth with Python's numbers, away from equality."""
    base, branch = data.draw(logits(2, ORDINARY, impossible=False))
    told = tuple(data.draw(st.lists(st.booleans(), min_size=len(base), max_size=len(base))))
    inner = Gated(alpha=1.5, beta=beta, opens=told, settles=told)
    decoder, step = Approximate(inner, threshold), Step(0)
    gate = decoder.gate(base, [branch], step)
    scores, kept = decoder.combine(base, [branch], step), decoder.keep(base, [branch], step)
    left, decided = decoder.left(base, step), decoder.decided(base, step)
    exact, plausible = inner.combine(base, [branch], Step(0)), inner.keep(base, [branch], Step(0))
    assert (kept is None) == (left is None) == (beta == 0)
    for row, numbers in enumerate(base.tolist()):
        likeliest = 1 / sum(math.exp(value - max(numbers)) for value in numbers)
        assume(abs(likeliest - threshold) > 1e-9)
        sure = likeliest >= threshold
        assert scores[row].equal(base[row] if sure else exact[row])
        assert gate[row] == (told[row] and not sure)
        assert decided[row] == (told[row] or sure)
        for cuts in (kept, left):
            assert cuts is None or cuts[row].equal(torch.ones_like(cuts[row]) if sure else plausible[row])


def test_approximate_is_sure_at_its_threshold():
    """Equality counts: even chances of two are 0.5, one possible token is 1."""
    base = torch.tensor([[2.0, 2.0], [3.0, -INF], [1.0, 1.5]])
    found = {threshold: Approximate(Gated(), threshold).sure(base, Step(0)).tolist() for threshold in (0.5, 1.0)}
    assert found == {0.5: [True, True, True], 1.0: [False, True, False]}


@given(st.data(), st.floats(0, 1.2))
def test_approximate_decides_by_the_base_before_any_gate(data, threshold):
    """Who is sure is asked once a step; another base that a gate has chosen does not ask anew."""
    base, other = data.draw(logits(2, ORDINARY, impossible=False))
    decoder, step = Approximate(Gated(), threshold), Step(0)
    first = decoder.sure(base, step)
    assert decoder.gate(base, [], step) is None
    assert decoder.decided(base, step).equal(first)
    assert decoder.sure(other, step).equal(first)
    assert decoder.sure(other, Step(0)).equal(other.softmax(-1).amax(-1) >= threshold)


@given(st.data(), BETAS)
def test_a_row_is_settled_where_the_cut_leaves_one_token(data, beta):
    (base,) = data.draw(logits(1, ORDINARY, impossible=False))
    settled, kept = sightline.VCD(beta=beta).decided(base, Step(0)), sightline.VCD(beta=beta).keep(base, [], Step(0))
    assert (settled is None) == (kept is None) == (beta == 0)
    if settled is not None:
        assert settled.tolist() == [sum(row) == 1 for row in kept.tolist()]
    assert sightline.CutOnly(beta=0.5).decided(base, Step(0)) is None  # its cut asks no branch, and it has none


def logs_of(row):
    """Log-probabilities of a row of numbers; of one without a possible token, minus infinity."""
    top = max(row)
    if top == -INF:
        return row
    total = top + math.log(sum(math.exp(value - top) for value in row))
    return [value - total for value in row]


def apart(first, second):
    """KL(first || second) of log-probabilities; what is impossible in the second counts as -10,000."""
    return sum(math.exp(a) * (a - max(b, -10_000)) for a, b in zip(first, second, strict=True) if a > -INF)


@pytest.mark.parametrize("divergence", ["reference", "js"])
@given(data=st.data())
def test_dola_subtracts_the_exit_that_disagrees_most(divergence, data):
    """With Python's numbers; of exits that disagree as much to nine digits, any."""
    base, *exits = data.draw(logits(4, st.one_of(ORDINARY, st.just(-INF))))
    step = Step(0, exits=dict(zip((7, 2, 5), exits, strict=True)))
    found = sightline.DoLa(divergence=divergence).combine(base, [], step)
    for row, scores in enumerate(found.tolist()):
        final = logs_of(base[row].tolist())
        gaps, left = [], []
        for exit in exits:
            early = logs_of(exit[row].tolist())
            halves = [(math.exp(a) + math.exp(b)) / 2 for a, b in zip(final, early, strict=True)]
            middle = [math.log(half) if half else -INF for half in halves]
            pairs = [(final, middle), (early, middle)] if divergence == "js" else [(middle, final), (middle, early)]
            gaps.append(sum(apart(*pair) for pair in pairs))
            left.append([a - max(b, -10_000) for a, b in zip(final, early, strict=True)])
        best = [some for some, gap in zip(left, gaps, strict=True) if gap >= max(gaps) - 1e-9 * (1 + abs(max(gaps)))]
        assert any(scores == pytest.approx(expected, abs=1e-6) for expected in best)


@given(st.data())
def test_log_probabilities_add_up_to_one_or_are_impossible(data):
    (one,) = data.draw(logits(1))
    found = contrast.log_probs(one)
    for row, logp in zip(one, found, strict=True):
        if (row == -INF).all():
            assert (logp == -INF).all()
        else:
            assert logp.equal(row.log_softmax(-1))
            assert logp.exp().sum().item() == pytest.approx(1)


def chances(scores):
    """Probabilities of scores; of a row without a possible token all zero."""
    return scores.softmax(-1).nan_to_num(0.0)
