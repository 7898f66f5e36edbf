"""DeCoRe and its controls against the golden vectors of the reference code, and their properties."""

import math

import pytest
import sightline
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from naive import forked, single, weights_of, whole
from sightline.decoders import HeadEdit, decore
from sightline.decoders.calibration import HeadRanking
from sightline.models import errors
from sightline.models.attention import _STATES, LayerState, attention
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

contrast = jaxtyped(decore.contrast, typechecker=beartype)
entropy = jaxtyped(decore.entropy, typechecker=beartype)
divergence = jaxtyped(decore.divergence, typechecker=beartype)
LISTED = ((1, 0, 0.9), (2, 1, 0.5), (1, 3, 0.2))
STEPS = 6


@pytest.fixture
def heads(tmp_path):
    """Writes a list of heads for the random models of three layers of four heads."""

    def write(ranked=LISTED, layers=3, per_layer=4, name="heads.json"):
        return str(HeadRanking("retrieval", "random", layers, per_layer, tuple(ranked)).save(tmp_path / name))

    return write


def generate(model, decoder, batch, **kwargs):
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    return sightline.generate(model, decoder, batch, **(settings | kwargs))


def plain(model, batch, **kwargs):
    return model.generate(**batch, max_new_tokens=STEPS, do_sample=False, **kwargs)


MODES = {"entropy": "entropy", "gain": "entropy_gain", "static": "static"}
"""By the golden files' names."""


def strategy_of(case, **more):
    mode = MODES[case.get("variant") or case["kind"].split("_")[0]]
    values = {"alpha_mode": mode, "alpha_cap": case.get("alpha_cap", case.get("cap"))}
    values["scale_alpha"] = case.get("scale_alpha", case.get("scale", False))
    if mode == "static":
        values["alpha"] = case["alpha"]
    return decore.DeCoRe(**(values | more))


def test_contrast_equals_the_reference(golden):
    vectors = golden("decore_contrast_math")
    base, masked = torch.tensor(vectors["base_logits"]), torch.tensor(vectors["masked_logits"])
    assert entropy(base.log_softmax(-1))[:, 0].tolist() == pytest.approx(vectors["base_entropy_nats"], abs=1e-5)
    assert len(vectors["cases"]) == 5
    for case in vectors["cases"]:
        decoder = strategy_of(case)
        alpha = decoder.strength(base, masked)
        assert alpha[:, 0].tolist() == pytest.approx(case["alpha_used"], abs=1e-5)
        scores = contrast(base, masked, alpha)
        torch.testing.assert_close(scores, torch.tensor(case["contrast"]), atol=1e-4, rtol=0)
        normal = scores.log_softmax(-1)
        torch.testing.assert_close(normal, torch.tensor(case["contrast_logsoftmax"]), atol=1e-4, rtol=0)
        assert scores.argmax(-1).tolist() == case["argmax_all_rows"]
        for kind, values in (("true", normal), ("false", scores)):
            total = values.gather(1, torch.tensor(vectors["answer_ids"])[:, None]).sum()
            assert float(total) == pytest.approx(case[f"seq_score_post_softmax_{kind}"], abs=1e-3)


def rows(seed=0, count=5, vocab=13):
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(count, vocab, generator=generator, dtype=torch.float64) for _ in range(2)]


DECODERS = [
    decore.DeCoRe(),
    decore.DeCoRe(scale_alpha=True, alpha_cap=0.1),
    decore.DeCoRe(alpha_mode="entropy_gain"),
    decore.DeCoRe(alpha_mode="jsd"),
    *(decore.DeCoRe(alpha_mode="static", alpha=alpha) for alpha in (-0.5, 0.0, 1.0, 4.0)),
]


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: f"{decoder.alpha_mode} {decoder.alpha}")
def test_properties_of_the_contrast(decoder):
    base, masked = rows()
    scores = decoder.combine(base, [masked], None)
    moved = decoder.combine(base + 7, [masked - 3], None)
    torch.testing.assert_close(moved, scores)
    torch.testing.assert_close(decoder.combine(base, [base], None), base.log_softmax(-1))
    holes = base.clone(), masked.clone()
    holes[0][:, 2], holes[1][:, 2], holes[1][:, 4], holes[0][:, 5] = (-math.inf,) * 4
    found = decoder.combine(holes[0], [holes[1]], None)
    assert not found.isnan().any()
    assert not (found == math.inf).any()
    assert (found[:, [2, 5]] == -math.inf).all()


