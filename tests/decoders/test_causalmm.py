"""CausalMM against the golden vectors of the reference code, and against a naive decoder with full maps."""

import inspect

import pytest
import sightline
import torch
import transformers
from beartype import beartype
from jaxtyping import jaxtyped
from naive import single
from naive_maps import naive_scores
from sightline.decoders import causalmm, seeds
from sightline.models import adapter_for, errors

CausalMM = causalmm.CausalMM
STEPS = 5
contrast = jaxtyped(causalmm.contrast, typechecker=beartype)


@pytest.fixture(autouse=True)
def shapes(monkeypatch):
    """Shapes in signatures are checked."""
    monkeypatch.setattr(causalmm, "contrast", contrast)
    for name, function in list(vars(seeds).items()):
        if inspect.isfunction(function):
            monkeypatch.setattr(seeds, name, jaxtyped(function, typechecker=beartype))


# The reference


def test_combination_equals_the_reference(golden):
    cases = golden("causalmm_combine")["cases"]
    assert len(cases) == 6
    for case in cases:
        inputs, outputs = case["inputs"], case["outputs"]
        base = torch.tensor(inputs["logits"])
        names = ("logits_cf", "logits_cf_vision", "logits_cf_language")
        branches = [torch.tensor(inputs[name]) for name in names if name in inputs]
        decoder = CausalMM(gamma=inputs["gamma"], epsilon=inputs["epsilon"])
        scores, keep = decoder.combine(base, branches, None), decoder.keep(base, branches, None)
        scores = scores.masked_fill(~keep, -torch.inf)
        if "combined" in outputs:
            expected = torch.tensor([[float(value) for value in row] for row in outputs["combined"]])
            torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(scores.softmax(-1), torch.tensor(outputs["probs_T1"]), atol=1e-5, rtol=0)
        if "kept" in outputs:
            assert keep.int().tolist() == outputs["kept"]
        if "argmax" in outputs:
            assert scores.argmax(-1).tolist() == outputs["argmax"]
        if "final_probs" in outputs:
            warpers = (transformers.TemperatureLogitsWarper(inputs["temperature"]),
                       transformers.TopPLogitsWarper(inputs["top_p"]))  # fmt: skip
            for warper in warpers:
                scores = warper(None, scores)
            torch.testing.assert_close(scores.softmax(-1), torch.tensor(outputs["final_probs"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [1, 2])
def test_properties_of_the_contrast(count):
    generator = torch.Generator().manual_seed(0)
    base, *branches = (3 * torch.randn(4, 9, generator=generator, dtype=torch.float64) for _ in range(1 + count))
    found = contrast(base, branches, 0.7)
    torch.testing.assert_close(found, base + 0.7 * sum(base - branch for branch in branches))
    torch.testing.assert_close(contrast(base, [base] * count, 0.7), base)
    moved = contrast(base + 2, [branch - 3 for branch in branches], 0.7)
    torch.testing.assert_close(moved.log_softmax(-1), found.log_softmax(-1))
    base[:, 2], branches[0][:, 2], branches[0][:, 4], base[:, 5] = (-torch.inf,) * 4
    found = contrast(base, branches, 0.7)
    assert not (found.isnan() | (found == torch.inf)).any()
    assert (found[:, [2, 5]] == -torch.inf).all()
    assert found.argmax(-1).tolist() == [4] * 4


# End to end


def generate(model, decoder, batch, **kwargs):
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    return sightline.generate(model, decoder, batch, **(settings | kwargs))


@torch.no_grad()
def assert_naive(model, decoder, batch, outputs, **layers):
    """Tokens and scores of every output are the naive decoder's, and not those of plain decoding."""
    moved = False
    for number in range(len(batch["input_ids"])):
        row, new = single(batch, number), []
        while len(new) < STEPS and 2 not in new:
            expected, base = naive_scores(model, decoder, row, new, **layers)
            if decoder.epsilon:
                expected = expected.masked_fill(base.softmax(-1) < decoder.epsilon * base.softmax(-1).max(), -torch.inf)
            for output in outputs:
                torch.testing.assert_close(output.scores[len(new)][number].double(), expected, atol=1e-4, rtol=1e-4)
            moved |= bool((expected - base).abs().max() > 0.05)
            new.append(int(expected.argmax()))
        for output in outputs:
            assert output.sequences[number, batch["input_ids"].shape[1] :].tolist()[: len(new)] == new
    assert moved


CACHES = [{}, {"cache_implementation": "static"}, {"use_cache": False}]
GATE = {"vision_mode": "gate", "vision_norm": "none", "gamma": 20.0}
"""The released code's; its random and reversed gates are so weak that a contrast of 1 would show nothing."""
VISION = [
    *({"vision_kind": kind} for kind in causalmm.CHOICES["vision_kind"]),
    {"vision_kind": "reversed", "vision_norm": "none"},
    {"vision_kind": "random", "vision_norm": "none", "seed": 3},
    *({"vision_kind": kind} | GATE for kind in ("random", "reversed")),
    {"vision_kind": "shuffle"} | GATE | {"gamma": 1.0},
]
LANGUAGE = [
    {"language_kind": kind, "language_norm": norm, "language_when": when}
    for kind in causalmm.CHOICES["language_kind"]
    for norm in causalmm.CHOICES["language_norm"]
    for when in causalmm.CHOICES["language_when"]
]


@pytest.mark.parametrize("fields", VISION, ids=lambda fields: " ".join(map(str, fields.values())))
def test_vision_equals_naive(llava, inputs, fields):
    decoder = CausalMM(modality="vision", epsilon=0.0, **fields)
    for lengths in ((7,), (5, 8)):
        batch = inputs(lengths)
        outputs = [generate(llava, decoder, batch, branching=each) for each in ("rows", "sequential")]
        assert_naive(llava, decoder, batch, outputs)


@pytest.mark.parametrize("fields", LANGUAGE, ids=lambda fields: " ".join(fields.values()))
def test_language_equals_naive(llava, inputs, fields):
    decoder = CausalMM(modality="language", epsilon=0.0, **fields)
    for lengths, caches in (((7,), CACHES[:1]), ((5, 8), CACHES)):
        batch = inputs(lengths)
        outputs = [generate(llava, decoder, batch, branching="rows", **cache) for cache in caches]
        outputs += [generate(llava, decoder, batch, branching="sequential", **cache) for cache in caches[::2]]
        assert_naive(llava, decoder, batch, outputs)


@pytest.mark.parametrize("kind", causalmm.CHOICES["language_kind"])
def test_both_branches_equal_naive(llava, inputs, kind):
    batch = inputs((5, 8))
    decoder = CausalMM(vision_kind=kind, language_kind=kind, gamma=0.6, epsilon=0.05, language_layers="all")
    outputs = [
        generate(llava, decoder, batch, branching=branching, **cache)
        for branching in ("rows", "sequential")
        for cache in CACHES
    ]
    assert_naive(llava, decoder, batch, outputs, language=(0, 1, 2))


def test_layers_of_the_tower_up_to_the_selected_one(llava, inputs, monkeypatch):
    """`all` ends at the layer whose output is used; here the last one."""
    monkeypatch.setattr(llava.config, "vision_feature_layer", -1)
    batch = inputs((7,))
    for named, layers in (("all", (0, 1)), ("select", (1,)), ([0], (0,))):
        decoder = CausalMM(modality="vision", epsilon=0.0, vision_layers=named)
        assert_naive(llava, decoder, batch, [generate(llava, decoder, batch)], vision=layers)
    monkeypatch.setattr(llava.config, "vision_feature_layer", [0, 1])
    assert adapter_for(llava).vision_layer == 0


def test_the_middle_third_of_the_layers(llava):
    found, family = {}, type(adapter_for(llava))
    for count in (1, 3, 4, 28, 32):
        adapter = type("Counted", (family,), {"layers": count})(llava)
        request = sightline.decoders.Request({"input_ids": torch.tensor([[7]])}, adapter)
        found[count] = CausalMM().language(request).edits[0].layers
    assert found == {1: (0,), 3: (1,), 4: (1,), 28: tuple(range(9, 18)), 32: tuple(range(11, 21))}


def text_batch(lengths=(9, 12)):
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(6, 90, mask.shape, generator=generator) * mask, "attention_mask": mask}


@pytest.fixture(scope="module")
def mistral():
    """A random Mistral whose window is shorter than the prompts."""
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=6, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = transformers.MistralForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    return model


@pytest.mark.parametrize("kind", causalmm.CHOICES["language_kind"])
def test_text_models_with_windows_equal_naive(mistral, kind):
    decoder = CausalMM(modality="language", language_kind=kind, epsilon=0.0, gamma=0.5)
    batch = text_batch()
    outputs = [
        generate(mistral, decoder, batch, branching=branching, **cache)
        for branching in ("rows", "sequential")
        for cache in CACHES
    ]
    assert_naive(mistral, decoder, batch, outputs, window=6)


def test_images_cut_into_crops_equal_naive():
    torch.manual_seed(0)
    size = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**size, image_size=16, patch_size=8),
        text_config=transformers.LlamaConfig(
            vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        ),
        image_token_index=5, image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
    )  # fmt: skip
    model = transformers.LlavaNextForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    generator = torch.Generator().manual_seed(3)
    pixels, sizes = torch.randn(2, 5, 3, 16, 16, generator=generator).double(), torch.tensor([[32, 32], [16, 32]])
    pixels[1, 3:] = 0  # the second image has three crops
    with torch.no_grad():
        counts = [len(each) for each in model.get_image_features(pixels, image_sizes=sizes).pooler_output]
    ids, mask = torch.zeros(2, max(counts) + 5, dtype=torch.long), torch.zeros(2, max(counts) + 5, dtype=torch.long)
    for row, count in enumerate(counts):
        prompt = torch.tensor([7, 8, *[5] * count, 9, 10 + row, 11])
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    batch = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_sizes": sizes}
    for fields in ({}, GATE):
        decoder = CausalMM(modality="vision", epsilon=0.0, **fields)
        assert_naive(model, decoder, batch, [generate(model, decoder, batch)])
    both = CausalMM(epsilon=0.0)
    alone = {name: value[1:] for name, value in batch.items()}
    alone = alone | {name: alone[name][:, mask[1].argmax() :] for name in ("input_ids", "attention_mask")}
    alone["pixel_values"] = alone["pixel_values"][:, :3]
    found, expected = (generate(model, both, each).scores[0][-1] for each in (batch, alone))
    torch.testing.assert_close(found, expected)


