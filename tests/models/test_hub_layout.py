"""Checkpoints whose files are laid out as the published ones' are: names of keys, of tensors and of files.

What `save_pretrained` writes today is not what lies at the hub: configurations there are older. `Qwen/Qwen2.5-VL` keeps
its text settings at the top level, `rope_theta` and `rope_scaling` stand beside them, precision is `torch_dtype`, and
an image processor has a file of its own. Here small random models are rewritten into that layout and loaded from it.
"""

import json

import pytest
import sightline
import torch
from instructed import QUERIES, instructed_model, instructed_processor
from letters import asked, llava_processor, noise_image
from qwen import qwen_model, qwen_processor
from safetensors import safe_open
from sightline.models import load

TEXTS = ["Is it red?", "So?"]
SETTINGS = {"max_new_tokens": 4, "do_sample": False}


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def write(file, held):
    file.write_text(json.dumps(held, indent=2), encoding="utf-8")


def older(text):
    """Settings of a text decoder as they were written before `rope_parameters` and `dtype`."""
    rope = dict(text.pop("rope_parameters"))
    text.pop("layer_types", None)
    axes = (
        {"rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]}} if "mrope_section" in rope else {}
    )
    return {**text, "rope_theta": rope["rope_theta"], **axes}


def apart(folder, processor, *kept, **stated):
    """An image processor's settings in a file of their own; what is left, if anything, in `processor_config.json`."""
    processor.image_processor.save_pretrained(folder)
    file, name = folder / "processor_config.json", type(processor).__name__
    left = {key: value for key, value in read(file).items() if key in kept}
    file.unlink()
    if left:
        write(file, {**left, **stated, "processor_class": name})
    pixels = folder / "preprocessor_config.json"
    write(pixels, {**read(pixels), "processor_class": name})


def tensors(folder):
    """Names in all weights files; there are several, with an index."""
    names = set(read(folder / "model.safetensors.index.json")["weight_map"])
    found = set()
    for file in folder.glob("model-0*-of-0*.safetensors"):
        with safe_open(file, "pt") as held:
            found |= set(held.keys())
    assert found == names
    return names


def llava_layout(folder, llava):
    """`llava-hf/llava-1.5-7b-hf`."""
    llava.save_pretrained(folder, max_shard_size="60KB")
    processor = llava_processor()
    processor.save_pretrained(folder)
    kept = ("image_token", "num_additional_image_tokens", "patch_size", "vision_feature_select_strategy")
    apart(folder, processor, *kept)
    config = read(folder / "config.json")
    text = older(config["text_config"]) | {"_name_or_path": "lmsys/vicuna-7b-v1.5", "torch_dtype": "float64"}
    config |= {"torch_dtype": config.pop("dtype"), "ignore_index": -100, "vocab_size": text["vocab_size"]}
    write(folder / "config.json", config | {"text_config": text, "transformers_version": "4.36.0.dev0"})
    assert {"language_model.model.layers.0.self_attn.q_proj.weight", "language_model.lm_head.weight"} <= tensors(folder)
    return llava, processor


def instructblip_layout(folder, _llava):
    """`Salesforce/instructblip-vicuna-7b`."""
    model, processor = instructed_model(), instructed_processor()
    model.save_pretrained(folder, max_shard_size="60KB")
    processor.save_pretrained(folder)
    token = {"content": "<image>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    apart(folder, processor, "num_query_tokens", image_token={**token, "special": True, "__type": "AddedToken"})
    config = read(folder / "config.json")
    text = older(config["text_config"]) | {"_name_or_path": "", "torch_dtype": "float32"}
    config |= {"torch_dtype": config.pop("dtype"), "tie_word_embeddings": False, "text_config": text}
    write(folder / "config.json", config)
    assert config["image_token_index"] == 5
    assert read(folder / "processor_config.json")["num_query_tokens"] == QUERIES
    assert {
        "query_tokens",
        "language_model.lm_head.weight",
        "qformer.encoder.layer.0.crossattention.attention.key.weight",
    } <= (tensors(folder))
    return model, processor


def qwen_layout(folder, _llava):
    """`Qwen/Qwen2.5-VL-7B-Instruct`: text settings at the top level, bounds of pixels, a template in JSON."""
    model, processor = qwen_model("qwen2_5_vl"), qwen_processor("qwen2_5_vl")
    model.save_pretrained(folder, max_shard_size="60KB")
    processor.save_pretrained(folder)
    apart(folder, processor)
    pixels = read(folder / "preprocessor_config.json")
    size = pixels.pop("size")
    pixels |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    write(folder / "preprocessor_config.json", pixels)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    write(folder / "chat_template.json", {"chat_template": template})
    config = read(folder / "config.json")
    text, vision = older(config.pop("text_config")), config["vision_config"]
    text.pop("model_type")
    vision["in_chans"] = vision.pop("in_channels")
    vision["spatial_patch_size"] = vision["patch_size"]
    for name in ("rope_parameters", "model_type"):
        vision.pop(name)
    config["torch_dtype"] = config.pop("dtype")
    write(folder / "config.json", {**text, **config, "vision_token_id": 7})
    assert {"visual.blocks.0.attn.qkv.weight", "model.layers.0.self_attn.q_proj.weight", "lm_head.weight"} <= (
        tensors(folder)
    )
    return model, processor


@pytest.mark.parametrize("layout", [llava_layout, instructblip_layout, qwen_layout], ids=lambda each: each.__name__)
def test_the_published_layout_loads_and_decodes(layout, llava, tmp_path):
    """The weights are those that were written, inputs those of the processor, and decoding is the model's under VCD."""
    model, processor = layout(tmp_path, llava)
    loaded = load(str(tmp_path), device="cpu")
    assert loaded.model.dtype == torch.float64
    assert loaded.processor.tokenizer.padding_side == "left"
    expected = model.state_dict()
    assert {name for name, value in loaded.model.state_dict().items() if not value.equal(expected[name])} == set()
    loaded.adapter.self_check()
    images = [[noise_image(row)] for row in range(len(TEXTS))]
    type(loaded.adapter).fit(processor)
    processor.tokenizer.padding_side = "left"
    inputs, again = (asked(each, images, TEXTS) for each in (processor, loaded.processor))
    assert all(again[name].equal(value) for name, value in inputs.items())
    for each in (model, loaded.model):
        each.generation_config.eos_token_id = 2
    found, own = (sightline.generate(each, "vcd", again, **SETTINGS) for each in (loaded.model, model))
    assert found.equal(own)
