"""Replaced attention maps: the reference's golden maps, closed forms against maps written out, and the draws."""

import inspect
import math

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from sightline.models import counterfactual, draws, errors
from sightline.models.attention import _STATES, LayerState, attention
from sightline.models.counterfactual import Call, MapRule, full_map, gate, replaced
from sightline.models.draws import draw, permutation

KINDS = ["uniform", "reversed", "random"]


@pytest.fixture(autouse=True)
def shapes(monkeypatch):
    """Shapes in signatures are checked."""
    for name, function in list(vars(counterfactual).items()):
        if inspect.isfunction(function) and function.__module__ == counterfactual.__name__:
            monkeypatch.setattr(counterfactual, name, jaxtyped(function, typechecker=beartype))


# The reference


@pytest.fixture
def case(golden):
    """Reads one golden case: inputs, outputs."""
    cases = {each["name"]: each for each in golden("causalmm_attention")["cases"]}

    def read(name):
        return tuple(
            {key: torch.tensor(value, dtype=torch.float64) if isinstance(value, list) else value for key, value in part}
            for part in (cases[name]["inputs"].items(), cases[name]["outputs"].items())
        )

    return read


def call_with(attention_map, causal):
    """A call whose attention map is the one given."""
    rows, heads, _, keys = attention_map.shape
    unit = torch.eye(keys, dtype=torch.float64).expand(rows, heads, keys, keys)
    return Call(attention_map.clamp(min=1e-30).log(), unit, unit, scaling=1.0, causal=causal)


def edited(attention_map, kind, norm, causal=False):
    return full_map(MapRule(0, kind, norm), call_with(attention_map, causal))


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_vision_maps_equal_the_reference(case, monkeypatch):
    inputs, outputs = case("vision_edit_uniform")
    close(edited(inputs["attention"], "uniform", "none"), outputs["edited"])
    for name in ("vision_edit_shuffle", "vision_edit_shuffle_batch2"):
        inputs, outputs = case(name)
        order = inputs["permutation_per_head"].long()[None]
        monkeypatch.setattr(counterfactual, "permutation", lambda *args, order=order: order)
        close(edited(inputs["attention"], "shuffle", "none"), outputs["edited"])


def test_the_gate_equals_the_reference(case):
    inputs, outputs = case("vision_gate_S10_grid3")
    found = edited(inputs["attention"], "reversed", "none")
    close(found, inputs["edited_reversed"])
    factors = gate(found.mean(1), 9)
    close(factors, outputs["gate"])
    close(inputs["patch_features"] * factors[..., None], outputs["features_fp32"])


def test_the_gate_needs_a_square():
    with pytest.raises(errors.UnsupportedMode, match=r"square grid.*10 features.*in_layer"):
        gate(torch.rand(1, 11, 11), 10)


def test_language_maps_equal_the_reference(case):
    for part in ("prefill", "decode"):
        for kind, name in (("reversed", "reverse"), ("uniform", "uniform")):
            inputs, outputs = case(f"language_{part}_{name}")
            found = edited(inputs["attention"], kind, "reference", causal=True)
            close(found, outputs["edited"])
            close(found.sum(-1), outputs["row_sums"])


def test_our_language_maps_equal_the_reference(case, monkeypatch):
    inputs, outputs = case("language_prefill_clean_variants")
    monkeypatch.setattr(counterfactual, "draw", lambda *args: inputs["u"])
    for kind in KINDS:
        close(edited(inputs["attention"], kind, "visible", causal=True), outputs[kind])


# Closed forms

MASKS = ["causal", "static buffer", "bool", "float", "window", "decode", "all"]


