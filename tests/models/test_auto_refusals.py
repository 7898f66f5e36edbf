"""What `auto` cannot find, or finds to be otherwise than it takes for granted, on image-text models of no family."""

import pytest
import sightline
import torch
import transformers
from anything import Anything
from image_text import IMAGE, image_text_model, image_text_processor, questions
from letters import noise_image
from promised import RANKED, TEXTS, answers, lists
from sightline.decoders import Branch
from sightline.models import adapter_for, auto_image_text, errors
from sightline.models.auto_image_text import KNOWN, AutoImageTextAdapter


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No memory of models that were checked."""
    monkeypatch.setattr(auto_image_text, "_CHECKED", {name: type(v)() for name, v in auto_image_text._CHECKED.items()})


@pytest.fixture(scope="module")
def processor():
    return image_text_processor("internvl")


@pytest.fixture
def inputs(processor):
    return questions("internvl", processor, [[noise_image(row)] for row in range(2)], TEXTS[:2])


@pytest.fixture
def model():
    return image_text_model("internvl")


@pytest.fixture
def unknown(monkeypatch, model):
    """The same model, were its type not written down."""
    monkeypatch.delitem(KNOWN, "internvl")
    return model


def refused_at_once(model, said):
    with pytest.raises(errors.UnsupportedModel, match=said) as refused:
        AutoImageTextAdapter(model)
    assert "sightline models" in refused.value.hint


# What is not to be found


def test_a_config_without_an_image_token_is_refused(model):
    vars(model.config)["image_token_id"] = None  # the class would check what is set
    refused_at_once(model, "no image-token id")


def test_a_model_that_hands_generation_on_is_refused(model, monkeypatch):
    monkeypatch.setattr("sightline.models.adapter.owner_of", lambda model, decoder: decoder)
    refused_at_once(model, "generates inside another model")


@pytest.mark.parametrize("shown", ["nothing", "no module", "the decoder"])
def test_a_model_that_shows_no_tower_is_refused(model, shown):
    def encoder(modality):
        assert modality == "image"
        if shown == "nothing":
            raise ValueError("no such modality")
        return None if shown == "no module" else model.model

    model.get_encoder = encoder
    refused_at_once(model, "no vision tower")


def test_a_tower_of_another_make_is_left_alone():
    """A ConvNeXt has no attention at all."""
    tower = transformers.ConvNextConfig(hidden_sizes=[8, 24], depths=[1, 1], num_stages=2, hidden_size=24)
    text = transformers.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
    )
    config = transformers.AyaVisionConfig(vision_config=tower, text_config=text, image_token_index=IMAGE)
    adapter = adapter_for(transformers.AyaVisionForConditionalGeneration(config))
    with pytest.raises(errors.UnsupportedModel, match="one attention module per layer") as refused:
        adapter.vision_attention_modules()
    assert "leaves the tower alone" in refused.value.hint


def test_a_projector_is_named_for_known_types_alone(model, monkeypatch):
    adapter = adapter_for(model)
    assert adapter.projector is model.model.multi_modal_projector
    model.model.connector = torch.nn.Identity()
    with pytest.raises(errors.UnsupportedModel, match="no projector"):
        _ = adapter.projector
    del model.model.connector
    monkeypatch.delitem(KNOWN, "internvl")
    with pytest.raises(errors.UnsupportedModel, match="no projector"):
        _ = AutoImageTextAdapter(model).projector


def test_a_tower_that_is_given_patches_is_left_alone(model, inputs, monkeypatch):
    monkeypatch.setattr(
        model.model, "get_image_features", lambda pixel_values, **_: model.model.vision_tower(patches=pixel_values)
    )
    with pytest.raises(errors.UnsupportedModel, match="other than pixels"):
        adapter_for(model).tower_pixels(inputs)


# What the check on the first inputs finds


def changed_calls(model, monkeypatch, change, undo=lambda call: call):
    """The decoder is called with `change` applied to its arguments, and itself undoes that."""
    decoder = model.model.language_model
    forward = decoder.forward
    decoder.register_forward_pre_hook(lambda _module, args, call: (args, change(call)), with_kwargs=True)
    monkeypatch.setattr(decoder, "forward", lambda **call: forward(**undo(call)))


def test_a_decoder_that_is_given_more_than_embeddings_is_refused(model, inputs, monkeypatch):
    changed_calls(model, monkeypatch, lambda call: call | {"deep_features": [torch.ones(1)]})
    with pytest.raises(errors.UnsupportedModel, match="deep_features besides embeddings"):
        sightline.attach(model, "vcd", inputs)


def test_positions_of_several_axes_are_found_out(model, inputs, monkeypatch):
    changed_calls(
        model,
        monkeypatch,
        lambda call: call | {"position_ids": call["position_ids"].expand(3, -1, -1)},
        lambda call: call | {"position_ids": call["position_ids"][0]},
    )
    width = inputs["input_ids"].shape[1]
    with pytest.raises(errors.UnsupportedModel, match="several axes"):
        sightline.attach(model, "vcd", inputs | {"position_ids": torch.arange(width).expand(2, width)})


def whole_masks(call):
    """Additive masks `[rows, 1, q, keys]` made before the decoder, as models with masks of their own make them."""
    mask, columns = call["attention_mask"], call["inputs_embeds"].shape[1]
    if mask is None or mask.dim() != 2:
        return call
    keys = torch.arange(mask.shape[1])
    seen = (keys <= (keys[-columns:, None])) & mask[:, None, None].bool()
    seen = seen | (keys == keys[-columns:, None])  # a padded query sees itself
    dtype = call["inputs_embeds"].dtype
    return call | {"attention_mask": torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)}


def test_masks_of_a_models_own_are_found_out(unknown, processor, inputs, monkeypatch, tmp_path):
    """Branches that see the base's prompt are served; forks and prompts of another length are not."""
    adapter = AutoImageTextAdapter(unknown)
    monkeypatch.setitem(sightline.models.auto._ADAPTERS, unknown, adapter)
    expected = answers(unknown, sightline.VCD(noise_step=700), inputs, processor)
    assert not adapter.whole_prompt
    changed_calls(unknown, monkeypatch, whole_masks)
    auto_image_text._CHECKED["text"].clear()
    assert answers(unknown, sightline.VCD(noise_step=700), inputs, processor) == expected
    assert adapter.whole_prompt
    with pytest.raises(errors.UnsupportedMode, match="see that token"):
        sightline.attach(unknown, sightline.DeCoRe(num_heads=len(RANKED), heads=lists(tmp_path)), inputs)
    shorter = {name: inputs[name][:, 2:] for name in ("input_ids", "attention_mask")}
    with pytest.raises(errors.UnsupportedMode, match="masks of its own"):
        sightline.generate(unknown, Anything((Branch("shorter", inputs=shorter),)), inputs, max_new_tokens=2)


def test_a_model_that_always_gives_all_logits_is_checked_too(model, processor, inputs, monkeypatch):
    expected = answers(model, sightline.VCD(noise_step=700), inputs, processor)
    auto_image_text._CHECKED["text"].clear()
    forward, given = model.forward, []

    def older(input_ids=None, pixel_values=None, attention_mask=None, use_cache=None):
        given.append(True)
        return forward(
            input_ids=input_ids, pixel_values=pixel_values, attention_mask=attention_mask, use_cache=use_cache
        )

    with monkeypatch.context() as patched:
        patched.setattr(model, "forward", older)
        adapter_for(model).check_inputs(inputs)
    assert given
    assert answers(model, sightline.VCD(noise_step=700), inputs, processor) == expected


def test_images_without_their_tokens_are_left_to_the_strategy(model, inputs):
    words = {name: inputs[name][:, -4:] for name in ("input_ids", "attention_mask")}
    sightline.attach(model, "greedy", words).close()
    with pytest.raises(errors.MissingImage, match="no image token"):
        sightline.attach(model, "vcd", words | {"pixel_values": inputs["pixel_values"]})
