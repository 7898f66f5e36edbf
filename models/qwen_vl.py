"""The Qwen-VL family: images of any size as packed patches, a decoder whose positions have three axes.

Qwen2-VL, Qwen2.5-VL and Qwen3-VL. The owner is the model itself and the decoder its `language_model`; image positions
come from `config.image_token_id`. What differs from families with one size of image:

* **Pixels** are flattened patches of all images, `[patches, channels * frames * side * side]`; `image_grid_thw`
  `[images, 3]` tells how many patches each image has. A still image stands in every frame.
* **Positions** (M-RoPE) count frame, row and column within an image, and go on behind it by its longer side, so a
  branch with other images or another text has others. They come from the model's own `get_rope_index`.
* **`rope_deltas`**, which the model object keeps from its latest prompt for later steps, is put back after every
  forward of ours.
* **The vision tower** reads all images in one row, a fused query, key and value projection in each layer; attention is
  called for one image at a time, in Qwen2.5-VL for one window of an image at a time. A map edit acts within each.
* **DeepStack** (Qwen3-VL) adds features of earlier tower layers to the image tokens in the first layers of the decoder.
  They are part of what `entering` hands to strategies, behind the embeddings.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .adapter import Adapter
from .errors import InvalidPrompt
from .prompts import unpadded


class QwenVLAdapter(Adapter):
    """Adapter for `qwen2_vl`, `qwen2_5_vl` and `qwen3_vl` (for example `Qwen/Qwen2.5-VL-7B-Instruct`)."""

    family: ClassVar[str] = "qwen_vl"
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    image_layout: ClassVar[tuple[str, ...]] = ("image_grid_thw",)

    @property
    def _inner(self) -> Any:
        """The model without its head."""
        return self.model.model

    @property
    def vision_tower(self) -> PreTrainedModel:
        """The tower that reads patches, merger included."""
        return self._inner.visual

    @property
    def vision_layer(self) -> int:
        """The last one: it feeds the merger."""
        return len(self.vision_attention_modules()) - 1

    @property
    def projector(self) -> nn.Module:
        """The merger, which makes one embedding of the patches of an image token."""
        return self._inner.visual.merger

    def vision_attention_modules(self) -> list[nn.Module]:
        """The attention of each block of the tower."""
        return [block.attn for block in self._inner.visual.blocks]

    def tower_pixels(self, inputs: Mapping[str, Any]) -> Sequence[Tensor]:
        """The patches of each image, `[patches, ...]`, in the tower's precision, as the model hands them over."""
        return [image.to(self.vision_tower.dtype) for image in self.split_images(inputs)]

    def packed_columns(self, inputs: Mapping[str, Any]) -> tuple[int, ...]:
        """The number of patches of each image."""
        return tuple(_patches(inputs))

    def split_images(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """The patches of each image, `[patches, ...]`, by `image_grid_thw`."""
        return list(inputs["pixel_values"].split(_patches(inputs)))

    def joined_images(self, images: Sequence[Tensor]) -> Tensor:
        """The patches of all images in one row."""
        return torch.cat(list(images))

    def drawn(self, image: Tensor, draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """A number for each pixel: the frames of a patch, which show the same still image, have the same numbers."""
        config: Any = self.vision_tower.config
        frames, channels = int(config.temporal_patch_size), int(config.in_channels)
        one = draw((len(image), channels, 1, image.shape[1] // (channels * frames)))
        return one.expand(-1, -1, frames, -1).reshape(image.shape)

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Refuse images without what tells their layout, which `generate()` would place as if they were words.

        Raises:
            InvalidPrompt: no grids or no token types.
        """
        for name in ("image_grid_thw", "mm_token_type_ids"):
            if inputs.get("pixel_values") is not None and inputs.get(name) is None:
                raise InvalidPrompt(
                    f"The inputs hold images and no {name}, so the positions of their tokens are not known.",
                    "Pass all that the model's own processor returns.",
                )

    def positions(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Frame, row and column of each token, `[3, batch, length]`; None for prompts without images or videos."""
        if all(inputs.get(name) is None for name in ("image_grid_thw", "video_grid_thw")):
            return None
        known = inspect.signature(self._inner.get_rope_index).parameters
        return self._inner.get_rope_index(**{name: inputs[name] for name in known if inputs.get(name) is not None})[0]

    def entering(self, call: Mapping[str, Any]) -> Tensor:
        """Embeddings, and behind them the DeepStack features of each decoder layer that gets some; 0 at text tokens."""
        embeds = super().entering(call)
        layers = len(getattr(self.vision_tower.config, "deepstack_visual_indexes", None) or ())
        if not layers:
            return embeds
        features = embeds.new_zeros(*embeds.shape[:2], layers * embeds.shape[2])
        if call.get("deepstack_visual_embeds"):
            found = torch.cat([each.to(embeds) for each in call["deepstack_visual_embeds"]], dim=-1)
            features[call["visual_pos_masks"].to(embeds.device)] = found
        return torch.cat([embeds, features], dim=-1)

    def entered(self, call: Mapping[str, Any], entering: Tensor) -> dict[str, Any]:
        """The call with these embeddings, and with DeepStack features wherever there are any."""
        width = self.decoder.get_input_embeddings().embedding_dim
        embeds, *features = entering.split(width, dim=-1)
        made = super().entered(call, embeds)
        if features:
            marked = entering[..., width:].any(dim=-1)
            some = bool(marked.any())
            made["visual_pos_masks"] = marked if some else None
            made["deepstack_visual_embeds"] = [each[marked] for each in features] if some else None
        return made

    def images_of(self, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """The image inputs of each row: grids are handed to rows in order until their tokens are those of the row."""
        rows = unpadded(inputs)
        if inputs.get("image_grid_thw") is None:
            return [{} for _ in rows]
        grids, pixels = inputs["image_grid_thw"], self.split_images(inputs)
        each = [count // int(self._inner.visual.spatial_merge_size) ** 2 for count in _patches(inputs)]
        found, place = [], 0
        for number, ids in enumerate(rows):
            first, left = place, int((ids == self.image_token_id).sum())
            while left > 0 and place < len(each):
                left -= each[place]
                place += 1
            if left or (number + 1 == len(rows) and place != len(each)):
                raise InvalidPrompt(
                    f"The image tokens of row {number} are not those of images {first} to {place}.",
                    "Pass input_ids and image_grid_thw as the processor returns them.",
                )
            own = pixels[first:place]
            found.append({
                "pixel_values": torch.cat(own) if own else inputs["pixel_values"][:0],
                "image_grid_thw": grids[first:place],
            })  # fmt: skip
        return found

    def _first_call(self, module: nn.Module, inputs: Mapping[str, Any]) -> Any:
        kept = self._inner.rope_deltas
        try:
            return super()._first_call(module, inputs)
        finally:
            self._inner.rope_deltas = kept


def _patches(inputs: Mapping[str, Any]) -> list[int]:
    """Patches of each image."""
    grids = inputs.get("image_grid_thw")
    return [] if grids is None else [int(count) for count in grids.prod(dim=-1)]
