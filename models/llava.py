"""The LLaVA family: a vision tower, a projector, and a decoder that sees the image in place of image tokens.

LLaVA-1.5, LLaVA-NeXT and LLaVA-OneVision. The owner is the model itself and the decoder its `language_model`; image
positions come from `config.image_token_id`. NeXT and OneVision cut an image into several crops: their pixels are
`[images, crops, 3, height, width]`, and whatever alters pixels alters every crop.
"""

from __future__ import annotations

from typing import Any, ClassVar

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
