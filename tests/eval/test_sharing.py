"""What questions about one image share: the same answers with and without, and nothing run that need not be."""

import dataclasses
import json
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from image_text import image_text_model, image_text_processor, questions
from letters import asked, noise_image
from qwen import SIZES, qwen_model, qwen_processor
from sightline.decoders import attach, build, prefixes
from sightline.decoders.prefixes import common
from sightline.eval import encoded
from sightline.eval.answering import Answerer, Words
from sightline.eval.encoded import cut, joined, taken_apart
from sightline.eval.plan import renderer
from sightline.eval.processed import first_places, processed_once, repeated
from sightline.eval.records import read_samples
from sightline.eval.settings import GenerationSettings
from sightline.eval.sharing import Sharing
from sightline.eval.tasks.pope import ANSWERS
from sightline.models import adapter_for, load
from transformers.modeling_outputs import BaseModelOutputWithPooling

SHIPPED = ("tiny-llava", "tiny-qwen-vl", "tiny-instructblip")
TEXTS = [
    *(f"Is there a {kind} in the image?" for kind in ("star", "circle", "ring", "heart")),
    "What colour is the star?",
    "Is there a cross in the image? Please answer with one word.",
]
PICTURES = [noise_image(seed, 64, 64) for seed in range(3)]


@pytest.fixture(scope="module")
def shipped():
    known = {}

    def get(name):
        if name not in known:
            known[name] = load(name, dtype="float64", device="cpu")
        return known[name]

    return get


def answerer(loaded, decoder="greedy", share="none", **generation):
    settled = dataclasses.replace(GenerationSettings(), **{"max_new_tokens": 3, **generation})
    words = Words.of(loaded, ANSWERS)
    return Answerer(loaded, build(decoder, {}), settled, words, share)


def ask(who, pictures, texts, seeds=None):
    render = renderer(who.loaded.processor, "")
    return who.ask([render(text) for text in texts], pictures, seeds or [None] * len(texts))


@contextmanager
def watched(module):
    """Rows and columns of what the module is called with, call by call."""
    seen = []
    handle = module.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append(tuple((args[0] if args else next(iter(kwargs.values()))).shape)),
        with_kwargs=True,
    )
    try:
        yield seen
    finally:
        handle.remove()


CASES = [
    *((name, decoder) for name in SHIPPED for decoder in ("greedy", "vcd", "decore", "cgvlm")),
    *(("tiny-llava", decoder) for decoder in ("avc", "iava", "hicd", "causalmm", "code", "cut_only", "shift")),
]


ENCODED = {"vcd": (2, 2, 0), "cgvlm": (4, 2, 0), "causalmm": (2, 1, 1)}
"""How often a row's image is encoded, how many versions of it there are, how often the tower's attention is edited."""


@pytest.mark.parametrize(("name", "decoder"), CASES)
def test_answers_are_the_same_and_each_image_is_encoded_once(shipped, name, decoder):
    loaded = shipped(name)
    batch = [picture for picture in PICTURES[:2] for _ in TEXTS[:3]], TEXTS[:3] + TEXTS[3:]
    plain, cost = ask(answerer(loaded, decoder), *batch)
    assert (cost.images, cost.prompt_tokens) == (0, 0)
    for share in ("image", "auto"):
        found, cost = ask(answerer(loaded, decoder, share), *batch)
        assert found == plain
        asks, kinds, edited = ENCODED.get(decoder, (1, 1, 0))
        assert (cost.images, cost.encoded) == (6 * asks, 2 * kinds + 6 * edited)
        served = share == "auto" and name != "tiny-instructblip"
        assert (cost.prompt_tokens > 0) == served
        assert (cost.prefilled < cost.prompt_tokens) == (served and decoder not in ("hicd", "causalmm"))


