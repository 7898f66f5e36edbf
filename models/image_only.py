"""Processors of InternVL and SmolVLM where torchvision is missing: images and text, no videos.

The stock ones insist on a video processor, which needs torchvision; SmolVLM's wants num2words, too, for the durations
of videos. As in `qwen_vl_processor`, the classes made here leave videos out, inherit all else, and keep the stock name,
so that a folder that they save is loaded by the stock class.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from transformers import ProcessorMixin
from transformers.utils.import_utils import is_torchvision_available

STOCK: dict[str, str] = {"internvl": "InternVLProcessor", "smolvlm": "SmolVLMProcessor"}
"""`config.model_type` -> the name of the stock processor."""

TOKENS: dict[str, str] = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
    "video_token": "<video>",
}
"""Special tokens of SmolVLM, unless its tokenizer names others."""


def needs_image_only(model_type: str) -> bool:
    """Whether the family's stock processor cannot be made on this machine."""
    return model_type in STOCK and not is_torchvision_available()


@cache
def image_only(model_type: str) -> type[ProcessorMixin]:
    """The family's processor class without its video processor.

    Args:
        model_type: a key of `STOCK`.
    """
    name = STOCK[model_type]
    module = import_module(f"transformers.models.{model_type}.processing_{model_type}")
    made = {"internvl": _internvl, "smolvlm": _smolvlm}[model_type](getattr(module, name))
    made.__name__ = made.__qualname__ = name
    return made


def _internvl(stock: Any) -> type[ProcessorMixin]:
    class ImageOnly(stock):
        """The stock processor without videos."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            image_seq_length: int = 256,
            chat_template: Any = None,
            **kwargs: Any,
        ) -> None:
            super().__init__(image_processor, tokenizer, None, image_seq_length, chat_template, **kwargs)

    return ImageOnly


def _smolvlm(stock: Any) -> type[ProcessorMixin]:
    class ImageOnly(stock):
        """The stock processor without videos."""

        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            image_seq_len: int = 169,
            chat_template: Any = None,
            **kwargs: Any,
        ) -> None:
            # the stock one asks for num2words; it names its tokens and does no more
            self.image_seq_len = image_seq_len
            for attribute, token in TOKENS.items():
                setattr(self, attribute, getattr(tokenizer, attribute, token))
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template, **kwargs)

        def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
            # the stock one asks the video processor first
            return ProcessorMixin.apply_chat_template(self, *args, **kwargs)

    return ImageOnly