def made_call(mask, heads=4, groups=2):
    """A random call of two rows, what its queries see, and where they stand; the second row is padded on the left."""
    generator = torch.Generator().manual_seed(1)
    columns, keys, padding, offset = 6, 6, torch.tensor([0, 2]), 0
    if mask == "decode":
        columns = 1
    if mask == "window":
        keys, offset = 6, 3  # nine columns so far, of which a window holds six
    sizes = [(2, heads, columns, 8), (2, groups, keys, 8), (2, groups, keys, 8)]
    query, key, value = (2 * torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    queries = torch.arange(offset + keys - columns, offset + keys)[:, None]
    columns_of_keys = torch.arange(offset, offset + keys)
    seen = (columns_of_keys <= queries) & (columns_of_keys >= padding[:, None, None])
    if mask == "window":
        seen &= columns_of_keys > queries - 4
    if mask in ("causal", "static buffer", "all"):
        padding, seen = (
            torch.tensor([0, 0]),
            (seen[:1] if mask != "all" else torch.ones_like(seen[:1])).expand(2, -1, -1),
        )
    given = {"bool": seen[:, None], "window": seen[:, None], "decode": seen[:, None]}.get(mask)
    if mask == "float":
        given = torch.zeros(seen[:, None].shape, dtype=torch.float64).masked_fill(~seen[:, None], -torch.inf)
    if mask == "static buffer":
        key, value = (torch.cat([each, each], dim=2) for each in (key, value))
    call = Call(query, key, value, given, causal=mask != "all", prompt=offset + keys, seen=offset + keys)
    positions = queries[:, 0] - padding[:, None], columns_of_keys - padding[:, None]
    return call, seen, positions, offset + keys - padding


def written_out(call, rule, seen, positions):
    """The edited map by its definition, and what it gives."""
    rows, heads, _, dim = call.query.shape
    key, value = (each[:, :, : seen.shape[-1]].repeat_interleave(2, dim=1) for each in (call.key, call.value))
    seen = seen[:, None]
    plain = (call.query @ key.mT / dim**0.5).masked_fill(~seen, -torch.inf).softmax(-1).nan_to_num(nan=0.0)
    largest = plain.amax((-1, -2), keepdim=True) if rule.whole else plain.amax(-1, keepdim=True)
    totals = torch.maximum(rule.lengths[:, None], positions[0] + 1)[:, None, :, None] if not rule.whole else None
    if rule.kind == "reversed":
        made = (largest - plain) * seen
    elif rule.kind == "uniform":
        made = seen / (totals if totals is not None else torch.tensor(seen.shape[-1]))
    else:
        numbers = draw(rule.seeds, rule.layer, heads, *positions).double()
        every = torch.arange(int(rule.lengths.max())).expand(rows, -1)
        most = draw(rule.seeds, rule.layer, heads, positions[0], every).double()
        made = (
            2 * numbers * seen
            if rule.whole
            else numbers * seen / (most * (every[:, None, None] < totals)).sum(-1, True)
        )
    if rule.norm in ("visible", "row"):
        mass = made.sum(-1, keepdim=True)
        made = torch.where(mass > 1e-12, made / mass, plain)
    made = torch.where(seen.any(-1, keepdim=True), made, plain)
    return plain @ value, made @ value


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["visible", "reference", "row", "none"])
def test_closed_forms_equal_maps_written_out(mask, kind, norm, monkeypatch):
    call, seen, positions, lengths = made_call(mask)
    rule = MapRule(3, kind, norm, torch.tensor([5, -9]), lengths)
    if mask == "static buffer":  # what `attention` does before
        call = Call(call.query, call.key[:, :, :6], call.value[:, :, :6], prompt=6, seen=6)
    plain, expected = written_out(call, rule, seen, positions)
    for chunk in (128, 2):
        monkeypatch.setattr(counterfactual, "CHUNK", chunk)
        torch.testing.assert_close(replaced(rule, call, plain), expected)
    assert not torch.allclose(plain[:, :, -1], expected[:, :, -1])


class Layer(torch.nn.Module):
    is_causal, num_key_value_groups = True, 2


def through_attention(rule, call, streams=(0,), **state):
    """What the attention function gives for rule and call: `[rows, heads, q, d]`."""
    layer = Layer()
    layer.is_causal = call.causal
    width = torch.zeros(2, call.prompt, dtype=torch.bool)
    settings = {"present": streams, "image": (width,) * (1 + max(streams)), "seen": call.seen}
    _STATES[layer] = LayerState(maps={1: rule}, **(settings | state))
    return attention(layer, call.query, call.key, call.value, call.mask)[0].transpose(1, 2)


