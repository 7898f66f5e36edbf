"""Loading by name and folder, and what is said when there is nothing to load."""

import json
from hashlib import sha256
from shutil import copytree

import pytest
import torch
from PIL import Image
from sightline.models import adapter_for, auto, errors, load
from sightline.models.auto import SHIPPED
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


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts the shipped text model into an empty cache of the hub, as a download of that commit leaves it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(commit):
        folder = tmp_path / "models--someone--tiny-llama"
        copytree(SHIPPED / "tiny-llama", folder / "snapshots" / commit)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)

    return put


def test_a_hub_id_is_read_from_the_hubs_cache_and_known_by_its_commit(hub):
    own, found = load("tiny-llama", device="cpu"), []
    for commit in ("a" * 40, "b" * 40):
        hub(commit)
        loaded = load("someone/tiny-llama", device="cpu")
        assert loaded.source == "someone/tiny-llama"
        assert all(loaded.model.state_dict()[name].equal(value) for name, value in own.model.state_dict().items())
        assert loaded.processor.padding_side == "left"
        assert load("someone/tiny-llama", device="cpu").fingerprint == loaded.fingerprint
        found.append(loaded.fingerprint)
    assert len({own.fingerprint, *found}) == 3
    assert load("someone/tiny-llama", revision="a" * 40, device="cpu").fingerprint == found[0]


def test_large_weights_are_known_by_size_header_and_samples(tmp_path, monkeypatch):
    """A file with a header of 8 bytes; what changes in it changes its digest, wherever a sample lies."""
    monkeypatch.setattr(auto, "_WHOLE_FILE", 2**20)
    content = bytearray((8).to_bytes(8, "little") + b"the head" + bytes(range(256)) * 2**13)
    file, found = tmp_path / "model.safetensors", []
    for place in (None, 8, len(content) // 2, len(content) - 1):
        changed = content.copy()
        if place is not None:
            changed[place] ^= 1
        file.write_bytes(changed)
        found.append(auto._file_digest(file))
        assert auto._file_digest(file) == found[-1]
    file.write_bytes(content + b"\0")
    assert len({*found, auto._file_digest(file)}) == 5
    monkeypatch.setattr(auto, "_WHOLE_FILE", 8 * 2**20)
    assert auto._file_digest(file) == sha256(content + b"\0").digest()


def test_running_out_of_memory_is_not_put_down_to_the_files(monkeypatch):
    def full(*_args):
        raise MemoryError

    monkeypatch.setattr(auto, "_read", full)
    with pytest.raises(MemoryError):
        load("tiny-llama")
