"""What strategies share that choose image tokens by the attention they draw: AVC and IAVA.

All of it works row by row on padded batches: `image` says which columns of a row hold image tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .plan import Altered

MASKINGS = ("zeros", "ones", "noise", "mask")
"""What becomes of image tokens that a branch is not to see: their embeddings, or with `mask` their keys."""


def image_attention(
    probes: Mapping[int, Tensor], image: Bool[Tensor, "batch length"]
) -> Float[Tensor, "layers batch length"]:
    """Attention of the last row on each image token, heads averaged, 0 elsewhere; layers in ascending order.

    Args:
        probes: layer -> `[batch, heads, keys]`; keys behind the prompt's are left out.
    """
    mean = torch.stack([probes[layer].mean(dim=1) for layer in sorted(probes)])[..., : image.shape[1]]
    return mean * image.to(mean.device)


def leading_layers(attention: Float[Tensor, "layers batch length"], gamma: float) -> Bool[Tensor, "layers batch"]:
    """Layers that look at the image most: the fewest whose shares of all image attention add up to `gamma`.

    Source: AvisC's code, with the count clamped to the layers there are (its float32 sum may stay below 1).
    """
    portions = attention.sum(dim=-1)
    portions = portions / portions.sum(dim=0).clamp(min=torch.finfo(portions.dtype).tiny)
    ranked, order = portions.sort(dim=0, descending=True, stable=True)
    count = ((ranked.cumsum(dim=0) < gamma).sum(dim=0) + 1).clamp(max=len(portions))
    chosen = torch.arange(len(portions), device=portions.device)[:, None] < count
    return torch.zeros_like(chosen).scatter(0, order, chosen)


def layer_mean(
    attention: Float[Tensor, "layers batch length"], chosen: Bool[Tensor, "layers batch"]
) -> Float[Tensor, "batch length"]:
    """Plain mean over the chosen layers of each row."""
    weights = chosen.to(attention.dtype)
    return (attention * weights[..., None]).sum(dim=0) / weights.sum(dim=0)[:, None]


def threshold(
    values: Float[Tensor, "batch length"], image: Bool[Tensor, "batch length"], times: float
) -> Float[Tensor, "batch 1"]:
    """Mean plus `times` unbiased standard deviations over the image tokens of each row."""
    count = image.sum(dim=1, keepdim=True).to(values.dtype)
    kept = values.masked_fill(~image, 0.0)
    mean = kept.sum(dim=1, keepdim=True) / count
    spread = ((kept - mean).masked_fill(~image, 0.0) ** 2).sum(dim=1, keepdim=True)
    return mean + times * (spread / (count - 1).clamp(min=1)).sqrt()


def seen_alone(
    embeds: Float[Tensor, "batch length hidden"],
    mask: Int[Tensor, "batch length"],
    hidden: Bool[Tensor, "batch length"],
    masking: str,
    seeds: Int[Tensor, " batch"] | None = None,
) -> Altered:
    """The prompt of a branch that is not to see the `hidden` image tokens.

    Args:
        embeds, mask: of the base's prompt.
        hidden: image tokens to take away.
        masking: one of `MASKINGS`.
        seeds: for `noise`, one for each row.
    """
    if masking == "mask":
        return Altered(embeds, mask * (~hidden).to(mask.dtype))
    if masking == "noise" and seeds is not None:
        filling = _noise(embeds, hidden, seeds)
    else:
        filling = torch.full_like(embeds, 1.0 if masking == "ones" else 0.0)
    return Altered(torch.where(hidden[..., None], filling, embeds))


def _noise(embeds: Tensor, hidden: Tensor, seeds: Tensor) -> Tensor:
    """Standard normal numbers at the hidden tokens, drawn row by row whatever the padding."""
    filling = torch.zeros_like(embeds)
    for row, seed in enumerate(seeds.tolist()):
        count = int(hidden[row].sum())
        drawn = torch.randn(count, embeds.shape[-1], generator=torch.Generator().manual_seed(seed))
        filling[row, hidden[row]] = drawn.to(embeds.device, embeds.dtype)
    return filling
