"""Shared fixtures: tiny random models of real architectures, in float64 so that equal means equal."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import inspect
import json
from pathlib import Path

import offline
import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped
from sightline.decoders import cgvlm, context_tokens, contrast, controls, dagcd, vcd
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

for module in (
    cgvlm,
    context_tokens,
    contrast,
    controls,
    dagcd,
    vcd,
):  # shapes in signatures are checked in tests, and only here
    for name, function in list(vars(module).items()):
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            setattr(module, name, jaxtyped(function, typechecker=beartype))


def pytest_addoption(parser):
    """`--matrix=all` runs every cell of tests/matrix; by default every pair is there."""
    default = os.environ.get("SIGHTLINE_MATRIX", "pairs")
    parser.addoption("--matrix", choices=("pairs", "all"), default=default, help="cells of tests/matrix to run")


offline.keep_offline()


@pytest.fixture(autouse=True)
def stays_here():
    """No test speaks to another machine, not even where a library swallows the error."""
    yield
    asked = offline.ASKED[:]
    offline.ASKED.clear()
    assert not asked, f"The test speaks to the network: {', '.join(asked)}"


torch.set_num_threads(1)  # the models are tiny: threads cost more than they bring
IMAGE = 5
VOCAB = 96
PATCHES = 4


def text_config(**changes) -> LlamaConfig:
    settings = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return LlamaConfig(**(settings | changes))


@pytest.fixture(scope="session")
def llava() -> LlavaForConditionalGeneration:
    """A random LLaVA of three layers; 2 x 2 patches an image; weights large enough that images matter."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=24, intermediate_size=32, num_hidden_layers=2, num_attention_heads=3, image_size=16, patch_size=8
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text_config(), image_token_index=IMAGE, image_seq_length=PATCHES
    )
    model = LlavaForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = 2
    with torch.no_grad():  # transformers hangs hooks of its own on a tower that is called for the first time
        ids = torch.full((1, PATCHES + 1), IMAGE)
        ids[0, 0] = 1
        model(input_ids=ids, pixel_values=torch.zeros(1, 3, 16, 16, dtype=torch.float64))
    return model


@pytest.fixture(scope="session")
def llama() -> LlamaForCausalLM:
    """A random Llama without a vision tower."""
    torch.manual_seed(0)
    return LlamaForCausalLM(text_config()).double().eval()


@pytest.fixture
def inputs():
    """Makes a left-padded batch of image prompts: `inputs(lengths=[6, 9], seed=0)`."""

    def make(lengths=(7,), seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        width = max(lengths) + PATCHES
        ids = torch.zeros(len(lengths), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, length in enumerate(lengths):
            words = torch.randint(6, VOCAB, (length,), generator=generator)
            prompt = torch.cat([words[:2], torch.full((PATCHES,), IMAGE), words[2:]])
            ids[row, -len(prompt) :], mask[row, -len(prompt) :] = prompt, 1
        pixels = torch.randn(len(lengths), 3, 16, 16, generator=generator, dtype=torch.float64)
        return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}

    return make


@pytest.fixture(scope="session")
def golden():
    """Reads a file of golden vectors: `golden("vcd")`."""
    folder = Path(__file__).parent / "golden"
    return lambda name: json.loads((folder / f"{name}.json").read_text())