def test_measures_of_alpha():
    base, masked = (each.log_softmax(-1) for each in rows())
    assert float(entropy(torch.zeros(1, 8).log_softmax(-1))) == pytest.approx(math.log(8))
    peak = torch.tensor([[0.0, -math.inf, -math.inf]])
    assert float(entropy(peak)) == 0
    torch.testing.assert_close(divergence(base, masked), divergence(masked, base))
    torch.testing.assert_close(divergence(base, base), torch.zeros(5, 1, dtype=torch.float64))
    assert float(divergence(peak, peak.flip(-1))) == pytest.approx(math.log(2))
    middle = (base.exp() + masked.exp()) / 2
    kl = [(each.exp() * (each - middle.log())).sum(-1) for each in (base, masked)]
    torch.testing.assert_close(divergence(base, masked)[:, 0], (kl[0] + kl[1]) / 2)
    scaled = decore.DeCoRe(scale_alpha=True).strength(*rows())
    torch.testing.assert_close(scaled * math.log(13), decore.DeCoRe().strength(*rows()))


def test_the_cut_is_plausibility_in_the_base():
    base, masked = rows()
    keep = decore.DeCoRe(beta=0.2).keep(base, [masked], None)
    probs = base.softmax(-1)
    assert keep.equal(probs >= 0.2 * probs.amax(-1, keepdim=True))
    assert decore.DeCoRe().keep(base, [masked], None) is None


# The attention


def test_disabled_heads_equal_the_reference(golden):
    vectors = golden("decore_head_mask_attention")
    weights = {name: torch.tensor(value) for name, value in vectors["weights"].items()}
    x = torch.tensor(vectors["x"])[None]

    class Stub(torch.nn.Module):
        is_causal, num_key_value_groups, training = True, 2, False

    def heads_of(name, count):
        return (x @ weights[name].T).view(1, 6, count, 4).transpose(1, 2)

    angles = torch.arange(6.0)[:, None] * 10000.0 ** (-torch.arange(0, 4, 2) / 4)
    cos, sin = (torch.cat([f(angles)] * 2, -1)[None] for f in (torch.cos, torch.sin))
    query, key = apply_rotary_pos_emb(heads_of("q", 4), heads_of("k", 2), cos, sin)
    value = heads_of("v", 2)
    masked = torch.zeros(1, 4, dtype=torch.bool)
    masked[0, [head for layer, head in vectors["block_list"] if layer == vectors["layer_idx"]]] = True
    states = {
        "unmasked": LayerState(), "uniform_causal": LayerState(uniform=masked), "zero_output": LayerState(zero=masked)
    }  # fmt: skip
    for name, state in states.items():
        for part, columns, keys in (("prefill", slice(0, 5), 5), ("decode", slice(5, 6), 6)):
            module = Stub()
            _STATES[module] = state
            got, _ = attention(module, query[:, :, columns], key[:, :, :keys], value[:, :, :keys], None, scaling=0.5)
            expected = torch.tensor(vectors[part][name])
            torch.testing.assert_close(got.reshape(-1, 16) @ weights["o"].T, expected, atol=1e-4, rtol=0)


