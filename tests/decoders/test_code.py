"""CODE's formulas against the golden vectors of the reference code, and whole generations against two naive passes."""

import math

import pytest
import sightline
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from letters import SPECIAL, asked, letters, llava_processor, noise_image
from naive_code import ASKED, QUESTIONS, SAID, STEPS, Naive, naive_text
from sightline.decoders import CODE, CutOnly, Step, code
from sightline.decoders.contrast import cut
from sightline.models import adapter_for, errors

divergence = jaxtyped(code.divergence, typechecker=beartype)
likely = jaxtyped(code.likely, typechecker=beartype)
IMAGE = SPECIAL.index("<image>")
FIXED = {"alpha_mode": "fixed", "beta_mode": "fixed"}
NEUTRAL = {**FIXED, "alpha": 0.0, "beta": 0.0}
SETTINGS = {
    "paper": {},
    "soft": {"k": 4.0, "desc_bos": "drop"},
    "fixed": FIXED,
    "no cut": {**FIXED, "beta": 0.0},
    "adaptive alpha": {"k": 2.0, "beta_mode": "fixed", "beta": 0.01},
    "adaptive cut": {"k": 2.0, "alpha_mode": "fixed", "alpha": 0.5},
    "cut alone": {"k": 4.0, "alpha_mode": "fixed", "alpha": 0.0},
}

NO_CACHE = {"use_cache": False}
RUNS = [(1, "rows", {}), (3, "rows", {}), (3, "sequential", {}), (3, "rows", NO_CACHE), (1, "sequential", NO_CACHE)]


def decoder(**params):
    return CODE(**({"desc_prompt": ASKED, "desc_max_new_tokens": SAID} | params))


def numbers(rows):
    return torch.tensor([[float(value) for value in row] for row in rows])


def described(rows):
    """A step of rows that all have a description."""
    return Step(0, context={"described": torch.ones(rows, 1, dtype=torch.bool)})


def contrast(strategy, image, description):
    """What the engine makes of the strategy's answers."""
    step = described(len(image))
    scores, keep = (act(image, [description], step) for act in (strategy.combine, strategy.keep))
    return scores if keep is None else cut(scores, keep)


# Formulas


def test_contrast_equals_the_reference(golden):
    cases = golden("code_combine")["cases"]
    assert len(cases) == 8
    for case in cases:
        given, expected = case["inputs"], case["outputs"]
        image, description = numbers(given["logits_image"]), numbers(given["logits_desc"])
        fixed = {**FIXED, "alpha": given["alpha"], "beta": given["beta"]} if "alpha" in given else {"k": case["k"]}
        scores = contrast(CODE(**fixed), image, description)
        torch.testing.assert_close(scores, numbers(expected["cd_logits"]), atol=1e-5, rtol=0, msg=case["name"])
        torch.testing.assert_close(scores.softmax(-1), numbers(expected["final_probs"]), atol=1e-5, rtol=0)
        assert scores.argmax(-1).tolist() == expected["argmax_final"]
        if "k" in case:
            distance = divergence(image, description, case["k"])
            assert distance[:, 0].tolist() == pytest.approx(expected["divergence_D"], abs=1e-5)
            assert likely(image, distance).int().tolist() == expected["keep_mask"]


def test_divergence_over_k_equals_the_reference(golden):
    sweep = golden("code_divergence_sweep")
    p, q = (torch.tensor([sweep[name]]).log() for name in ("p", "q"))
    assert len(sweep["rows"]) == 8
    for row in sweep["rows"]:
        assert float(divergence(p, q, row["k"])) == pytest.approx(row["D"], abs=1e-5)


