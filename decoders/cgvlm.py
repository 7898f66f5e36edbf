"""CG-VLM, "Conscious Gaze" (arXiv 2512.05546, 2025): a boost of visual attention, gated token by token.

Law: where image and instruction speak about the next token together, look at the image harder. The sensor is a game of
two players, image v and instruction p; an absent image is noise, an absent instruction the empty string. With l_C
`[batch, vocab]` the raw logits of coalition C, and over the K likeliest tokens y of l_vp:

    I(y)  = l_vp(y) - l_v(y) - l_p(y) + l_0(y)                  (Harsanyi dividend)
    D     = sum (I - mean I)^2 / (K - 1),    open = D > k       (a number per row and step)

Where the gate is open, the newest query row of some middle layers gets, before the mask and on image keys j alone,

    e_h,j <- e_h,j + alpha * mean over heads of |e_h,j|         (e scaled scores, `[heads, keys]`)

Logits are not contrasted: what is decoded is the boosted row where the gate is open, the plain row elsewhere. The
sensor never sees a boost: its four streams keep a history of their own (their {v, p} is not the row that is decoded).

Defaults: alpha 0.5 and K 50 (released code); k 1.0 (its POPE script; 0.5 in its library), unless the model has a
calibrated one, for D grows with the square of the logits' scale; layers round(0.16 L) to round(0.56 L), which are the
released 5 to 18 of 32. The paper's own method section could not be read: this follows the released code.
Departures: image columns come from the image-token id (the code boosts the start token and misses an image token);
each coalition has its own length, padded on the left (the code reads a padding row); the boost is taken from unmasked
scores; the gate is per row (the code averages a batch, and falls back to plain decoding for more than one prompt); no
Q-Former layer is boosted; noise belongs to the image's bytes. `mean`, `blank` and `drop`, the entropy gate and the
bounds `always` and `never` are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .calibration.threshold import AUTO, find
from .plan import Branch, KeyBias, Plan, Request, Step
from .registry import register
from .seeds import seed_of
from .strategy import Strategy

if TYPE_CHECKING:
    from ..models.adapter import Adapter

ABSENT = ("noise", "blank", "drop", "mean")
GATINGS = ("interaction", "always", "never")
K = 1.0
FIRST, LAST = 0.16, 0.56


@register
@dataclass(frozen=True)
class CGVLM(Strategy):
    """Visual attention boosted where image and instruction interact.

    Args:
        alpha: strength of the boost, >= 0 (typical 0.3 to 0.5); 0 is plain decoding.
        k: what D must exceed; None takes the model's calibrated one, and 1.0 where there is none.
        threshold: where the calibrated one comes from: `auto` (the model's folder) or a file of `sightline calibrate`.
        top_k_tokens: K, candidates whose dividends are compared, >= 2; at most the vocabulary.
        layers: boosted ones, `middle` or a list from 0.
        absent_image: `noise` (uniform in [0, 1), released code), `blank` (the processor's mean colour), `drop` (no
            image tokens), or `mean` (each image token the mean of them all).
        gating: `interaction`; or a bound of the method: `always` (no sensor, no branch) or `never` (plain decoding).
        entropy_threshold: open only where the entropy of the plain row, as a share of log(vocab), exceeds this; None
            asks D alone.
        seed: of the noise; the image's own bytes are mixed in.
    """

    key: ClassVar[str] = "cgvlm"
    title: ClassVar[str] = "CG-VLM"
    needs_image: ClassVar[bool] = True
    needs_attention: ClassVar[bool] = True
    needs_processor: ClassVar[bool] = True
    max_branches: ClassVar[int] = 5
    calibrates: ClassVar[str | None] = "threshold"

    alpha: float = 0.5
    k: float | None = None
    threshold: str = AUTO
    top_k_tokens: int = 50
    layers: tuple[int, ...] | str = "middle"
    absent_image: str = "noise"
    gating: str = "interaction"
    entropy_threshold: float | None = None
    seed: int = 0

    def validate(self) -> None:
        """Ranges and names of the fields; layers are checked against the model once it is known."""
        self.check(self.alpha >= 0, "alpha", ">= 0", "Use 0 for plain decoding.")
        rule = f"left at {AUTO} where k is given"
        self.check(self.k is None or self.threshold == AUTO, "threshold", rule, "Set k to null.")
        self.check(self.threshold != "", "threshold", "auto or a file", "Use auto for the model's own.")
        self.check(self.top_k_tokens >= 2, "top_k_tokens", ">= 2", "The released code has 50.")
        self.check(self.absent_image in ABSENT, "absent_image", f"one of {', '.join(ABSENT)}")
        self.check(self.gating in GATINGS, "gating", f"one of {', '.join(GATINGS)}")
        share = self.entropy_threshold
        self.check(share is None or 0 <= share <= 1, "entropy_threshold", "None or in [0, 1]", "It is a share.")
        value: Any = self.layers
        listed = isinstance(value, tuple) and all(type(layer) is int and layer >= 0 for layer in value)
        distinct = listed and 0 < len(value) == len(set(value))
        self.check(value == "middle" or distinct, "layers", "middle or a list of distinct layers from 0")

    def plan(self, request: Request) -> Plan:
        """Three coalitions, the fourth one off the base's prefill, and the boosted twin; no branch under a bound."""
        layers = self.boosted(request.adapter.layers)
        if self.alpha == 0 or self.gating == "never":
            return Plan()
        bias = KeyBias(layers, partial(boost, alpha=self.alpha))
        if self.gating == "always":
            return Plan(bias=bias)
        full, twin = Branch("plain", fork=True), Branch("boosted", fork=True, bias=bias, twin=True)
        return Plan((*self.coalitions(request), full, twin), context={"k": self.level(request.adapter)})

    def gate(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor | None:
        """Rows whose D exceeds k, and whose entropy its threshold; where D is not a number the gate stays shut."""
        if not branches:
            return None
        opened = self.conflict(branches[3], branches[:3]) > step.context["k"]
        return opened if self.entropy_threshold is None else opened & (spread(base) > self.entropy_threshold)

    def numbers(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> dict[str, Tensor]:
        """D."""
        return {"interaction": self.conflict(branches[3], branches[:3])} if branches else {}

    def conflict(self, full: Tensor, coalitions: Sequence[Tensor]) -> Tensor:
        """D `[batch]`, from the logits of {v, p} and of what `coalitions` plans."""
        no_text, no_image, neither = coalitions
        return interaction(full, no_text, no_image, neither, self.top_k_tokens)

    def coalitions(self, request: Request) -> tuple[Branch, Branch, Branch]:
        """{v}, {p} and {}: without the instruction, without the image, without either.

        In this order coalitions with the same image are neighbours, and what stands before the text is run once.
        """
        adapter, inputs = request.adapter, request.inputs
        wordless = adapter.reworded(inputs, request.processor, "")
        name, rows = adapter.image_inputs[0], len(inputs["input_ids"])
        absent: dict[str, Any] = {"no image": {}, "neither": wordless}
        alter = mean_image if self.absent_image == "mean" else None
        if self.absent_image == "drop":
            absent = {key: adapter.without_image({**inputs, **own}, [[]] * rows) for key, own in absent.items()}
        elif alter is None:
            images = adapter.split_images(inputs)
            drawn = [noise_image(image, self.seed, adapter.drawn) for image in images]
            other = torch.zeros_like(inputs[name]) if self.absent_image == "blank" else adapter.joined_images(drawn)
            absent = {key: {**own, name: other} for key, own in absent.items()}
        without, neither = (Branch(key, own, alter=alter) for key, own in absent.items())
        return Branch("no instruction", wordless), without, neither

    def boosted(self, count: int) -> tuple[int, ...]:
        """The layers that are boosted, of `count` there are."""
        if isinstance(self.layers, str):
            return tuple(range(round(FIRST * count), min(round(LAST * count), count - 1) + 1))
        self.check(max(self.layers) < count, "layers", f"among this model's 0 to {count - 1}")
        return self.layers

    def level(self, adapter: Adapter) -> float:
        """What D must exceed on this model.

        Raises:
            CalibrationMissing, CalibrationInvalid: the file is not there, or cannot be read.
            CalibrationMismatch: it was measured on another model or with another sensor.
        """
        if self.k is not None:
            return self.k
        found = find(self.threshold, adapter)
        if found is None:
            return K
        found.check_sensor(self)
        return found.k

    def calibration(self, adapter: Adapter) -> str | None:
        """The threshold in force where `k` does not say it."""
        used = self.alpha > 0 and self.gating == "interaction" and self.k is None
        return f"k={self.level(adapter)!r}" if used else None


def interaction(
    full: Float[Tensor, "batch vocab"],
    image: Float[Tensor, "batch vocab"],
    text: Float[Tensor, "batch vocab"],
    neither: Float[Tensor, "batch vocab"],
    top_k: int,
) -> Float[Tensor, " batch"]:
    """D: unbiased variance of the Harsanyi dividends of the `top_k` likeliest tokens of `full`.

    Args:
        full, image, text, neither: logits of {v, p}, {v}, {p} and {}; a constant added to any of them changes nothing.
    """
    candidates = full.topk(min(top_k, full.shape[-1]), dim=-1).indices
    return dividends(full, image, text, neither).gather(-1, candidates).var(dim=-1)


def dividends(
    full: Float[Tensor, "batch vocab"],
    image: Float[Tensor, "batch vocab"],
    text: Float[Tensor, "batch vocab"],
    neither: Float[Tensor, "batch vocab"],
) -> Float[Tensor, "batch vocab"]:
    """What image and instruction say together beyond what either says alone."""
    return full - image - text + neither


def spread(logits: Float[Tensor, "batch vocab"]) -> Float[Tensor, " batch"]:
    """Entropy as a share of its largest value, log(vocab)."""
    return torch.special.entr(logits.softmax(-1)).sum(dim=-1) / math.log(logits.shape[-1])


def boost(
    scores: Float[Tensor, "batch heads keys"], image: Bool[Tensor, "batch keys"], alpha: float
) -> Float[Tensor, "batch 1 keys"]:
    """What is added to the scores of each image key: alpha times the mean of |score| over query heads; 0 elsewhere."""
    return (alpha * scores.abs().mean(dim=1)).masked_fill(~image, 0.0)[:, None]


def noise(pixels: Tensor, seed: int) -> Tensor:
    """Images `[images, ...]` of uniform noise in [0, 1), each drawn from a generator of its own on the CPU.

    Crops that only fill up a batch (all zero) do not enter the seed.
    """
    return torch.stack([noise_image(image, seed) for image in pixels])


def noise_image(image: Tensor, seed: int, drawn: Any = None) -> Tensor:
    """`noise` for one image; `drawn` is the family's `Adapter.drawn`, None where each pixel stands once."""
    seen = image.detach().to("cpu", torch.float32)
    crops = seen[seen.flatten(1).any(dim=1)] if seen.dim() > 3 else seen
    generator = torch.Generator().manual_seed(seed_of(crops, seed))

    def uniform(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=generator)

    noise = uniform(tuple(seen.shape)) if drawn is None else drawn(seen, uniform)
    return noise.to(image.device, image.dtype)


def mean_image(
    embeds: Float[Tensor, "batch length hidden"], image: Bool[Tensor, "batch length"]
) -> Float[Tensor, "batch length hidden"]:
    """Embeddings in which every image token of a row is the mean of the row's image tokens."""
    weights = (image / image.sum(dim=1, keepdim=True).clamp(min=1)).to(embeds)
    mean = torch.einsum("bl,blh->bh", weights, embeds.masked_fill(~image[..., None], 0.0))
    return torch.where(image[..., None], mean[:, None], embeds)
