"""Loading by name and folder, and what is said when there is nothing to load."""

import json

import pytest
import torch
from PIL import Image
from sightline.models import adapter_for, errors, load
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration


def test_missing_weights_end_in_one_clear_sentence():
    with pytest.raises(errors.ModelNotFound) as caught:
        load("llava-hf/llava-1.5-7b-hf")
    text = str(caught.value)
    assert "'llava-hf/llava-1.5-7b-hf'" in text
    assert "hf download" in text
    assert "model.path=FOLDER" in text
    assert "\n" not in text


def test_llava_loads_as_the_published_one_does(tmp_path, llava, inputs):
    """`llava-hf/llava-1.5-7b-hf`: several files with an index, the names of old, an image processor's file apart."""
    llava.save_pretrained(tmp_path, max_shard_size="40KB")
    names = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert {"language_model.model.layers.0.self_attn.q_proj.weight", "language_model.lm_head.weight"} <= names.keys()
    assert len(set(names.values())) > 1
    own = load("tiny-llava", device="cpu").processor
    own.save_pretrained(tmp_path)
    own.image_processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    settings.pop("image_processor")
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    loaded = load(str(tmp_path), device="cpu")
    assert (loaded.adapter.family, loaded.model.dtype) == ("llava", torch.float64)
    assert loaded.processor.tokenizer.padding_side == "left"
    image, text = Image.new("RGB", (50, 40), "teal"), "USER: <image>\nWhat is it? ASSISTANT:"
    asked, expected = (each(images=image, text=text, return_tensors="pt") for each in (loaded.processor, own))
    assert all(asked[name].equal(value) for name, value in expected.items())
    batch = inputs((5, 8))
    with torch.no_grad():
        assert loaded.model(**batch).logits.equal(llava(**batch).logits)


def test_an_incomplete_folder_says_what_it_needs(tmp_path):
    with pytest.raises(errors.ModelNotFound, match="safetensors"):
        load(str(tmp_path))


def test_pickled_weights_are_not_loaded(tmp_path, llama):
    llama.config.save_pretrained(tmp_path)
    torch.save(llama.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(errors.ModelNotFound, match="no complete checkpoint"):
        load(str(tmp_path))


SMALL = {"num_layers": 1, "num_hidden_layers": 1, "num_attention_heads": 2, "num_heads": 2, "vocab_size": 20}


@pytest.mark.parametrize(
    "model",
    [
        T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, **SMALL)),
        BertModel(BertConfig(hidden_size=8, intermediate_size=8, **SMALL)),
    ],
    ids=["t5", "bert"],
)
def test_models_without_a_decoder_only_loop_are_refused(model):
    with pytest.raises(errors.UnsupportedModel, match="decoder-only"):
        adapter_for(model)


def test_adapter_knows_its_model(llava, llama, inputs):
    adapter = adapter_for(llava)
    assert adapter is adapter_for(llava)
    assert (adapter.family, adapter.layers, adapter.heads) == ("llava", 3, 4)
    assert adapter.decoder is llava.model.language_model
    assert adapter.owner is llava
    batch = inputs((5, 8))
    assert adapter.image_mask(batch["input_ids"]).sum(dim=1).tolist() == [4, 4]
    assert not adapter_for(llama).image_mask(batch["input_ids"]).any()


def test_decoder_inputs_are_what_the_decoder_gets(llava, inputs):
    batch = inputs((5, 8))
    seen = {}
    handle = llava.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        llava(**batch)
    handle.remove()
    assert adapter_for(llava).decoder_inputs(batch)["inputs_embeds"].equal(seen["inputs_embeds"])