@pytest.mark.parametrize("mask", MASKS)
def test_the_attention_function_replaces_the_maps_of_a_stream_alone(mask):
    call, seen, positions, lengths = made_call(mask)
    rule = MapRule(3, "random", "visible", torch.tensor([5, -9]), lengths)
    twice = Call(*(torch.cat([each] * 2) for each in (call.query, call.key, call.value)), causal=call.causal,
                 mask=call.mask if call.mask is None else torch.cat([call.mask] * 2), prompt=call.prompt,
                 seen=call.seen)  # fmt: skip
    plain, expected = written_out(call, rule, seen, positions)
    found = through_attention(rule, twice, streams=(0, 1))
    torch.testing.assert_close(found, torch.cat([plain, expected]))
    alone = through_attention(rule, call, streams=(1,))
    torch.testing.assert_close(alone, expected)
    assert through_attention(rule, twice, streams=(0, 2))[:2].equal(found[:2])


@pytest.mark.parametrize("kind", KINDS)
def test_columns_that_are_spared_or_generated_are_left_alone(kind):
    call, seen, positions, lengths = made_call("bool")
    rule = MapRule(3, kind, "visible", torch.tensor([5, -9]), lengths)
    plain, expected = written_out(call, rule, seen, positions)
    found = through_attention(rule, call, streams=(1,), spared=(0, 4))
    torch.testing.assert_close(found, torch.cat([plain[:, :, :4], expected[:, :, 4:]], dim=2))
    shorter = Call(call.query, call.key, call.value, call.mask, prompt=4, seen=6)
    only = MapRule(3, kind, "visible", rule.seeds, lengths - 2, prompt_only=True)
    found = through_attention(only, shorter, streams=(1,))
    torch.testing.assert_close(found, torch.cat([expected[:, :, :4], plain[:, :, 4:]], dim=2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["visible", "reference"])
def test_a_call_in_pieces_is_the_call_in_one(kind, norm):
    """A prefill in chunks, or token by token: the same draws, the same counts."""
    call, seen, positions, lengths = made_call("bool")
    rule = MapRule(3, kind, norm, torch.tensor([5, -9]), lengths)
    plain, expected = written_out(call, rule, seen, positions)
    for size in (1, 2, 4):
        found = []
        for start in range(0, 6, size):
            stop = min(start + size, 6)
            part = Call(call.query[:, :, start:stop], call.key[:, :, :stop], call.value[:, :, :stop],
                        call.mask[:, :, start:stop, :stop], prompt=6, seen=stop)  # fmt: skip
            found.append(replaced(rule, part, plain[:, :, start:stop]))
        torch.testing.assert_close(torch.cat(found, dim=2), expected)


def test_shuffled_maps_hold_the_same_weights():
    call, *_ = made_call("all")
    plain = (call.query @ call.key.repeat_interleave(2, 1).mT / 8**0.5).softmax(-1)
    for norm in ("none", "row"):
        found = full_map(MapRule(0, "shuffle", norm, torch.tensor([1, 2])), call)
        sums = found.sum(-1, keepdim=True)
        if norm == "none":
            torch.testing.assert_close(found.flatten(2).sort().values, plain.flatten(2).sort().values)
            raw = found
        else:
            torch.testing.assert_close(sums, torch.ones_like(sums))
            torch.testing.assert_close(found, raw / raw.sum(-1, keepdim=True))


def test_halves_are_computed_in_float32():
    call, seen, positions, lengths = made_call("causal")
    rule = MapRule(3, "reversed", "visible", None, lengths)
    half = Call(*(each.bfloat16() for each in (call.query, call.key, call.value)), prompt=6, seen=6)
    plain, expected = written_out(call, rule, seen, positions)
    found = replaced(rule, half, plain.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, atol=0.06, rtol=0.05)


# The draws


def test_numbers_are_those_of_splitmix64():
    """First numbers of the stream of seed 1234567, as published with the generator."""
    known = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821)
    found = draws.at(torch.tensor([1234567]), torch.arange(5))[0]
    assert [number % 2**64 for number in found.tolist()] == list(known)


