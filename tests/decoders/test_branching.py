"""Every kind of branch against a naive decoder: eager or written-out attention, full maps, one row at a time."""

import contextlib

import pytest
import sightline
import torch
from anything import STEPS, Anything, assert_same, naive_tokens, run
from naive import forked, single, weights_of, whole
from sightline.decoders import Branch, HeadEdit
from sightline.decoders import branching as choosing
from sightline.decoders.in_rows import RowsRunner
from sightline.decoders.in_sequence import SequentialRunner
from sightline.decoders.plan import KeyBias
from sightline.decoders.together import Together
from sightline.models import errors
from sightline.models.versions import PIECES
from transformers.modeling_utils import AttentionInterface

PROMPT_COLUMNS = slice(2, 6)


def push_image(scores, image):
    """Half the mean size of the scores on four key columns, as CG-VLM's actuator does."""
    bias = torch.zeros_like(scores[:, :1])
    bias[:, 0, PROMPT_COLUMNS] = 0.5 * scores.abs().mean(dim=1)[:, PROMPT_COLUMNS]
    return bias


BIAS = KeyBias(layers=(1,), act=push_image)
UNIFORM = (HeadEdit(1, (0, 3)), HeadEdit(2, (1,)))
ZERO = (HeadEdit(0, (2,), "zero"), HeadEdit(2, (0, 1), "zero"))


@contextlib.contextmanager
def full_map_bias(model, first):
    """Attention written out with full maps, `push_image` added to every query row from `first` on in layer 1."""

    def forward(module, query, key, value, attention_mask, scaling=None, **kwargs):
        repeats = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
        scores = query @ key.mT * scaling
        if module.layer_idx == 1:
            extra = 0.5 * scores[:, :, first:, PROMPT_COLUMNS].abs().mean(dim=1, keepdim=True)
            scores[:, :, first:, PROMPT_COLUMNS] = scores[:, :, first:, PROMPT_COLUMNS] + extra
        length = scores.shape[-1]
        scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    AttentionInterface.register("written_out", forward)
    model.model.language_model.set_attn_implementation("written_out")
    try:
        yield
    finally:
        model.model.language_model.set_attn_implementation("sdpa")
        AttentionInterface._global_mapping.pop("written_out")


def other_prompt(batch, lengths):
    """Prompts without an image, of other lengths, left-padded; they end in the base's last two tokens."""
    generator = torch.Generator().manual_seed(9)
    width = max(lengths)
    ids = torch.randint(6, 90, (len(lengths), width), generator=generator)
    ids[:, -2:] = batch["input_ids"][:, -2:]
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "pixel_values": None}


