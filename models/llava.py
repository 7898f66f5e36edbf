"""The LLaVA family: a vision tower, a projector, and a decoder that sees the image in place of image tokens.

LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision. The owner is the model itself and the decoder its `language_model`; image
positions come from `config.image_token_id`. NeXT and OneVision cut an image into several crops: their pixels are
`[images, crops, 3, height, width]`, and whatever alters pixels alters every crop.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from transformers import PreTrainedModel

from .adapter import Adapter


class LlavaAdapter(Adapter):
    """Adapter for `llava`, `llava_next` and `llava_onevision` (for example `llava-hf/llava-1.5-7b-hf`)."""

    family: ClassVar[str] = "llava"
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    image_layout: ClassVar[tuple[str, ...]] = ("image_sizes", "batch_num_images")

    @property
    def vision_tower(self) -> PreTrainedModel:
        """The CLIP or SigLIP tower."""
        tower: Any = self.model.model
        return tower.vision_tower

    @property
    def vision_layer(self) -> int:
        """From `vision_feature_layer`, one hidden state or several; hidden state k is the output of layer k - 1."""
        chosen: Any = self.model.config.vision_feature_layer
        layers = int(self.vision_tower.config.num_hidden_layers)
        states = [chosen] if isinstance(chosen, int) else chosen
        return max(state if state >= 0 else layers + 1 + state for state in states) - 1

    @property
    def projector(self) -> nn.Module:
        """The multi-modal projector."""
        inner: Any = self.model.model
        return inner.multi_modal_projector
