"""Qwen-VL's processors where torchvision is missing: images and text, no videos.

The stock processors of Qwen2-VL, Qwen2.5-VL and Qwen3-VL insist on a video processor, and video processors need
torchvision. What they do with images and text does not: the classes made here leave the video processor out and
inherit all else. They carry the stock class's name, so that a folder that they save is loaded by the stock class.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from transformers import ProcessorMixin
from transformers.utils.import_utils import is_torchvision_available

STOCK: dict[str, str] = {
    "qwen2_vl": "Qwen2VLProcessor",
    "qwen2_5_vl": "Qwen2_5_VLProcessor",
    "qwen3_vl": "Qwen3VLProcessor",
}
"""`config.model_type` -> the name of the stock processor."""


def needs_image_only_processor(model_type: str) -> bool:
    """Whether the family's stock processor cannot be made on this machine."""
    return model_type in STOCK and not is_torchvision_available()


@cache
def image_only_processor(model_type: str) -> type[ProcessorMixin]:
    """The family's processor class without its video processor.

    Args:
        model_type: a key of `STOCK`.
    """
    name = STOCK[model_type]
    stock: Any = getattr(import_module(f"transformers.models.{model_type}.processing_{model_type}"), name)

    class ImageOnly(stock):
        """The stock processor without videos."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

        def __init__(
            self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **kwargs: Any
        ) -> None:
            # the stock signature's video processor goes on as None and is dropped, for it is no attribute; the template
            # has to be named here, or transformers does not hand it over
            super().__init__(image_processor, tokenizer, None, chat_template=chat_template, **kwargs)

    ImageOnly.__name__ = ImageOnly.__qualname__ = name
    return ImageOnly
