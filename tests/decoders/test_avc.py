"""AVC: its formulas against the reference's numbers, its generation against a naive decoder with full maps."""

import pytest
import sightline
import torch
from anything import STEPS
from naive import single, vcd_scores
from naive_selection import hidden_columns
from sightline.decoders.avc import AVC, blind_tokens
from sightline.decoders.image_tokens import (
    image_attention,
    layer_mean,
    leading_layers,
    seen_alone,
    threshold,
)
from sightline.decoders.plan import Step
from sightline.models.errors import InvalidParameter, UnsupportedMode

IMAGE = 5


def attention_of(case, row=0):
    """Explicit full-width attention `[layers, 1, length]` and the image columns of a golden case."""
    maps = torch.tensor(case["attentions"], dtype=torch.float64)[:, row : row + 1, :, -1]
    first, last = case.get("image_columns", (case.get("start", 0), None))
    image = torch.zeros(1, maps.shape[-1], dtype=torch.bool)
    image[:, first : None if last is None else last + 1] = True
    return image_attention(dict(enumerate(maps)), image), image, first


@pytest.fixture(scope="module")
def cases(golden):
    """The selection cases; those without maps of their own share the first one's."""
    found = golden("avc")["selection_cases"]
    return [
        case
        if case["attentions"] and isinstance(case["attentions"], list)
        else case | {"attentions": found[0]["attentions"]}
        for case in found
    ]


@pytest.mark.parametrize("number", range(4))
def test_selection_equals_the_reference(cases, number):
    case = cases[number]
    attention, image, first = attention_of(case)
    chosen = leading_layers(attention, case["gamma"])
    assert sorted(chosen[:, 0].nonzero().flatten().tolist()) == sorted(case["selected_layers"])
    assert int(chosen.sum()) == case["k"]
    portions = attention.sum(-1)[:, 0] / attention.sum()
    torch.testing.assert_close(portions, torch.tensor(case["layer_portion"], dtype=torch.float64), atol=1e-6, rtol=0)
    scores = layer_mean(attention, chosen)
    expected = torch.tensor(case["token_scores"], dtype=torch.float64)
    torch.testing.assert_close(scores[:, image[0]], expected, atol=1e-6, rtol=0)
    assert threshold(scores, image, 0.0).item() == pytest.approx(case["mean"], abs=1e-6)
    assert threshold(scores, image, case["lambda_"]).item() == pytest.approx(case["threshold"], rel=1e-5)
    blind = blind_tokens(attention, image, case["gamma"], case["lambda_"])
    assert (blind[0].nonzero().flatten() - first).tolist() == case["kept_blind_token_idx"][0]


def test_rows_of_a_batch_do_not_mix(golden):
    case = golden("avc")["batch_case"]
    maps = torch.tensor(case["attentions"], dtype=torch.float64)[:, :, :, -1]
    image = torch.zeros(2, maps.shape[-1], dtype=torch.bool)
    image[:, :32] = True
    attention = image_attention(dict(enumerate(maps)), image)
    blind = blind_tokens(attention, image, 0.5, 1.0)
    for row in case["correct_per_row"]:
        chosen = leading_layers(attention, 0.5)[:, row["row"]].nonzero().flatten().tolist()
        assert sorted(chosen) == sorted(row["selected_layers"])
        assert blind[row["row"]].nonzero().flatten().tolist() == row["kept"]


def test_all_layers_can_be_chosen_whatever_rounding_does(golden):
    assert golden("avc")["gamma_one_edge"]["random_trials_where_k_exceeds_L"] > 0
    for seed in range(50):
        attention = torch.rand(32, 1, 5, generator=torch.Generator().manual_seed(seed))
        assert leading_layers(attention, 1.0).sum() <= 32


def test_masking_overwrites_rows(golden):
    example = golden("avc")["masking_example"]
    embeds = torch.tensor(example["rows"])[None]
    hidden = torch.zeros(1, 4, dtype=torch.bool)
    hidden[0, example["zeroed_rows"]] = True
    mask = torch.ones(1, 4, dtype=torch.long)
    for masking in ("zeros", "ones"):
        assert seen_alone(embeds, mask, hidden, masking).embeds[0].tolist() == example[masking]
    noise = seen_alone(embeds, mask, hidden, "noise", torch.tensor([7])).embeds
    assert noise[~hidden].equal(embeds[~hidden])
    assert not noise[hidden].equal(embeds[hidden])
    without = seen_alone(embeds, mask, hidden, "mask")
    assert without.embeds.equal(embeds)
    assert without.mask is not None
    assert without.mask[0].tolist() == [1, 0, 1, 0]


def test_noise_does_not_depend_on_padding():
    embeds, mask = torch.zeros(1, 6, 3), torch.ones(1, 6, dtype=torch.long)
    hidden = torch.tensor([[False, True, True, False, True, False]])
    padded = torch.nn.functional.pad(hidden, (2, 0))
    one = seen_alone(embeds, mask, hidden, "noise", torch.tensor([3])).embeds
    two = seen_alone(
        torch.zeros(1, 8, 3), torch.ones(1, 8, dtype=torch.long), padded, "noise", torch.tensor([3])
    ).embeds
    assert one[hidden].equal(two[padded])


@pytest.mark.parametrize("number", range(4))
def test_contrast_equals_the_reference(golden, number):
    case = golden("avc")["contrast_cases"][number]
    base, blind = (torch.tensor(case[f"logits_{name}"]) for name in ("original", "blind"))
    strategy = AVC(alpha=case["alpha"], beta=case["beta"])
    scores = strategy.combine(base, [blind], Step(0))
    keep = strategy.keep(base, [blind], Step(0))
    probs = scores.masked_fill(~keep, -torch.inf).softmax(-1)
    torch.testing.assert_close(probs, torch.tensor(case["probs"]).view(1, -1), atol=1e-6, rtol=0)


