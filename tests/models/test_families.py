"""Each family against naive passes: an image branch where there are images, forked and whole edits everywhere."""

import pytest
import torch
import transformers
from anything import assert_same, naive_tokens, run
from naive import forked, single, weights_of, whole
from sightline.decoders import Branch, HeadEdit
from sightline.models import adapter_for

TEXT = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 256,
}  # fmt: skip
EDITS = (HeadEdit(1, (0, 3)), HeadEdit(2, (1,)))
GRID = [[16, 32], [32, 16], [32, 32]]


def loud(model):
    """Weights large enough that edits and images change tokens."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model.double().eval()


def text_model(name, **changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(TEXT | changes))
    return loud(getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")(config))


MODELS = {
    "llama": lambda: text_model("Llama"),
    "mistral with a window": lambda: text_model("Mistral", sliding_window=6),
    "qwen2 with query bias": lambda: text_model("Qwen2"),
    "qwen3 with query norm": lambda: text_model("Qwen3"),
    "gemma": lambda: text_model("Gemma"),
    "gemma3 with mixed layers": lambda: text_model(
        "Gemma3Text", sliding_window=6, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
}


def text_batch(lengths):
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    mask = (torch.arange(width) >= width - torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(6, 90, mask.shape, generator=generator) * mask, "attention_mask": mask}


@pytest.fixture(scope="module", params=MODELS, ids=str)
def text(request):
    return MODELS[request.param]()


@pytest.mark.parametrize("branching", ["rows", "sequential"])
@pytest.mark.parametrize("fork", [True, False])
@pytest.mark.parametrize("cache", [{}, {"use_cache": False}])
def test_text_families_equal_naive(text, branching, fork, cache):
    batch = text_batch([9, 6])
    branch = Branch("edited", edits=EDITS, fork=fork)

    def naive(row, new):
        if fork:
            return forked(text, single(batch, row), new, EDITS)
        return whole(text, single(batch, row), new, lambda: weights_of(text, EDITS))

    output, _ = run(text, batch, (branch,), branching, **cache)
    assert_same(output, batch, *naive_tokens(text, batch, [naive]))
    assert adapter_for(text).family == "text"


def crops_model(name):
    torch.manual_seed(0)
    size = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3}
    if name == "llava_next":
        vision = transformers.CLIPVisionConfig(**size, image_size=16, patch_size=8)
        config = transformers.LlavaNextConfig(
            vision_config=vision, text_config=transformers.LlamaConfig(**TEXT), image_token_index=5,
            image_grid_pinpoints=GRID,
        )  # fmt: skip
        return loud(transformers.LlavaNextForConditionalGeneration(config))
    vision = transformers.SiglipVisionConfig(**size, image_size=16, patch_size=8)
    config = transformers.LlavaOnevisionConfig(
        vision_config=vision, text_config=transformers.Qwen2Config(**TEXT), image_token_index=5, video_token_index=6,
        image_grid_pinpoints=GRID, vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    return loud(transformers.LlavaOnevisionForConditionalGeneration(config))


@pytest.fixture(scope="module", params=["llava_next", "llava_onevision"])
def crops(request):
    return crops_model(request.param)


@pytest.mark.parametrize("branching", ["rows", "sequential"])
@pytest.mark.parametrize("kind", ["image", "fork"])
def test_families_with_crops_equal_naive(crops, branching, kind):
    """Two images of different sizes, so two numbers of image tokens and left padding."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(2, 5, 3, 16, 16, generator=generator, dtype=torch.float64)
    sizes = torch.tensor([[32, 32], [20, 32]])
    with torch.no_grad():
        counts = [len(each) for each in crops.get_image_features(pixels, image_sizes=sizes).pooler_output]
    assert counts[0] != counts[1]
    width = max(counts) + 6
    ids, mask = torch.zeros(2, width, dtype=torch.long), torch.zeros(2, width, dtype=torch.long)
    for row, count in enumerate(counts):
        prompt = torch.tensor([7, 8, *[5] * count, 9, 10 + row, 11])
        ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
    batch = {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_sizes": sizes}
    noised = torch.randn(pixels.shape, generator=generator, dtype=torch.float64)

    def naive(row, new):
        if kind == "fork":
            return forked(crops, single(batch, row), new, EDITS)
        return whole(crops, single(batch | {"pixel_values": noised}, row), new)

    branch = Branch("x", {"pixel_values": noised}) if kind == "image" else Branch("x", edits=EDITS, fork=True)
    output, _ = run(crops, batch, (branch,), branching)
    assert_same(output, batch, *naive_tokens(crops, batch, [naive]))
    assert adapter_for(crops).family == "llava"
