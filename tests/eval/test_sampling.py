"""Gumbel-max draws: right in distribution, owned by the sample."""

import pytest
import torch
from sightline.eval.sampling import GumbelMax, gumbel, samplers
from sightline.eval.settings import GenerationSettings


def draw(scores, seeds, generation=None):
    settings = generation or GenerationSettings(mode="sample")
    for processor in samplers(settings, seeds):
        scores = processor(torch.zeros(len(seeds), 1, dtype=torch.long), scores)
    return scores.argmax(dim=-1)


def test_draws_follow_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, float("-inf")])
    drawn = draw(logits.repeat(20000, 1), range(20000))
    shares = torch.bincount(drawn, minlength=4) / len(drawn)
    assert shares.tolist() == pytest.approx(logits.softmax(0).tolist(), abs=0.015)
    assert shares[3] == 0


def test_a_row_does_not_see_its_neighbours():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 50, generator=generator)
    together = draw(scores, [11, 12, 13, 14, 15])
    assert draw(scores[2:3], [13]).item() == together[2]
    assert draw(scores.flip(0), [15, 14, 13, 12, 11]).flip(0).tolist() == together.tolist()


def test_one_draw_per_step():
    processor = GumbelMax([7])
    zeros = torch.zeros(1, 20)
    first, second = processor(zeros.long(), zeros), processor(zeros.long(), zeros)
    assert not torch.equal(first, second)
    again = GumbelMax([7])
    assert torch.equal(again(zeros.long(), zeros), first)


def test_top_k_and_top_p_come_before_the_draw():
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(500, 1)
    assert set(draw(scores, range(500), GenerationSettings(mode="sample", top_k=2)).tolist()) == {0, 1}
    assert set(draw(scores, range(500), GenerationSettings(mode="sample", top_p=0.5)).tolist()) == {0}
    cold = draw(scores, range(500), GenerationSettings(mode="sample", temperature=0.01))
    assert set(cold.tolist()) == {0}


def test_noise_is_finite():
    noise = gumbel(1_000_000, torch.Generator().manual_seed(0))
    assert torch.isfinite(noise).all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.01)


def test_seeds_and_rows_must_match():
    with pytest.raises(ValueError, match="2 seeds for 3 rows"):
        GumbelMax([1, 2])(torch.zeros(3, 1), torch.zeros(3, 4))