@pytest.mark.parametrize("decoder", ["greedy", "vcd", "decore"])
def test_the_tower_and_the_decoder_run_what_the_counts_say(shipped, decoder):
    loaded = shipped("tiny-llava")
    pictures, texts = [picture for picture in PICTURES[:2] for _ in range(4)], TEXTS[:4] * 2
    patches, layer = loaded.adapter.vision_tower.embeddings.patch_embedding, loaded.adapter.decoder.layers[0].self_attn
    runs = {}
    for share in ("none", "auto"):
        who = answerer(loaded, decoder, share, max_new_tokens=1)
        ask(who, pictures, texts)
        with watched(patches) as rows, watched(layer.q_proj) as columns:
            _, cost = ask(who, PICTURES[1:2] * 8, TEXTS[:4] + TEXTS[:4])
        runs[share] = sum(shape[0] for shape in rows), sum(shape[0] * shape[1] for shape in columns), cost
    kinds = 2 if decoder == "vcd" else 1
    assert runs["none"][0] == 8 * kinds
    assert runs["auto"][0] == runs["auto"][2].encoded == 0  # the batch before had it, noised too
    assert runs["auto"][2].images == 8 * kinds
    assert runs["auto"][2].prefilled <= runs["auto"][1] < 0.5 * runs["none"][1]
    assert runs["auto"][2].prompt_tokens <= runs["none"][1] < 1.2 * runs["auto"][2].prompt_tokens


@pytest.mark.parametrize("decoder", ["greedy", "vcd", "avc", "cgvlm"])
def test_prompts_of_one_length_share_too(shipped, decoder):
    loaded = shipped("tiny-llava")
    batch = PICTURES[:1] * 2 + PICTURES[1:2] * 2, [TEXTS[0], "Is there a ring in the image?"] * 2
    render = renderer(loaded.processor, "")
    assert len(set(answerer(loaded).lengths([render(text) for text in batch[1]]))) == 1
    plain, _ = ask(answerer(loaded, decoder), *batch)
    found, cost = ask(answerer(loaded, decoder, "auto"), *batch)
    assert found == plain
    assert cost.prefilled < cost.prompt_tokens


@pytest.mark.parametrize("mode", ["sample", "beam"])
@pytest.mark.parametrize("decoder", ["greedy", "vcd"])
def test_drawn_answers_and_beams_are_the_same(shipped, mode, decoder):
    loaded = shipped("tiny-llava")
    decoder = "sample" if (mode, decoder) == ("sample", "greedy") else decoder
    batch = PICTURES[:1] * 3 + PICTURES[1:2] * 3, TEXTS, list(range(6))
    plain, _ = ask(answerer(loaded, decoder, mode=mode, num_beams=3), *batch)
    found, cost = ask(answerer(loaded, decoder, "auto", mode=mode, num_beams=3), *batch)
    assert found == plain
    assert cost.prefilled < cost.prompt_tokens / 2


@pytest.mark.parametrize("name", SHIPPED)
def test_pictures_are_processed_once(shipped, name):
    loaded = shipped(name)
    who, again = answerer(loaded), [0, 1, 0, 2, 2, 0]
    prompts = [renderer(loaded.processor, "")(text) for text in TEXTS]
    plain = who._inputs(prompts, [PICTURES[place] for place in again])
    before = loaded.processor.image_processor.preprocess
    with processed_once(loaded.processor):
        with pytest.MonkeyPatch.context() as patch:
            seen = []
            resize = type(loaded.processor.image_processor)._preprocess
            patch.setattr(
                type(loaded.processor.image_processor),
                "_preprocess",
                lambda self, images, *args, **kwargs: seen.extend(images) or resize(self, images, *args, **kwargs),
            )
            found = who._inputs(prompts, [PICTURES[place] for place in again])
    assert len(seen) == 3
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[key], plain[key]) for key in plain)
    assert loaded.processor.image_processor.preprocess == before


def test_pictures_without_a_part_of_their_own_are_left_alone():
    made = {"pixel_values": torch.rand(5, 2), "image_grid_thw": torch.tensor([[1, 2, 2], [1, 1, 1]])}
    assert [len(repeated(key, made, [0, 1, 0], 2)) for key in made] == [9, 3]
    assert repeated("pixel_values", {"pixel_values": torch.rand(3, 2)}, [0, 1, 0], 2) is None  # crops of two pictures
    assert repeated("sizes", {"sizes": [[4, 4], [4, 4]]}, [0, 1, 0], 2) is None
    assert first_places(PICTURES) is None
    assert first_places([[PICTURES[0]], [PICTURES[0]]]) is None
    assert first_places([PICTURES[1], PICTURES[0], PICTURES[1]]) == [0, 1, 0]


def test_only_the_batch_before_is_kept(shipped):
    who = answerer(shipped("tiny-llava"), share="image")
    encoded_by_turns = [ask(who, [PICTURES[place]], TEXTS[:1])[1].encoded for place in (0, 0, 1, 1, 0)]
    assert encoded_by_turns == [1, 0, 1, 0, 1]


