"""What is timed: a model in memory, a prompt for it, and the strategies with what they need."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from ... import decoders
from ...decoders import Strategy
from ...decoders.calibration.errors import CalibrationMissing
from ...models import Loaded
from .. import config as conf
from ..preparing import load_model
from ..settings import ModelSettings
from . import configs
from .standin import PAD, StandIn, drawn_calibrations

WORDS = "Is there anything in the image that the text does not name? Say what you see, and where it stands. "
ANY_SIZE = 336
"""Pixels a side where a model takes images of any size."""
PASSAGE = 0.6
"""Share of a text prompt that is marked as its passage, for strategies that ask for one."""


@dataclass(frozen=True)
class Shape:
    """How large a benchmark's prompts and answers are.

    Attributes:
        batch_size: prompts a call.
        prompt_length: tokens of the instruction, template and image apart; words of a real tokenizer come near it.
        new_tokens: tokens that are generated, no more and no fewer.
        image_size: pixels a side; None is what the model's configuration says (336 where it takes any size).
        description_tokens: length of the description that CODE has the model write once per image.
    """

    batch_size: int = 1
    prompt_length: int = 32
    new_tokens: int = 16
    image_size: int | None = None
    description_tokens: int = 64


@dataclass(frozen=True)
class Subject:
    """A model with a batch of prompts.

    Attributes:
        loaded: model and processor.
        shape: of the prompts.
        inputs: as `generate()` takes them.
        marked: what is context in each prompt, `[batch, length]` of bool.
        standins: files drawn for calibrations that the model lacks; see `drawn_calibrations`.
    """

    loaded: Loaded
    shape: Shape
    inputs: dict[str, Tensor]
    marked: Tensor
    standins: Mapping[str, Mapping[str, str]]

    @property
    def sees(self) -> bool:
        """Whether its prompts hold images."""
        return bool(self.loaded.adapter.image_inputs)

    def strategy(self, name: str, params: Mapping[str, Any] | None = None) -> Strategy:
        """A decoder with its defaults, `params` and, where the model has no calibration for it, a drawn one."""
        cls = decoders.get(name)
        given = dict(params or {})
        if name == "code":
            given = {"desc_max_new_tokens": self.shape.description_tokens, **given}
        if name == "causalmm" and not self.sees:
            given = {"modality": "language", **given}
        built = decoders.build(name, given)
        try:
            built.calibration(self.loaded.adapter)
        except CalibrationMissing:
            files = self.standins.get(cls.calibrates or "", {})
            built = dataclasses.replace(built, **{field: file for field, file in files.items() if field not in given})
        return built

    def usual(self) -> list[str]:
        """The strategies that have a meaning for these prompts."""
        kinds = [name for name in decoders.names() if decoders.get(name).kind == "strategy"]
        return [name for name in kinds if self.sees or not decoders.get(name).needs_image]

    @contextmanager
    def endless(self) -> Iterator[None]:
        """Inside, no token ends a text, so that all contenders generate equally many."""
        owners = {id(m): m.generation_config for m in (self.loaded.model, self.loaded.adapter.owner)}.values()
        held = [(settings, settings.eos_token_id, settings.pad_token_id) for settings in owners if settings]
        for settings, end, pad in held:
            ends = end if isinstance(end, list) else [end]
            settings.eos_token_id, settings.pad_token_id = None, pad if pad is not None else ends[0] or 0
        try:
            yield
        finally:
            for settings, end, pad in held:
                settings.eos_token_id, settings.pad_token_id = end, pad


def subject(
    name: str,
    shape: Shape,
    folder: Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: str = "random",
    narrow: bool = False,
) -> Subject:
    """A model by name, with prompts.

    Args:
        name: a configuration of `configs.SHAPES`, a model of `sightline models`, a folder or a hub id.
        shape: of the prompts.
        folder: takes drawn calibrations.
        device, dtype: as for `sightline run`; random weights are bfloat16 where `auto` leaves it open.
        weights: `random` (for embedded configurations, no download), or `real`.
        narrow: the narrow twin of an embedded configuration.

    Raises:
        ModelNotFound, ConfigError: there is no such model or device.
    """
    if name in configs.SHAPES and weights == "random":
        wanted = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
        loaded = _random(name, shape, wanted, "bfloat16" if dtype == "auto" else dtype, narrow)
        inputs = _standin_inputs(loaded, shape)
    else:
        asked = ModelSettings(name)
        if name in conf.choices("model") and name != "local":
            asked = conf.compose_settings([f"model={name}"])[0].model
        settings = dataclasses.replace(asked, device=device, dtype=asked.dtype if dtype == "auto" else dtype)
        loaded = load_model(settings)
        inputs = _real_inputs(loaded, shape)
    inputs = {key: value.to(loaded.model.device) for key, value in inputs.items()}
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(loaded.model.dtype)
    return Subject(loaded, shape, inputs, _passage(loaded, inputs), drawn_calibrations(loaded.adapter, folder))


def _random(name: str, shape: Shape, device: str, dtype: str, narrow: bool) -> Loaded:
    config = configs.config(name, narrow=narrow, image_size=shape.image_size)
    made = AutoModelForImageTextToText if getattr(config, "vision_config", None) is not None else AutoModelForCausalLM
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = made.from_config(config, dtype=getattr(torch, dtype)).eval()
    model.generation_config.pad_token_id = PAD
    return Loaded(name, model, StandIn(config), "narrow twin" if narrow else "random weights")


def _texts(shape: Shape, length: int) -> list[str]:
    """An instruction for each row, other words in each, `length` characters."""
    long = WORDS * (2 + (length + shape.batch_size) // len(WORDS))
    return [long[row : row + length] for row in range(shape.batch_size)]


def _standin_inputs(loaded: Loaded, shape: Shape) -> dict[str, Tensor]:
    """Prompts of bytes with pixels of noise, in the layout of the model's family."""
    config: Any = loaded.model.config
    image = loaded.adapter.image_token_id
    pixels, tokens = _pixels(config, shape) if image is not None else ({}, 0)
    rows = []
    for text in _texts(shape, shape.prompt_length):
        parts: Any = text if image is None else [{"type": "image"}, {"type": "text", "text": text}]
        turn = [{"role": "user", "content": parts}]
        prompt = loaded.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        words: list[int] = loaded.processor.tokenizer.encode(prompt)
        placed = [id for one in words for id in ([image] * tokens if one == image else [one])]
        rows.append([image] * tokens + words if config.model_type == "instructblip" else placed)
    ids = torch.tensor(rows)
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}
    if "image_grid_thw" in made:
        made["mm_token_type_ids"] = ids.eq(image or 0).long()
    if config.model_type == "instructblip":
        made["qformer_input_ids"] = ids[:, tokens:].clone()
        made["qformer_attention_mask"] = torch.ones_like(made["qformer_input_ids"])
    return made


