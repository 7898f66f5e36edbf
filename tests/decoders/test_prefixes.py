"""Beginnings that rows of one generation have in common: run once, and nothing changes by it."""

import pytest
import sightline
import torch
from letters import asked, llava_processor, noise_image
from promised import TEXTS, lists, spans
from sightline.decoders import prefixes
from sightline.decoders.prefixes import PrefilledOnce
from sightline.models.versions import PIECES

DECODERS = {
    "cgvlm": lambda heads: sightline.CGVLM(k=0.0, alpha=0.5, absent_image="blank"),
    "cgvlm noise": lambda heads: sightline.CGVLM(k=0.0, alpha=0.5, absent_image="noise"),
    "vcd": lambda heads: sightline.VCD(alpha=2.0, noise_step=900),
    "cad": lambda heads: sightline.CAD(alpha=2.0),
    "code": lambda heads: sightline.CODE(desc_prompt="Tell.", desc_max_new_tokens=6),
    "causalmm": lambda heads: sightline.CausalMM(gamma=2.0),
    "causalmm vision": lambda heads: sightline.CausalMM(modality="vision", gamma=2.0),
    "avc": lambda heads: sightline.AVC(lamb=0.3, alpha=2.0),
    "iava": lambda heads: sightline.IAVA(lamb=-0.2, alpha=2.0, instruction="Tell."),
    "decore": lambda heads: sightline.DeCoRe(num_heads=3, heads=heads, alpha_mode="static", alpha=4.0),
}
SPLIT = ("cgvlm", "cgvlm noise", "vcd", "cad", "causalmm vision")
MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "static": {"cache_implementation": "static"},
    "chunks": {"prefill_chunk_size": 5},
}
REFUSED = [("static", "code"), *(("chunks", name) for name in DECODERS if name not in ("vcd", "causalmm vision"))]
"""Long descriptions do not fit a buffer of fixed size; forks and prompts of another length come in one piece."""
CASES = [
    (mode, name) for mode in MODES for name in DECODERS if (mode, name) not in REFUSED and (PIECES or mode != "chunks")
]


@pytest.fixture(scope="module")
def processor():
    return llava_processor()


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    return lists(tmp_path_factory.mktemp("lists"))


@pytest.fixture(scope="module")
def inputs(processor):
    """One prompt."""
    return asked(processor, [[noise_image(0)]], TEXTS[:1])


def run(model, decoder, inputs, processor, **kwargs):
    """Tokens, scores `[steps, rows, vocab]` and what they cost."""
    settings = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    marked = {"processor": processor, "spans": spans(processor, inputs), "branching": "rows"}
    with sightline.attach(model, decoder, inputs, **marked) as attached:
        output = model.generate(**inputs, logits_processor=[attached], **(settings | kwargs))
    assert "forward" not in vars(model.get_decoder())
    return output.sequences.tolist(), torch.stack(output.scores), attached.stats


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_nothing_changes_by_it(llava, processor, heads, inputs, monkeypatch, name, mode):
    """Also where hardly anything is common, and a call is cut in two for nothing."""
    decoder = DECODERS[name](heads)
    run(llava, decoder, inputs, processor)  # a description is made once per image
    monkeypatch.setattr(prefixes, "SPARED", 0)
    tokens, scores, stats = run(llava, decoder, inputs, processor, **MODES[mode])
    monkeypatch.setattr(PrefilledOnce, "serves", lambda adapter: False)
    expected, whole, plain = run(llava, decoder, inputs, processor, **MODES[mode])
    assert tokens == expected
    torch.testing.assert_close(scores.softmax(-1), whole.softmax(-1), atol=1e-9, rtol=0)
    assert (stats.forwards, stats.tokens) == (plain.forwards, plain.tokens)
    if mode == "greedy" and name in SPLIT:
        assert stats.passes == plain.passes + 1
        assert stats.columns <= plain.columns
    if mode == "static":
        assert stats.passes == plain.passes, "buffers of fixed size are filled in one call"


def test_coalitions_with_one_image_run_it_once(llava, processor, heads, inputs, monkeypatch):
    """What stands before the question is run for two rows, in place of four."""
    monkeypatch.setattr(prefixes, "SPARED", 0)
    decoder = DECODERS["cgvlm"](heads)
    columns, width = [], inputs["input_ids"].shape[1]

    def listen(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        columns.append(tuple(hidden.shape[:2]))

    handle = llava.get_decoder().layers[0].register_forward_pre_hook(listen, with_kwargs=True)
    _, _, stats = run(llava, decoder, inputs, processor, max_new_tokens=1)
    handle.remove()
    (first, common), (rows, own) = columns[-2:]
    assert (first, rows, common + own) == (2, 4, width + 2), "two columns for the forks"
    assert stats.columns == first * common + rows * own


def test_rows_of_a_batch_are_left_to_the_harness(llava, processor, heads, monkeypatch):
    """As plain `generate()` leaves them."""
    monkeypatch.setattr(prefixes, "SPARED", 0)
    two = asked(processor, [[noise_image(0)], [noise_image(0)]], TEXTS[:2])
    _, _, stats = run(llava, DECODERS["vcd"](heads), two, processor)
    assert stats.passes == stats.forwards


def test_a_forward_that_is_another_s_is_left_alone(llava, processor, heads, inputs, monkeypatch):
    """Placed models have a forward of their own on the decoder; so has the harness, which shares by itself."""
    monkeypatch.setattr(prefixes, "SPARED", 0)
    decoder, held = llava.get_decoder(), llava.get_decoder().forward
    monkeypatch.setitem(vars(decoder), "forward", lambda **kwargs: held(**kwargs))
    settings = {"max_new_tokens": 2, "do_sample": False}
    with sightline.attach(llava, DECODERS["cgvlm"](heads), inputs, processor=processor, branching="rows") as attached:
        llava.generate(**inputs, logits_processor=[attached], **settings)
    assert attached.stats.passes == attached.stats.forwards


@pytest.mark.parametrize(("device", "split"), [("cpu", True), ("cuda", False)])
def test_accelerators_split_where_much_is_spared(monkeypatch, device, split):
    """A second call reads all weights again: there a few columns are not worth it."""
    length = {"rows": 4, "width": 50, "own": 10}
    ids = torch.arange(length["width"]).expand(length["rows"], -1).clone()
    ids[:, -length["own"] :] += torch.arange(length["rows"])[:, None]
    mask, places = torch.ones_like(ids, dtype=torch.bool), torch.arange(length["width"])[None]
    call = {"input_ids": ids, "position_ids": places}
    monkeypatch.setattr(prefixes, "_accelerated", lambda tensor: device != "cpu")
    found = prefixes.beginnings(None, call, mask, 1)
    assert (found is not None) is split
    if found is not None:
        assert (found.columns, found.spared) == (40, 120)


def test_cache_positions_are_cut_with_their_columns():
    """Older versions of transformers say at which columns of the cache a call begins."""
    ids = torch.arange(12).view(2, 6)
    call = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": torch.arange(6)[None],
        "cache_position": torch.arange(6),
    }  # fmt: skip
    part = prefixes._part(call, torch.tensor([1]), slice(2, 6), seen=6)
    assert part["cache_position"].tolist() == [2, 3, 4, 5]
    assert part["position_ids"].tolist() == [[2, 3, 4, 5]]
    assert part["input_ids"].equal(ids[1:, 2:])
    del call["cache_position"]
    assert "cache_position" not in prefixes._part(call, torch.tensor([1]), slice(2, 6), seen=6)