# Modes of generate()


@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
@pytest.mark.parametrize("fields", [{}, GATE | {"language_norm": "reference"}])
def test_beams_are_the_same_in_rows_and_in_sequence(llava, inputs, mode, fields):
    batch = inputs((5, 8))
    decoder = CausalMM(**fields)
    rows, sequence = (generate(llava, decoder, batch, branching=each, **mode) for each in ("rows", "sequential"))
    assert rows.sequences.equal(sequence.sequences)
    torch.testing.assert_close(rows.sequences_scores, sequence.sequences_scores)
    one = generate(llava, decoder, batch, num_return_sequences=1, num_beams=1)
    plain = generate(llava, "greedy", batch)
    assert not one.sequences.equal(plain.sequences)


def test_every_beam_of_a_prompt_has_the_prompts_draws(llava, inputs):
    """The score of the best beam is the sum of the naive log-probabilities of its tokens."""
    batch = inputs((7,))
    decoder = CausalMM(epsilon=0.0)
    output = generate(llava, decoder, batch, num_beams=3, length_penalty=0.0)
    tokens = output.sequences[0, batch["input_ids"].shape[1] :].tolist()
    tokens = tokens[: tokens.index(2) + 1] if 2 in tokens else tokens
    with torch.no_grad():
        found = [naive_scores(llava, decoder, single(batch, 0), tokens[:n])[0] for n in range(len(tokens))]
    total = sum(float(scores.log_softmax(-1)[token]) for scores, token in zip(found, tokens, strict=True))
    assert output.sequences_scores.item() == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("when", causalmm.CHOICES["language_when"])