def test_steps_of_a_decoding_equal_the_reference(golden):
    """The reference's defaults (alpha 2.5, beta 0.1) on three steps; the tokens are those of its greedy decoding."""
    case, strategy = golden("avc")["decode_trace"], AVC(alpha=2.5, beta=0.1)
    chosen = []
    for base, blind, probs in zip(case["logits_original"], case["logits_blind"], case["probs_per_step"], strict=True):
        base, blind, probs = (torch.tensor(each) for each in (base, blind, probs))
        scores = strategy.combine(base, [blind], Step(0)).masked_fill(
            ~strategy.keep(base, [blind], Step(0)), -torch.inf
        )
        torch.testing.assert_close(scores.softmax(-1), probs, atol=1e-6, rtol=0)
        chosen.append(int(scores.argmax()))
    assert chosen == case["sequences"][0][1:]


@torch.no_grad()
def naive_avc(model, batch, strategy, steps=STEPS, pixels=None):
    """Greedy AVC: one row at a time, full attention maps, no cache; Python loops choose the tokens."""
    model.set_attn_implementation("eager")
    answers = []
    for row in range(len(batch["input_ids"])):
        one = single(batch, row)
        ids, new, hidden = one["input_ids"], [], None
        while len(new) < steps and 2 not in new:
            text = torch.cat([ids, torch.tensor([new], dtype=torch.long)], dim=1)
            out = model(**(one | {"input_ids": text}), use_cache=False, output_attentions=True)
            if hidden is None or strategy.mask_refresh == "every_step":
                hidden = naive_hidden(out.attentions, ids[0], strategy)
            features = model.get_image_features(pixel_values=one["pixel_values"]).pooler_output[0]
            embeds = model.get_input_embeddings()(text)
            embeds[0, (text[0] == IMAGE).nonzero().flatten()] = features
            seen = torch.ones_like(text)
            for column in hidden:
                if strategy.masking == "mask":
                    seen[0, column] = 0
                else:
                    embeds[0, column] = 1.0 if strategy.masking == "ones" else 0.0
            places = torch.arange(text.shape[1])[None]
            branch = model.model.language_model(
                inputs_embeds=embeds, attention_mask=seen, position_ids=places, use_cache=False
            )
            blind = model.lm_head(branch.last_hidden_state)[0, -1]
            scores = vcd_scores(out.logits[0, -1].tolist(), blind.tolist(), strategy.alpha, strategy.beta)
            new.append(max(range(len(scores)), key=scores.__getitem__))
        answers.append(new)
    model.set_attn_implementation("sdpa")
    return answers


def naive_hidden(attentions, prompt, strategy):
    """Columns that AVC takes away, from full maps."""
    columns = [column for column, token in enumerate(prompt.tolist()) if token == IMAGE]
    return hidden_columns(attentions, columns, strategy.gamma, strategy.lamb)


CHOICES = {
    "defaults": AVC(),
    "ones, two layers": AVC(alpha=1.0, gamma=0.6, lamb=0.3, masking="ones"),
    "masked keys": AVC(alpha=1.5, beta=0.0, lamb=0.5, masking="mask"),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("branching", ["rows", "sequential"])
@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_generation_equals_naive(llava, inputs, name, branching, cache):
    batch, strategy = inputs((5, 8)), CHOICES[name]
    settings = {"dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False}}[cache]
    got = sightline.generate(
        llava, strategy, batch, branching=branching, max_new_tokens=STEPS, do_sample=False, **settings
    )
    expected = naive_avc(llava, batch, strategy)
    plain = llava.generate(**batch, max_new_tokens=STEPS, do_sample=False)
    assert not got.equal(plain)
    for row, tokens in enumerate(expected):
        assert got[row, batch["input_ids"].shape[1] :].tolist()[: len(tokens)] == tokens


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_refreshed_at_every_step(llava, inputs, branching):
    batch, strategy = inputs((5, 8)), AVC(alpha=1.0, beta=0.0, lamb=0.2, mask_refresh="every_step")
    got = sightline.generate(
        llava, strategy, batch, branching=branching, max_new_tokens=STEPS, do_sample=False, use_cache=False
    )
    for row, tokens in enumerate(naive_avc(llava, batch, strategy)):
        assert got[row, batch["input_ids"].shape[1] :].tolist()[: len(tokens)] == tokens
    with pytest.raises(UnsupportedMode, match="use_cache=False"):
        sightline.generate(llava, strategy, batch, branching=branching, max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_costs_one_prompt_more_and_probes_the_prefill_alone(llava, inputs, branching):
    batch = inputs((7,))
    with sightline.attach(llava, AVC(), batch, branching=branching) as processor:
        llava.generate(**batch, logits_processor=[processor], max_new_tokens=STEPS, do_sample=False, eos_token_id=-1)
        assert not any(state.probe or state.reading is not None for state in processor._states.values())
    width = batch["input_ids"].shape[1]
    assert processor.stats.encodes == 0
    assert processor.stats.columns == 2 * (width + STEPS - 1)
    assert processor.stats.passes == (STEPS + 1 if branching == "rows" else 2 * STEPS)


@pytest.mark.parametrize(
    ("field", "value"), [("alpha", -1), ("beta", 2), ("gamma", 0), ("masking", "blur"), ("mask_refresh", "often")]
)
def test_bad_values_name_field_rule_and_value(field, value):
    with pytest.raises(InvalidParameter, match=rf"avc: {field} must be .*, got"):
        AVC(**{field: value})