def test_nothing_stays_on_the_model(shipped):
    loaded = shipped("tiny-llava")
    modules = [loaded.adapter.vision_tower, loaded.adapter.projector, loaded.adapter.decoder]
    who = answerer(loaded, "vcd", "auto")
    for spoilt in (False, True):
        with pytest.raises(TypeError) if spoilt else watched(modules[0]):
            ask(who, PICTURES, [*TEXTS[:2], 3 if spoilt else TEXTS[2]])
        assert not any("forward" in vars(module) for module in modules)
    with pytest.raises(RuntimeError, match="in the middle"), who.sharing.batch():
        who.loaded.adapter.vision_tower(torch.zeros(1, 3, 64, 64, dtype=torch.float64))
        raise RuntimeError("in the middle")
    assert not any("forward" in vars(module) for module in modules)
    assert ask(who, PICTURES[:1], TEXTS[:1])[1].encoded == 2


def test_images_are_told_apart_bit_by_bit(shipped, monkeypatch):
    monkeypatch.setattr(encoded, "sums_of", lambda images: [(0, 0)] * len(images))
    loaded = shipped("tiny-llava")
    batch = PICTURES + PICTURES[:2], [TEXTS[0]] * 5
    found, cost = ask(answerer(loaded, share="auto"), *batch)
    assert found == ask(answerer(loaded), *batch)[0]
    assert (cost.images, cost.encoded) == (5, 3)


def said(adapter, decoder, inputs, share):
    """Tokens of an attached strategy under sharing."""
    sharing = Sharing(adapter, share)
    with torch.no_grad(), sharing.batch() as shared, attach(adapter.model, build(decoder, {}), inputs) as processor:
        ids = adapter.model.generate(**inputs, logits_processor=[processor], max_new_tokens=4, do_sample=False)
    return ids.tolist(), shared


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("decoder", ["greedy", "vcd", "avc"])
def test_images_of_all_sizes_in_one_row(kind, decoder, monkeypatch):
    adapter = adapter_for(qwen_model(kind))
    monkeypatch.setattr(prefixes, "SPARED", 0)
    pictures = [noise_image(place, *size) for place, size in enumerate(SIZES)]
    order = [0, 0, 3, 3, 3, 1]
    inputs = asked(qwen_processor(kind), [[pictures[place]] for place in order], ["a?", "a cat?", "x", "xy", "z!", "q"])
    plain, _ = said(adapter, decoder, inputs, "none")
    for share in ("image", "auto"):
        found, shared = said(adapter, decoder, inputs, share)
        assert found == plain
        kinds = 2 if decoder == "vcd" else 1
        assert (shared.images, shared.encoded) == (6 * kinds, 3 * kinds)
    assert shared.prefilled < shared.prompt_tokens


@pytest.mark.parametrize("kind", ["gemma3", "idefics3", "internvl", "paligemma", "smolvlm"])
def test_other_families_share_images(kind):
    adapter = adapter_for(image_text_model(kind))
    inputs = questions(
        kind, image_text_processor(kind), [[noise_image(place)] for place in (0, 0, 1)], ["a?", "abc", "a"]
    )
    plain, _ = said(adapter, "greedy", inputs, "none")
    found, shared = said(adapter, "greedy", inputs, "auto")
    assert found == plain
    assert (shared.images, shared.encoded) == (3, 2)
    assert (shared.prompt_tokens > 0) == (kind not in ("gemma3", "paligemma"))  # theirs see later columns


def test_common_beginnings_equal_a_count_by_hand():
    generator = torch.Generator().manual_seed(0)
    width, starts = 9, torch.tensor([0, 2, 2, 5, 1])
    ids = torch.randint(0, 2, (5, width), generator=generator)
    features = ids[..., None].repeat(1, 1, 3).double()
    rows = [ids[row, start:].tolist() for row, start in enumerate(starts.tolist())]

    def count(one, other):
        length = 0
        while length < min(len(one), len(other)) and one[length] == other[length]:
            length += 1
        return length

    expected = [count(*pair) for pair in pairwise(rows)]
    assert common([features], starts).tolist() == expected
    assert len(set(expected)) > 1
    apart = torch.zeros_like(ids)
    apart[1, 2] = 1  # what else is said of the first token of row 1 sets it apart from its neighbours
    assert common([features, apart], starts).tolist() == [0, 0, *expected[2:]]


