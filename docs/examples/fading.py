"""Fading: contrast with a blank image, the more of it the longer the text (after M3ID, Favero et al., CVPR 2024)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from sightline.decoders import Branch, Plan, Request, Step, Strategy, register
from sightline.decoders.contrast import extrapolate
from torch import Tensor


@register
@dataclass(frozen=True)
class Fading(Strategy):
    """s_t = l_t + (exp(rate * t) - 1) * (l_t - l'_t), t = 1, 2, ...; l' are the logits under a blank image.

    Args:
        rate: how fast the image fades from the model's mind, per token, >= 0; 0 is plain decoding.
    """

    key: ClassVar[str] = "fading"
    title: ClassVar[str] = "Fading"
    needs_image: ClassVar[bool] = True
    max_branches: ClassVar[int] = 1

    rate: float = 0.02

    def validate(self) -> None:
        """Ranges of the fields."""
        self.check(self.rate >= 0, "rate", ">= 0", "Use 0 for plain decoding.")

    def plan(self, request: Request) -> Plan:
        """One branch that sees a blank image, the mean of normalised pixels; nothing at rate 0."""
        if self.rate == 0:
            return Plan()
        adapter = request.adapter
        blank = [torch.zeros_like(image) for image in adapter.split_images(request.inputs)]
        pixels = adapter.joined_images(blank)
        return Plan(branches=(Branch("blank", {adapter.image_inputs[0]: pixels}),), combines=True)

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """The contrast at this step; `[batch, vocab]` in float32."""
        return extrapolate(base, branches[0], math.expm1(self.rate * (step.index + 1)))
