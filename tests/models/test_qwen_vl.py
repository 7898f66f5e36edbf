"""The Qwen-VL adapter and its loading: checkpoints in the hub's layout, with and without torchvision."""

import json

import pytest
import torch
from letters import asked, noise_image
from naive_family import IMAGE
from qwen import (
    FRAMES,
    KINDS,
    PATCH,
    SIZES,
    STOCK,
    QwenSight,
    pieces,
    places,
    qwen_model,
    qwen_processor,
)
from sightline.decoders.layers import edited_vision
from sightline.decoders.plan import HeadEdit, MapEdit
from sightline.models import adapter_for, auto, errors, load, qwen_vl_processor
from sightline.models.attention import LayerState, installed

IMAGES = [noise_image(row, *SIZES[row]) for row in range(4)]


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return qwen_model(request.param)


@pytest.fixture(scope="module")
def processor():
    return qwen_processor()


@pytest.fixture
def batch(processor):
    """Two images in the first row, one in the second, none of one size."""
    return asked(processor, [IMAGES[:2], IMAGES[2:3]], ["Is it?", "What do you see in it?"])


# Loading


def saved(kind, folder):
    """A checkpoint as the hub has it: no processor_config.json, the image processor's settings on their own."""
    model, processor = qwen_model(kind, scale=1).float(), qwen_processor(kind)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").unlink()
    own = json.loads((folder / "preprocessor_config.json").read_text())
    own["processor_class"] = settings["processor_class"]
    (folder / "preprocessor_config.json").write_text(json.dumps(own))
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["hub", "saved"])
def test_checkpoints_load_as_those_of_the_hub_do(kind, layout, tmp_path):
    model = saved(kind, tmp_path)
    if layout == "saved":
        qwen_processor(kind).save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= files
    loaded = load(str(tmp_path), device="cpu")
    assert type(loaded.processor).__name__ == STOCK[kind]
    assert loaded.processor.tokenizer.padding_side == "left"
    assert (loaded.adapter.family, loaded.adapter.layers, loaded.adapter.heads) == ("qwen_vl", 3, 4)
    made = asked(loaded.processor, [[image] for image in IMAGES], ["Why?", "So?", "Is it red?", "No."])
    assert all(torch.equal(made[name], value) for name, value in asked(
        qwen_processor(kind), [[image] for image in IMAGES], ["Why?", "So?", "Is it red?", "No."]
    ).items())  # fmt: skip
    inputs = made | {"pixel_values": made["pixel_values"].float()}
    settings = {"max_new_tokens": 3, "do_sample": False}
    model.generation_config.eos_token_id = loaded.model.generation_config.eos_token_id
    assert loaded.model.generate(**inputs, **settings).equal(model.generate(**inputs, **settings))


def test_the_stock_processor_is_used_where_torchvision_is(tmp_path, monkeypatch):
    saved("qwen2_5_vl", tmp_path)
    monkeypatch.setattr(qwen_vl_processor, "is_torchvision_available", lambda: True)
    asked_for, stand_in = [], qwen_processor()

    class Stock:
        @staticmethod
        def from_pretrained(source, **kwargs):
            asked_for.append(source)
            return stand_in

    monkeypatch.setattr(auto, "AutoProcessor", Stock)
    assert load(str(tmp_path), device="cpu").processor is stand_in
    assert asked_for == [str(tmp_path)]
    monkeypatch.setattr(qwen_vl_processor, "is_torchvision_available", lambda: False)
    load(str(tmp_path), device="cpu")
    assert len(asked_for) == 1
    assert not qwen_vl_processor.needs_image_only_processor("llava")


# What the adapter says


def test_names_of_the_family(model):
    adapter = adapter_for(model)
    assert adapter.owner is model
    assert adapter.decoder is model.model.language_model
    assert adapter.vision_tower is model.model.visual
    assert adapter.projector is model.model.visual.merger
    assert adapter.vision_heads == 3
    assert adapter.vision_attention_modules() == [block.attn for block in model.model.visual.blocks]
    assert adapter.vision_layer == len(model.model.visual.blocks) - 1
    assert adapter.end_tokens == [2]