def test_scoring_equals_naive(llava, inputs, when):
    batch = inputs((5, 8))
    decoder = CausalMM(language_when=when)
    candidates = [[9, 31, 4], [17]]
    found = sightline.score(llava, CausalMM(language_when=when, epsilon=0.0), batch, candidates)
    for number in range(2):
        for place, tokens in enumerate(candidates):
            with torch.no_grad():
                each = [naive_scores(llava, decoder, single(batch, number), tokens[:n])[0] for n in range(len(tokens))]
            total = sum(float(scores.log_softmax(-1)[token]) for scores, token in zip(each, tokens, strict=True))
            assert found[number, place].item() == pytest.approx(total, abs=1e-3)


MODES = [{"do_sample": False}, {"do_sample": True, "top_k": 0}, {"do_sample": False, "num_beams": 3}]


@pytest.mark.parametrize("mode", MODES, ids=["greedy", "sample", "beams"])
@pytest.mark.parametrize("lengths", [(7,), (5, 8, 6, 7)])
def test_neutral_is_plain_decoding(llava, inputs, mode, lengths):
    batch = inputs(lengths)
    for modality in causalmm.CHOICES["modality"]:
        decoder = CausalMM(modality=modality, gamma=0, epsilon=0)
        with sightline.attach(llava, decoder, batch) as processor:
            assert processor.plan.is_neutral
        torch.manual_seed(0)
        plain = llava.generate(**batch, max_new_tokens=STEPS, **mode)
        torch.manual_seed(0)
        assert generate(llava, decoder, batch, **mode).sequences.equal(plain)


