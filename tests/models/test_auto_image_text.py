"""What `auto` finds on image-text models, how it loads them, what it refuses, and other types than those it knows."""

import importlib.util
import json
from pathlib import Path

import pytest
import sightline
import torch
import transformers
from image_text import IMAGE, KINDS, image_text_config, image_text_model, image_text_processor, questions
from letters import noise_image
from naive import vcd_scores
from promised import RANKED, STEPS, TEXTS, answers, lists
from sightline.decoders.vcd import noise_images
from sightline.models import FAMILIES, adapter_for, auto_image_text, errors, load
from sightline.models.auto_image_text import KNOWN, AutoImageTextAdapter
from sightline.models.versions import PIECES


@pytest.fixture(scope="module")
def models():
    return {kind: image_text_model(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def processors():
    return {kind: image_text_processor(kind) for kind in KINDS}


def asked(kind, processor, count=2, size=(16, 16)):
    return questions(kind, processor, [[noise_image(row, *size)] for row in range(count)], TEXTS[:count])


# What is found


def test_the_types_are_listed():
    assert set(KNOWN) == set(KINDS)
    assert all(FAMILIES[kind] is AutoImageTextAdapter for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_found_and_are_the_models_own(models, processors, kind):
    model, inputs = models[kind], asked(kind, processors[kind])
    adapter = adapter_for(model)
    adapter.check_inputs(inputs)
    adapter.self_check()
    assert adapter.owner is model
    assert (adapter.layers, adapter.heads, adapter.image_token_id) == (3, 4, IMAGE)
    assert (len(adapter.vision_attention_modules()), adapter.vision_layer, adapter.vision_heads) == (2, 1, 3)
    features = []
    handles = [
        adapter.projector.register_forward_hook(lambda _module, _args, output: features.append(output)),
        adapter.vision_tower.register_forward_hook(lambda _module, _args, output: features.append(output)),
    ]
    call = adapter.decoder_inputs(inputs)
    for handle in handles:
        handle.remove()
    assert len(features) == 2
    image = adapter.image_mask(inputs["input_ids"])
    own = features[1].flatten(0, 1)
    torch.testing.assert_close(call["inputs_embeds"][image], own)
    assert adapter.tower_pixels(inputs).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_load_by_the_path_that_published_ones_take(models, processors, kind, tmp_path):
    """Model and processor files as `save_pretrained` writes them; InternVL and SmolVLM without videos."""
    models[kind].save_pretrained(tmp_path)
    processors[kind].save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == kind
    if kind in ("idefics3", "smolvlm") and not PIECES and not importlib.util.find_spec("torchvision"):
        with pytest.raises(errors.MissingProcessor, match="torchvision"):  # older versions cannot do without it
            load(str(tmp_path))
        return
    loaded = load(str(tmp_path))
    assert type(loaded.model) is type(models[kind])
    assert isinstance(loaded.adapter, AutoImageTextAdapter)
    assert type(loaded.processor).__name__ == type(processors[kind]).__name__
    given, own = asked(kind, loaded.processor), asked(kind, processors[kind])
    assert all(torch.equal(given[name], own[name]) for name in own)
    assert set(given) == set(own)
    decoder = sightline.VCD(noise_step=700)
    expected = answers(models[kind], decoder, own, processors[kind])
    assert answers(loaded.model.double(), decoder, given, loaded.processor) == expected


def test_a_processor_that_needs_a_package_says_so(models, tmp_path, monkeypatch):
    models["gemma3"].save_pretrained(tmp_path)

    def lacking(*_args, **_kwargs):
        raise ImportError("Gemma3Processor requires the pillow library")

    monkeypatch.setattr("sightline.models.auto.AutoProcessor.from_pretrained", lacking)
    with pytest.raises(errors.MissingProcessor, match="pillow"):
        load(str(tmp_path))


# Prompts


@pytest.mark.parametrize("kind", KINDS)
def test_another_instruction_gives_what_the_processor_would(models, processors, kind):
    processor, inputs = processors[kind], asked(kind, processors[kind])
    found = adapter_for(models[kind]).reworded(inputs, processor, "Name it.")
    images = [[noise_image(0)], [noise_image(1)]]
    expected = questions(kind, processor, images, ["Name it."] * 2)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name
    assert set(found) == set(expected) - {"pixel_values", "pixel_attention_mask"}


@pytest.mark.parametrize("kind", ["idefics3", "smolvlm"])
def test_crops_keep_their_markers(models, kind):
    """An image in 2 x 2 crops beside one that is not cut: rows of pixels are padded by images of zeros."""
    processor = image_text_processor(kind, splits=True)
    images, texts = [[noise_image(0, 32, 32)], [noise_image(1, 32, 16)], [noise_image(2, 32, 32)]], TEXTS[:3]
    inputs = questions(kind, processor, images, texts)
    counts = (inputs["input_ids"] == IMAGE).sum(dim=1).tolist()
    assert counts == [20, 12, 20]
    assert inputs["pixel_values"].shape[1] == 5
    adapter, model = adapter_for(models[kind]), models[kind]
    found = adapter.reworded(inputs, processor, "Name it.")
    assert torch.equal(found["input_ids"], questions(kind, processor, images, ["Name it."] * 3)["input_ids"])
    for name in ("vcd", "cgvlm", "code", "causalmm"):
        decoder = {
            "vcd": sightline.VCD(noise_step=700),
            "cgvlm": sightline.CGVLM(alpha=20.0, k=0.005, layers=(0, 1, 2)),
            "code": sightline.CODE(desc_prompt="Tell.", desc_max_new_tokens=4),
            "causalmm": sightline.CausalMM(modality="vision"),
        }[name]
        together = answers(model, decoder, inputs, processor)
        for row in range(3):
            one = questions(kind, processor, [images[row]], [texts[row]])
            assert answers(model, decoder, one, processor) == [together[row]], name


@pytest.mark.parametrize("kind", KINDS)
def test_an_instruction_that_spells_out_an_image_is_refused(models, processors, kind):
    mark = "<boi>" if kind == "gemma3" else "<image>"
    with pytest.raises(errors.InvalidPrompt, match="image tokens"):
        adapter_for(models[kind]).reworded(asked(kind, processors[kind]), processors[kind], f"What is {mark}?")


def test_markers_of_another_family_are_refused(models, processors):
    inputs = asked("idefics3", processors["idefics3"], 1)
    ids = inputs["input_ids"]
    ids[ids == processors["idefics3"].fake_image_token_id] = 9
    with pytest.raises(errors.InvalidPrompt, match="do not stand between markers"):
        adapter_for(models["idefics3"]).reworded(inputs, processors["idefics3"], "Why?")
    with pytest.raises(errors.MissingProcessor, match="whole processor"):
        adapter_for(models["idefics3"]).reworded(inputs, processors["idefics3"].tokenizer, "Why?")


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_told_to_rows(models, processors, kind):
    adapter, processor = adapter_for(models[kind]), processors[kind]
    images = [[noise_image(0)], [noise_image(1), noise_image(2)], [noise_image(3)]]
    inputs = questions(kind, processor, images, TEXTS[:3])
    rows = adapter.images_of(inputs)
    for row, own in zip(rows, images, strict=True):
        alone = questions(kind, processor, [own], TEXTS[:1])["pixel_values"]
        assert torch.equal(row["pixel_values"].reshape(-1, 3, 16, 16)[: len(own)], alone.reshape(-1, 3, 16, 16))
    if not KNOWN[kind].rows:
        inputs["pixel_values"] = inputs["pixel_values"][:3]
        with pytest.raises(errors.InvalidPrompt, match="share evenly"):
            adapter.images_of(inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_on_models_names_every_type(kind):
    page = (Path(sightline.__file__).parent / "docs" / "models.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in FAMILIES)
    assert (f"`{kind}`" in page.partition("## Found by name")[2]) == (FAMILIES[kind] is AutoImageTextAdapter)


# What is refused


@pytest.mark.parametrize("kind", ["gemma3", "paligemma"])
def test_prompts_without_their_token_types_are_refused(models, processors, kind):
    inputs = asked(kind, processors[kind])
    types = inputs.pop("token_type_ids")
    with pytest.raises(errors.InvalidPrompt, match="who sees whom"):
        sightline.attach(models[kind], "vcd", inputs)
    with pytest.raises(errors.InvalidPrompt, match="must be"):
        sightline.attach(models[kind], "vcd", inputs | {"token_type_ids": 1 - types})


def test_an_input_that_is_not_known_is_refused(models, processors):
    inputs = asked("internvl", processors["internvl"]) | {"spatial_shapes": torch.ones(2, 2)}
    with pytest.raises(errors.InvalidPrompt, match="spatial_shapes"):
        sightline.attach(models["internvl"], "greedy", inputs)


@pytest.mark.parametrize("kind", ["idefics3", "smolvlm"])
def test_an_image_of_zeros_is_refused(models, processors, kind):
    decoder = sightline.CGVLM(absent_image="blank", k=1.0)
    with pytest.raises(errors.UnsupportedMode, match="for padding"):
        sightline.attach(models[kind], decoder, asked(kind, processors[kind]), processor=processors[kind])


def test_a_prompt_that_sees_itself_is_not_run_in_chunks(models, processors):
    model, inputs = models["paligemma"], asked("paligemma", processors["paligemma"])
    for branching in ("rows", "sequential"):
        with pytest.raises(errors.UnsupportedMode, match="in one piece" if PIECES else "loses the images"):
            sightline.generate(
                model, "vcd", inputs, branching=branching, prefill_chunk_size=5, max_new_tokens=2, do_sample=False
            )


# The check on the first inputs


def rebuilt(kind, change, monkeypatch):
    """A fresh model whose inner forward is changed, and a fresh memory of checks."""
    model = image_text_model(kind)
    monkeypatch.setattr(auto_image_text, "_CHECKED", {name: type(v)() for name, v in auto_image_text._CHECKED.items()})
    change(model)
    return model


def test_pixels_that_reach_words_are_found_out(processors, monkeypatch):
    def leak(model):
        placed = model.model.get_placeholder_mask
        model.model.get_placeholder_mask = lambda *args, **kwargs: placed(*args, **kwargs).roll(1, dims=1)

    model = rebuilt("internvl", leak, monkeypatch)
    with pytest.raises(errors.SelfCheckFailed, match="elsewhere"):
        sightline.attach(model, "vcd", asked("internvl", processors["internvl"]))


def test_pixels_that_do_not_reach_image_tokens_are_found_out(processors, monkeypatch):
    def deafen(model):
        model.model.multi_modal_projector.register_forward_hook(lambda _module, _args, output: output * 0)

    model = rebuilt("internvl", deafen, monkeypatch)
    with pytest.raises(errors.SelfCheckFailed, match="another way"):
        sightline.attach(model, "vcd", asked("internvl", processors["internvl"]))


def test_a_decoder_that_runs_twice_is_found_out(processors, monkeypatch):
    def doubled(model):
        forward = model.model.forward
        model.model.forward = lambda *args, **kwargs: (forward(*args, **kwargs), forward(*args, **kwargs))[1]

    model = rebuilt("internvl", doubled, monkeypatch)
    with pytest.raises(errors.UnsupportedModel, match="2 times"):
        sightline.attach(model, "vcd", asked("internvl", processors["internvl"]))


def test_the_check_is_made_once(processors, monkeypatch):
    model, calls = rebuilt("gemma3", lambda model: None, monkeypatch), []
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    inputs = asked("gemma3", processors["gemma3"])
    sightline.attach(model, "greedy", inputs).close()
    first = len(calls)
    sightline.attach(model, "greedy", inputs).close()
    assert 0 < first == len(calls)


# Soft caps


def test_scores_behind_a_soft_cap(processors):
    """PaliGemma 2: logits are capped behind the head, scores of attention in it; windows shorter than prompts."""
    model, processor = image_text_model("paligemma2"), processors["paligemma"]
    inputs, found = asked("paligemma", processor, 3), []
    for branching in ("rows", "sequential"):
        with sightline.attach(model, sightline.VCD(noise_step=700), inputs, branching=branching) as attached:
            settings = {"max_new_tokens": STEPS, "do_sample": False, "output_scores": True}
            found.append(
                model.generate(**inputs, **settings, logits_processor=[attached], return_dict_in_generate=True)
            )
    for row in range(3):
        one = questions("paligemma", processor, [[noise_image(row)]], [TEXTS[row]])
        noised, new = noise_images(one["pixel_values"], 700, "sigmoid", 0), []
        for step in range(STEPS):
            grown = one | {"input_ids": torch.cat([one["input_ids"], torch.tensor([new], dtype=torch.long)], 1)}
            grown["attention_mask"] = torch.ones_like(grown["input_ids"])
            grown["token_type_ids"] = (
                torch.arange(grown["input_ids"].shape[1])[None] >= one["input_ids"].shape[1]
            ).long()
            with torch.no_grad():
                clean, other = (
                    model(**grown | {"pixel_values": pixels}, use_cache=False).logits[0, -1].tolist()
                    for pixels in (one["pixel_values"], noised)
                )
            assert max(map(abs, clean)) < 4
            scores = torch.tensor(vcd_scores(clean, other, 1.0, 0.1), dtype=torch.float64)
            for output in found:
                torch.testing.assert_close(output.scores[step][row].double(), scores, atol=1e-4, rtol=1e-4)
            new.append(int(scores.argmax()))
            assert all(int(output.sequences[row, inputs["input_ids"].shape[1] + step]) == new[-1] for output in found)
            if new[-1] == 2:
                break
    with pytest.raises(errors.UnsupportedModel, match="soft-caps"):
        sightline.attach(model, sightline.AVC(), inputs)


# Other types


@pytest.fixture(scope="module")
def other():
    """Aya Vision with a Llama inside: a type of which nothing is written down."""
    torch.manual_seed(0)
    known = image_text_config("idefics3")
    tower = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = transformers.AyaVisionConfig(
        vision_config=transformers.SiglipVisionConfig(**tower, image_size=16, patch_size=4),
        text_config=known.text_config, image_token_index=IMAGE, downsample_factor=2, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.AyaVisionForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    return model


@pytest.fixture(scope="module")
def prompts():
    """Made by hand: three prompts of 4 image tokens, padded on the left."""
    generator = torch.Generator().manual_seed(4)
    ids, mask = torch.zeros(3, 14, dtype=torch.long), torch.zeros(3, 14, dtype=torch.long)
    for row, length in enumerate((10, 7, 5)):
        words = torch.randint(6, 90, (length,), generator=generator)
        ids[row, -length - 4 :] = torch.cat([words[:2], torch.full((4,), IMAGE), words[2:]])
        mask[row, -length - 4 :] = 1
    pixels = torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


def test_an_unknown_type_is_served_after_its_check(other, prompts, tmp_path):
    """VCD against two forwards over the whole text; DeCoRe in rows against the same in sequence."""
    assert isinstance(adapter_for(other), AutoImageTextAdapter)
    assert other.config.model_type not in FAMILIES
    settings = {"max_new_tokens": STEPS, "do_sample": False}
    decoder = sightline.VCD(noise_step=700)
    found = [sightline.generate(other, decoder, prompts, branching=b, **settings) for b in ("rows", "sequential")]
    noised = noise_images(prompts["pixel_values"], 700, "sigmoid", 0)
    for row in range(3):
        length, new = int(prompts["attention_mask"][row].sum()), []
        while len(new) < STEPS and 2 not in new:
            ids = torch.cat([prompts["input_ids"][row, -length:], torch.tensor(new, dtype=torch.long)])[None]
            with torch.no_grad():
                clean, branch = (
                    other(input_ids=ids, pixel_values=pixels[row : row + 1], use_cache=False).logits[0, -1].tolist()
                    for pixels in (prompts["pixel_values"], noised)
                )
            new.append(max(range(len(clean)), key=vcd_scores(clean, branch, 1.0, 0.1).__getitem__))
        for output in found:
            assert output[row, 14 : 14 + len(new)].tolist() == new
    heads = lists(tmp_path)
    plain = other.generate(**prompts, **settings).tolist()
    for decoder in (
        sightline.DeCoRe(num_heads=len(RANKED), heads=heads, alpha_mode="static", alpha=4.0),
        sightline.AVC(lamb=0.3),
        sightline.CausalMM(modality="language", language_layers="all"),
    ):
        rows, apart = (
            sightline.generate(other, decoder, prompts, branching=b, **settings).tolist()
            for b in ("rows", "sequential")
        )
        assert rows == apart
        assert rows != plain


def test_what_is_not_known_of_a_type_is_refused_when_it_is_asked_for(other, prompts, processors):
    for decoder in (sightline.CausalMM(modality="vision"), sightline.CODE(), sightline.IAVA(), sightline.CGVLM(k=1.0)):
        with pytest.raises(errors.UnsupportedModel, match="aya_vision") as refused:
            sightline.attach(other, decoder, prompts, processor=processors["idefics3"])
        assert "Use a strategy that" in refused.value.hint


def test_positions_of_several_axes_need_a_family():
    config = transformers.Glm4vConfig(
        text_config={"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
                     "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0},
        vision_config={"hidden_size": 24, "out_hidden_size": 32, "intermediate_size": 32, "depth": 1, "num_heads": 3,
                       "patch_size": 4, "image_size": 16},
    )  # fmt: skip
    with pytest.raises(errors.UnsupportedModel, match="several axes"):
        adapter_for(transformers.Glm4vForConditionalGeneration(config))