def test_images_of_rows_and_of_the_batch(model, processor, batch):
    adapter = adapter_for(model)
    rows = adapter.images_of(batch)
    alone = [asked(processor, [IMAGES[:2]], [""]), asked(processor, [IMAGES[2:3]], [""])]
    for row, one in zip(rows, alone, strict=True):
        assert all(row[name].equal(one[name]) for name in ("pixel_values", "image_grid_thw"))
    split = adapter.split_images(batch)
    assert [len(each) for each in split] == [16, 24, 32]
    assert adapter.joined_images(split).equal(batch["pixel_values"])
    assert adapter.packed_columns(batch) == (16, 24, 32)
    assert [len(each) for each in adapter.tower_pixels(batch)] == [16, 24, 32]
    for wrong in (batch["image_grid_thw"][:2], batch["image_grid_thw"][[1, 0, 2]].repeat(2, 1)):
        count = int(wrong.prod(dim=1).sum())
        pixels = batch["pixel_values"].repeat(3, 1)[:count]
        with pytest.raises(errors.InvalidPrompt, match="image tokens of row"):
            adapter.images_of(batch | {"image_grid_thw": wrong, "pixel_values": pixels})


def test_numbers_are_drawn_for_pixels_of_the_still_image(model, batch):
    """Both frames show it, so both get the same numbers, wherever in the patch a frame's pixels stand."""
    adapter = adapter_for(model)
    image = adapter.split_images(batch)[0]
    drawn = adapter.drawn(image, lambda shape: torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    assert drawn.shape == image.shape
    for numbers in (drawn, image):
        frames = numbers.reshape(len(image), 3, FRAMES, PATCH, PATCH)
        assert frames[:, :, 0].equal(frames[:, :, 1])
    assert len(drawn.unique()) == 16 * 3 * PATCH * PATCH


def test_positions_are_written_out(model, processor, batch):
    adapter = adapter_for(model)
    found = adapter.positions(batch)
    grids = list(batch["image_grid_thw"].split([2, 1]))
    for row, ids in enumerate(batch["input_ids"]):
        seen = batch["attention_mask"][row].bool()
        assert found[:, row, seen].equal(places(ids[seen].tolist(), grids[row])[:, 0])
    words = {name: batch[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
    assert adapter.positions(words | {"pixel_values": None, "image_grid_thw": None}) is None


def test_what_enters_the_decoder_goes_in_again(model, processor, batch):
    """Features of later layers (Qwen3-VL) lie behind the embeddings of image tokens, and nowhere else."""
    adapter = adapter_for(model)
    call = adapter.decoder_inputs(batch)
    entering = adapter.entering(call)
    image = adapter.image_mask(batch["input_ids"])
    behind = entering[..., 32:]
    assert behind.shape[-1] == 32 * len(call.get("deepstack_visual_embeds") or ())
    assert not behind[~image].any()
    again = adapter.entered({**call, "visual_pos_masks": None, "deepstack_visual_embeds": None}, entering)
    assert again["inputs_embeds"].equal(call["inputs_embeds"])
    for one, other in zip(again["deepstack_visual_embeds"] or (), call.get("deepstack_visual_embeds", ()), strict=True):
        assert one.equal(other)
    sight = QwenSight(model, processor, IMAGES[2], "What do you see in it?")
    length, made = len(sight.ids), sight.embedded()
    assert entering[1, -length:, :32].allclose(made["inputs_embeds"][0])
    if behind.shape[-1]:
        features = torch.cat(made["deepstack_visual_embeds"], dim=-1)
        assert behind[1, -length:][image[1, -length:]].allclose(features)
        assert features.any()
    blind = adapter.entered(call, torch.where(image[..., None], 0.0, entering))
    assert blind.get("visual_pos_masks") is None


def test_a_rewording_keeps_the_images(model, processor, batch):
    adapter = adapter_for(model)
    made = adapter.reworded(batch, processor, "Tell.")
    expected = asked(processor, [IMAGES[:2], IMAGES[2:3]], ["Tell.", "Tell."])
    assert all(made[name].equal(expected[name]) for name in ("input_ids", "attention_mask", "mm_token_type_ids"))
    bare = adapter.without_image(batch, [[20, 21], []])
    assert not (bare["input_ids"] == IMAGE).any()
    assert not bare["mm_token_type_ids"].any()
    assert bare["pixel_values"] is None
    assert bare["image_grid_thw"] is None


def test_descriptions_are_those_of_each_row(model, processor, batch):
    adapter = adapter_for(model)
    adapter.forget()
    said = adapter.describe(batch, processor, "Tell.", 4)
    for row, (own, text) in enumerate(zip((IMAGES[:2], IMAGES[2:3]), said, strict=True)):
        one = asked(processor, [own], ["Tell."])
        made = model.generate(**one, max_new_tokens=4, do_sample=False)[0, one["input_ids"].shape[1] :]
        assert processor.tokenizer.decode(made, skip_special_tokens=True).strip() == text, row


def test_missing_images_are_said(model, processor, batch):
    adapter = adapter_for(model)
    adapter.require_images(batch, "VCD")
    with pytest.raises(errors.MissingImage, match="pixel_values"):
        adapter.require_images(batch | {"pixel_values": None}, "VCD")


# Edits in the tower


def calls_of(adapter, inputs):
    """Columns of each call of each layer of the tower, in order."""
    modules, found = adapter.vision_attention_modules(), {}

    class Noted(LayerState):
        def keep(self, which, rows, columns, like):
            if which == "uniform":
                found.setdefault(id(self), []).append(columns)

    states = {module: Noted() for module in modules}
    with installed(adapter.vision_tower, states):
        adapter.prompt_embeddings(inputs)
    return [found[id(state)] for state in states.values()]


def test_layers_are_called_image_by_image_and_window_by_window(model, batch):
    found = calls_of(adapter_for(model), batch)
    windows = [piece for image in IMAGES[:3] for piece in pieces(*image.size)]
    whole = [16, 24, 32]
    assert len(windows) > 3
    expected = [windows, whole, windows] if model.config.model_type == "qwen2_5_vl" else [whole] * len(found)
    assert found == expected


def test_a_uniform_head_is_one_without_a_query(model, batch):
    """The fused projection with that head's query rows at zero gives the same, in every window."""
    adapter = adapter_for(model)
    plain = adapter.prompt_embeddings(batch)
    with edited_vision(adapter, (HeadEdit(1, (0, 2)),), batch):
        edited = adapter.prompt_embeddings(batch)
    fused = adapter.vision_attention_modules()[1].qkv
    kept = fused.weight.detach().clone(), fused.bias.detach().clone()
    try:
        for head in (0, 2):
            fused.weight.data[head * 8 : head * 8 + 8] = 0
            fused.bias.data[head * 8 : head * 8 + 8] = 0
        torch.testing.assert_close(adapter.prompt_embeddings(batch), edited, atol=1e-9, rtol=1e-9)
    finally:
        fused.weight.data, fused.bias.data = kept
    assert not plain.allclose(edited)


@pytest.mark.parametrize("kind", ["random", "shuffle"])
def test_an_image_is_edited_alike_whatever_stands_beside_it(model, processor, batch, kind):
    """Draws belong to the image and to places in it: its neighbours in the packed row make no difference."""
    adapter = adapter_for(model)
    layers = tuple(range(adapter.vision_layer + 1))

    def features(inputs, seeds):
        with edited_vision(adapter, (MapEdit(layers, kind, "row", seeds=seeds),), inputs):
            return adapter.prompt_embeddings(inputs)[adapter.image_mask(inputs["input_ids"])]

    together = features(batch, torch.tensor([5, 6, 7]))
    sizes = [4, 6, 8]
    for place, (image, own) in enumerate(zip(IMAGES, together.split(sizes), strict=False)):
        alone = asked(processor, [[image]], ["?"])
        torch.testing.assert_close(features(alone, torch.tensor([5 + place])), own, atol=1e-9, rtol=1e-9)
        assert not features(alone, torch.tensor([1])).allclose(own)


def test_a_tower_that_attends_across_images_is_refused():
    state = LayerState(packed=(16, 24))
    assert [state.piece(columns) for columns in (16, 8, 16, 16)] == [(0, 0), (1, 0), (1, 8), (0, 0)]
    with pytest.raises(errors.UnsupportedModel, match="across images"):
        state.piece(40)


def test_rows_without_images_have_no_image_inputs(model, batch):
    words = {name: batch[name] for name in ("input_ids", "attention_mask")}
    adapter = adapter_for(model)
    assert adapter.images_of(words) == [{}, {}]
    assert [len(row["image_grid_thw"]) for row in adapter.images_of(batch)] == [2, 1]
