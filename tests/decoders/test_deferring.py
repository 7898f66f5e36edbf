"""Branches left out of settled steps: the same tokens and the same chances, and fewer forwards."""

import pytest
import sightline
import torch
from letters import asked, llava_processor, noise_image
from promised import ACTIVE, TEXTS, lists, spans
from sightline.decoders.in_sequence import SequentialRunner

STEPS = 8
CUT = 0.95
DECODERS = {
    "vcd": lambda heads: sightline.VCD(alpha=2.0, beta=CUT, noise_step=900),
    "cad": lambda heads: sightline.CAD(alpha=2.0, beta=CUT),
    "code": lambda heads: sightline.CODE(
        alpha_mode="fixed", alpha=2.0, beta_mode="fixed", beta=CUT, desc_prompt="Tell.", desc_max_new_tokens=6
    ),
    "causalmm": lambda heads: sightline.CausalMM(language_layers="all", gamma=2.0, epsilon=CUT),
    "causalmm once": lambda heads: sightline.CausalMM(
        modality="language", language_layers="all", language_when="prefill_only", gamma=2.0, epsilon=CUT
    ),
    "avc": lambda heads: sightline.AVC(lamb=0.3, alpha=2.0, beta=CUT),
    "iava": lambda heads: sightline.IAVA(lamb=-0.2, alpha=2.0, beta=CUT, instruction="Tell."),
    "hicd": lambda heads: sightline.HICD(alpha=3.0, beta=CUT, heads=heads.replace("heads.json", "inducing.json")),
    "decore": lambda heads: sightline.DeCoRe(num_heads=3, heads=heads, alpha_mode="static", alpha=4.0, beta=CUT),
}
MODES = {"greedy": {}, "sample": {"do_sample": True, "top_k": 20, "temperature": 1.3}}


@pytest.fixture(scope="module")
def processor():
    return llava_processor()


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return lists(tmp_path_factory.mktemp("lists"))


@pytest.fixture(scope="module")
def inputs(processor):
    """Two prompts of different lengths, left-padded."""
    return asked(processor, [[noise_image(seed)] for seed in range(2)], TEXTS[:2])


def run(model, decoder, inputs, processor, branching="sequential", **kwargs):
    """Tokens, chances at each step `[steps, batch, vocab]`, and what they cost."""
    settings = {"max_new_tokens": STEPS, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    marked = {"processor": processor, "spans": spans(processor, inputs), "branching": branching}
    marked["approximate"] = kwargs.pop("approximate", None)
    torch.manual_seed(3)
    with sightline.attach(model, decoder, inputs, **marked) as attached:
        output = model.generate(**inputs, logits_processor=[attached], **(settings | kwargs))
    return output.sequences.tolist(), torch.stack(output.scores).softmax(-1), attached.stats


def never(monkeypatch):
    """The same runner with no branch left out."""
    monkeypatch.setattr(SequentialRunner, "_defers", lambda *given: False)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", DECODERS)
def test_tokens_and_chances_are_those_of_whole_runs(llava, processor, heads, inputs, monkeypatch, name, mode):
    decoder = DECODERS[name](heads)
    for each in (inputs, asked(processor, [[noise_image(0)]], TEXTS[:1])):
        run(llava, decoder, each, processor, max_new_tokens=1)  # a description is made once per image
        tokens, chances, stats = run(llava, decoder, each, processor, **MODES[mode])
        with monkeypatch.context() as patch:
            never(patch)
            expected, scores, all_run = run(llava, decoder, each, processor, **MODES[mode])
        assert tokens == expected
        torch.testing.assert_close(chances, scores, atol=1e-7, rtol=0)
        assert stats.forwards == all_run.forwards
        assert stats.passes < all_run.passes
        assert stats.contrasted == stats.steps == all_run.steps


def test_missed_columns_enter_in_one_chunk(llava, processor, heads, inputs):
    """Every column of the text, until the last one that asked for a branch, has been through the branch once."""
    widths = []
    decoder, width = DECODERS["vcd"](heads), inputs["input_ids"].shape[1]
    with sightline.attach(llava, decoder, inputs, branching="sequential") as attached:
        handle = llava.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: widths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        )
        llava.generate(**inputs, logits_processor=[attached], max_new_tokens=STEPS, do_sample=False)
    handle.remove()
    assert widths[:2] == [width, width]
    chunks = [each for each in widths[2:] if each > 1]
    assert chunks
    assert len(widths) == attached.stats.passes
    assert sum(widths) <= 2 * (width + STEPS - 1)


def test_caching_nothing_leaves_branches_out_too(llava, processor, heads, inputs):
    decoder = DECODERS["vcd"](heads)
    tokens, chances, stats = run(llava, decoder, inputs, processor, use_cache=False)
    expected, scores, whole = run(llava, decoder, inputs, processor, "rows", use_cache=False)
    assert tokens == expected
    torch.testing.assert_close(chances, scores, atol=1e-7, rtol=0)
    assert whole.forwards < stats.passes < 2 * whole.forwards


@pytest.mark.parametrize("kwargs", [{"num_beams": 2}, {"cache_implementation": "static"}])
def test_beams_and_static_caches_wait_for_nobody(llava, processor, heads, inputs, kwargs):
    stats = run(llava, DECODERS["vcd"](heads), inputs, processor, **kwargs)[2]
    assert stats.passes == 2 * stats.forwards


def test_a_trace_reads_every_branch(llava, processor, heads, inputs):
    traced = sightline.trace(
        llava, DECODERS["vcd"](heads), inputs, branching="sequential", max_new_tokens=STEPS, do_sample=False
    )
    assert traced.stats.passes == 2 * traced.stats.forwards


def test_scores_of_given_words_run_every_branch(llava, processor, heads, inputs):
    decoder = sightline.AVC(lamb=0.3, alpha=2.0, beta=CUT)  # one forward for each token: it reads attention
    for normalise in (True, False):
        words, found = [[7, 8, 9, 2]], {}
        for branching in ("rows", "sequential"):
            found[branching] = sightline.score(llava, decoder, inputs, words, normalise=normalise, branching=branching)
        torch.testing.assert_close(found["rows"], found["sequential"])


def test_cuts_that_ask_the_branches_cannot_be_known(llava, processor, heads, inputs):
    for decoder in (sightline.CODE(desc_prompt="Tell.", desc_max_new_tokens=6), ACTIVE["cgvlm"](heads)):
        stats = run(llava, decoder, inputs, processor)[2]
        rows = run(llava, decoder, inputs, processor, "rows")[2]
        assert stats.rows >= rows.rows
