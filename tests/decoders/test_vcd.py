"""VCD's formulas against the golden vectors of the reference code, and its properties."""

import math

import pytest
import torch
from sightline.decoders.contrast import cut, extrapolate, plausible
from sightline.decoders.plan import Step
from sightline.decoders.vcd import VCD, add_noise, noise_images, power_kept
from sightline.models.errors import InvalidParameter
from transformers import TemperatureLogitsWarper, TopPLogitsWarper


def test_noise_schedule_equals_the_reference(golden):
    for row in golden("vcd")["noise_schedule"]["rows"]:
        kept = power_kept(row["t"])
        assert float(kept.sqrt()) == pytest.approx(row["sqrt_alpha_bar_ref_float32"], abs=1e-5)
        assert float((1 - kept).sqrt()) == pytest.approx(row["sqrt_one_minus_alpha_bar_ref_float32"], abs=1e-5)
        assert float(kept) == pytest.approx(row["alpha_bar_float64"], abs=1e-5)


def test_noise_example_equals_the_reference(golden):
    example = golden("vcd")["noise_example"]
    x0, eps = torch.tensor(example["x0"]), torch.tensor(example["eps"])
    for case in example["outputs"]:
        torch.testing.assert_close(add_noise(x0, eps, case["t"]), torch.tensor(case["output"]), atol=1e-5, rtol=0)


WARPERS = {
    "none": lambda ids, scores: scores,
    "temperature 0.7": TemperatureLogitsWarper(0.7),
    "top_p 0.6": TopPLogitsWarper(0.6),
}
"""By the golden file's names."""


def contrast(base, noised, alpha, beta):
    """What the engine makes of the strategy's answers."""
    strategy, step = VCD(alpha=alpha, beta=beta), Step(0)
    scores, keep = (act(base, [noised], step) for act in (strategy.combine, strategy.keep))
    return scores if keep is None else cut(scores, keep)


def test_contrast_equals_the_reference(golden):
    cases = golden("vcd")["contrast_cases"]
    assert cases
    for case in cases:
        dtype = getattr(torch, case["dtype"])
        base = torch.tensor(case["logits_original"]).to(dtype).float()
        noised = torch.tensor(case["logits_negative"]).to(dtype).float()
        scores = contrast(base, noised, case["alpha_effective"], case["beta_effective"])
        scores = WARPERS[case["warper"]](torch.zeros(len(scores), 1, dtype=torch.long), scores)
        probs = scores.softmax(-1)
        tolerance = 2e-3 if dtype == torch.float16 else 1e-6
        torch.testing.assert_close(probs, torch.tensor(case["probs_out"]).float(), atol=tolerance, rtol=0)
        kept = [row.nonzero().flatten().tolist() for row in probs]
        assert kept == case["nonzero_token_ids"], case["name"]
        assert scores.argmax(-1).tolist() == case["argmax"], case["name"]


def test_two_branch_trace_equals_the_reference(golden):
    trace = golden("vcd")["two_branch_trace"]
    rows = [list(prompt) for prompt in trace["prompt"]]
    finished = [False, False]
    steps = zip(trace["logits_original"], trace["logits_negative"], trace["probs_per_step"], strict=True)
    for base, noised, expected in steps:
        scores = contrast(torch.tensor(base), torch.tensor(noised), 1.0, 0.1)
        torch.testing.assert_close(scores.softmax(-1), torch.tensor(expected), atol=1e-6, rtol=0)
        for row, token in enumerate(scores.argmax(-1).tolist()):
            rows[row].append(0 if finished[row] else token)
            finished[row] |= token == 5
    assert rows == trace["sequences"]


def test_shift_of_either_branch_changes_nothing():
    base, noised = torch.randn(3, 11, dtype=torch.float64), torch.randn(3, 11, dtype=torch.float64)
    plain = contrast(base, noised, 0.7, 0.2).softmax(-1)
    torch.testing.assert_close(contrast(base + 3, noised - 5, 0.7, 0.2).softmax(-1), plain)


def test_beta_one_is_greedy_and_zero_keeps_all():
    base, noised = torch.randn(2, 9), torch.randn(2, 9)
    only = contrast(base, noised, 1.0, 1.0)
    assert only.argmax(-1).equal(base.argmax(-1))
    assert (only > -torch.inf).sum() == 2
    assert plausible(base, 0.0).all()


def test_infinite_logits_never_become_nan():
    base = torch.tensor([[1.0, -math.inf, 0.5, -math.inf]])
    noised = torch.tensor([[0.0, -math.inf, -math.inf, 2.0]])
    scores = extrapolate(base, noised, 1.0)
    assert not scores.isnan().any()
    assert not (scores == math.inf).any()
    assert scores[0, 1] == scores[0, 3] == -math.inf


def test_noise_depends_on_the_image_and_the_seed_alone():
    images = torch.randn(3, 3, 8, 8)
    together = noise_images(images, 500, "sigmoid", seed=0)
    alone = torch.cat([noise_images(images[[row]], 500, "sigmoid", seed=0) for row in (2, 0, 1)])
    assert together.equal(alone[[1, 2, 0]])
    assert not together.equal(noise_images(images, 500, "sigmoid", seed=1))


def test_crops_that_fill_up_a_batch_change_nothing():
    """LLaVA-NeXT cuts images into several crops, and gives crops of zeros to those of a batch that have fewer."""
    crops = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    crops[1] = 0
    padded = torch.cat([crops, torch.zeros(2, 3, 8, 8)])
    alone, filled = (noise_images(each[None], 500, "sigmoid", seed=0)[0] for each in (crops, padded))
    assert filled[:3].equal(alone)
    assert not filled[3:].any()
    assert alone[1].any()
    assert noise_images(torch.zeros(1, 2, 3, 8, 8), 500, "sigmoid", seed=0).any()


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha", -1), ("alpha", "strong"), ("alpha", math.nan), ("beta", 1.5), ("noise_step", 1000), ("noise_step", 2.5),
     ("noise_schedule", "linear"), ("alpha", True)],
)  # fmt: skip
def test_bad_values_name_field_rule_and_value(field, value):
    with pytest.raises(InvalidParameter, match=rf"vcd: {field} must be .*, got") as caught:
        VCD(**{field: value})
    assert repr(value) in str(caught.value)


def test_constant_gamma_keeps_nine_tenths_of_the_power_at_each_step():
    for step in (0, 1, 20):
        assert float(power_kept(step, "constant_gamma")) == pytest.approx(0.9 ** (step + 1), rel=1e-5)
    image, noise = torch.randn(3, 4, 4), torch.randn(3, 4, 4)
    torch.testing.assert_close(
        add_noise(image, noise, 3, "constant_gamma"), 0.9**2 * image + (1 - 0.9**4) ** 0.5 * noise, atol=1e-6, rtol=0
    )
