"""The families of the matrix: small random models in float64 with real processors. One entry in `FAMILIES` each.

All decoders have three layers of four heads, so that every family is served by the same head lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import transformers
from image_text import ImageTextSight, image_text_model, image_text_processor, questions
from instructed import instructed_model, instructed_processor
from letters import asked, llava_processor, noise_image, tokenizer
from naive_family import Sight
from qwen import QwenSight, qwen_model, qwen_processor
from sightline.models.instructblip import InstructBlipAdapter
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

TEXT = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
TOWER = {
    "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip
GRID = [[16, 32], [32, 16], [32, 32]]
SQUARE = ((16, 16),)
MIXED = ((16, 16), (24, 16), (16, 32), (24, 24))
Row = tuple[Sequence[int], str]
"""Seeds of the images of a prompt, and its text."""


def _asked(processor: Any, images: Sequence[Sequence[Any]], texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """By the chat template, then the processor."""
    if any(images):
        return asked(processor, images, texts)
    turns = [[{"role": "user", "content": [{"type": "text", "text": text}]}] for text in texts]
    prompts = [processor.apply_chat_template(turn, add_generation_prompt=True) for turn in turns]
    return dict(processor(text=prompts, padding=True, return_tensors="pt"))


@dataclass(frozen=True)
class Family:
    """A family as the matrix knows it.

    Attributes:
        make: its model, in float64 and in evaluation mode, and its processor.
        images: it takes images.
        asked: model inputs of rows of images, some of which may have none, and their texts.
        sizes: width and height of images, in turn.
        several: empty, or why a prompt of it has one image at most.
        window: some of its layers see less than the prompts here.
        prefix: tokens of a prompt see later ones, so that strategies which share a prompt up to its last token are
            refused whatever the mode.
        pieces: a prompt that is run in pieces says what it says in one.
        sight: the naive version of a prompt (`naive_family.Sight`); None where there is none.
        k: a threshold of CG-VLM under which its gate opens now and then.
    """

    make: Callable[[], tuple[Any, Any]]
    images: bool = True
    asked: Callable[[Any, Sequence[Sequence[Any]], Sequence[str]], dict[str, torch.Tensor]] = field(default=_asked)
    sizes: Sequence[tuple[int, int]] = SQUARE
    several: str = ""
    window: bool = False
    prefix: bool = False
    pieces: bool = True
    sight: type[Sight] | None = field(default=Sight)
    k: float = 0.025

    def shown(self, seeds: Sequence[int]) -> list[Any]:
        """The images of a prompt."""
        return [noise_image(seed, *self.sizes[seed % len(self.sizes)]) for seed in seeds]

    def inputs(self, processor: Any, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Model inputs as a user makes them, padded on the left."""
        if not self.images:
            texts = [f"USER: {text} ASSISTANT:" for _, text in rows]
            made = dict(processor(texts, padding=True, return_tensors="pt"))
            return {name: made[name] for name in ("input_ids", "attention_mask")}
        return self.asked(processor, [self.shown(seeds) for seeds, _ in rows], [text for _, text in rows])


class TextSight(Sight):
    """A text under naive passes."""

    def __init__(self, model: Any, processor: Any, image: Any, text: str, context: str | None = None):
        self.model, self.processor, self.text, self.context = model, processor, text, context
        self.row = Family(lambda: (model, processor), images=False).inputs(processor, [((), text)])
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        self.ids = self.row["input_ids"][0].tolist()
        self.kept = {}