def test_draws_are_uniform_and_independent():
    places = torch.arange(200).expand(2, -1)
    numbers = draw(torch.tensor([3, 4]), 0, 2, places, places).double()
    assert 0 < numbers.min() < 1e-4
    assert 1 - 1e-4 < numbers.max() < 1
    assert float(numbers.mean()) == pytest.approx(0.5, abs=3e-3)
    assert float(numbers.var()) == pytest.approx(1 / 12, abs=1e-3)
    other = draw(torch.tensor([3, 4]), 1, 2, places, places).double()
    flat = torch.cat([numbers.flatten(2).flatten(0, 1), other.flatten(2).flatten(0, 1), numbers.mT.flatten(2)[0]])
    matrix = torch.corrcoef(flat) - torch.eye(len(flat))
    assert matrix.abs().max() < 0.03
    rows = numbers[0, 0]
    assert torch.corrcoef(torch.stack([rows[:-1].flatten(), rows[1:].flatten()]))[0, 1].abs() < 0.03


def test_draws_depend_on_what_they_are_named_by_alone():
    seeds, places = torch.tensor([3, -(2**63), 2**63 - 1]), torch.arange(9).expand(3, -1)
    whole = draw(seeds, 2, 4, places, places)
    assert draw(seeds[1:2], 2, 4, places[1:2, 5:6], places[1:2, 2:7]).equal(whole[1:2, :, 5:6, 2:7])
    assert not torch.isclose(draw(seeds, 3, 4, places, places), whole).any(-1).all(-1).any()


def test_permutations_are_permutations():
    orders = permutation(torch.tensor([1, 2]), 0, 3, 40)
    assert orders.sort().values.equal(torch.arange(40).expand(2, 3, -1))
    assert len({tuple(order.tolist()) for order in orders.flatten(0, 1)}) == 6
    assert permutation(torch.tensor([2]), 0, 3, 40).equal(orders[1:])
    assert math.factorial(40) > 2**64  # so that none is likely to be drawn twice


@pytest.mark.parametrize("most", [2**22, 1])
@pytest.mark.parametrize("held", ["all", "window", "buffer", "padded"])
def test_draws_made_ahead_for_all_layers_are_those_of_each_layer_and_step(held, most, monkeypatch):
    """Token by token, past the queries that are drawn for at once: growing caches, windows, static buffers, padding."""
    monkeypatch.setattr(counterfactual, "MOST", most)
    layers, seeds, lengths = (1, 3, 4), torch.tensor([5, -9]), torch.tensor([6, 4])
    kept: dict = {}
    together = [MapRule(layer, "random", "visible", seeds, lengths, layers=layers, kept=kept) for layer in layers]
    generator, drawn = torch.Generator().manual_seed(2), []
    monkeypatch.setattr(counterfactual, "draw", lambda *args: drawn.append(args[1]) or draw(*args))
    for seen in range(7, 7 + counterfactual.AHEAD + 3):
        keys = {"window": 5, "buffer": 40}.get(held, seen)
        query, key, value = (
            torch.randn(2, heads, columns, 8, generator=generator) for heads, columns in ((4, 1), (2, keys), (2, keys))
        )
        mask = (torch.arange(keys) < seen).expand(2, 1, 1, -1).clone() if held in ("buffer", "padded") else None
        if held == "padded":
            mask[1, :, :, :2] = False
        plain, shared = torch.randn(2, 4, 1, 8, generator=generator), {}
        call = Call(query, key, value, mask, prompt=6, seen=seen, shared=shared)
        before = len(drawn)
        found = [replaced(rule, call, plain) for rule in together]
        assert len(drawn) - before <= 1, "one draw for all layers"
        alone = [replaced(MapRule(layer, "random", "visible", seeds, lengths), call, plain) for layer in layers]
        torch.testing.assert_close(torch.stack(found), torch.stack(alone))
    assert drawn.count(layers) == (2 if most > 1 else counterfactual.AHEAD + 3)


def test_two_windows_in_one_step_have_their_own_weights():
    """Layers that see all keys and layers that see a window, in one forward."""
    layers, seeds, kept, shared = (0, 1, 2), torch.tensor([5]), {}, {}
    for layer, keys in enumerate((9, 4, 9)):
        value = torch.eye(keys)[None, None]
        call = Call(torch.zeros(1, 1, 1, keys), value, value, prompt=6, seen=9, shared=shared)
        rules = [MapRule(layer, "random", "visible", seeds, torch.tensor([6]), layers=given, kept=kept)
                 for given in (layers, ())]  # fmt: skip
        one, other = (replaced(rule, call, torch.zeros(1, 1, 1, keys)) for rule in rules)
        torch.testing.assert_close(one, other)
