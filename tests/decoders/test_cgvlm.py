"""CG-VLM: its formulas against the reference's numbers, its generation against five naive passes without a cache."""

import pytest
import sightline
import torch
from boosted import pushed
from letters import asked, llava_processor, noise_image
from naive import single, whole
from naive_selection import interaction
from sightline.decoders import cgvlm
from sightline.decoders.plan import Step
from sightline.decoders.seeds import seed_of
from sightline.models.attention import last_row
from sightline.models.errors import InvalidParameter, MissingImage, MissingProcessor, UnsupportedMode

CGVLM = sightline.CGVLM
IMAGE, STEPS, TOP = 5, 6, 7
TEXTS = ("Is it?", "Is there a star in it?", "Why?", "No star?")


# Formulas


def streams(case):
    """Logits of {v, p}, {v}, {p} and {} of a golden case."""
    names = ("full", "text_absent", "image_absent", "both_absent")
    return [torch.tensor(case[f"logits_{name}"], dtype=torch.float64) for name in names]


@pytest.mark.parametrize("number", range(2))
def test_interaction_equals_the_reference(golden, number):
    case = golden("cgvlm_cds")["cases"][number]
    given, expected = streams(case), case["expected"]
    indices = given[0].topk(case["top_k"]).indices
    assert indices.tolist() == expected["top_k_indices"]
    found = cgvlm.dividends(*given).gather(-1, indices)
    torch.testing.assert_close(found, torch.tensor(expected["interaction"]).double(), atol=1e-6, rtol=0)
    measured = cgvlm.interaction(*given, case["top_k"])
    assert measured.tolist() == pytest.approx(expected["variance_per_row"], abs=1e-6)
    assert (measured > case["threshold"]).double().tolist() == expected["beta_per_row_rule"]


def opened(given, k, **fields):
    """The gate of logits {v, p}, {v}, {p}, {}; the production row is {v, p}."""
    full, image, text, neither = given
    strategy = CGVLM(k=k, top_k_tokens=5, **fields)
    return strategy.gate(full, [text, image, neither, full, full], Step(0, context={"k": k})).tolist()


def test_the_gate_is_strict_and_per_row(golden):
    case = golden("cgvlm_cds")["cases"][1]
    assert opened(streams(case), case["threshold"]) == [True, False]
    given = streams(golden("cgvlm_cds")["cases"][0])
    exact = float(cgvlm.interaction(*given, 5))
    assert (opened(given, exact), opened(given, exact - 1e-12)) == ([False], [True])
    assert opened([given[0], given[1] * torch.nan, *given[2:]], -1.0) == [False]


def test_the_entropy_gate_comes_before(golden):
    cases = golden("cgvlm_cds")["cases"]
    share = cases[4]["expected"]["normalised_by_log_V"]
    given = streams(cases[0])
    assert cgvlm.spread(given[0]).item() == pytest.approx(share, abs=1e-6)
    assert opened(given, 0.5, entropy_threshold=share - 1e-4) == [True]
    assert opened(given, 0.5, entropy_threshold=share + 1e-4) == [False]
    assert opened(given, 0.8, entropy_threshold=0.0) == [False]


def test_laws_of_the_interaction(golden):
    given = streams(golden("cgvlm_cds")["cases"][0])
    law = golden("cgvlm_cds")["cases"][3]["expected"]
    measured = cgvlm.interaction(*given, 5)
    assert measured.item() == pytest.approx(law["variance_x1"], abs=1e-6)
    assert cgvlm.interaction(*(2 * each for each in given), 5).item() == pytest.approx(law["variance_x2"], abs=1e-6)
    normed = cgvlm.interaction(*(each.log_softmax(-1) for each in given), 5)
    torch.testing.assert_close(normed, measured)
    full, image, text, _ = given
    assert cgvlm.interaction(full, image, text, image + text - full, 5).item() == pytest.approx(0, abs=1e-12)
    assert cgvlm.interaction(*given, 50).item() == pytest.approx(cgvlm.dividends(*given).var().item())


