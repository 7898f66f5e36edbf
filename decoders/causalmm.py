"""CausalMM, contrast with counterfactual attention (Zhou et al., arXiv 2410.04780, ICLR 2025).

Law: run the model once as it is, and once or twice with attention maps overwritten by maps that know nothing of the
content; push the logits away from what it says then; choose only among tokens that the plain run finds plausible. With
l, l_v, l_t `[batch, vocab]` raw logits of the plain run, of the one whose vision tower is edited, and of the one whose
decoder is edited:

    keep_i = l_i >= log(epsilon) + max_j l_j
    s_i    = l_i + gamma * sum_b (l_i - l_b,i)   over the branches b of the modality, if keep_i; else -inf

so (1 + gamma) l - gamma l_b with one branch, (1 + 2 gamma) l - gamma l_v - gamma l_t with both. The maps are those of
models/counterfactual.py. Each branch has a cache of its own; the vision edit acts while the image is encoded.

Defaults: both branches and random maps (the paper's best); gamma 1 (reference scripts; the paper does not say) and
epsilon 0.1 (reference sampler and command line; its POPE script has 0.6); the middle third of the decoder's layers
(paper: shallow to middle ones); all layers of the tower that count (not specified anywhere).
Departures: the released code has the vision branch alone, as a gate on features (`vision_mode: gate`, with shuffled
maps), and lets both branches share one cache, so that its contrast ends at the first token; ours keeps them apart. By
default our maps' rows sum to 1 and never reach masked keys. Draws come from the sample's own bytes and positions, so
answers do not depend on batch, order or cache; greedy and beams are served as well as sampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .contrast import extrapolate, plausible
from .plan import Branch, MapEdit, Plan, Request, Step
from .registry import register
from .seeds import prompt_seeds, seeds_of
from .strategy import Strategy

CHOICES = {
    "modality": ("vision", "language", "multimodal"),
    "vision_kind": ("uniform", "random", "reversed", "shuffle"),
    "vision_mode": ("in_layer", "gate"),
    "vision_norm": ("row", "none"),
    "language_kind": ("uniform", "random", "reversed"),
    "language_norm": ("visible", "reference"),
    "language_when": ("every_step", "prefill_only"),
}


@register
@dataclass(frozen=True)
class CausalMM(Strategy):
    """Contrast with the same model under counterfactual attention.

    Args:
        modality: `vision` (edit the tower), `language` (the decoder; serves text models too) or `multimodal` (both,
            each in a branch of its own).
        gamma: strength of the contrast, >= 0 (typical 0.5 to 1); 0 leaves the cut alone and runs no branch.
        epsilon: cut, in [0, 1] (typical 0.1; 0.6 makes sampling nearly greedy); 0 keeps all tokens.
        vision_kind: `random`, `uniform`, `reversed` or `shuffle` maps in the vision tower.
        vision_mode: `in_layer` (edited maps act in their layers) or `gate` (released code: the map of the last of the
            layers, resized to the grid, multiplies the features; square grids only).
        vision_layers: `all` that the decoder gets something of, `select` (the last of them), or a list from 0.
        vision_norm: `row` (rows sum to 1) or `none` (as published; what `gate` takes).
        language_kind: `random`, `uniform` or `reversed` maps in the decoder.
        language_layers: `middle` (third of the stack), `all`, or a list from 0.
        language_norm: `visible` (rows sum to 1 over visible keys) or `reference` (as published).
        language_when: `every_step`, or `prefill_only`: new tokens attend as usual.
        seed: of random and shuffled maps; the bytes of image and prompt are mixed in.
    """

    key: ClassVar[str] = "causalmm"
    title: ClassVar[str] = "CausalMM"
    needs_attention: ClassVar[bool] = True
    max_branches: ClassVar[int] = 2

    modality: str = "multimodal"
    gamma: float = 1.0
    epsilon: float = 0.1
    vision_kind: str = "random"
    vision_mode: str = "in_layer"
    vision_layers: tuple[int, ...] | str = "all"
    vision_norm: str = "row"
    language_kind: str = "random"
    language_layers: tuple[int, ...] | str = "middle"
    language_norm: str = "visible"
    language_when: str = "every_step"
    seed: int = 0

    def validate(self) -> None:
        """Ranges and names of the fields; layers are checked against the model once it is known."""
        for name, allowed in CHOICES.items():
            self.check(getattr(self, name) in allowed, name, f"one of {', '.join(allowed)}")
        self.check(self.gamma >= 0, "gamma", ">= 0", "Use 0 for the cut without contrast.")
        self.check(0 <= self.epsilon <= 1, "epsilon", "in [0, 1]", "Use 0 for no cut.")
        published = self.vision_mode != "gate" or self.vision_norm == "none"
        self.check(published, "vision_norm", "none where vision_mode is gate", "Set vision_norm to none.")
        for name, words in (("vision_layers", ("all", "select")), ("language_layers", ("middle", "all"))):
            value: Any = getattr(self, name)
            listed = isinstance(value, tuple) and all(type(layer) is int and layer >= 0 for layer in value)
            distinct = listed and 0 < len(value) == len(set(value))
            self.check(value in words or distinct, name, f"{', '.join(words)} or a list of distinct layers from 0")

    def plan(self, request: Request) -> Plan:
        """A branch for each part of the modality; none at gamma 0; nothing at all at gamma 0 and epsilon 0."""
        if self.modality != "language":
            request.adapter.require_images(request.inputs, f"{self.key} (with modality={self.modality})")
        if self.gamma == 0:
            return Plan(combines=self.epsilon > 0)
        parts = {"vision": [self.vision], "language": [self.language], "multimodal": [self.vision, self.language]}
        return Plan(branches=tuple(part(request) for part in parts[self.modality]), combines=True)

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        """`contrast`; the base as it is at gamma 0."""
        return contrast(base, branches, self.gamma) if branches else base

    def left(self, base: Tensor, step: Step) -> Tensor | None:
        """Tokens that the plain run finds plausible."""
        return plausible(base, self.epsilon) if self.epsilon else None

    def vision(self, request: Request) -> Branch:
        """The branch whose image is encoded under edited maps."""
        count = request.adapter.vision_layer + 1
        layers = self.layers("vision_layers", {"all": range(count), "select": range(count - 1, count)})
        kind: Any = self.vision_kind
        norm: Any = self.vision_norm
        seeds, gate = seeds_of(request.adapter.tower_pixels(request.inputs), self.seed), self.vision_mode == "gate"
        edit = MapEdit(layers[-1:] if gate else layers, kind, norm, seeds=seeds, gate=gate)
        return Branch("vision", vision_edits=(edit,))

    def language(self, request: Request) -> Branch:
        """The branch whose decoder attends by edited maps, in the prompt too."""
        count = request.adapter.layers
        third = max(1, count // 3)
        start = (count - third) // 2
        layers = self.layers("language_layers", {"all": range(count), "middle": range(start, start + third)})
        kind: Any = self.language_kind
        norm: Any = self.language_norm
        when: Any = self.language_when
        seeds, lengths = prompt_seeds(request, self.seed)
        shown = request.inputs.get("attention_mask")
        return Branch("language", edits=(MapEdit(layers, kind, norm, when, seeds, lengths, shown=shown),))

    def layers(self, name: str, named: dict[str, range]) -> tuple[int, ...]:
        """The layers that a field means, in order; `named["all"]` are those there are."""
        value: Any = getattr(self, name)
        layers = tuple(sorted(named[value] if isinstance(value, str) else value))
        self.check(set(layers) <= set(named["all"]), name, f"among this model's 0 to {len(named['all']) - 1}")
        return layers


def contrast(
    base: Float[Tensor, "batch vocab"], branches: Sequence[Float[Tensor, "batch vocab"]], gamma: float
) -> Float[Tensor, "batch vocab"]:
    """base + gamma * sum over branches of (base - branch), as one extrapolation from the branches' mean."""
    return extrapolate(base, torch.stack(tuple(branches)).mean(dim=0), gamma * len(branches))