def _pixels(config: Any, shape: Shape) -> tuple[dict[str, Tensor], int]:
    """Noise for each row's image, and how many tokens one image has."""
    torch.manual_seed(1)
    vision = config.vision_config
    if config.model_type == "qwen2_5_vl":
        merged = vision.patch_size * vision.spatial_merge_size
        side = max(1, (shape.image_size or ANY_SIZE) // merged) * vision.spatial_merge_size
        width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        grids = torch.tensor([[1, side, side]] * shape.batch_size)
        pixels = torch.randn(shape.batch_size * side * side, width)
        return {"pixel_values": pixels, "image_grid_thw": grids}, (side // vision.spatial_merge_size) ** 2
    pixels = torch.randn(shape.batch_size, 3, vision.image_size, vision.image_size)
    tokens = config.num_query_tokens if config.model_type == "instructblip" else config.image_seq_length
    return {"pixel_values": pixels}, int(tokens)


def _real_inputs(loaded: Loaded, shape: Shape) -> dict[str, Tensor]:
    """Prompts by the model's own processor: its template, a picture of noise, words of about the length asked for."""
    processor, tokenizer = loaded.processor, getattr(loaded.processor, "tokenizer", loaded.processor)
    length = max(1, round(shape.prompt_length * len(WORDS) / len(tokenizer.encode(WORDS, add_special_tokens=False))))
    sees = bool(loaded.adapter.image_inputs)
    texts = [templated_prompt(processor, text, sees) for text in _texts(shape, length)]
    if not sees:
        return dict(tokenizer(texts, padding=True, return_tensors="pt"))
    size = shape.image_size or _own_size(loaded)
    noise = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images = [Image.fromarray(noise.numpy())] * shape.batch_size
    return dict(processor(images=images, text=texts, padding=True, return_tensors="pt"))


def templated_prompt(processor: Any, text: str, sees: bool) -> str:
    if not getattr(processor, "chat_template", None):
        return text
    parts: Any = [{"type": "image"}, {"type": "text", "text": text}] if sees else text
    turn = [{"role": "user", "content": parts}]
    return processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)


def _own_size(loaded: Loaded) -> int:
    size = getattr(getattr(loaded.model.config, "vision_config", None), "image_size", None)
    return size if isinstance(size, int) else ANY_SIZE


def _passage(loaded: Loaded, inputs: Mapping[str, Tensor]) -> Tensor:
    """The middle of each prompt's words, `[batch, length]` of bool."""
    words = inputs["attention_mask"].bool() & ~loaded.adapter.image_mask(inputs["input_ids"])
    place = words.cumsum(dim=1) / words.sum(dim=1, keepdim=True)
    return words & (place > (1 - PASSAGE) / 2) & (place <= (1 + PASSAGE) / 2)
