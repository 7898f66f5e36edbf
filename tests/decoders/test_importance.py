"""HICD's calibration: golden vectors, gradients against finite differences, files and their refusals, questions."""

import copy
import json
from itertools import pairwise

import pytest
import sightline
import torch
import transformers
from beartype import beartype
from jaxtyping import jaxtyped
from letters import tokenizer
from sightline.decoders import calibration
from sightline.decoders.calibration import importance, inducing, triples
from sightline.decoders.calibration.importance import Triple
from sightline.models import adapter_for, errors
from transformers.models.llama.modeling_llama import LlamaRMSNorm

contributions = jaxtyped(importance.contributions, typechecker=beartype)
normalised = jaxtyped(importance.normalised, typechecker=beartype)
discrepancy = jaxtyped(inducing.discrepancy, typechecker=beartype)


# The reference's numbers


def test_importance_equals_the_reference(golden):
    vectors = golden("hicd_importance")
    totals = torch.zeros(vectors["L"], vectors["H"])
    for sample in vectors["samples"]:
        pairs = zip(torch.tensor(sample["A"]), torch.tensor(sample["G"]), strict=True)
        totals += torch.stack([contributions(*pair, vectors["H"]) for pair in pairs])
    tokens, answered = vectors["total_tokens"], vectors["effective_tokens"]
    expected = torch.tensor(vectors["importance_reference"])
    torch.testing.assert_close(normalised(totals, tokens, answered, "reference"), expected, atol=1e-6, rtol=1e-5)
    uniform = normalised(totals, tokens, answered, "uniform")
    torch.testing.assert_close(uniform[:-1], expected[:-1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(uniform[-1], expected[-1] * answered / tokens, atol=1e-6, rtol=1e-5)


def rows(matrix):
    return tuple(tuple(float(value) for value in row) for row in matrix)


def test_selection_equals_the_reference(golden):
    vectors = golden("hicd_selection")
    correct, wrong = (vectors[f"importance_{name}"] for name in ("correct", "adversarial"))
    held = inducing.Importance("golden", rows(correct), rows(wrong), "reference", 1, "")
    turned = inducing.Importance("golden", rows(wrong), rows(correct), "reference", 1, "")
    assert len(vectors["by_scale"]) == 4
    for scale, case in vectors["by_scale"].items():
        found = discrepancy(torch.tensor(correct), torch.tensor(wrong), float(scale))
        torch.testing.assert_close(found, torch.tensor(case["score"]), atol=1e-4, rtol=1e-4)
        top = [tuple(head) for head in case["top5"]]
        assert held.choose(5, float(scale), "correct") == top
        assert turned.choose(5, float(scale), "incorrect") == top
    assert held.choose(5, 20.0, "incorrect") != top


def test_where_nothing_differs_the_order_of_layers_decides():
    flat = rows([[0.5, 0.5], [0.5, 0.5]])
    held = inducing.Importance("flat", flat, flat, "uniform", 1, "")
    assert held.choose(3, 20.0, "correct") == [(0, 0), (0, 1), (1, 0)]
    assert held.choose(None, 20.0, "correct") == [(0, 0)]
    assert (inducing.usual(1024), inducing.usual(32), inducing.usual(8)) == (31, 1, 1)


# Gradients


def triple(inputs=None, correct=(9, 31), wrong=(40, 7, 12)):
    ids = torch.tensor([[1, 17, 33, 8, 60]])
    return Triple(inputs or {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, correct, wrong)


@pytest.fixture
def exact(monkeypatch):
    """Norms in float64: transformers' are in float32, and their rounding would drown small differences."""

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", forward)


@torch.no_grad()
def by_differences(model, inputs, ids, step=1e-5):
    """The measure from losses alone: |dL / de| where one head's output at one token is made (1 + e) times as large."""
    whole = inputs | {"input_ids": torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    length, layers = whole["input_ids"].shape[1], model.get_decoder().layers

    def loss(layer, head, token, factor):
        def scale(module, args):
            output = args[0].clone()
            output[0, token, head * 8 : (head + 1) * 8] *= factor
            return (output,)

        handle = layers[layer].self_attn.o_proj.register_forward_pre_hook(scale)
        logits = model(**whole, use_cache=False).logits[0].log_softmax(-1)
        handle.remove()
        return -sum(logits[length - len(ids) - 1 + place, token] for place, token in enumerate(ids)) / len(ids)

    found = torch.zeros(len(layers), 4, dtype=torch.float64)
    for layer in range(len(layers)):
        for head in range(4):
            for token in range(length - 1):
                slope = (loss(layer, head, token, 1 + step) - loss(layer, head, token, 1 - step)) / (2 * step)
                found[layer, head] += slope.abs()
    return found, length - 1


def test_gradients_equal_finite_differences(llama, exact):
    asked = triple()
    found = importance.measure(adapter_for(llama), [asked], norm="reference")
    for name, ids in (("correct", asked.correct), ("wrong", asked.wrong)):
        totals, tokens = by_differences(llama, dict(asked.inputs), list(ids))
        expected = totals / torch.tensor([tokens, tokens, len(ids)])[:, None]
        got = torch.tensor(getattr(found, name), dtype=torch.float64)
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-4)
        assert expected.min() > 1e-5


def test_images_are_read(llava, inputs, exact):
    batch = inputs((5,))
    asked = triple(batch, (9,), (31,))
    found = importance.measure(adapter_for(llava), [asked])
    totals, tokens = by_differences(llava, dict(batch), [9])
    torch.testing.assert_close(torch.tensor(found.correct).double(), totals / tokens, atol=1e-8, rtol=1e-3)
    other = triple(batch | {"pixel_values": -batch["pixel_values"]}, (9,), (31,))
    turned = importance.measure(adapter_for(llava), [other])
    assert turned.correct != found.correct
    assert turned.data != found.data


def test_several_questions_add_up(llama):
    adapter, first, second = adapter_for(llama), triple(), triple(correct=(50,), wrong=(51,))
    both = importance.measure(adapter, [first, second])
    parts = [importance.measure(adapter, [each]) for each in (first, second)]
    sums = [torch.tensor(part.correct) * tokens for part, tokens in zip(parts, (6, 5), strict=True)]
    torch.testing.assert_close(torch.tensor(both.correct), (sums[0] + sums[1]) / 11, atol=1e-9, rtol=1e-4)
    assert both.triples == 2
    assert len({each.data for each in (both, *parts)}) == 3


class Breaks(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(llama, fails):
    adapter, generator = adapter_for(llama), torch.is_grad_enabled()
    parameters, modules = list(llama.parameters()), list(llama.modules())
    flags = [place % 3 != 0 for place in range(len(parameters))]
    modes = [place % 2 == 0 for place in range(len(modules))]
    for parameter, flag in zip(parameters, flags, strict=True):
        parameter.requires_grad_(flag)
    for module, mode in zip(modules, modes, strict=True):
        module.training = mode
    hooks = [(*module._forward_hooks, *module._forward_pre_hooks) for module in modules]

    def stop(module, args):
        raise Breaks

    try:
        if fails:
            handle = llama.model.norm.register_forward_pre_hook(stop)
            with pytest.raises(Breaks):
                importance.measure(adapter, [triple()])
            handle.remove()
        else:
            importance.measure(adapter, [triple()])
        assert [parameter.requires_grad for parameter in parameters] == flags
        assert [module.training for module in modules] == modes
        assert [(*module._forward_hooks, *module._forward_pre_hooks) for module in modules] == hooks
        assert all(parameter.grad is None for parameter in parameters)
        assert torch.is_grad_enabled() == generator
    finally:
        llama.eval().requires_grad_(True)


def test_it_runs_where_gradients_are_off(llama):
    expected = importance.measure(adapter_for(llama), [triple()])
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert importance.measure(adapter_for(llama), [triple()]).correct == expected.correct


def test_half_precision_does_not_vanish(llama):
    """Gradients of a head whose words hardly matter are below what float16 can hold."""
    small = copy.deepcopy(llama).half()
    with torch.no_grad():
        small.lm_head.weight.mul_(2.0**-12)
    found = importance.measure(adapter_for(small), [triple()])
    expected = importance.measure(adapter_for(copy.deepcopy(small).double()), [triple()])
    torch.testing.assert_close(torch.tensor(found.correct), torch.tensor(expected.correct), atol=0, rtol=0.02)


def test_nothing_to_measure_is_said(llama):
    adapter = adapter_for(llama)
    for asked in ([], [triple(correct=())]):
        with pytest.raises(calibration.CalibrationFailed, match="no triple"):
            importance.measure(adapter, asked)
    with pytest.raises(errors.InvalidParameter, match="norm must be one of uniform, reference, got 'l2'"):
        importance.measure(adapter, [triple()], norm="l2")


# Files


@pytest.fixture
def saved(llama, tmp_path):
    found = importance.measure(adapter_for(llama), [triple()], name="random", settings={"data": "test"})
    return found, found.save(tmp_path / "made" / "inducing.json")


def test_a_file_gives_its_heads_to_the_strategy(llama, saved):
    found, path = saved
    assert inducing.load(path) == found
    held = json.loads(path.read_text())
    assert (held["layers"], held["heads"], held["num_heads"], held["scale"]) == (3, 4, 1, 20.0)
    assert held["chosen"] == [list(head) for head in found.choose(1, 20.0, "correct")]
    batch = {name: triple().inputs[name] for name in ("input_ids", "attention_mask")}
    for count in (None, 5):
        decoder = sightline.HICD(heads=str(path), num_heads=count, scale=3.0)
        with sightline.attach(llama, decoder, batch) as attached:
            edits = attached.plan.branches[0].edits
        chosen = found.choose(count, 3.0, "correct")
        assert sorted((edit.layer, head) for edit in edits for head in edit.heads) == sorted(chosen)
        assert decoder.calibration(adapter_for(llama)) == " ".join(f"{layer}-{head}" for layer, head in chosen)
    with pytest.raises(errors.InvalidParameter, match="at most 12, the heads of 'random', got 13"):
        sightline.attach(llama, sightline.HICD(heads=str(path), num_heads=13), batch)


def test_a_file_of_another_model_is_refused(llama, llava, saved, tmp_path):
    _, path = saved
    with pytest.raises(calibration.CalibrationMismatch, match="fingerprints differ"):
        inducing.find(str(path), adapter_for(llava))
    held = json.loads(path.read_text())
    (tmp_path / "relative.json").write_text(json.dumps(held | {"fingerprint": None}))
    assert inducing.find(str(tmp_path / "relative.json"), adapter_for(llava)).shape == (3, 4)
    small = held | {"layers": 2, "correct": held["correct"][:2], "wrong": held["wrong"][:2]}
    (tmp_path / "small.json").write_text(json.dumps(small))
    with pytest.raises(calibration.CalibrationMismatch, match="from 2 layers of 4 heads, and this model has 3"):
        inducing.find(str(tmp_path / "small.json"), adapter_for(llama))


def test_lists_of_the_reference(llama, tmp_path):
    path = tmp_path / "list.json"
    path.write_text('{"0": [3], "layer2": [1, 0]}')
    found = inducing.find(str(path), adapter_for(llama))
    assert found.choose(None, 20.0, "correct") == found.choose(3, 0.0, "correct") == [(0, 3), (2, 1), (2, 0)]
    with pytest.raises(errors.InvalidParameter, match=r"None or 3, the length of the list in 'list\.json', got 2"):
        found.choose(2, 20.0, "correct")
    path.write_text('{"7": [3]}')
    with pytest.raises(calibration.CalibrationMismatch, match="lists head 7-3, and this model has 3 layers of 4"):
        inducing.find(str(path), adapter_for(llama))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"schema": 2}, "schema must be 1 and what 'inducing'"), ({"what": "image"}, "what 'inducing'"),
     ({"correct": [[0.1]]}, "correct must hold 3 rows of 4 numbers"), ({"wrong": [[-1, 0, 0, 0]] * 3}, "numbers >= 0"),
     ({"wrong": [["a"] * 4] * 3}, "could not convert"), ({"layers": 4}, "correct must hold 4 rows")],
)  # fmt: skip
def test_files_that_cannot_be_are_refused(saved, changes, said):
    _, path = saved
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(calibration.CalibrationInvalid, match=said):
        inducing.load(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": [1]}', '{"1": [-1]}', '{"1": [true]}', '{"1": [2, 2]}', "nothing"])
def test_files_that_are_no_list_are_refused(tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(calibration.CalibrationInvalid):
        inducing.load(tmp_path / "bad.json")
    with pytest.raises(calibration.CalibrationMissing, match="sightline calibrate"):
        inducing.load(tmp_path / "none.json")


# Questions


def test_made_up_passages_hold_both_answers():
    made = triples.questions(60)
    assert made[:10] == triples.questions(10)
    assert len({question.context for question in made}) == 60
    for question in made:
        told, asked = question.context.split("\nQuestion: ")
        assert asked.endswith("\nAnswer:")
        sentences = told.split(". ")
        assert 2 <= len(sentences) <= 4
        assert len(sentences) == 1 + len(question.wrong)
        held = [sentence for sentence in sentences if question.correct in f"{sentence}"]
        assert len(held) == 1
        names = [word.strip("?\n") for word in asked.removesuffix("\nAnswer:").split() if word[:1].isupper()]
        assert sum(name in held[0] for name in names) >= 2
        assert all(wrong in told and wrong != question.correct for wrong in question.wrong)


def test_tokens_follow_their_context(llama):
    letters, adapter = tokenizer(), adapter_for(llama)
    asked = triples.Question("It is", " red.", (" a crimson.", " blue."))
    made = triples.tokenised([asked], adapter, letters)[0]
    assert made.inputs["input_ids"].tolist() == [letters.encode("It is")]
    assert made.inputs["input_ids"][0, 0] == 1
    assert letters.decode(made.correct) == " red."
    assert letters.decode(made.wrong) == " blue."
    assert triples.tokens_per_word([asked], adapter, letters) == 2.5
    assert triples.tokens_per_word([triples.Question("Ü", "a", ("b",))], adapter, letters) == float("inf")


def test_questions_of_the_user_s(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [{"context": "a", "correct": "b", "wrong": "c"}, {"context": "d", "correct": "e", "wrong": ["f", "g"]}]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    assert triples.read_questions(path) == [
        triples.Question("a", "b", ("c",)), triples.Question("d", "e", ("f", "g"))
    ]  # fmt: skip
    for bad in ('{"context": "a"}', '["a"]', '{"context": "a", "correct": "b", "wrong": []}',
                '{"context": "a", "correct": "", "wrong": "b"}', "{"):  # fmt: skip
        path.write_text(json.dumps(lines[0]) + "\n" + bad)
        with pytest.raises(calibration.CalibrationInvalid, match="line 2"):
            triples.read_questions(path)
    path.write_text("\n")
    with pytest.raises(calibration.CalibrationInvalid, match="is empty"):
        triples.read_questions(path)
    with pytest.raises(calibration.CalibrationMissing, match="no file"):
        triples.read_questions(tmp_path / "none.jsonl")


def test_neighbours_have_nothing_in_common_but_their_form():
    made = triples.questions(40)
    assert sum(one.correct == other.correct for one, other in pairwise(made)) < 8


def small(kind, **more):
    torch.manual_seed(0)
    settings = {"vocab_size": 96, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{kind}Config")(**settings, **ends, **more)
    return getattr(transformers, f"{kind}ForCausalLM")(config).double().eval()


def test_output_projections_of_other_names(exact):
    """OPT's is `out_proj`, and is read as any; Phi's is `dense`, and that is said before anything is run."""
    opt = small("OPT", ffn_dim=16, word_embed_proj_dim=16, dropout=0.0)
    found = importance.measure(adapter_for(opt), [triple()])
    assert min(min(row) for row in found.correct) > 0
    phi = adapter_for(small("Phi", intermediate_size=16))
    with pytest.raises(errors.UnsupportedModel, match="PhiAttention has no output projection") as refused:
        importance.measure(phi, [triple()])
    assert "file of your own" in refused.value.hint


def test_a_layer_that_leaves_its_projection_out_is_told_of(llama, monkeypatch):
    attention = llama.model.layers[1].self_attn
    monkeypatch.setattr(attention, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(errors.UnsupportedModel, match="never calls its output projection"):
        importance.measure(adapter_for(llama), [triple()])
    assert not any(module._forward_pre_hooks for module in llama.modules())


def test_gradients_that_overflow_are_told_of(llama):
    broken = copy.deepcopy(llama)
    broken.lm_head.weight.data[9] = torch.inf
    with pytest.raises(calibration.CalibrationFailed, match="not finite") as refused:
        importance.measure(adapter_for(broken), [triple()])
    assert "float32" in refused.value.hint


def test_the_digest_of_the_data_is_over_tensors_alone(llama):
    """What a model is given beside them (a flag, None) is no data; every tensor is."""
    adapter, asked = adapter_for(llama), triple()
    known = importance.measure(adapter, [asked]).data
    flagged = triple({**asked.inputs, "output_attentions": None})
    assert importance.measure(adapter, [flagged]).data == known
    ids = asked.inputs["input_ids"] + 1
    assert importance.measure(adapter, [triple({**asked.inputs, "input_ids": ids})]).data != known