def pair(seed=0, rows=50, vocab=13, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(rows, vocab, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_divergence_is_a_bounded_distance():
    image, description = pair()
    distance = divergence(image, description, 0.3)
    assert ((distance > 0) & (distance < 1)).all()
    torch.testing.assert_close(distance, divergence(description, image, 0.3))
    torch.testing.assert_close(distance, divergence(image + 5, description - 2, 0.3))
    assert (divergence(image, description, 0.7) < distance).all()
    assert divergence(image, image, 0.3).eq(0).all()
    apart = divergence(torch.tensor([[90.0, 0.0]]), torch.tensor([[0.0, 90.0]]), 0.3)
    assert apart.item() == 1
    rounded = [each.float() for each in pair(vocab=1000, scale=1.0)]
    assert divergence(*rounded, 1e-9).max() == 1  # in float32 the sum comes out above 1 in some rows


def test_equal_branches_change_nothing_and_far_ones_leave_the_argmax():
    image, description = pair()
    same = contrast(CODE(), image, image)
    torch.testing.assert_close(same, image)
    far = contrast(CODE(k=1e-6), image, description)
    assert (far > -math.inf).sum(dim=-1).eq(1).all()
    assert far.argmax(-1).equal(image.argmax(-1))


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_infinite_logits_never_become_nan(settings):
    image, description = pair(rows=3)
    image[:, 2], description[:, 2], description[:, 4], image[:, 5] = (-math.inf,) * 4
    description[0] = image[0]  # D is 0, so nothing is cut
    scores = contrast(CODE(**settings), image, description)
    assert not scores.isnan().any()
    assert not (scores == math.inf).any()
    assert (scores[:, [2, 5]] == -math.inf).all()
    assert (scores > -math.inf).any(dim=-1).all()


def test_rows_without_a_description_are_left_alone_under_beams_too():
    image, description = pair(rows=4)
    step = Step(0, context={"described": torch.tensor([[True], [False]])})  # two prompts, two beams each
    for settings in SETTINGS.values():
        strategy = CODE(**settings)
        scores, keep = (act(image, [description], step) for act in (strategy.combine, strategy.keep))
        assert scores[2:].equal(image[2:])
        assert keep is None or keep[2:].all()
        torch.testing.assert_close(
            scores[:2] if keep is None else cut(scores, keep)[:2], contrast(strategy, image[:2], description[:2])
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [("k", 0), ("k", "small"), ("alpha_mode", "static"), ("beta_mode", "off"), ("alpha", 0.5), ("beta", 0.2),
     ("desc_prompt", " "), ("desc_max_new_tokens", 0), ("desc_max_new_tokens", 1.5), ("desc_bos", True)],
)  # fmt: skip
def test_bad_values_name_field_rule_and_value(field, value):
    with pytest.raises(errors.InvalidParameter, match=rf"code: {field} must be .*, got") as caught:
        CODE(**{field: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("alpha", -1.0), ("beta", 1.5)])
def test_fixed_values_have_their_ranges(field, value):
    with pytest.raises(errors.InvalidParameter, match=rf"code: {field} must be .*, got {value}"):
        CODE(**FIXED, **{field: value})


# Whole generations


@pytest.fixture(scope="module")
def processor():
    return llava_processor()


@pytest.fixture
def batch(processor):
    """Makes a left-padded batch of questions about different images: `batch(2)`."""

    def make(count):
        return asked(processor, [[noise_image(row)] for row in range(count)], QUESTIONS[:count])

    return make


@pytest.fixture(autouse=True)
def forgetful(llava):
    adapter_for(llava).forget()


def generate(model, strategy, inputs, processor, **kwargs):
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    return sightline.generate(model, strategy, inputs, processor=processor, **(settings | kwargs))


def assert_same(output, width, row, tokens, trail):
    assert output.sequences[row, width:].tolist()[: len(tokens)] == tokens
    for step, expected in enumerate(trail):
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(output.scores[step][row].double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SETTINGS)
def test_generations_equal_two_naive_passes(llava, processor, batch, name):
    params = SETTINGS[name]
    naive = [Naive(llava, processor, row, params).greedy() for row in range(3)]
    for count, branching, cache in RUNS:
        inputs = batch(count)
        output = generate(llava, decoder(**params), inputs, processor, branching=branching, **cache)
        for row in range(count):
            assert_same(output, inputs["input_ids"].shape[1], row, *naive[row])


def test_settings_differ_from_plain_decoding_and_from_each_other(llava, processor, batch):
    """Without this the test above could compare plain decoding with itself."""
    inputs = batch(3)
    greedy = llava.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
    tokens = [generate(llava, decoder(**params), inputs, processor).sequences for params in SETTINGS.values()]
    moved = [name for name, found in zip(SETTINGS, tokens, strict=True) if not found.equal(greedy)]
    assert {"fixed", "no cut", "adaptive alpha"} <= set(moved)


@pytest.mark.parametrize("name", ["soft", "no cut"])
def test_beams(llava, processor, batch, name):
    """In rows and in sequence alike, and the best beam's score is the naive one of its tokens."""
    inputs, width = batch(2), batch(2)["input_ids"].shape[1]
    strategy, settings = decoder(**SETTINGS[name]), {"num_beams": 3, "length_penalty": 0.0}
    rows, sequential = (
        generate(llava, strategy, inputs, processor, branching=kind, **settings) for kind in ("rows", "sequential")
    )
    assert rows.sequences.equal(sequential.sequences)
    torch.testing.assert_close(rows.sequences_scores, sequential.sequences_scores)
    for row in range(2):
        tokens = rows.sequences[row, width:].tolist()
        tokens = tokens[: tokens.index(2) + 1] if 2 in tokens else tokens
        total = Naive(llava, processor, row, SETTINGS[name]).total(tokens)
        assert rows.sequences_scores[row].item() == pytest.approx(total, abs=1e-3)


def test_sampling_is_the_same_in_rows_and_in_sequence(llava, processor, batch):
    found = []
    for branching in ("rows", "sequential"):
        torch.manual_seed(3)
        settings = {"do_sample": True, "temperature": 2.0, "num_return_sequences": 3, "branching": branching}
        found.append(generate(llava, decoder(**SETTINGS["adaptive alpha"]), batch(2), processor, **settings).sequences)
    assert found[0].equal(found[1])
    assert len(set(map(tuple, found[0].tolist()))) > 2


def test_given_answers_are_scored(llava, processor, batch):
    strategy = decoder(**SETTINGS["no cut"])
    answers = [[*letters("Yes"), 2], [*letters("No"), 2]]
    scores = sightline.score(llava, strategy, batch(2), answers, processor=processor)
    expected = [[Naive(llava, processor, row, SETTINGS["no cut"]).total(each) for each in answers] for row in range(2)]
    torch.testing.assert_close(scores.double(), torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=1e-4)


# Neutral settings


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("mode", [{}, {"do_sample": True, "temperature": 2.0}, {"num_beams": 3}], ids=str)
def test_neutral_is_plain_decoding_and_describes_nothing(llava, processor, batch, count, mode, monkeypatch):
    inputs = batch(count)
    torch.manual_seed(1)
    plain = llava.generate(**inputs, **({"max_new_tokens": STEPS, "do_sample": False} | mode))
    monkeypatch.setattr(adapter_for(llava), "describe", None)
    torch.manual_seed(1)
    assert generate(llava, decoder(**NEUTRAL), inputs, processor, **mode).sequences.equal(plain)
    with sightline.attach(llava, decoder(**NEUTRAL), inputs, processor=processor) as attachment:
        assert attachment.plan.is_neutral


def test_a_fixed_cut_alone_runs_no_branch(llava, processor, batch, monkeypatch):
    inputs, mode = batch(2), {"do_sample": True, "temperature": 2.0, "max_new_tokens": 12}
    monkeypatch.setattr(adapter_for(llava), "describe", None)
    found = []
    for strategy in (decoder(**{**FIXED, "alpha": 0.0, "beta": 0.3}), CutOnly(beta=0.3)):
        torch.manual_seed(2)
        found.append(generate(llava, strategy, inputs, processor, **mode).sequences)
    assert found[0].equal(found[1])


# Descriptions


def test_images_are_described_once_whatever_is_asked(llava, processor, batch, monkeypatch):
    rows = []
    plain = llava.generate

    def counting(**kwargs):
        rows.append(len(kwargs["input_ids"]))
        return plain(**kwargs)

    monkeypatch.setattr(llava, "generate", counting)
    first = generate(llava, decoder(), batch(3), processor).sequences
    assert rows == [3, 3]
    again = generate(llava, decoder(k=0.7), asked(processor, [[noise_image(1)]] * 2, ["Where?", "No."]), processor)
    assert rows == [3, 3, 2]
    assert generate(llava, decoder(), batch(3), processor).sequences.equal(first)
    generate(llava, decoder(desc_prompt="Say."), batch(1), processor)
    assert rows == [3, 3, 2, 3, 1, 1]
    assert len(again.sequences) == 2


def test_the_branch_does_not_encode_the_image(llava, processor, batch):
    seen = []
    handle = llava.model.vision_tower.register_forward_hook(lambda *args: seen.append(1))
    generate(llava, decoder(), batch(2), processor)
    assert len(seen) == 2  # for the description and for the answer
    generate(llava, decoder(), batch(2), processor)
    assert len(seen) == 3
    handle.remove()


def test_the_plan_tells_the_descriptions(llava, processor, batch):
    with sightline.attach(llava, decoder(), batch(2), processor=processor) as attachment:
        context = attachment.plan.context
        [branch] = attachment.plan.branches
    assert context["descriptions"] == tuple(naive_text(llava, processor, row) for row in range(2))
    assert context["described"].tolist() == [[True], [True]]
    assert branch.inputs["pixel_values"] is None
    assert not (branch.inputs["input_ids"] == IMAGE).any()


def test_an_empty_description_leaves_its_row_plain(llava, processor, batch, monkeypatch):
    monkeypatch.setattr(adapter_for(llava), "describe", lambda *args: ["A star.", "", "A"])
    inputs, width = batch(3), batch(3)["input_ids"].shape[1]
    naive = [Naive(llava, processor, row, FIXED, text).greedy() for row, text in ((0, "A star."), (2, "A"))]
    for mode in ({}, {"num_beams": 2, "num_return_sequences": 2}):
        plain = llava.generate(**inputs, **({"max_new_tokens": STEPS, "do_sample": False} | mode))
        for branching in ("rows", "sequential"):
            output = generate(llava, decoder(**FIXED), inputs, processor, branching=branching, **mode)
            each = len(plain) // 3
            assert output.sequences[each : 2 * each].equal(plain[each : 2 * each])
            assert not output.sequences.equal(plain)
            if not mode:
                assert_same(output, width, 0, *naive[0])
                assert_same(output, width, 2, *naive[1])
    monkeypatch.setattr(adapter_for(llava), "describe", lambda *args: ["", "", ""])
    with sightline.attach(llava, decoder(), inputs, processor=processor) as attachment:
        assert attachment.plan.is_neutral
        assert attachment.plan.context["described"].tolist() == [[False]] * 3
    assert generate(llava, decoder(), inputs, processor).sequences.equal(
        llava.generate(**inputs, max_new_tokens=STEPS, do_sample=False)
    )


def test_special_tokens_that_are_spelt_out_stay_text(llava, processor, batch, monkeypatch):
    text = "An <image> and</s> a <pad>."
    monkeypatch.setattr(adapter_for(llava), "describe", lambda *args: [text, text])
    inputs = batch(2)
    output = generate(llava, decoder(), inputs, processor)
    for row in range(2):
        naive = Naive(llava, processor, row, {}, text).greedy()
        assert_same(output, inputs["input_ids"].shape[1], row, *naive)


@pytest.mark.parametrize("kind", ["processor", "image", "template"])
def test_what_is_missing_is_said_before_the_first_forward(llava, processor, batch, kind, monkeypatch):
    inputs, given = batch(1), processor
    if kind == "processor":
        given = None
    elif kind == "image":
        inputs["pixel_values"] = None
    else:
        given = llava_processor(template=None)
    error, match = {
        "processor": (errors.MissingProcessor, "code needs the model's processor.*Pass processor="),
        "image": (errors.MissingImage, "code contrasts images"),
        "template": (errors.MissingChatTemplate, "no chat template"),
    }[kind]
    monkeypatch.setattr(llava, "forward", None)
    with pytest.raises(error, match=match):
        generate(llava, decoder(), inputs, given)


def test_a_description_longer_than_the_image_needs_a_cache_that_grows(llava, processor, batch):
    with pytest.raises(errors.UnsupportedMode, match="does not fit a static cache"):
        generate(llava, decoder(desc_max_new_tokens=20), batch(2), processor, cache_implementation="static")


def test_where_the_cut_follows_from_the_image_alone():
    """A fixed one does, to the end of its range; an adaptive one asks the description, and none is none."""
    base, described = numbers([[0, 2, 2], [0, 1, 3]]), numbers([[3, 0, 0], [1, 1, 1]])
    step = Step(0, context={"described": torch.tensor([[True], [False]])})
    strict, loose, none, asks = CODE(**FIXED, beta=1.0), CODE(**FIXED, beta=0.0), CODE(**NEUTRAL), CODE()
    for keep in (strict.left(base, step), strict.keep(base, [described], step)):
        assert keep.tolist() == [[False, True, True], [True, True, True]]
    for decoder in (loose, none):
        assert decoder.left(base, step) is None
        assert decoder.keep(base, [described], step) is None
    assert asks.left(base, step) is None
    assert asks.keep(base, [described], step).tolist() == [[False, True, True], [True, True, True]]