def test_without_contrast_the_cut_is_left(llava, inputs):
    batch = inputs((7,))
    got, cut = (generate(llava, each, batch).scores for each in (CausalMM(gamma=0), sightline.CutOnly(beta=0.1)))
    assert all(torch.equal(a, b) for a, b in zip(got, cut, strict=True))


@pytest.mark.parametrize(
    ("modality", "streams", "encodes"), [("vision", 2, 1), ("language", 2, 0), ("multimodal", 3, 1)]
)
def test_what_it_costs(llava, inputs, modality, streams, encodes):
    batch = inputs((5, 8))
    settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": -1}
    for branching, passes in (("rows", STEPS), ("sequential", streams * STEPS)):
        with sightline.attach(llava, CausalMM(modality=modality), batch, branching=branching) as processor:
            llava.generate(**batch, logits_processor=[processor], **settings)
            assert processor.stats.rows == 2 * streams * STEPS
            assert (processor.stats.passes, processor.stats.encodes) == (passes, encodes)


def test_draws_follow_the_seed_and_the_sample(llava, inputs):
    batch = inputs((7, 7))
    first = generate(llava, CausalMM(), batch).scores[0]
    assert first.equal(generate(llava, CausalMM(), batch).scores[0])
    assert not first.equal(generate(llava, CausalMM(seed=1), batch).scores[0])
    swapped = {name: value.flip(0) for name, value in batch.items()}
    torch.testing.assert_close(generate(llava, CausalMM(), swapped).scores[0].flip(0), first)
    plan = CausalMM().plan(sightline.decoders.Request(batch, adapter_for(llava)))
    drawn = [edit.seeds for branch in plan.branches for edit in (*branch.vision_edits, *branch.edits)]
    assert len({int(seed) for each in drawn for seed in each}) == 4