def test_two_uniform_heads_of_one_group_are_one():
    """And heads that are not disabled give the same bits as before."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, n, 5, 8, generator=generator) for n in (4, 2, 2))

    class Stub(torch.nn.Module):
        is_causal, num_key_value_groups = True, 2

    outputs = []
    for mask in (torch.tensor([[True, True, False, False]]), torch.zeros(1, 4, dtype=torch.bool)):
        module = Stub()
        _STATES[module] = LayerState(uniform=mask)
        outputs.append(attention(module, query, key, value, None)[0])
    disabled, untouched = outputs
    torch.testing.assert_close(disabled[:, :, 0], disabled[:, :, 1])
    assert disabled[:, :, 2:].equal(untouched[:, :, 2:])
    running = value[:, 0].cumsum(1) / torch.arange(1, 6)[:, None]
    torch.testing.assert_close(disabled[:, :, 0], running)


# End to end


@pytest.fixture(scope="module")
def reference_llama(golden):
    """The Llama whose weights the golden file holds."""
    vectors = golden("decore_tiny_llama_e2e")
    held = dict(vectors["config"])
    rope = {"rope_theta": held.pop("rope_theta"), "rope_type": "default"}
    model = LlamaForCausalLM(LlamaConfig(**held, rope_parameters=rope, pad_token_id=None, bos_token_id=None))
    model.load_state_dict({name: torch.tensor(value) for name, value in vectors["state_dict"].items()})
    model.generation_config.eos_token_id = held["eos_token_id"]
    return model.eval()


class Traced(decore.DeCoRe):
    """DeCoRe that keeps what it combined."""

    trace = None

    def combine(self, base, branches, step):
        if self.trace is not None:
            self.trace.append((base[0], branches[0][0], self.strength(base, branches[0]).item()))
        return super().combine(base, branches, step)


def golden_decoder(case, path, **more):
    return strategy_of(case, num_heads=2, heads=path, **more)


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_generation_equals_the_reference(golden, reference_llama, heads, number, branching):
    vectors = golden("decore_tiny_llama_e2e")
    path = heads([(*head, 1.0) for head in vectors["masked_heads"]], layers=2)
    case = vectors["runs"][number]
    decoder = golden_decoder(case, path, head_mask_mode=case["mode"], mask_prefill=case["mask_prefill"])
    decoder = Traced(**decoder.params())
    batch = {"input_ids": torch.tensor([vectors["prompt_ids"]])}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    assert plain(reference_llama, batch)[0, 8:].tolist() == vectors["greedy_ids"]
    object.__setattr__(decoder, "trace", [])
    output = generate(reference_llama, decoder, batch, branching=branching)
    assert output.sequences[0, 8:].tolist() == case["generated_ids"]
    assert len(output.scores) == len(case["steps"])
    for scores, traced, step in zip(output.scores, decoder.trace, case["steps"], strict=True):
        base, masked, alpha = traced
        torch.testing.assert_close(base, torch.tensor(step["base_logits"]), atol=1e-4, rtol=0)
        torch.testing.assert_close(masked, torch.tensor(step["masked_logits"]), atol=1e-4, rtol=0)
        torch.testing.assert_close(scores[0], torch.tensor(step["contrast"]), atol=1e-4, rtol=0)
        assert alpha == pytest.approx(step["alpha"], abs=1e-4)


def test_scoring_equals_the_reference(golden, reference_llama, heads):
    vectors = golden("decore_tiny_llama_e2e")
    path = heads([(*head, 1.0) for head in vectors["masked_heads"]], layers=2)
    batch = {"input_ids": torch.tensor([vectors["prompt_ids"]])}
    assert len(vectors["scoring"]) == 5
    for case in vectors["scoring"]:
        decoder = golden_decoder(case, path) if case["variant"] in MODES else sightline.Greedy()
        normalise = case.get("post_softmax", True)
        got = sightline.score(reference_llama, decoder, batch, [case["answer_ids"]], normalise=normalise)
        assert got.shape == (1, 1)
        assert got.item() == pytest.approx(case["score"], abs=1e-3)


# Properties on random models


def neutral(path):
    return [
        decore.DeCoRe(num_heads=0),
        decore.DeCoRe(num_heads=2, heads=path, alpha_mode="static", alpha=0.0),
        decore.DeCoRe(num_heads=2, heads=path, alpha_cap=0.0),
        sightline.RandomHeads(num_heads=0),
        sightline.MaskedOnly(num_heads=0),
    ]


@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}])
def test_neutral_is_plain_decoding(llava, inputs, heads, mode):
    batch = inputs((5, 8))
    for decoder in neutral(heads()):
        with sightline.attach(llava, decoder, batch) as processor:
            assert processor.plan.is_neutral
        assert generate(llava, decoder, batch, **mode).sequences.equal(plain(llava, batch, **mode))


def test_without_contrast_the_cut_is_left(llava, inputs, heads):
    batch = inputs((7,))
    decoder = decore.DeCoRe(num_heads=2, heads=heads(), alpha_mode="static", alpha=0.0, beta=0.3)
    got, cut = (generate(llava, each, batch).scores for each in (decoder, sightline.CutOnly(beta=0.3)))
    assert all(torch.equal(a, b) for a, b in zip(got, cut, strict=True))


def test_heads_that_do_nothing_leave_greedy(llava, inputs, heads):
    """A prompt of one visible token: attending uniformly is attending; l_m = l_b for any alpha."""
    batch = {"input_ids": torch.tensor([[7]]), "attention_mask": torch.tensor([[1]])}
    decoder = decore.DeCoRe(num_heads=3, heads=heads(), alpha_mode="static", alpha=8.0)
    one = generate(llava, decoder, batch, max_new_tokens=1)
    raw = llava.generate(
        **batch, max_new_tokens=1, do_sample=False, output_scores=True, return_dict_in_generate=True
    ).scores[0]  # fmt: skip
    torch.testing.assert_close(one.scores[0].double(), raw.double().log_softmax(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mode", ["uniform", "zero"])
@pytest.mark.parametrize("mask_prefill", [False, True])
@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_a_padded_batch_equals_a_naive_decoder(llava, inputs, heads, mode, mask_prefill, branching):
    batch = inputs((5, 8))
    decoder = decore.DeCoRe(num_heads=3, heads=heads(), head_mask_mode=mode, mask_prefill=mask_prefill)
    edits = (HeadEdit(1, (0, 3), mode), HeadEdit(2, (1,), mode))
    output = generate(llava, decoder, batch, branching=branching)
    changed = False
    for number in range(2):
        row, new = single(batch, number), []
        while len(new) < STEPS and 2 not in new:
            with torch.no_grad():
                base = whole(llava, row, new)
                if mask_prefill:
                    masked = whole(llava, row, new, lambda: weights_of(llava, edits))
                else:
                    masked = forked(llava, row, new, edits)
            log_base, log_masked = base.log_softmax(-1), masked.log_softmax(-1)
            alpha = -(log_base.exp() * log_base).sum()
            expected = (1 + alpha) * log_base - alpha * log_masked
            torch.testing.assert_close(output.scores[len(new)][number].double(), expected, atol=1e-4, rtol=1e-4)
            new.append(int(expected.argmax()))
            changed |= new[-1] != int(base.argmax())
        assert output.sequences[number, batch["input_ids"].shape[1] :].tolist()[: len(new)] == new
    assert changed or mode == "zero"


@pytest.mark.parametrize("kwargs", [{"num_beams": 3}, {"cache_implementation": "static"}, {"use_cache": False}])
def test_modes_of_generate(llava, inputs, heads, kwargs):
    batch = inputs((5, 8))
    decoder = decore.DeCoRe(num_heads=3, heads=heads())
    rows, sequence = (generate(llava, decoder, batch, branching=each, **kwargs) for each in ("rows", "sequential"))
    assert rows.sequences.equal(sequence.sequences)
    if "num_beams" not in kwargs:
        assert rows.sequences.equal(generate(llava, decoder, batch).sequences)


def test_masked_only_is_the_masked_branch(llava, inputs, heads):
    batch, edits = inputs((7,)), (HeadEdit(1, (0, 3)), HeadEdit(2, (1,)))
    for mask_prefill in (False, True):
        decoder = sightline.MaskedOnly(num_heads=3, heads=heads(), mask_prefill=mask_prefill)
        output = generate(llava, decoder, batch, max_new_tokens=1)
        row = single(batch, 0)
        with torch.no_grad():
            if mask_prefill:
                expected = whole(llava, row, [], lambda: weights_of(llava, edits))
            else:
                expected = forked(llava, row, [], edits)
        torch.testing.assert_close(output.scores[0][0].double(), expected, atol=1e-5, rtol=1e-5)


def test_scope_of_scoring(llava, inputs, heads):
    """`answer` disables heads as generation does; `all` as generation with `mask_prefill` does."""
    batch = inputs((5, 8))
    for scope, mask_prefill in (("answer", False), ("all", True)):
        shared = {"num_heads": 3, "heads": heads(), "mask_prefill": mask_prefill}
        output = generate(llava, decore.DeCoRe(**shared), batch, max_new_tokens=1)
        scorer = decore.DeCoRe(**shared | {"scoring_mask_scope": scope, "mask_prefill": False})
        got = sightline.score(llava, scorer, batch, [[9], [31]])
        expected = output.scores[0].double().log_softmax(-1)[:, [9, 31]]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


# Lists of heads


def test_random_heads_are_seeded_and_never_listed_ones():
    big = HeadRanking("retrieval", "big", 32, 32, tuple((i // 32, i % 32, 1.0 - i / 200) for i in range(0, 600, 4)))
    seen = set()
    for seed in range(30):
        control = sightline.RandomHeads(num_heads=20, seed=seed)
        drawn = control.chosen(big)
        assert drawn == control.chosen(big)
        assert len(set(drawn)) == 20
        assert not set(drawn) & set(big.top(100))
        seen |= set(drawn)
    assert len(seen) > 300
    assert {head for _, head in seen} == set(range(32))
    small = HeadRanking("image", "small", 2, 4, tuple((i // 4, i % 4, 1.0 - i / 10) for i in range(8)))
    assert not set(sightline.RandomHeads(num_heads=4).chosen(small)) & set(small.top(4))
    with pytest.raises(errors.InvalidParameter, match="at most half of the model's 8 heads, got 5"):
        sightline.RandomHeads(num_heads=5).chosen(small)


def test_random_heads_differ_from_decore(llava, inputs, heads):
    batch, path = inputs((7,)), heads()
    listed = generate(llava, decore.DeCoRe(num_heads=3, heads=path), batch).scores[0]
    drawn = generate(llava, sightline.RandomHeads(num_heads=3, heads=path), batch).scores[0]
    assert (listed - drawn).abs().max() > 1e-3


def test_lists_that_are_too_short_or_of_another_model_are_refused(llava, inputs, heads):
    batch = inputs((7,))
    with pytest.raises(errors.InvalidParameter, match="num_heads must be at most 3, the length of the list"):
        sightline.attach(llava, decore.DeCoRe(num_heads=4, heads=heads()), batch)
    with pytest.raises(errors.SightlineError, match="4 layers of 4 heads, and this model has 3 layers"):
        sightline.attach(llava, decore.DeCoRe(num_heads=1, heads=heads(layers=4)), batch)
    with pytest.raises(errors.SightlineError, match="sightline calibrate model="):
        sightline.attach(llava, "decore", batch)


@pytest.mark.parametrize(
    ("values", "rule"),
    [({"num_heads": -1}, "num_heads must be >= 0"), ({"head_mask_mode": "silent"}, "one of uniform, zero"),
     ({"scoring_mask_scope": "prompt"}, "one of all, answer"), ({"alpha_mode": "kl"}, "one of static, entropy"),
     ({"alpha": 1.0}, "left at 0.5 where alpha_mode is entropy"), ({"alpha_cap": -0.1}, "None or >= 0"),
     ({"alpha_mode": "static", "scale_alpha": True}, "false where alpha_mode is static"), ({"beta": 2}, r"in \[0, 1\]"),
     ({"heads": ""}, "a list or a file"), ({"heads": 3}, "a string")],
)  # fmt: skip
def test_bad_values_name_field_rule_and_value(values, rule):
    with pytest.raises(errors.InvalidParameter, match=rf"decore: .*{rule}.*, got"):
        decore.DeCoRe(**values)