def cases(model, batch, kind):
    """A branch of each kind, and its naive logits as a function of row and new tokens."""
    noised = torch.randn(batch["pixel_values"].shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    count = len(batch["input_ids"])
    if kind == "image":
        branch = Branch("image", {"pixel_values": noised})
        return branch, lambda row, new: whole(model, single(batch | {"pixel_values": noised}, row), new)
    if kind in ("uniform", "zero"):
        edits = UNIFORM if kind == "uniform" else ZERO
        return Branch(kind, edits=edits), lambda row, new: whole(
            model, single(batch, row), new, lambda: weights_of(model, edits)
        )
    if kind in ("fork uniform", "fork zero"):
        edits = UNIFORM if kind == "fork uniform" else ZERO
        return Branch(kind, edits=edits, fork=True), lambda row, new: forked(model, single(batch, row), new, edits)
    if kind in ("longer", "shorter"):
        lengths = (
            [len(batch["input_ids"][0]) + 4 - 2 * i for i in range(count)] if kind == "longer" else [4, 3, 5][:count]
        )
        prompt = other_prompt(batch, lengths)
        return Branch(kind, prompt), lambda row, new: whole(
            model,
            {"input_ids": prompt["input_ids"][row : row + 1, -lengths[row] :], "pixel_values": None},
            new,
        )
    if kind == "vision":
        edits = (HeadEdit(0, (1,)), HeadEdit(1, (2,), "zero"))
        return Branch(kind, vision_edits=edits), lambda row, new: whole(
            model, single(batch, row), new, lambda: weights_of(model, edits, vision=True)
        )
    row_first = [int(batch["attention_mask"][row].sum()) - 1 for row in range(count)]
    return Branch("bias", bias=BIAS), lambda row, new: whole(
        model, single(batch, row), new, lambda: full_map_bias(model, row_first[row])
    )


KINDS = ["image", "uniform", "zero", "fork uniform", "fork zero", "longer", "shorter", "vision", "bias"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("branching", ["rows", "sequential"])
@pytest.mark.parametrize("cache", ["dynamic", "static", "none"])
def test_branch_equals_naive(llava, inputs, kind, branching, cache):
    lengths = (7,) if kind == "bias" else (5, 8)  # the written-out bias counts columns, so it wants no padding
    batch = inputs(lengths)
    branch, naive = cases(llava, batch, kind)
    settings = {"dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False}}[cache]
    refused = {("bias", "none"): "use_cache", ("longer", "static"): "static"}.get((kind, cache))
    if refused:
        with pytest.raises(errors.UnsupportedMode, match=refused):
            run(llava, batch, (branch,), branching, **settings)
        return
    output, _ = run(llava, batch, (branch,), branching, **settings)
    assert_same(output, batch, *naive_tokens(llava, batch, [naive]))


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_several_kinds_at_once(llava, inputs, branching):
    batch = inputs((5, 8))
    made = [cases(llava, batch, kind) for kind in ("fork zero", "image", "shorter", "uniform", "fork uniform")]
    output, _ = run(llava, batch, tuple(branch for branch, _ in made), branching)
    assert_same(output, batch, *naive_tokens(llava, batch, [naive for _, naive in made]))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bias"])
@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_beams_are_the_same_in_rows_and_in_sequence(llava, inputs, kind, mode):
    batch = inputs((5, 8))
    branch, _ = cases(llava, batch, kind)
    rows, _ = run(llava, batch, (branch,), "rows", **mode)
    sequential, _ = run(llava, batch, (branch,), "sequential", **mode)
    assert rows.sequences.equal(sequential.sequences)
    torch.testing.assert_close(rows.sequences_scores, sequential.sequences_scores)
    plain = llava.generate(**batch, max_new_tokens=STEPS, do_sample=False, **mode)
    assert not plain.equal(rows.sequences)


def test_beams_equal_naive_for_a_fork_and_another_length(llava, inputs):
    """The score of the best beam is the sum of the naive contrasted log-probabilities of its tokens."""
    batch = inputs((7,))
    for kind in ("fork uniform", "shorter"):
        branch, naive = cases(llava, batch, kind)
        for branching in ("rows", "sequential"):
            output, _ = run(llava, batch, (branch,), branching, num_beams=3, length_penalty=0.0)
            new, total = [], 0.0
            tokens = output.sequences[0, batch["input_ids"].shape[1] :].tolist()
            for token in tokens[: tokens.index(2) + 1] if 2 in tokens else tokens:
                with torch.no_grad():
                    scores = 1.8 * whole(llava, single(batch, 0), new) - 0.8 * naive(0, new)
                total += float(scores.log_softmax(-1)[token])
                new.append(token)
            assert output.sequences_scores.item() == pytest.approx(total, abs=1e-3)


def test_base_rows_can_be_biased_without_any_branch(llava, inputs):
    batch = inputs((7,))
    with sightline.attach(llava, Anything((), BIAS), batch) as processor:
        got = llava.generate(**batch, logits_processor=[processor], max_new_tokens=STEPS, do_sample=False)
    first = batch["input_ids"].shape[1] - 1
    new = []
    with torch.no_grad():
        while len(new) < STEPS and 2 not in new:
            new.append(int(whole(llava, single(batch, 0), new, lambda: full_map_bias(llava, first)).argmax()))
    assert got[0, first + 1 :].tolist()[: len(new)] == new


@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_a_fork_runs_the_prompt_once(llava, inputs, branching):
    batch = inputs((7,))
    width = batch["input_ids"].shape[1]
    branch, _ = cases(llava, batch, "fork uniform")
    _, stats = run(llava, batch, (branch,), branching, eos_token_id=-1)
    assert stats.columns == (width - 1) + 2 * STEPS
    assert stats.passes == (STEPS if branching == "rows" else 1 + STEPS * 2)


@pytest.mark.parametrize(
    "kinds", [("fork zero", "image", "longer", "fork uniform"), ("image", "fork zero"), ("fork uniform",)]
)
def test_forks_in_the_prefills_own_forward_are_those_of_a_call_apart(llava, inputs, monkeypatch, kinds):
    batch = inputs((5, 8, 6))
    branches = tuple(cases(llava, batch, kind)[0] for kind in kinds)
    shown = {"output_hidden_states": True, "output_logits": True}
    packed, few = run(llava, batch, branches, "rows", **shown)
    with monkeypatch.context() as patch:
        patch.setattr(RowsRunner, "_tails", lambda *_: False)
        apart, more = run(llava, batch, branches, "rows", **shown)
    assert few.passes == more.passes - 1
    assert packed.sequences.equal(apart.sequences)
    for one, other in zip(packed.logits, apart.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    longest = max(each.inputs["input_ids"].shape[1] if "longer" in each.name else 0 for each in branches)
    columns = max(batch["input_ids"].shape[1], longest)
    assert {tuple(layer.shape[:2]) for layer in packed.hidden_states[0][:-1]} == {(3, columns)}


def test_early_exits_are_of_the_base_where_other_branches_fork(llava, inputs):
    batch, shown = inputs((7, 4)), {"output_logits": True, "return_dict_in_generate": True}
    forked_too = Anything((cases(llava, batch, "fork zero")[0],))
    both = Together((sightline.DoLa(layers="2", beta=0.0), forked_too))
    rows, sequential = (
        sightline.generate(llava, both, batch, branching=how, max_new_tokens=4, **shown)
        for how in ("rows", "sequential")
    )
    for one, other in zip(rows.logits, sequential.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["image", "uniform", "vision"])
@pytest.mark.parametrize("branching", ["rows", "sequential"])
def test_a_prompt_in_chunks_gives_the_same(llava, inputs, kind, branching):
    batch = inputs((5, 8))
    branch, _ = cases(llava, batch, kind)
    whole_prompt, _ = run(llava, batch, (branch,), branching)
    if not PIECES:  # the model itself loses its images, and that is said
        with pytest.raises(errors.UnsupportedMode, match="prefill_chunk_size"):
            run(llava, batch, (branch,), branching, prefill_chunk_size=5)
        return
    chunks, _ = run(llava, batch, (branch,), branching, prefill_chunk_size=5)
    assert chunks.sequences.equal(whole_prompt.sequences)


@pytest.mark.parametrize("kind", ["fork uniform", "shorter"])
def test_what_needs_the_whole_prompt_refuses_chunks(llava, inputs, kind):
    batch = inputs((5, 8))
    with pytest.raises(errors.UnsupportedMode, match="prefill_chunk_size"):
        run(llava, batch, (cases(llava, batch, kind)[0],), "rows", prefill_chunk_size=5)


def test_heads_that_do_not_exist_are_refused(llava, inputs):
    before = llava.config.text_config._attn_implementation
    for edit in (HeadEdit(3, (0,)), HeadEdit(0, (4,))):
        with pytest.raises(errors.UnsupportedMode, match="3 layers of 4 heads"):
            sightline.attach(llava, Anything((Branch("x", edits=(edit,)),)), inputs())
    assert llava.config.text_config._attn_implementation == before
    with pytest.raises(errors.UnsupportedMode, match="rows, sequential or auto"):
        sightline.attach(llava, "vcd", inputs(), branching="parallel")


def test_text_models_take_branches_of_another_length(llama, inputs):
    batch = {name: inputs((5, 8))[name] for name in ("input_ids", "attention_mask")}
    prompt = {name: value for name, value in other_prompt(batch, [4, 3]).items() if value is not None}
    for branching in ("rows", "sequential"):
        output, _ = run(llama, batch, (Branch("short", prompt),), branching)
        new = []
        with torch.no_grad():
            for _ in range(STEPS):
                pair = [
                    llama(torch.cat([ids, torch.tensor([new], dtype=torch.long)], 1)).logits[0, -1]
                    for ids in (batch["input_ids"][1:], prompt["input_ids"][1:, -3:])
                ]
                new.append(int((1.8 * pair[0] - 0.8 * pair[1]).argmax()))
                if new[-1] == 2:
                    break
        assert output.sequences[1, batch["input_ids"].shape[1] :].tolist()[: len(new)] == new


@pytest.mark.parametrize(
    ("wish", "device", "dtype", "pays", "kind"),
    [
        ("auto", "cpu", torch.bfloat16, True, RowsRunner),
        ("auto", "cpu", torch.bfloat16, False, SequentialRunner),
        ("auto", "cpu", torch.float16, False, SequentialRunner),
        ("auto", "cpu", torch.float32, False, RowsRunner),
        ("auto", "cpu", torch.float64, False, RowsRunner),
        ("auto", "cuda", torch.bfloat16, False, RowsRunner),
        ("rows", "cpu", torch.bfloat16, False, RowsRunner),
        ("sequential", "cuda", torch.bfloat16, True, SequentialRunner),
    ],
)
def test_auto_measures_half_precision_on_a_processor_alone(monkeypatch, wish, device, dtype, pays, kind):
    monkeypatch.setattr(choosing, "rows_pay", lambda asked: pays)
    assert choosing.choose(wish, torch.device(device), dtype) is kind


def test_what_pays_is_measured_once_and_compared_with_two_rows_one_by_one(monkeypatch):
    seconds = {1: 3.0, 2: 5.9}
    asked = []

    def timed(rows, weight):
        asked.append(len(rows))
        return seconds[len(rows)] + (len(asked) % 3)  # a busy machine; some of the tries are not disturbed

    monkeypatch.setattr(choosing, "_seconds", timed)
    choosing.rows_pay.cache_clear()
    assert choosing.rows_pay(torch.bfloat16)
    assert choosing.rows_pay(torch.bfloat16)
    assert asked == [1, 2] * choosing.TRIES, "in turn, and once"
    choosing.rows_pay.cache_clear()
    seconds[2] = 6.1
    assert not choosing.rows_pay(torch.bfloat16)
    choosing.rows_pay.cache_clear()
