"""InstructBLIP: a vision tower, a Q-Former that reads image and instruction, and a decoder-only language model.

The owner is `language_model`, whose `generate()` the outer one calls with embeddings; the Q-Former's outputs stand at
the positions of `config.image_token_id`, before the start token. The instruction is read twice: by the language model
and by the Q-Former. A rewording is one for both, and a branch on another image keeps the words of its own prompt.

The processor puts a batch's padding between image and text, and hands the first tokenizer's side of padding to the
second. The Q-Former counts positions from the left, so padding on its left changes what it sees; `fit` sets it right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .adapter import Adapter
from .errors import InvalidPrompt, MissingImage, MissingProcessor, UnsupportedModel
from .prompts import batched, runs, templated, unpadded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TEMPLATE = (
    "{% for message in messages %}{% if not loop.first %}{{ '\n' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{% endfor %}"
)
"""InstructBLIP has no chat format: a prompt is the instruction as it stands, and the processor adds the image."""


class InstructBlipAdapter(Adapter):
    """Adapter for `instructblip` with a decoder-only language model (`Salesforce/instructblip-vicuna-7b`)."""

    family: ClassVar[str] = "instructblip"
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    words_inputs: ClassVar[tuple[str, ...]] = ("qformer_input_ids", "qformer_attention_mask")

    @staticmethod
    def fit(processor: Any) -> None:
        """Give the processor a chat template where it has none, and pad the Q-Former's instructions on the right."""
        if not getattr(processor, "chat_template", None):
            processor.chat_template = getattr(processor.tokenizer, "chat_template", None) or TEMPLATE
        processor.tokenizer.init_kwargs.pop("padding_side", None)
        processor.qformer_tokenizer.padding_side = "right"

    @property
    def end_tokens(self) -> list[int]:
        """Ids that end a text, as the language model's own generation config has them."""
        settings = self.owner.generation_config
        end = settings.eos_token_id if settings is not None else None
        return [] if end is None else list(end) if isinstance(end, (list, tuple)) else [int(end)]

    @property
    def vision_tower(self) -> PreTrainedModel:
        """The ViT; EVA-CLIP's in the published models."""
        model: Any = self.model
        return model.vision_model

    @property
    def vision_layer(self) -> int:
        """The last one, whose output the Q-Former reads."""
        return int(self.vision_tower.config.num_hidden_layers) - 1

    @property
    def projector(self) -> nn.Module:
        """There is none that patches pass through: the Q-Former reads them by attention.

        Raises:
            UnsupportedModel: always.
        """
        raise UnsupportedModel(
            "InstructBLIP has no projector that weights of patches could act on: its Q-Former reads them by attention.",
            "Use vision_mode in_layer with this model.",
        )

    def vision_attention_modules(self) -> list[nn.Module]:
        """The attention module of each layer of the tower, first layer first; query, key and value are one matrix."""
        tower: Any = self.vision_tower
        return [layer.self_attn for layer in tower.encoder.layers]

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Refuse inputs that the model's `generate()` cannot take.

        Raises:
            MissingImage: no pixels; the model has no prompts without an image.
            InvalidPrompt: no instruction for the Q-Former.
        """
        if inputs.get("pixel_values") is None:
            raise MissingImage(
                "InstructBLIP takes no prompt without an image, and the inputs hold no 'pixel_values'.",
                "Pass an image to the processor, or attach to model.language_model for text alone.",
            )
        if inputs.get("qformer_input_ids") is None:
            raise InvalidPrompt(
                "The inputs hold no 'qformer_input_ids': InstructBLIP's Q-Former reads the instruction too.",
                "Pass all that the model's own processor makes of image and text.",
            )

    def decoder_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """As `Adapter.decoder_inputs`; without pixels, the words' embeddings alone, and the Q-Former is not run."""
        if inputs.get("pixel_values") is not None:
            return super().decoder_inputs(inputs)
        with torch.no_grad():
            embeds = self.decoder.get_input_embeddings()(inputs["input_ids"])
        return {"inputs_embeds": embeds, "attention_mask": inputs.get("attention_mask")}

    def reworded(self, inputs: Mapping[str, Any], processor: Any, text: str) -> dict[str, Tensor]:
        """As `Adapter.reworded`, and the instruction for the Q-Former, padded on the right.

        A row's image tokens come first, as the processor puts them. Without a chat template the text is the prompt.
        """
        tokenizer, reader = (getattr(processor, name, None) for name in ("tokenizer", "qformer_tokenizer"))
        if tokenizer is None or reader is None:
            raise MissingProcessor(
                f"InstructBLIP needs two tokenizers for a prompt, and a {type(processor).__name__} does not have them.",
                "Pass processor=InstructBlipProcessor, as AutoProcessor loads it.",
            )
        prompt = _rendered(processor, text)
        ids = tokenizer.encode(prompt)
        if self.image_token_id in ids:
            raise InvalidPrompt(
                f"The instruction {text!r} spells out the image token.", "Leave the image token out of the instruction."
            )
        seen = unpadded(inputs)
        rows = [[*row[row == self.image_token_id].tolist(), *ids] for row in seen]
        made = batched(rows, inputs, self.image_token_id)
        words = torch.tensor([reader.encode(prompt)] * len(rows), device=made["input_ids"].device)
        return {**made, "qformer_input_ids": words, "qformer_attention_mask": torch.ones_like(words)}

    def without_image(self, inputs: Mapping[str, Any], texts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """As `Adapter.without_image`; the Q-Former is not run.

        The texts stand where the Q-Former's outputs stood, before the start token.
        """
        return super().without_image(inputs, texts) | {name: None for name in self.words_inputs if name in inputs}

    def images_of(self, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """As `Adapter.images_of`: one image a row."""
        pixels, rows = inputs["pixel_values"], unpadded(inputs)
        if len(pixels) != len(rows) or any(len(runs(row == self.image_token_id)) != 1 for row in rows):
            raise InvalidPrompt(
                f"InstructBLIP takes one image a prompt, and there are {len(pixels)} images for {len(rows)} prompts.",
                "Give every prompt one image.",
            )
        return [{"pixel_values": image} for image in pixels.split(1)]


def _rendered(processor: Any, text: str) -> str:
    """The prompt for one user turn: by the chat template, if there is one."""
    if not getattr(processor, "chat_template", None):
        return text
    return templated(processor, [{"type": "image"}, {"type": "text", "text": text}])
