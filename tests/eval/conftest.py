"""A random LLaVA as a real checkpoint folder with a real processor, POPE files, and runs of both."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from sightline.eval.config import compose_settings
from sightline.eval.runner import Outcome, run
from sightline.models import Loaded, load
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIDE, PATCH = 16, 8
OBJECTS = ("star", "moon", "house", "tree", "red ball", "kite")
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def question(name: str) -> str:
    return f"Is there a {name} in the image?"


def _tokenizer() -> PreTrainedTokenizerFast:
    words = [question(name) + " Yes No yes no Please answer this question with one word." for name in OBJECTS] * 3
    raw = Tokenizer(tokenizer_models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    raw.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=340,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens=["<image>"]
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """The folder of a random LLaVA in float64, as `save_pretrained` writes it."""
    folder = tmp_path_factory.mktemp("models") / "random-llava"
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, image_seq_length=4)
    model = LlavaForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    model.save_pretrained(folder)
    pixels = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        image_processor=pixels,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(checkpoint) -> Loaded:
    """The checkpoint, loaded as the harness loads every model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return load(str(checkpoint), dtype="float64", device="cpu")


def rows(images: int, split: str) -> list[dict]:
    """POPE rows: per image, two shared positives and a negative of the split's own."""
    found = []
    for number in range(images):
        names = [OBJECTS[number % 6], OBJECTS[(number + 1) % 6]]
        other = OBJECTS[(number + 2 + ("random", "popular", "adversarial").index(split) % 2) % 6]
        for name, label in ((names[0], "yes"), (other, "no"), (names[1], "yes")):
            found.append(
                {
                    "question_id": len(found) + 1,
                    "image": f"image_{number:02d}.png",
                    "text": question(name),
                    "label": label,
                }
            )
    return found


@pytest.fixture
def pope(tmp_path) -> Path:
    """A POPE folder: six noise images and three files of 18 questions."""
    folder = tmp_path / "pope"
    (folder / "images").mkdir(parents=True)
    for number in range(6):
        pixels = torch.randint(0, 256, (24, 20, 3), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / "images" / f"image_{number:02d}.png")
    for split in ("random", "popular", "adversarial"):
        text = "".join(json.dumps(row) + "\n" for row in rows(6, split))
        (folder / f"coco_pope_{split}.json").write_text(text)
    return folder


@pytest.fixture
def overrides(pope, checkpoint) -> Callable[..., list[str]]:
    """The command line of a small run; more overrides may follow."""

    def make(*more: str) -> list[str]:
        fixed = ["model=local", f"model.path={checkpoint}", "model.dtype=float64", "model.device=cpu"]
        data = ["task=pope", f"task.data={pope}", f"task.images={pope / 'images'}"]
        return [*fixed, *data, "generation.max_new_tokens=4", "run.cost_requests=0", "run.batch_size=4", *more]

    return make


@pytest.fixture
def launch(overrides, loaded, tmp_path) -> Callable[..., Outcome]:
    """Runs with the loaded model: `launch("decoder=vcd", dir="a")`."""

    def go(*more: str, dir: str = "run") -> Outcome:
        asked, tree = compose_settings(overrides(*more, f"run.dir={tmp_path / dir}"))
        return run(asked, tree, command=["sightline", "run"], loaded=loaded)

    return go
