"""VCD, visual contrastive decoding (Leng et al., arXiv 2311.16922, CVPR 2024).

Law: run the model on the image and on a noised copy, push the logits away from what the noised copy says, and choose
only among tokens that the clean branch finds plausible. With l, l' `[batch, vocab]` raw logits of the two branches:

    keep_i = l_i >= log(beta) + max_j l_j
    s_i    = (1 + alpha) * l_i - alpha * l'_i   if keep_i, else -inf

The noised copy is one jump of forward diffusion in normalised pixel space, x' = sqrt(abar_t) x + sqrt(1 - abar_t) eps.

Defaults: alpha 1 and beta 0.1 (paper and reference code); noise_step 500 (reference scripts; the paper has 999 for
POPE).
Departures: the noise law of the code (sigmoid schedule) is the default, for the paper's constant gamma = 0.1 leaves no
image at all at t = 500; noise is drawn per image from its own seed, so answers do not depend on batch or order; greedy
and beams are served as well as sampling; the contrast is computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .contrast import extrapolate, plausible
from .plan import Branch, Plan, Request, Step
from .registry import register
from .seeds import seed_of
from .strategy import Strategy

STEPS = 1000
SCHEDULES = ("sigmoid", "constant_gamma")


@register
@dataclass(frozen=True)
class VCD(Strategy):
    """Visual contrastive decoding.

    Args:
        alpha: strength of the contrast, >= 0 (typical 0.25 to 1); 0 leaves the cut alone and runs no branch.
        beta: cut, in [0, 1] (typical 0.1 to 0.2); 0 keeps all tokens.
        noise_step: index of the diffusion step, 0 to 999; 500 keeps 86 % of the signal's amplitude, 999 keeps 29 %.
        noise_schedule: `sigmoid` (reference code) or `constant_gamma` (paper's text, gamma 0.1: noise alone from
            step 100 or so on).
        seed: base of the noise seed; the image's own bytes are mixed in.
    """

    key: ClassVar[str] = "vcd"
    title: ClassVar[str] = "VCD"
    needs_image: ClassVar[bool] = True
    max_branches: ClassVar[int] = 1

    alpha: float = 1.0
    beta: float = 0.1
    noise_step: int = 500
    noise_schedule: str = "sigmoid"
    seed: int = 0

    def validate(self) -> None:
        """Ranges of the fields."""
        self.check(self.alpha >= 0, "alpha", ">= 0", "Use 0 for the cut without contrast.")
        self.check(0 <= self.beta <= 1, "beta", "in [0, 1]", "Use 0 for no cut.")
        self.check(0 <= self.noise_step < STEPS, "noise_step", f"in [0, {STEPS - 1}]", "It is an index, not a share.")
        self.check(self.noise_schedule in SCHEDULES, "noise_schedule", f"one of {', '.join(SCHEDULES)}")

    def plan(self, request: Request) -> Plan:
        """One branch on the noised image; none at alpha 0; nothing at all at alpha 0 and beta 0."""
        if self.alpha == 0:
            return Plan(combines=self.beta > 0)
        adapter = request.adapter
        images = adapter.split_images(request.inputs)
        noised = [noise_image(each, self.noise_step, self.noise_schedule, self.seed, adapter.drawn) for each in images]
        pixels = adapter.joined_images(noised)
        return Plan(branches=(Branch("noised", {adapter.image_inputs[0]: pixels}),), combines=True)

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """(1 + alpha) * base - alpha * noised; the base as it is at alpha 0."""
        return extrapolate(base, branches[0], self.alpha) if branches else base

    def left(self, base: Tensor, step: Step) -> Tensor | None:
        """Tokens that the clean branch finds plausible."""
        return plausible(base, self.beta) if self.beta else None


def power_kept(step: int, schedule: str = "sigmoid") -> Float[Tensor, ""]:
    """abar_t, the share of the image's power left at diffusion step t (an index, 0 to 999); float32."""
    if schedule == "sigmoid":
        betas = torch.sigmoid(torch.linspace(-6, 6, STEPS)) * (0.005 - 1e-5) + 1e-5
    else:
        betas = torch.full((STEPS,), 0.1)
    return torch.cumprod(1 - betas, dim=0)[step]


def add_noise(image: Tensor, noise: Tensor, step: int, schedule: str = "sigmoid") -> Tensor:
    """One jump of forward diffusion: sqrt(abar) * image + sqrt(1 - abar) * noise, in float32; no clipping."""
    kept = power_kept(step, schedule)
    return kept.sqrt() * image.float() + (1 - kept).sqrt() * noise.float()


def noise_images(pixels: Tensor, step: int, schedule: str, seed: int) -> Tensor:
    """A noised copy of `pixels` `[images, ...]` (normalised, not 0..1); same dtype and device.

    Each image has a generator of its own on the CPU, seeded by `seed` and the image's bytes.
    """
    return torch.stack([noise_image(image, step, schedule, seed) for image in pixels])


def noise_image(image: Tensor, step: int, schedule: str, seed: int, drawn: Any = None) -> Tensor:
    """A noised copy of one image; `drawn` is the family's `Adapter.drawn`, None where each pixel stands once.

    Of an image in crops `[crops, ...]` those at the end that only fill up a batch (all zero) stay as they are.
    """
    whole = image.detach().to("cpu", torch.float32)
    filled = whole.flatten(1).any(dim=1).nonzero() if whole.dim() > 3 else whole.new_zeros(0)
    clean = whole[: int(filled.max()) + 1] if len(filled) else whole
    generator = torch.Generator().manual_seed(seed_of(clean, seed))

    def normal(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator)

    noise = normal(tuple(clean.shape)) if drawn is None else drawn(clean, normal)
    noised = torch.cat([add_noise(clean, noise, step, schedule), whole[len(clean) :]])
    return noised.to(image.device, image.dtype)