def test_nothing_is_left_behind(llava, inputs):
    batch = inputs((7,))
    hooks = lambda: [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llava.modules()]  # noqa: E731
    before, plain = hooks(), generate(llava, "greedy", batch).scores
    for fields in ({}, GATE):
        generate(llava, CausalMM(**fields), batch)
        assert hooks() == before
        configs = (llava.config.vision_config, llava.config.text_config)
        assert [config._attn_implementation for config in configs] == ["sdpa", "sdpa"]
    assert all(torch.equal(a, b) for a, b in zip(generate(llava, "greedy", batch).scores, plain, strict=True))


# What is refused


@pytest.mark.parametrize(
    ("values", "rule"),
    [({"modality": "audio"}, "modality must be one of vision, language"), ({"gamma": -1}, "gamma must be >= 0"),
     ({"epsilon": 2}, r"epsilon must be in \[0, 1\]"), ({"vision_kind": "blur"}, "vision_kind must be one of uniform"),
     ({"vision_mode": "tower"}, "one of in_layer, gate"), ({"vision_norm": "visible"}, "one of row, none"),
     ({"vision_mode": "gate"}, "vision_norm must be none where vision_mode is gate"),
     ({"language_kind": "shuffle"}, "language_kind must be one of uniform, random, reversed"),
     ({"language_norm": "row"}, "one of visible, reference"), ({"language_when": "never"}, "one of every_step"),
     ({"vision_layers": "last"}, "vision_layers must be all, select or a list of distinct layers"),
     ({"language_layers": []}, "language_layers must be middle, all or a list"),
     ({"language_layers": [1, 1]}, "distinct"), ({"vision_layers": [-1]}, "layers from 0"),
     ({"vision_layers": [True]}, "layers from 0"), ({"language_layers": 3}, "a list"), ({"seed": 0.5}, "whole number")],
)  # fmt: skip
def test_bad_values_name_field_rule_and_value(values, rule):
    with pytest.raises(errors.InvalidParameter, match=rf"causalmm: .*{rule}.*, got"):
        CausalMM(**values)


def test_layers_that_the_model_has_not_are_refused(llava, inputs):
    for fields, rule in (
        ({"language_layers": [0, 3]}, r"language_layers must be among this model's 0 to 2, got \(0, 3\)"),
        ({"vision_layers": [1]}, r"vision_layers must be among this model's 0 to 0, got \(1,\)"),
    ):
        with pytest.raises(errors.InvalidParameter, match=rule):
            sightline.attach(llava, CausalMM(**fields), inputs())


def test_images_are_needed_where_the_tower_is_edited(llama, llava, inputs):
    text = text_batch()
    for modality in ("vision", "multimodal"):
        for gamma in (0.0, 1.0):
            with pytest.raises(errors.MissingImage, match=f"causalmm .with modality={modality}. contrasts images"):
                sightline.attach(llama, CausalMM(modality=modality, gamma=gamma), text)
        with pytest.raises(errors.MissingImage, match="pixel_values"):
            sightline.attach(llava, CausalMM(modality=modality), inputs() | {"pixel_values": None})
    assert generate(llama, CausalMM(modality="language"), text).sequences.shape[0] == 2


def test_two_map_edits_of_one_layer_are_refused(llava, inputs):
    edit = sightline.decoders.MapEdit((1,), "uniform")
    for edits, message in (
        ((edit, edit), "two map edits"),
        ((sightline.decoders.MapEdit((3,), "uniform"),), "no layer"),
    ):

        class Edited(CausalMM):
            def language(self, request, edits=edits):
                return sightline.decoders.Branch("language", edits=edits)

        with pytest.raises(errors.UnsupportedMode, match=message):
            sightline.attach(llava, Edited(modality="language"), inputs())
