"""HICD: golden vectors of the reference code, and decoding against attention written out with full maps."""

import copy
import json
import math

import pytest
import sightline
import torch
from anything import Anything
from beartype import beartype
from jaxtyping import jaxtyped
from naive import single
from naive_hicd import SPANS, naive_scores
from sightline.decoders import Branch, HeadEdit, MapEdit, hicd
from sightline.decoders.calibration import inducing
from sightline.decoders.plan import Step
from sightline.models import errors
from sightline.models.attention import _STATES, LayerState, attention
from sightline.models.counterfactual import Call, MapRule, full_map
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

contrast = jaxtyped(hicd.contrast, typechecker=beartype)
STEPS = 6
ALPHA = 2.0


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A list of the edited heads, as the reference writes it, in both spellings."""
    file = tmp_path_factory.mktemp("heads") / "heads.json"
    file.write_text('{"1": [0, 3], "layer2": [1]}')
    return str(file)


@pytest.fixture
def make(path):
    """The strategy over these heads, uncut unless said otherwise."""
    return lambda **values: hicd.HICD(**({"alpha": ALPHA, "beta": 0.0, "heads": path} | values))


def generate(model, decoder, batch, **kwargs):
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    return sightline.generate(model, decoder, batch, **(settings | kwargs))


# The reference's numbers


def test_contrast_equals_the_reference(golden):
    vectors = golden("hicd_contrast")
    base, induced = (torch.tensor(vectors[f"{name}_logits"]) for name in ("orig", "induced"))
    answer = torch.tensor(vectors["continuation"])
    rows = slice(vectors["prefix_len"] - 1, vectors["prefix_len"] - 1 + len(answer))
    assert len(vectors["cases"]) == 5
    for case in vectors["cases"]:
        found = contrast(base, induced, float(case["alpha"])).log_softmax(-1)[rows]
        total = found.gather(1, answer[:, None]).sum()
        assert float(total) == pytest.approx(case["log_prob"], abs=1e-4)
    expected = torch.tensor(vectors["final_alpha1"])
    torch.testing.assert_close(contrast(base, induced, 1.0).log_softmax(-1), expected, atol=1e-5, rtol=1e-5)
    told = vectors["generate_mode"]
    scores = [torch.tensor(told[f"{name}_scores"]) for name in ("orig", "induced")]
    scores = [each[: min(map(len, scores))] for each in scores]
    for alpha, tokens in told["tokens_by_alpha"].items():
        assert contrast(*scores, float(alpha)).argmax(-1).tolist() == tokens


def test_the_cut_is_the_reference_s_where_text_is_generated(golden):
    vectors = golden("hicd_contrast")
    base = torch.tensor(vectors["orig_logits"])
    keep = hicd.HICD().keep(base, [], Step(0))
    assert keep.equal(~torch.tensor(vectors["relative_top_mask_01"]))
    assert hicd.HICD().keep(base, [], Step(0, context={"cuts": False})) is None
    assert hicd.HICD(beta=0.0).keep(base, [], Step(0)) is None


@pytest.mark.parametrize("alpha", [-6.0, -1.0, 0.5, 3.0])
def test_properties_of_the_contrast(alpha):
    base, other = (3 * torch.randn(5, 13, dtype=torch.float64) for _ in range(2))
    found = contrast(base, other, alpha)
    torch.testing.assert_close(contrast(base + 7, other - 3, alpha), found)
    torch.testing.assert_close(contrast(base, base, alpha), base.log_softmax(-1))
    base[:, 2], other[:, 2], other[:, 4], base[:, 5] = (-math.inf,) * 4
    found = contrast(base, other, alpha)
    assert not found.isnan().any()
    assert not (found == math.inf).any()
    assert (found[:, [2, 5]] == -math.inf).all()


@pytest.fixture
def layer(golden):
    """The reference's attention layer under our function: from columns and a state to its output."""
    vectors = golden("hicd_attention")
    held = {name: torch.tensor(value) for name, value in vectors["weights"].items()}
    x = torch.cat([torch.tensor(vectors["hidden"]), torch.tensor(vectors["decode"]["hidden"])], dim=1)
    angles = torch.arange(6.0)[:, None] * 10000.0 ** (-torch.arange(0, 2, 2) / 2)
    cos, sin = (torch.cat([turn(angles)] * 2, -1)[None] for turn in (torch.cos, torch.sin))
    query, key, value = (
        (x @ held[f"{name}_proj.weight"].T).view(1, 6, -1, 2).transpose(1, 2) for name in ("q", "k", "v")
    )
    query, key = apply_rotary_pos_emb(query, key, cos, sin)

    class Stub(torch.nn.Module):
        is_causal, num_key_value_groups = True, 2

    def run(columns, state):
        module = Stub()
        _STATES[module] = state
        seen = columns.stop
        out, _ = attention(module, query[:, :, columns], key[:, :, :seen], value[:, :, :seen], None)
        return out.flatten(2)[0] @ held["o_proj.weight"].T, value

    return vectors, run


