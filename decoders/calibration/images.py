"""Image heads: the heads of an image-text model that look at the image when the answer begins.

A head's score is the attention that the last prompt token pays to image tokens, averaged over prompts. Disabling the
strongest ones in DeCoRe's branch is MaskCD (arXiv 2510.02790): the same contrast with another list of heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .errors import CalibrationFailed
from .probing import probing
from .ranking import HeadRanking, fingerprint, rank

if TYPE_CHECKING:
    from ...models.adapter import Adapter


def image_mass(
    readings: Float[Tensor, "layers rows heads keys"], image: Bool[Tensor, "rows keys"]
) -> Float[Tensor, "rows layers heads"]:
    """The share of each head's attention that falls on image tokens."""
    return (readings * image[None, :, None]).sum(dim=-1).transpose(0, 1)


def rank_image_heads(
    adapter: Adapter,
    batches: Iterable[Mapping[str, Any]],
    *,
    name: str = "",
    settings: Mapping[str, Any] | None = None,
) -> HeadRanking:
    """Rank the heads of an image-text model by the attention they pay to image tokens.

    Args:
        adapter: of the model.
        batches: model inputs with images, padded on the left.
        name: of the model, kept in the file.
        settings: how the batches were made, kept in the file.

    Raises:
        MissingImage: the model takes no images, or a prompt has none.
        CalibrationFailed: there was no batch, or layers see windows of different width.
    """
    total = torch.zeros(adapter.layers, adapter.heads, dtype=torch.float64)
    prompts = 0
    with probing(adapter) as states:
        for inputs in batches:
            adapter.require_images(inputs, "The ranking of image heads")
            adapter.model(**inputs, use_cache=False)
            readings = [state.reading for state in states if state.reading is not None]
            image = adapter.image_mask(inputs["input_ids"])
            if any(reading.shape[-1] != image.shape[-1] for reading in readings):
                raise CalibrationFailed("A layer does not read the whole prompt.", "Use prompts within its window.")
            total += image_mass(torch.stack(readings), image).sum(dim=0).double().cpu()
            prompts += len(image)
    if not prompts:
        raise CalibrationFailed("There is no image prompt to measure.", "Give one batch of inputs or more.")
    kept = {**(settings or {}), "prompts": prompts}
    ranked = rank(total / prompts)
    return HeadRanking("image", name, adapter.layers, adapter.heads, ranked, kept, fingerprint(adapter))