def test_boost_equals_the_reference(golden):
    case = golden("cgvlm_fci")["cases"][0]
    scores = torch.tensor(case["scores"]["values_flat"]).double().view(case["scores"]["shape"])[:, :, -1]
    image = torch.zeros(1, scores.shape[-1], dtype=torch.bool)
    image[:, slice(*case["visual_range"])] = True
    bias, expected = cgvlm.boost(scores, image, case["alpha"]), case["expected"]
    assert bias[0, 0, image[0]].tolist() == pytest.approx(expected["bias_per_key"], abs=1e-6)
    after = scores + bias
    torch.testing.assert_close(after[0], torch.tensor(expected["boosted_last_query"]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(after[0].softmax(-1), torch.tensor(expected["probs_after"]).double(), atol=1e-6, rtol=0)
    assert cgvlm.boost(scores, image & False, 0.5).abs().max() == 0


def test_visual_mass_never_falls_and_padding_has_no_say():
    """Grouped keys; two image keys of the second row are padding, one of them far off."""
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 3, 8, generator=draw, dtype=torch.float64)
    key = torch.randn(2, 2, 9, 8, generator=draw, dtype=torch.float64)
    image = torch.zeros(2, 9, dtype=torch.bool)
    image[:, 1:6] = True
    mask = torch.ones(2, 1, 3, 9, dtype=torch.bool)
    mask[1, :, :, :3] = False
    before = last_row(query, key, mask)
    after = last_row(query, key, mask, bias=lambda scores: cgvlm.boost(scores, image, 0.5))
    key[1, :, 1] = 1e6
    again = last_row(query, key, mask, bias=lambda scores: cgvlm.boost(scores, image, 0.5))
    torch.testing.assert_close(again, after)
    torch.testing.assert_close(after.sum(-1), torch.ones(2, 4, dtype=torch.float64))
    mass = [(each * image[:, None]).sum(-1) for each in (before, after)]
    assert (mass[1] > mass[0]).all()
    assert after[1, :, :3].abs().max() == 0


@pytest.mark.parametrize(
    ("count", "expected"), [(32, (5, 18)), (40, (6, 22)), (28, (4, 16)), (4, (1, 2)), (2, (0, 1)), (1, (0, 0))]
)
def test_middle_layers(count, expected):
    found = CGVLM().boosted(count)
    assert found == tuple(range(expected[0], expected[1] + 1))


def test_noise_belongs_to_the_image():
    pixels = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    both, alone = cgvlm.noise(pixels, 0), cgvlm.noise(pixels[1:], 0)
    assert both[1:].equal(alone)
    assert not both[0].equal(both[1])
    assert not cgvlm.noise(pixels, 1).equal(both)
    assert 0 <= both.min() < 0.2 < 0.8 < both.max() < 1
    crops = torch.stack([torch.cat([pixels, torch.zeros_like(pixels)]), torch.cat([pixels, pixels])])
    assert cgvlm.noise(crops[:1], 0)[:, :2].equal(cgvlm.noise(crops[:1, :2], 0))


# Generation


@pytest.fixture(scope="module")
def processor():
    return llava_processor()


@pytest.fixture(scope="module")
def ask(processor):
    """Model inputs of so many questions, each about a picture of its own; texts can be replaced."""
    return lambda count, texts=TEXTS: asked(processor, [[noise_image(seed)] for seed in range(count)], texts[:count])


def drawn(pixels):
    generator = torch.Generator().manual_seed(seed_of(pixels[0], 0))
    return torch.rand(pixels.shape[1:], generator=generator)[None].double()


def without(model, one, new, absent):
    """Logits of a prompt whose image is absent."""
    if absent in ("noise", "blank"):
        pixels = one["pixel_values"]
        return whole(model, one | {"pixel_values": drawn(pixels) if absent == "noise" else pixels * 0}, new)
    ids = one["input_ids"][0]
    if absent == "drop":
        return whole(model, {"input_ids": ids[ids != IMAGE][None]}, new)
    text = torch.cat([ids, torch.tensor(new, dtype=torch.long)])
    features = model.get_image_features(pixel_values=one["pixel_values"]).pooler_output[0]
    embeds = model.get_input_embeddings()(text)
    embeds[text == IMAGE] = sum(features) / len(features)
    return model.lm_head(model.model.language_model(inputs_embeds=embeds[None], use_cache=False).last_hidden_state)[
        0, -1
    ]


@torch.no_grad()
def naive(model, batch, wordless, strategy, forced=None, eos=2):
    """Each row's tokens, scores, D and gates; every pass runs over the whole text, in which opened rows are pushed."""
    answers = []
    for row in range(len(batch["input_ids"])):
        one, bare, trail = single(batch, row), single(wordless, row), []
        columns = (one["input_ids"][0] == IMAGE).nonzero().flatten().tolist()
        new, rows, width = [], [], one["input_ids"].shape[1]
        while len(new) < (STEPS if forced is None else len(forced)) and eos not in new:
            coalitions = whole(model, one, new), whole(model, bare, new)
            absent = [without(model, each, new, strategy.absent_image) for each in (one, bare)]
            difference = interaction(*coalitions, *absent, TOP)
            pushes = [*rows, width - 1 + len(new)] if difference > strategy.k else list(rows)
            at = pushes, columns, range(3), strategy.alpha
            scores = whole(model, one, new, lambda at=at: pushed(model, *at))
            trail.append((scores, difference, len(pushes) > len(rows)))
            rows = pushes
            new.append(int(scores.argmax()) if forced is None else forced[len(new)])
        answers.append((new, trail))
    return answers


def decode(model, processor, strategy, batch, branching="rows", **settings):
    fixed = {"max_new_tokens": STEPS, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    with sightline.attach(model, strategy, batch, processor=processor, branching=branching) as attached:
        return model.generate(**batch, logits_processor=[attached], **(fixed | settings)), attached


K = {"noise": 0.012, "blank": 0.0085, "drop": 0.031, "mean": 0.0025}
"""Thresholds under which the random model's gate opens now and then."""
ALPHA = 3.0


@pytest.fixture(scope="module")
def expected(llava, ask):
    """Naive answers for a batch of so many rows, worked out once."""
    known = {}

    def found(count, absent):
        if (count, absent) not in known:
            strategy = CGVLM(k=K[absent], top_k_tokens=TOP, absent_image=absent, alpha=ALPHA)
            known[count, absent] = strategy, naive(llava, ask(count), ask(count, [""] * 4), strategy)
        return known[count, absent]

    return found


@pytest.mark.parametrize("absent", ["noise", "blank", "drop", "mean"])
@pytest.mark.parametrize("branching", ["rows", "sequential"])
@pytest.mark.parametrize("count", [1, 3])
def test_generation_equals_naive(llava, processor, ask, expected, absent, branching, count):
    strategy, answers = expected(count, absent)
    batch = ask(count)
    caches = [{}, {"cache_implementation": "static"}] if absent == "noise" else [{}]
    for cache in caches:
        output, attached = decode(llava, processor, strategy, batch, branching, **cache)
        for row, (tokens, trail) in enumerate(answers):
            assert output.sequences[row, batch["input_ids"].shape[1] :].tolist()[: len(tokens)] == tokens
            for step, (scores, _, gate) in enumerate(trail):
                assert bool(attached.gates[step][row]) == gate
                torch.testing.assert_close(output.scores[step][row].double(), scores, atol=1e-4, rtol=1e-4)


def test_the_comparison_could_fail(llava, processor, ask, expected):
    """Else the test above would show little: gates open and shut, and an open one moves tokens."""
    plain = decode(llava, processor, CGVLM(gating="never"), ask(3))[0].sequences[:, -STEPS:]
    for absent in K:
        answers = expected(3, absent)[1]
        assert {gate for _, trail in answers for _, _, gate in trail} == {True, False}
        assert any(tokens != row[: len(tokens)] for (tokens, _), row in zip(answers, plain.tolist(), strict=True))
        assert min(abs(d - K[absent]) for _, trail in answers for _, d, _ in trail) > 1e-5


def test_a_shut_gate_is_plain_decoding_and_an_open_one_always_boosts(llava, processor, ask):
    batch = ask(4)
    for mode in ({}, {"num_beams": 2}):
        never, always = (decode(llava, processor, CGVLM(gating=gating, alpha=ALPHA), batch, **mode)[0]
                         for gating in ("never", "always"))  # fmt: skip
        shut, attached = decode(llava, processor, CGVLM(k=1e9, alpha=ALPHA), batch, **mode)
        assert attached.focus == 0
        assert shut.sequences.equal(never.sequences)
        wide, attached = decode(llava, processor, CGVLM(k=-1, alpha=ALPHA), batch, **mode)
        assert attached.focus == 1
        assert wide.sequences.equal(always.sequences)
        assert not wide.sequences.equal(shut.sequences)
        for one, two in ((shut, never), (wide, always)):
            for step, scores in enumerate(one.scores):
                torch.testing.assert_close(scores, two.scores[step], atol=1e-5, rtol=1e-5)


def test_a_trace_names_what_the_boost_ousted(llava, processor, ask):
    inputs = ask(1)
    settings = {"max_new_tokens": STEPS, "do_sample": False}
    plain = llava.generate(**inputs, **settings)[0, inputs["input_ids"].shape[1] :].tolist()
    decoder = CGVLM(alpha=40.0, k=-1.0, layers=(0, 1, 2))
    trace = sightline.trace(llava, decoder, inputs, processor=processor, **settings).tokens[0]
    first = next(place for place, (mine, token) in enumerate(zip(trace, plain, strict=False)) if mine.token != token)
    assert [token.ousted for token in trace[:first]] == [None] * first
    assert trace[first].ousted == plain[first]
    assert trace[first].gate
    assert trace[first].ousted_chances.base > trace[first].chances.base
    assert trace[first].ousted_chances.decoded < trace[first].chances.decoded


def test_always_equals_naive(llava, processor, ask):
    """The bound has no sensor to rely on: every row from the last prompt token on is pushed."""
    batch = ask(3)
    output, attached = decode(llava, processor, CGVLM(gating="always", layers=[1, 2], alpha=2.0), batch)
    assert attached.stats.rows == attached.stats.passes * 3
    for row in range(3):
        one, new = single(batch, row), []
        columns = (one["input_ids"][0] == IMAGE).nonzero().flatten().tolist()
        first = one["input_ids"].shape[1] - 1
        with torch.no_grad():
            while len(new) < STEPS and 2 not in new:
                at = range(first, first + len(new) + 1), columns, (1, 2), 2.0
                new.append(int(whole(llava, one, new, lambda at=at: pushed(llava, *at)).argmax()))
        assert output.sequences[row, -STEPS:].tolist()[: len(new)] == new


MODES = {"greedy": {}, "sampling": {"do_sample": True}, "beams": {"num_beams": 3}}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("strategy", [CGVLM(alpha=0), CGVLM(gating="never")], ids=["alpha 0", "never"])
def test_neutral_is_plain(llava, processor, ask, mode, count, strategy):
    batch, settings = ask(count), MODES[mode]
    torch.manual_seed(0)
    output, attached = decode(llava, processor, strategy, batch, **settings)
    torch.manual_seed(0)
    plain = llava.generate(**batch, **({"max_new_tokens": STEPS, "do_sample": False} | settings))
    assert output.sequences.equal(plain)
    assert attached.plan.is_neutral
    assert attached.focus is None


@pytest.mark.parametrize("absent", ["noise", "drop"])
@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_are_the_same_in_rows_and_in_sequence(llava, processor, ask, absent, mode):
    strategy = CGVLM(k=K[absent], top_k_tokens=TOP, absent_image=absent, alpha=ALPHA)
    rows, sequential = (decode(llava, processor, strategy, ask(3), each, **mode) for each in ("rows", "sequential"))
    assert rows[0].sequences.equal(sequential[0].sequences)
    torch.testing.assert_close(rows[0].sequences_scores, sequential[0].sequences_scores)
    assert 0 < rows[1].focus < 1


def test_the_best_beam_is_worth_what_the_naive_decoder_says(llava, processor, ask):
    strategy, batch = CGVLM(k=K["noise"], top_k_tokens=TOP, alpha=ALPHA), ask(1)
    output, _ = decode(llava, processor, strategy, batch, num_beams=3, length_penalty=0.0)
    tokens = output.sequences[0, batch["input_ids"].shape[1] :].tolist()
    tokens = tokens[: tokens.index(2) + 1] if 2 in tokens else tokens
    [(_, trail)] = naive(llava, batch, ask(1, [""]), strategy, forced=tokens)
    total = sum(float(scores.log_softmax(-1)[token]) for token, (scores, _, _) in zip(tokens, trail, strict=True))
    assert output.sequences_scores.item() == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_scores_of_given_answers_equal_naive(llava, processor, ask, branching):
    strategy, batch, answer = CGVLM(k=K["noise"], top_k_tokens=TOP, alpha=ALPHA), ask(2), [9, 31, 7, 40]
    got = sightline.score(llava, strategy, batch, [answer], processor=processor, branching=branching)
    trails = [trail for _, trail in naive(llava, batch, ask(2, [""] * 2), strategy, forced=answer)]
    assert {gate for trail in trails for _, _, gate in trail} == {True, False}
    for row, trail in enumerate(trails):
        total = sum(float(scores.log_softmax(-1)[token]) for token, (scores, _, _) in zip(answer, trail, strict=True))
        assert got[row, 0].item() == pytest.approx(total, abs=1e-4)


def test_the_entropy_gate_acts(llava, processor, ask, expected):
    """It can only shut; what it shuts is what the naive entropy of the plain row says at the first token."""
    strategy, answers = expected(3, "noise")
    batch = ask(3)
    plain = decode(llava, processor, CGVLM(gating="never"), batch, max_new_tokens=1)[0].scores[0]
    share = torch.distributions.Categorical(logits=plain).entropy() / torch.tensor(96.0).log()
    middle = float(share.median())
    limited = CGVLM(k=strategy.k, top_k_tokens=TOP, alpha=ALPHA, entropy_threshold=middle + 1e-6)
    _, attached = decode(llava, processor, limited, batch, max_new_tokens=1)
    wanted = [trail[0][2] and float(share[row]) > middle + 1e-6 for row, (_, trail) in enumerate(answers)]
    assert attached.gates[0].tolist() == wanted
    assert wanted != [trail[0][2] for _, trail in answers]


def test_a_step_costs_six_rows_of_one_forward(llava, processor, ask):
    _, attached = decode(llava, processor, CGVLM(k=0.01), ask(1), eos_token_id=None)
    assert (attached.stats.encodes, attached.stats.forwards, attached.stats.passes) == (3, STEPS, STEPS)
    assert attached.stats.rows == 4 + 6 * (STEPS - 1)
    assert [branch.name for branch in attached.plan.branches][3:] == ["plain", "boosted"]


def test_numbers_are_d():
    strategy = CGVLM(top_k_tokens=TOP)
    logits = [each[None] for each in torch.randn(5, 96, generator=torch.Generator().manual_seed(0)).double()]
    found = strategy.numbers(logits[0], logits, Step(0))["interaction"].item()
    text, image, neither, full = (row[0].tolist() for row in logits[:4])
    assert found == pytest.approx(interaction(full, image, text, neither, TOP))
    assert CGVLM(gating="always").numbers(logits[0], (), Step(0)) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha", -1), ("top_k_tokens", 1), ("layers", "all"), ("layers", [1, 1]), ("layers", []), ("gating", "often"),
     ("absent_image", "black"), ("entropy_threshold", 2), ("threshold", ""), ("k", "1")],
)  # fmt: skip
def test_bad_values_name_field_rule_and_value(field, value):
    with pytest.raises(InvalidParameter, match=rf"cgvlm: {field} must be .*, got"):
        CGVLM(**{field: value})


def test_what_is_missing_is_said_first(llava, llama, processor, ask):
    batch = ask(1)
    with pytest.raises(MissingProcessor, match="processor=processor"):
        sightline.attach(llava, "cgvlm", batch)
    with pytest.raises(MissingImage):
        sightline.attach(llama, "cgvlm", {"input_ids": batch["input_ids"]}, processor=processor)
    with pytest.raises(InvalidParameter, match="layers must be among this model's 0 to 2"):
        sightline.attach(llava, CGVLM(layers=[3]), batch, processor=processor)
    with pytest.raises(InvalidParameter, match="threshold must be left at auto where k is given"):
        CGVLM(k=1.0, threshold="x.json")
    with pytest.raises(UnsupportedMode, match="use_cache=True"):
        decode(llava, processor, CGVLM(k=1.0), batch, use_cache=False)