def test_dispersion_equals_the_reference(layer):
    vectors, run = layer
    heads = torch.tensor([vectors["head_mask"]]) == 0
    assert heads.sum() == 2
    prompt = {"image": (torch.zeros(1, 5, dtype=torch.bool),), "brief": (0,)}
    states = {"none": {}, "ave": {"uniform": heads}, "cut": {"zero": heads}}
    for name, edits in states.items():
        expected = torch.tensor(vectors[name]["out"])
        assert (expected - torch.tensor(vectors["none"]["out"])).abs().max() > 0.1 or name == "none"
        for more in ({}, prompt):
            found, _ = run(slice(0, 5), LayerState(**edits, **more, seen=5))
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        found, _ = run(slice(5, 6), LayerState(**edits, **prompt, seen=6))
        torch.testing.assert_close(found, torch.tensor(vectors["decode"]["ref_out"]), atol=1e-5, rtol=1e-5)


def test_a_dispersed_decoding_step_attends_to_all_keys_alike(layer):
    vectors, run = layer
    heads = vectors["decode"]["dispersed_heads"]
    mask = torch.zeros(1, 4, dtype=torch.bool)
    mask[0, heads] = True
    found, value = run(slice(5, 6), LayerState(uniform=mask))
    plain, _ = run(slice(5, 6), LayerState(zero=mask))
    row = torch.tensor(vectors["decode"]["dispersed_expected_weights_row"])
    output = torch.tensor(vectors["weights"]["o_proj.weight"]).view(8, 4, 2)
    added = sum(output[:, head] @ (row @ value[0, head // 2]) for head in heads)
    torch.testing.assert_close((found - plain)[0], added, atol=1e-5, rtol=1e-5)


# Blurred maps


@pytest.mark.parametrize("window", [None, 3])
def test_a_blurred_map_keeps_what_a_scope_gets_and_evens_it_out(window):
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, heads, 7, 4, generator=generator).double() for heads in (4, 2))
    places = torch.arange(7)
    seen = places <= places[:, None]
    seen = seen & (places > places[:, None] - window) if window else seen
    scope = torch.tensor([[0, 1, 1, 0, 1, 0, 0], [0, 0, 0, 1, 1, 1, 0]], dtype=torch.bool)
    call = Call(query, key, key, mask=seen.expand(2, 1, 7, 7))
    found = full_map(MapRule(0, "blurred", "visible", heads=(1, 2), scope=scope), call)
    repeated = key.repeat_interleave(2, dim=1)
    plain = (query @ repeated.mT / 2).masked_fill(~seen, -math.inf).softmax(-1)
    for row, head, place in torch.cartesian_prod(torch.arange(2), torch.arange(4), places).tolist():
        inside = seen[place] & scope[row]
        expected = plain[row, head, place].clone()
        if head in (1, 2) and inside.any():
            expected[inside] = expected[inside].mean()
        torch.testing.assert_close(found[row, head, place], expected)


# Decoding


@pytest.fixture(scope="module")
def loud(llama):
    """Weights large enough that attention matters."""
    model = copy.deepcopy(llama)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(12)
    return model


CASES = {
    "all": {},
    "zero": {"head_mask_mode": "zero"},
    "context": {"disperse_scope": "context"},
    "image": {"disperse_scope": "image"},
}
RUNS = [
    {"branching": "rows"},
    {"branching": "sequential"},
    {"branching": "rows", "cache_implementation": "static"},
    {"branching": "sequential", "cache_implementation": "static"},
    {"branching": "rows", "use_cache": False},
    {"branching": "sequential", "use_cache": False},
]


def batch_of(name, inputs):
    """Image prompts of 9 and 12 tokens; for the text model the same without pixels."""
    batch = inputs((5, 8))
    return batch if name == "llava" else {key: batch[key] for key in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize(
    ("name", "case"),
    [("llava", case) for case in CASES] + [("loud", case) for case in CASES if case != "image"],
)
def test_decoding_equals_a_naive_decoder(request, inputs, make, name, case, everywhere):
    model, batch = request.getfixturevalue(name), batch_of(name, inputs)
    decoder = make(**CASES[case], disperse_decode=everywhere)
    spans = SPANS if case == "context" else None
    rows, changed = [], False
    for number in range(2):
        row, new, trail = single(batch, number), [], []
        while len(new) < STEPS and 2 not in new:
            scores, base = naive_scores(model, row, new, decoder, number)
            trail.append(scores)
            new.append(int(scores.argmax()))
            changed |= bool((scores - base).abs().max() > 0.01)
        rows.append((new, trail))
    assert changed
    for settings in RUNS:
        output = generate(model, decoder, batch, spans=spans, **settings)
        for number, (new, trail) in enumerate(rows):
            assert output.sequences[number, batch["input_ids"].shape[1] :].tolist()[: len(new)] == new
            for step, scores in enumerate(trail):
                found = output.scores[step][number].double()
                torch.testing.assert_close(found, scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("everywhere", [True, False])
def test_where_new_tokens_are_dispersed_matters(loud, inputs, make, everywhere):
    """The first token cannot know, the second one does."""
    batch = batch_of("loud", inputs)
    one, other = (generate(loud, make(disperse_decode=each), batch).scores for each in (everywhere, not everywhere))
    torch.testing.assert_close(one[0], other[0])
    assert (one[1] - other[1]).abs().max() > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_beams_agree(request, inputs, make, case):
    name = "llava" if case == "image" else "loud"
    model, batch = request.getfixturevalue(name), batch_of(name, inputs)
    settings = {"num_beams": 3, "num_return_sequences": 2}
    plain = model.generate(**batch, max_new_tokens=STEPS, do_sample=False, **settings)
    for everywhere in (True, False):
        decoder = make(**CASES[case], disperse_decode=everywhere)
        rows, sequence = (
            sightline.generate(
                model, decoder, batch, spans=SPANS, branching=each, max_new_tokens=STEPS, do_sample=False, **settings
            )
            for each in ("rows", "sequential")
        )
        assert rows.equal(sequence)
        assert len(rows) == 4
        assert rows.tolist() != plain.tolist()


def test_a_batch_is_its_rows(loud, inputs, make):
    batch = batch_of("loud", inputs)
    together = generate(loud, make(), batch).sequences[:, 12:]
    for number in range(2):
        row = single(batch, number)
        row["attention_mask"] = torch.ones_like(row["input_ids"])
        alone = generate(loud, make(), row).sequences[0, row["input_ids"].shape[1] :]
        assert together[number, : len(alone)].equal(alone)


@pytest.mark.parametrize("case", ["all", "context"])
def test_beside_a_longer_prompt_columns_stay_where_they_are(loud, inputs, make, case):
    """A branch of three tokens more, which weighs nothing, moves all others to the right in a forward of rows."""
    batch = batch_of("loud", inputs)
    long = {name: torch.cat([value, value[:, -3:]], dim=1) for name, value in batch.items()}
    for everywhere in (True, False):
        decoder = make(**CASES[case], disperse_decode=everywhere)
        alone = generate(loud, decoder, batch, spans=SPANS)
        both = sightline.Together((decoder, Anything((Branch("long", long),), alpha=0.0)))
        for branching in ("rows", "sequential"):
            found = generate(loud, both, batch, spans=SPANS, branching=branching)
            assert found.sequences.equal(alone.sequences)
            torch.testing.assert_close(found.scores[-1], alone.scores[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mode", [{}, {"do_sample": True, "top_k": 20}, {"num_beams": 3}])
@pytest.mark.parametrize("lengths", [(7,), (5, 8, 6, 7)])
def test_neutral_is_plain_decoding(llava, inputs, make, mode, lengths):
    batch, settings = inputs(lengths), {"max_new_tokens": STEPS, "do_sample": False} | mode
    nothing = [None] * len(lengths)
    for values in ({"alpha": 0.0}, {"num_heads": 0}, {"disperse_scope": "context"}):
        with sightline.attach(llava, make(**values), batch, spans=nothing) as processor:
            assert processor.plan.is_neutral
        torch.manual_seed(1)
        plain = llava.generate(**batch, **settings)
        torch.manual_seed(1)
        assert sightline.generate(llava, make(**values), batch, spans=nothing, **settings).equal(plain)


def test_without_contrast_the_cut_is_left(llava, inputs, make):
    batch = inputs((7,))
    cut = generate(llava, sightline.CutOnly(beta=0.3), batch).scores
    for values in ({"alpha": 0.0}, {"num_heads": 0}):
        found = generate(llava, make(beta=0.3, **values), batch).scores
        assert all(torch.equal(a, b) for a, b in zip(found, cut, strict=True))


def test_scores_are_never_cut_and_disperse_the_whole_text(loud, inputs, make):
    batch, candidates = batch_of("loud", inputs), [[9, 31, 40], [11, 7, 22]]
    for values in ({}, {"alpha": -6.0}, {"disperse_scope": "context"}):
        decoder = make(**values)
        expected = torch.zeros(2, 2, dtype=torch.float64)
        for number in range(2):
            row = single(batch, number)
            for place, ids in enumerate(candidates):
                for step, token in enumerate(ids):
                    scores, _ = naive_scores(loud, row, ids[:step], decoder, number)
                    expected[number, place] += scores.log_softmax(-1)[token]
        for more in ({"beta": 1.0}, {"disperse_decode": False}):
            for branching in ("rows", "sequential"):
                settings = {"spans": SPANS, "branching": branching}
                found = sightline.score(loud, make(**values, **more), batch, candidates, **settings)
                torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_nothing_stays_behind(llava, inputs, make):
    batch = inputs((5, 8))
    before = llava.config.text_config._attn_implementation
    plain = llava.generate(**batch, max_new_tokens=STEPS, do_sample=False)

    class Breaks(Exception):
        pass

    def stop(input_ids, scores):
        raise Breaks

    for case in ("all", "image"):
        with pytest.raises(Breaks):
            generate(llava, make(**CASES[case]), batch, logits_processor=[stop])
    assert llava.config.text_config._attn_implementation == before
    assert not len(_STATES)
    assert llava.generate(**batch, max_new_tokens=STEPS, do_sample=False).equal(plain)


# What is refused


def test_a_scope_that_is_not_there_is_refused(loud, llava, inputs, make):
    with pytest.raises(errors.MissingImage, match="hicd"):
        sightline.attach(loud, make(disperse_scope="image"), batch_of("loud", inputs))
    with pytest.raises(errors.MissingContext, match="spans="):
        sightline.attach(llava, make(disperse_scope="context"), inputs((7,)))
    with sightline.attach(loud, make(), batch_of("loud", inputs)) as attached:
        assert len(attached.plan.branches) == 1


def test_heads_of_a_layer_begin_and_end_together(llava, inputs):
    class Odd(hicd.HICD):
        edits: tuple = ()

        def plan(self, request):
            return hicd.Plan((hicd.Branch("odd", edits=self.edits),), combines=True)

    for edits, said in (
        ((HeadEdit(1, (0,)), HeadEdit(1, (1,), when="prefill_only")), "prefill alone and at every step"),
        ((MapEdit((1,), "blurred", heads=(7,)),), r"no head \[7\] in layer 1"),
    ):
        Odd.edits = edits
        with pytest.raises(errors.UnsupportedMode, match=said):
            sightline.attach(llava, Odd(), inputs((7,)))


def test_heads_come_from_the_folder_or_there_is_advice(llava, inputs, tmp_path, monkeypatch):
    with pytest.raises(errors.SightlineError, match="what=inducing out="):
        sightline.attach(llava, "hicd", inputs((7,)))
    assert hicd.HICD(num_heads=0).calibration(None) is None
    (tmp_path / inducing.FILE).write_text(json.dumps({"0": [2]}))
    monkeypatch.setattr(llava.config, "_name_or_path", str(tmp_path))
    with sightline.attach(llava, "hicd", inputs((7,))) as attached:
        assert attached.plan.branches[0].edits == (HeadEdit(0, (2,)),)


@pytest.mark.parametrize(
    ("values", "rule"),
    [({"beta": 2}, r"in \[0, 1\]"), ({"num_heads": -1}, "None or >= 0"), ({"scale": -1.0}, "scale must be >= 0"),
     ({"select": "wrong"}, "one of correct, incorrect"), ({"head_mask_mode": "Ave"}, "one of uniform, zero"),
     ({"disperse_scope": "text"}, "one of all, image, context"), ({"heads": ""}, "auto or a file"),
     ({"head_mask_mode": "zero", "disperse_scope": "image"}, "all where head_mask_mode is zero"),
     ({"alpha": math.nan}, "alpha must be a finite number"), ({"disperse_decode": 1}, "true or false")],
)  # fmt: skip
def test_bad_values_name_field_rule_and_value(values, rule):
    with pytest.raises(errors.InvalidParameter, match=rf"hicd: .*{rule}.*, got"):
        hicd.HICD(**values)