def loud(model: Any, scale: float = 6) -> Any:
    """Weights so large that images and edits change tokens; float64."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    for module in model.modules():
        if getattr(module, "generation_config", None) is not None:
            module.generation_config.pad_token_id, module.generation_config.eos_token_id = 0, 2
    return model.double().eval()


def _llava() -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**TOWER), text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=5, image_seq_length=4,
    )  # fmt: skip
    return loud(transformers.LlavaForConditionalGeneration(config)), llava_processor()


def _llava_next() -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**TOWER), text_config=transformers.LlamaConfig(**TEXT),
        image_token_index=5, image_grid_pinpoints=GRID,
    )  # fmt: skip
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=GRID
    )
    words = llava_processor()
    processor = transformers.LlavaNextProcessor(
        image_processor=pixels, tokenizer=words.tokenizer, patch_size=8, num_additional_image_tokens=1,
        vision_feature_select_strategy="default", chat_template=words.chat_template,
    )  # fmt: skip
    return loud(transformers.LlavaNextForConditionalGeneration(config)), processor


def _llava_onevision() -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**TOWER), text_config=transformers.Qwen2Config(**TEXT),
        image_token_index=5, video_token_index=4, image_grid_pinpoints=GRID, vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    pixels = LlavaOnevisionImageProcessorPil(size={"height": 16, "width": 16}, image_grid_pinpoints=GRID)
    words = llava_processor()
    processor = _ImagesAlone(
        pixels, words.tokenizer, num_image_tokens=4, vision_feature_select_strategy="full",
        chat_template=words.chat_template,
    )  # fmt: skip
    return loud(transformers.LlavaOnevisionForConditionalGeneration(config)), processor


class _ImagesAlone(transformers.LlavaOnevisionProcessor):
    """LLaVA-OneVision's processor without videos, which need torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any):
        super().__init__(image_processor, tokenizer, None, **kwargs)


def _instructblip() -> tuple[Any, Any]:
    processor = instructed_processor()
    InstructBlipAdapter.fit(processor)
    processor.tokenizer.padding_side = "left"
    return instructed_model(), processor


def _text(name: str, **changes: Any) -> Callable[[], tuple[Any, Any]]:
    def make() -> tuple[Any, Any]:
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**(TEXT | changes))
        return loud(getattr(transformers, f"{name}ForCausalLM")(config)), tokenizer()

    return make


def _qwen(kind: str) -> Callable[[], tuple[Any, Any]]:
    return lambda: (qwen_model(kind), qwen_processor(kind))


def _auto(kind: str, *, splits: bool = False, **settings: Any) -> Family:
    """A type that the general adapter serves by what it knows of it."""
    make = lambda: (image_text_model(kind), image_text_processor(kind, splits))  # noqa: E731
    return Family(make, asked=partial(questions, kind), **({"sight": ImageTextSight} | settings))


FAMILIES: dict[str, Family] = {
    "llava": Family(_llava, k=0.05),
    "llava_next": Family(_llava_next, sizes=((40, 16), (16, 24), (32, 32)), sight=None),
    "llava_onevision": Family(_llava_onevision, sizes=((40, 16), (16, 24), (32, 32)), sight=None),
    "instructblip": Family(_instructblip, several="InstructBLIP takes one image a prompt", k=0.01),
    "qwen2_vl": Family(_qwen("qwen2_vl"), sizes=MIXED, sight=QwenSight, k=0.01),
    "qwen2_5_vl": Family(_qwen("qwen2_5_vl"), sizes=MIXED, sight=QwenSight, k=0.003),
    "qwen3_vl": Family(_qwen("qwen3_vl"), sizes=MIXED, sight=QwenSight),
    "gemma3": _auto("gemma3", window=True, pieces=False, k=0.03),
    "idefics3": _auto("idefics3", k=0.01),
    "internvl": _auto("internvl", k=0.005),
    "paligemma": _auto("paligemma", prefix=True, pieces=False),
    "smolvlm": _auto("smolvlm", splits=True, sizes=((32, 32), (16, 16), (32, 16)), sight=None, k=0.01),
    "llama": Family(_text("Llama"), images=False, sight=TextSight),
    "qwen3": Family(_text("Qwen3", head_dim=8), images=False, sight=TextSight),
    "mistral_window": Family(_text("Mistral", sliding_window=24), images=False, window=True, sight=None),
}