def test_outputs_are_cut_and_joined_again():
    whole = BaseModelOutputWithPooling(
        last_hidden_state=torch.rand(4, 3), hidden_states=(torch.rand(4, 2, 2), torch.rand(4, 1))
    )
    pieces = cut(whole, [1, 1, 1, 1], packed=False)
    assert [tuple(piece.last_hidden_state.shape) for piece in pieces] == [(1, 3)] * 4
    again = joined(pieces)
    assert torch.equal(again.last_hidden_state, whole.last_hidden_state)
    assert all(map(torch.equal, again.hidden_states, whole.hidden_states))
    merged = cut([torch.rand(12, 2), torch.rand(3, 5)], [8, 4], packed=True)
    assert [[len(part) for part in piece] for piece in merged] == [[8, 2], [4, 1]]
    assert cut(torch.rand(3, 5), [6, 6], packed=True) is None  # a token of two images
    assert cut(torch.rand(2, 5), [1, 1, 1, 1], packed=False) is None
    assert cut({"features": torch.rand(4)}, [1] * 4, packed=False) is None


def test_calls_that_are_not_made_of_images_are_left_alone():
    rows = torch.rand(2, 3, 4, 4)
    assert taken_apart((rows,), {"return_dict": True}).sizes == [1, 1]
    assert taken_apart((rows,), {"mask": torch.ones(2, 4, dtype=torch.bool)}).sizes == [1, 1]
    assert taken_apart((rows,), {"table": torch.ones(5, 4)}) is None
    assert taken_apart((rows,), {"hints": [torch.ones(2)]}) is None
    assert taken_apart((torch.rand(8, 6),), {}) is None
    assert taken_apart((torch.rand(8, 6),), {"grid_thw": torch.tensor([[1, 2, 2], [1, 1, 2]])}) is None
    assert taken_apart((torch.rand(6, 6), torch.tensor([[1, 2, 2], [1, 1, 2]])), {}).sizes == [4, 2]
    assert taken_apart((), {"return_dict": True}) is None


@pytest.mark.parametrize("decoder", ["greedy", "vcd"])
def test_runs_have_the_same_bytes_and_say_what_was_shared(launch, decoder, monkeypatch):
    monkeypatch.setattr(prefixes, "SPARED", 0)
    samples, told = {}, {}
    for share in ("none", "image", "auto"):
        outcome = launch(f"decoder={decoder}", f"run.share={share}", "run.batch_size=6", dir=share)
        samples[share] = (outcome.folder / "samples" / "pope.jsonl").read_bytes()
        told[share] = json.loads((outcome.folder / "timings" / "summary.json").read_text())["shared"]
        assert json.loads((outcome.folder / "manifest.json").read_text())["share"] == share
    assert samples["none"] == samples["image"] == samples["auto"]
    kinds = 2 if decoder == "vcd" else 1
    assert told["none"] == {"images": None, "prompt_tokens": None}
    assert told["image"] == {"images": {"asked": 24 * kinds, "encoded": 6 * kinds}, "prompt_tokens": None}
    assert told["auto"]["images"] == told["image"]["images"]
    assert told["auto"]["prompt_tokens"]["prefilled"] < told["auto"]["prompt_tokens"]["asked"]


def test_files_with_equal_bytes_are_one_image(launch, pope):
    (pope / "images" / "image_01.png").write_bytes((pope / "images" / "image_00.png").read_bytes())
    outcome = launch()
    manifest = json.loads((outcome.folder / "manifest.json").read_text())
    answers = {}
    for record in read_samples(outcome.folder / "samples" / "pope.jsonl"):
        answers.setdefault((record.image_id in ("image_00", "image_01") or record.image_id, record.prompt), set()).add(
            (record.output, record.margin)
        )
    assert manifest["n_requests"] == len(answers) < 24
    assert all(len(said) == 1 for said in answers.values())


@pytest.mark.parametrize("decoder", ["greedy", "vcd", "decore", "cgvlm"])
def test_rows_of_one_image_stand_at_different_columns(shipped, decoder):
    loaded = shipped("tiny-llava")
    batch = PICTURES[:1] * 4, [TEXTS[0], TEXTS[5], TEXTS[1], TEXTS[5].replace("cross", "ring")]
    plain, _ = ask(answerer(loaded, decoder), *batch)
    found, cost = ask(answerer(loaded, decoder, "auto"), *batch)
    assert found == plain
    assert cost.prefilled < 0.6 * cost.prompt_tokens
