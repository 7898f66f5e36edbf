"""DAGCD: the reference's numbers, a naive decoder with full attention maps, every mode of generation, refusals."""

import copy

import pytest
import sightline
import torch
from letters import LETTERS, tokenizer
from naive_dagcd import PROBED, made
from naive_dagcd import decode as naive
from sightline.decoders import dagcd
from sightline.decoders.calibration import CalibrationMissing
from sightline.decoders.context_tokens import attention_ratio, distinct, in_top
from sightline.decoders.plan import Step
from sightline.models import adapter_for, errors
from sightline.models.attention import _STATES

DAGCD = sightline.DAGCD
STEPS = 6
ENDS = (2, 10)
MODES = {
    "greedy": {},
    "sample": {"do_sample": True, "top_k": 20, "temperature": 1.3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
}


def active(detector, **changes):
    return DAGCD(**{"alpha": 4.0, "top_rank": 20, "detector": detector, "ends": ENDS} | changes)


@pytest.fixture(scope="module")
def vectors(golden):
    return golden("dagcd_step")


@pytest.fixture(scope="module")
def loud(llama):
    """Weights large enough that attention says something, and the model is not sure of everything."""
    model = copy.deepcopy(llama)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(9 if "lm_head" in name else 12)
    return model


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return str(made().save(tmp_path_factory.mktemp("detector") / "detector.json"))


def prompts(lengths):
    """Left-padded prompts of few different words, so that passages repeat some."""
    generator, width = torch.Generator().manual_seed(5), max(lengths)
    ids, mask = (torch.zeros(len(lengths), width, dtype=torch.long) for _ in range(2))
    for row, length in enumerate(lengths):
        ids[row, -length:] = torch.randint(6, 60, (length,), generator=generator)
        ids[row, 5 - length :: 4] = ids[row, 4 - length]
        mask[row, -length:] = 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def batch():
    return prompts((40, 46))


SPANS = [(8, 42), (2, 44)]


def cut_off(rows):
    return [row[: row.index(2) + 1] if 2 in row else row for row in rows]


def answers(model, decoder, inputs, seed=3, **kwargs):
    """New tokens of each sequence up to its end token."""
    settings = {"max_new_tokens": STEPS, "do_sample": False} | kwargs
    torch.manual_seed(seed)
    if decoder is None:
        settings.pop("spans", None)
        ids = model.generate(**inputs, **settings)
    else:
        ids = sightline.generate(model, decoder, inputs, **settings)
    return cut_off(ids[:, inputs["input_ids"].shape[1] :].tolist())


# The reference's numbers


def tables_of(vectors):
    ids = torch.tensor([vectors["input_ids"]])
    columns = torch.arange(ids.shape[1])
    return distinct(ids, ((columns >= vectors["context_start"]) & (columns <= vectors["context_end"]))[None])


def sensed(case, vectors):
    """The reference's step through our functions: distinct tokens, ratios, flags, U."""
    tables = tables_of(vectors)
    ratio = attention_ratio(torch.tensor([case["attention_last_row"]]).double(), tables.inverse, tables.counts)
    logits = torch.tensor([case["logits"]]).double()
    coef, weights = (torch.tensor(case[name]).double() for name in ("detector_coef", "head_weights"))
    flagged = dagcd.flags(ratio, coef, case["detector_intercept"])
    gates = flagged * in_top(logits, tables.ids, case["top_rank"])
    return tables, ratio, flagged, logits, dagcd.utilisation(ratio, weights, gates)


@pytest.mark.parametrize("place", range(3))
def test_steps_equal_the_reference(vectors, place):
    case = vectors["cases"][place]
    tables, ratio, flagged, logits, utilised = sensed(case, vectors)
    assert tables.ids[0].tolist() == case["unique_ids"]
    torch.testing.assert_close(ratio[0], torch.tensor(case["ratio"]).double(), atol=1e-6, rtol=1e-5)
    assert flagged[0].tolist() == case["detector_flag"]
    for top_rank in range(1, 21):
        assert in_top(logits, tables.ids, top_rank)[0].tolist() == [rank <= top_rank for rank in case["rank"]]
    spread = torch.zeros_like(logits).scatter_add(1, tables.ids, utilised)[0]
    torch.testing.assert_close(spread, torch.tensor(case["U"]).double(), atol=1e-6, rtol=1e-5)
    unsure = dagcd.uncertainty(logits.softmax(-1))
    assert unsure.item() == pytest.approx(case["H_norm"], abs=1e-6)
    scores = dagcd.raised(logits, tables.ids, case["alpha"] * unsure[:, None] * utilised)[0]
    final = torch.tensor(case["final"]).double().clamp(min=0)
    torch.testing.assert_close(scores.exp(), final / final.sum(), atol=1e-6, rtol=1e-5)
    assert (int(logits.argmax()), int(scores.argmax())) == (case["argmax_before"], case["argmax_after"])


def step_of(vectors, case, norm):
    """The same step as `combine` sees it, with the weights that our own normalisation makes."""
    chosen = tuple((0, head, value) for head, value in enumerate(case["detector_coef"]))
    decoder = DAGCD(alpha=case["alpha"], top_rank=case["top_rank"], weight_norm=norm, ends=())

    class Any:
        model = torch.zeros(1, dtype=torch.float64)

    held = decoder.settled(made(chosen, case["detector_intercept"]), Any, None, torch.device("cpu"))
    probes = {0: torch.tensor([case["attention_last_row"]]).double()}
    return decoder, Step(0, probes, {**tables_of(vectors)._asdict(), **held})


def test_a_negative_sum_of_weights_bans_in_the_reference_and_never_by_default(vectors):
    case = next(case for case in vectors["cases"] if case["name"] == "negative_total_score")
    logits = torch.tensor([case["logits"]]).double()
    plain = logits.log_softmax(-1)[0]
    flagged = [token for token, flag in zip(case["unique_ids"], case["detector_flag"], strict=True) if flag]
    decoder, step = step_of(vectors, case, "sum")
    banned = decoder.combine(logits, [], step)[0]
    assert (banned == -torch.inf).nonzero().flatten().tolist() == flagged
    final = torch.tensor(case["final"]).double().clamp(min=0)
    torch.testing.assert_close(banned.exp(), final / final.sum(), atol=1e-6, rtol=1e-5)
    decoder, step = step_of(vectors, case, "relu_sum")
    ours = decoder.combine(logits, [], step)[0]
    assert ours.isfinite().all()
    rest = next(token for token in range(20) if token not in flagged)
    gained = (ours - ours[rest]) - (plain - plain[rest])
    assert [token for token in range(20) if gained[token] > 1e-9] == flagged


def test_entropies_equal_the_reference(golden):
    for case in golden("dagcd_entropy")["cases"]:
        found = dagcd.uncertainty(torch.tensor([case["p"]]).double()).item()
        assert found == pytest.approx(case["H"], abs=1e-6)


def test_a_repeated_token_counts_with_its_mean_and_rows_do_not_mix():
    ids = torch.tensor([[7, 5, 7, 9, 5, 5], [3, 3, 3, 8, 8, 4]])
    context = torch.tensor([[0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 0]]).bool()
    tables = distinct(ids, context)
    assert tables.ids.tolist() == [[5, 7, 9], [8, 0, 0]]
    assert tables.counts.tolist() == [[2, 1, 1], [1, 0, 0]]
    assert tables.inverse.tolist() == [[3, 0, 1, 2, 0, 3], [3, 3, 3, 3, 0, 3]]
    attention = torch.tensor([[[0.1, 0.2, 0.1, 0.3, 0.4, 0.9]], [[0.5, 0.5, 0.5, 0.5, 0.0, 0.5]]]).double()
    ratio = attention_ratio(attention, tables.inverse, tables.counts)
    torch.testing.assert_close(ratio[0, 0], torch.tensor([3 / 7, 1 / 7, 3 / 7]).double())
    assert ratio[1, 0].tolist() == [0, 0, 0]


def test_ranks_hold_where_probabilities_underflow():
    logits = torch.full((1, 50), -300.0)
    logits[0, :3] = torch.tensor([0.0, -200.0, -250.0])
    assert in_top(logits, torch.tensor([[0, 1, 2, 3]]), 3).tolist() == [[True, True, True, False]]


def test_an_end_token_on_top_leaves_the_row_alone(vectors):
    case = vectors["cases"][0]
    decoder, step = step_of(vectors, case, "relu_sum")
    logits = torch.tensor([case["logits"]]).double()
    best = int(logits.argmax())
    for ends, moved in (([best], False), ([best + 1], True), ([], True)):
        step.context["ends"] = torch.tensor(ends, dtype=torch.long)
        scores = decoder.combine(logits, [], step)
        assert torch.allclose(scores, logits.log_softmax(-1)) != moved


def test_a_step_reads_nothing_back_to_the_host(vectors):
    """Tensors without content go through: nothing of the step depends on a number that Python would have to see."""
    case = vectors["cases"][0]
    for norm in ("relu_sum", "sum"):
        decoder, step = step_of(vectors, case, norm)
        context = {name: value.to("meta") if torch.is_tensor(value) else value for name, value in step.context.items()}
        empty = Step(0, {layer: probe.to("meta") for layer, probe in step.probes.items()}, context)
        assert decoder.combine(torch.zeros(1, 20, device="meta"), [], empty).shape == (1, 20)


# Against the naive decoder


@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_generation_equals_naive(loud, batch, detector, cache):
    settings = {"dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False}}[cache]
    variants = [{}, {"gating": "soft", "top_rank": 8}, {"weight_norm": "sum"}] if cache == "dynamic" else [{}]
    for variant in variants:
        decoder = active(detector, **variant)
        expected = naive(loud, batch, SPANS, decoder, made(), ENDS, STEPS)
        with sightline.attach(loud, decoder, batch, spans=SPANS) as processor:
            output = loud.generate(
                **batch, logits_processor=[processor], max_new_tokens=STEPS, do_sample=False,
                return_dict_in_generate=True, output_scores=True, **settings,
            )  # fmt: skip
        for row, (tokens, trail) in enumerate(expected):
            assert output.sequences[row, batch["input_ids"].shape[1] :].tolist()[: len(tokens)] == tokens
            for step, (scores, *_) in enumerate(trail):
                torch.testing.assert_close(output.scores[step][row].double(), scores, atol=1e-4, rtol=1e-4)


def test_the_comparison_could_fail(loud, batch, detector):
    """Tokens move, some steps flag something and others nothing, and the end rule holds a step back."""
    decoder = active(detector)
    expected = naive(loud, batch, SPANS, decoder, made(), ENDS, STEPS)
    plain = answers(loud, None, batch)
    assert all(tokens != row for (tokens, _), row in zip(expected, plain, strict=True))
    steps = [step for _, trail in expected for step in trail]
    assert {bool(flagged) for _, _, flagged, ended in steps if not ended} == {True, False}
    assert any(flagged and ended for _, _, flagged, ended in steps)
    assert all(entropy > 0.05 for _, entropy, _, _ in steps)


def test_a_batch_is_its_rows_one_by_one(loud, batch, detector):
    decoder = active(detector)
    together = answers(loud, decoder, batch, spans=SPANS)
    first, second = ({name: value[rows] for name, value in batch.items()} for rows in (0, 1))
    first, second = ({n: v[None, left:] for n, v in one.items()} for one, left in ((first, 6), (second, 0)))
    alone = answers(loud, decoder, first, spans=[(2, 36)]) + answers(loud, decoder, second, spans=SPANS[1:])
    assert together == alone
    mixed = answers(loud, decoder, batch, spans=[None, SPANS[1]])
    assert mixed == [answers(loud, None, batch)[0], together[1]]


def test_the_best_beam_is_worth_what_the_naive_decoder_says(loud, batch, detector):
    decoder = active(detector)
    with sightline.attach(loud, decoder, batch, spans=SPANS) as processor:
        output = loud.generate(
            **batch, logits_processor=[processor], max_new_tokens=STEPS, num_beams=3, num_return_sequences=2,
            do_sample=False, length_penalty=0.0, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    found = cut_off(output.sequences[:, batch["input_ids"].shape[1] :].tolist())
    assert found[0] != found[1]
    for place, tokens in enumerate(found):
        [(_, trail)] = naive(
            loud, {name: value[[place // 2]] for name, value in batch.items()}, [SPANS[place // 2]], decoder, made(),
            ENDS, STEPS, forced=tokens,
        )  # fmt: skip
        total = sum(float(scores[token]) for token, (scores, *_) in zip(tokens, trail, strict=True))
        assert output.sequences_scores[place].item() == pytest.approx(total, abs=1e-3)


def test_scores_of_given_answers_equal_naive(loud, batch, detector):
    decoder, answer = active(detector), [9, 31, 7, 40]
    got = sightline.score(loud, decoder, batch, [answer], spans=SPANS)
    plain = sightline.score(loud, "greedy", batch, [answer])
    for row, (_, trail) in enumerate(naive(loud, batch, SPANS, decoder, made(), ENDS, STEPS, forced=answer)):
        total = sum(float(scores[token]) for token, (scores, *_) in zip(answer, trail, strict=True))
        assert got[row, 0].item() == pytest.approx(total, abs=1e-4)
        assert abs(total - plain[row, 0].item()) > 1e-2


def test_sampling_repeats_and_draws_from_what_is_raised(loud, batch, detector):
    decoder = active(detector)
    settings = {"spans": SPANS, "num_return_sequences": 2, **MODES["sample"]}
    drawn = answers(loud, decoder, batch, **settings)
    assert len(drawn) == 4
    assert answers(loud, decoder, batch, **settings) == drawn
    assert answers(loud, None, batch, **settings) != drawn


def test_numbers_say_what_happened(loud, batch, detector):
    decoder = active(detector)
    expected = naive(loud, batch, SPANS, decoder, made(), ENDS, STEPS)
    traced = sightline.trace(loud, decoder, batch, spans=SPANS, max_new_tokens=STEPS, do_sample=False)
    for (tokens, trail), trace in zip(expected, traced.tokens, strict=True):
        assert [token.token for token in trace] == tokens
        for token, (_, entropy, flagged, _) in zip(trace, trail, strict=True):
            assert token.numbers["uncertainty"] == pytest.approx(entropy, abs=1e-6)
            assert (token.numbers["flagged"] > 0) == bool(flagged)
    plain = sightline.trace(loud, DAGCD(alpha=0), batch, spans=SPANS, max_new_tokens=2, do_sample=False)
    assert plain.tokens[0][0].numbers == {}


# Neutral, and beside others


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 4])
def test_neutral_is_plain_generate(llama, detector, mode, count):
    inputs = prompts((9, 12, 14, 11)[:count])
    plain = answers(llama, None, inputs, **MODES[mode])
    nowhere = (DAGCD(detector=detector), [None] * count)
    for decoder, spans in ((DAGCD(alpha=0), [(4, 8)] * count), nowhere):
        with sightline.attach(llama, decoder, inputs, spans=spans) as attached:
            assert attached.plan.is_neutral
        assert answers(llama, decoder, inputs, spans=spans, **MODES[mode]) == plain


def test_only_the_detector_s_layers_are_probed(loud, batch, detector):
    modules = adapter_for(loud).attention_modules()
    with sightline.attach(loud, DAGCD(detector=detector), batch, spans=SPANS) as processor:
        loud.generate(**batch, logits_processor=[processor], max_new_tokens=3, do_sample=False, eos_token_id=None)
        read = [layer for layer, module in enumerate(modules) if module in _STATES and _STATES[module].probe]
        assert tuple(read) == processor.plan.probes == PROBED
        assert all(_STATES[modules[layer]].reading.shape == (2, 4, 48) for layer in read)
        assert (processor.stats.passes, processor.stats.rows) == (3, 6)
    assert not len(_STATES)


def test_together_with_cad(loud, batch, detector):
    cad, both = sightline.CAD(alpha=0.5), active(detector)
    alone = answers(loud, cad, batch, spans=SPANS)
    assert answers(loud, sightline.Together((cad, DAGCD(alpha=0))), batch, spans=SPANS) == alone
    assert answers(loud, sightline.Together((cad, both)), batch, spans=SPANS) != alone


def test_image_tokens_are_no_context(llava, inputs, detector):
    batch = inputs((30, 24), seed=2)
    words = batch["attention_mask"].bool() & (batch["input_ids"] != 5)
    decoder = active(detector, alpha=8.0, top_rank=40)
    with sightline.attach(llava, decoder, batch, spans=torch.ones_like(words)) as attached:
        ids, counts = attached.plan.context["ids"], attached.plan.context["counts"]
        assert not ((ids == 5) | (ids == 0))[counts > 0].any()
        assert counts.sum(dim=1).tolist() == [30, 24]
    found = answers(llava, decoder, batch, spans=words)
    assert answers(llava, decoder, batch, spans=torch.ones_like(words)) == found
    assert answers(llava, None, batch) != found


# End tokens


def test_ends_come_from_model_and_tokenizer(llama, batch, detector):
    letters = tokenizer()
    blanks = [6 + place for place, letter in enumerate(LETTERS) if letter.isspace()]
    assert len(blanks) == 2
    for ends, processor, expected in (
        ("auto", None, [2]), ("auto", letters, sorted([2, *blanks])), ((7,), letters, [7]), ((), letters, [])
    ):  # fmt: skip
        decoder = DAGCD(detector=detector, ends=ends)
        with sightline.attach(llama, decoder, batch, spans=SPANS, processor=processor) as attached:
            assert attached.plan.context["ends"].tolist() == expected


# Refusals


def test_what_is_missing_is_said_first(llama, batch, detector):
    with pytest.raises(errors.MissingContext, match="spans="):
        sightline.attach(llama, DAGCD(detector=detector), batch)
    with pytest.raises(CalibrationMissing, match=r"no calibration file 'none.json'"):
        sightline.attach(llama, DAGCD(detector="none.json"), batch, spans=SPANS)


@pytest.mark.parametrize(
    ("field", "value"),
    [("alpha", -1), ("top_rank", 0), ("weight_norm", "mean"), ("gating", "often"), ("detector", ""), ("ends", "none"),
     ("ends", [-1]), ("ends", [1.5])],
)  # fmt: skip
def test_bad_values_name_field_rule_and_value(field, value):
    with pytest.raises(errors.InvalidParameter, match=rf"dagcd: {field} must be .*, got"):
        DAGCD(**{field: value})
