"""Is `generate()` given what was attached? Branches are made of the attached inputs; others would be silently wrong.

Tokens and masks are seen in the first forward. Images are not: some versions of transformers encode them before their
loop. So what the vision tower is called with is compared, by exact sums over the bits of each of its rows, which beams
and return sequences leave alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.adapter import Adapter
from ..models.errors import InputsMismatch, UnsupportedMode

PART = 2**22
"""Numbers that are summed at a time."""
_SAME = "Attach with the same inputs that generate() gets."


class SameInputs:
    """Holds attached inputs against those of the first forward.

    Args:
        adapter: of the model.
        inputs: as attached.
        who: key of the strategy.
        branches: it has branches, so that what they are made of has to be what the base is made of.
    """

    def __init__(self, adapter: Adapter, inputs: Mapping[str, Any], who: str, branches: bool = True):
        self._adapter = adapter
        self._who = who
        self._ids: Tensor = inputs["input_ids"]
        self._mask: Tensor | None = inputs.get("attention_mask")
        pixels = adapter.image_inputs and inputs.get(adapter.image_inputs[0]) is not None
        self._pixels = digests(adapter.tower_pixels(inputs)) if pixels else None
        self._branches = branches
        self._encoded = False

    def check_pixels(self, pixels: Tensor) -> None:
        """Compare what the vision tower is called with.

        Raises:
            InputsMismatch: other images.
        """
        self._encoded = True
        if self._pixels is None or digests(pixels) != self._pixels:
            raise InputsMismatch("generate() was given other images than those attached.", _SAME)

    def check_encoded(self) -> None:
        """To be called when the first token is to be chosen.

        Raises:
            InputsMismatch: no image was encoded, and there was one in the attached inputs.
        """
        if self._branches and self._pixels is not None and not self._encoded:
            raise InputsMismatch("generate() was given no images, and some were attached.", _SAME)

    def check(self, kwargs: Mapping[str, Any], held: int = 0, *, scored: bool = False) -> None:
        """Compare prompt and mask.

        Args:
            kwargs: of the owner's first forward; chunked prefill brings the first columns alone.
            held: columns of the prompt that a given cache holds already; they are not in the forward.
            scored: given continuations follow the prompt.

        Raises:
            InputsMismatch: they are others.
            UnsupportedMode: embeddings were given where a branch's image is to be told from the base's.
        """
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        own = self._adapter.owner is self._adapter.model
        if embeds is not None and own and self._branches and self._adapter.image_inputs:
            raise UnsupportedMode(
                f"{self._who}: generate() was given inputs_embeds, which do not tell whose image is in them.",
                "Pass input_ids and images, and leave inputs_embeds out.",
            )
        if ids is None:
            self._check_words(embeds, held, scored)
            return
        times = max(ids.shape[0] // self._ids.shape[0], 1)
        expected = self._ids.repeat_interleave(times, dim=0)[:, held : held + ids.shape[1]]
        if not _same(ids[:, : self._ids.shape[1]] if scored else ids, expected):
            raise InputsMismatch(
                f"generate() was given input_ids of shape {list(ids.shape)} that are not those attached "
                f"({list(self._ids.shape)}).",
                _SAME,
            )
        mask = kwargs.get("attention_mask")
        if self._mask is not None and isinstance(mask, Tensor) and mask.dim() == 2:
            expected = self._mask.repeat_interleave(times, dim=0)[:, : mask.shape[1]]
            if not _same(mask[:, : expected.shape[1]], expected):
                raise InputsMismatch("generate() was given another attention_mask than the one attached.", _SAME)

    def _check_words(self, embeds: Tensor | None, held: int, scored: bool) -> None:
        """Refuse embeddings of other words than those attached, where the model embeds them before its own loop."""
        if embeds is None:
            return
        ids = self._ids[:, held : held + embeds.shape[1]].to(embeds.device)
        words = ~self._adapter.image_mask(ids)
        expected = self._adapter.decoder.get_input_embeddings()(ids)[words].to(embeds)
        given = embeds[:: max(len(embeds) // len(ids), 1), : ids.shape[1]]
        longer = held + embeds.shape[1] > self._ids.shape[1] and not scored
        if longer or len(given) != len(ids) or not torch.equal(given[words], expected):
            raise InputsMismatch(
                f"generate() was given a prompt of shape {list(embeds.shape[:2])} that is not the one attached "
                f"({list(self._ids.shape)}).",
                _SAME,
            )


def digests(pixels: Tensor | Sequence[Tensor]) -> set[tuple[int, int]]:
    """Two sums over the bits of each row of what a vision tower is given: the same for the same rows, in any order."""
    rows = pixels if isinstance(pixels, Tensor) else torch.cat(list(pixels))
    raw = rows.detach().contiguous().view(torch.uint8).reshape(len(rows), -1)
    each = raw.view(torch.int16) if raw.shape[1] % 2 == 0 else raw
    places = torch.arange(1, each.shape[1] + 1, device=each.device)
    sums = [
        torch.stack([part.sum(1, dtype=torch.long), (part * places).sum(1)], dim=1)
        for part in each.split(max(PART // each.shape[1], 1))
    ]
    return {(plain, placed) for plain, placed in torch.cat(sums).tolist()}


def _same(given: Tensor, expected: Tensor) -> bool:
    return given is expected or (given.shape == expected.shape and torch.equal(given, expected.to(given)))
