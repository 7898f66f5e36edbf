"""Image-text models without an adapter of their own: what they have alike is looked up, what differs is known by type.

Every such model of transformers puts features of a vision tower in the place of image tokens and runs a text decoder on
the embeddings. Decoder, owner, tower and image-token id are found by the names that transformers gives them; the first
inputs attached prove that they are the right ones (`check_inputs`). What no name tells is written down in `KNOWN`, for
Gemma 3, Idefics 3, InternVL, PaliGemma and SmolVLM:

* **Masks.** In Gemma 3 the tokens of an image see each other, in PaliGemma all tokens of a prompt do; both make their
  masks outside the decoder, from token types. Branches of another length get masks from the model's own function. A
  PaliGemma prompt cannot be cut in two, so branches that fork off it are refused.
* **Pixels.** Idefics 3 and SmolVLM take `[rows, images, 3, height, width]`, with images of zeros as padding; the others
  `[images, 3, height, width]`, crops of an image being images one after the other.
* **Prompts.** Image tokens stand between markers of the family's own; see `image_blocks`.

Any other type is served as far as that goes: images, embeddings and attention of the decoder. Prompts of a strategy's
own and edits of the tower are refused, and so is a branch whose masks would have to be guessed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from weakref import WeakSet

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .adapter import Adapter
from .errors import InvalidPrompt, SelfCheckFailed, UnsupportedMode, UnsupportedModel
from .image_blocks import worded_rows
from .prompts import PER_TOKEN, unpadded
from .versions import CACHE

Masks = Literal["causal", "blocks", "prefix", "own"]
PROJECTORS = ("multi_modal_projector", "connector")
TEXT_INPUTS = ("input_ids", "attention_mask", "position_ids", "labels", *PER_TOKEN)
"""Inputs that say nothing of pixels."""
ENTERING = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", CACHE)
"""What a decoder may be given that has a row for each prompt."""
_CHECKED: dict[str, WeakSet[nn.Module]] = {"text": WeakSet(), "image": WeakSet()}


@dataclass(frozen=True)
class Known:
    """What a model of this type does and does not show.

    Attributes:
        masks: who sees whom in a prompt: `causal`, but for images as a whole (`blocks`), or everyone (`prefix`).
        rows: pixels have a row for each prompt, `[rows, images, 3, height, width]`, padded by images of zeros.
    """

    masks: Masks = "causal"
    rows: bool = False


KNOWN: dict[str, Known] = {
    "gemma3": Known("blocks"),
    "idefics3": Known(rows=True),
    "internvl": Known(),
    "paligemma": Known("prefix"),
    "smolvlm": Known(rows=True),
}
"""`config.model_type` -> what is known of it."""


class AutoImageTextAdapter(Adapter):
    """Adapter for image-text models of transformers that have none of their own.

    Raises:
        UnsupportedModel: there is no image-token id, tower or pixel input to be found, or positions have several axes.
    """

    family: ClassVar[str] = "auto"
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    image_layout: ClassVar[tuple[str, ...]] = ("pixel_attention_mask", "image_sizes")

    def __init__(self, model: PreTrainedModel):
        super().__init__(model)
        self._type = str(model.config.model_type)
        self._known = KNOWN.get(self._type)
        own = hasattr(type(self.owner), "create_masks_for_generate")
        self._masks: Masks = self._known.masks if self._known else "own" if own else "causal"
        if self.image_token_id is None:
            raise self._unsupported("has no image-token id in its config")
        if any(hasattr(module, "get_rope_index") for module in model.modules()):
            raise self._unsupported("counts positions on several axes")
        if self.owner is not model:
            raise self._unsupported("generates inside another model")
        self._tower = self._find_tower()

    @property
    def image_token_id(self) -> int | None:
        """From `image_token_id` or `image_token_index` of the config."""
        config: Any = self.model.config
        named = (getattr(config, name, None) for name in ("image_token_id", "image_token_index"))
        return next((int(token) for token in named if isinstance(token, int)), None)

    @property
    def vision_tower(self) -> PreTrainedModel:
        """What `get_encoder(modality="image")` of the model gives."""
        return self._tower

    @property
    def vision_layer(self) -> int:
        """The last one, or what `vision_feature_layer` says: hidden state k is the output of layer k - 1.

        Raises:
            UnsupportedModel: the type is not among `KNOWN`.
        """
        if self._known is None:
            raise self._unsupported("does not say which layers of its vision tower are used", "leaves the tower alone")
        layers = len(self.vision_attention_modules())
        chosen: Any = getattr(self.model.config, "vision_feature_layer", -1)
        states = [chosen] if isinstance(chosen, int) else chosen
        return max(state if state >= 0 else layers + 1 + state for state in states) - 1

    def vision_attention_modules(self) -> list[nn.Module]:
        """The attention of each layer of the tower, with a query projection of its own or a fused one.

        Raises:
            UnsupportedModel: there is not one for each layer.
        """
        found = [m for m in self._tower.modules() if any(hasattr(m, name) for name in ("q_proj", "qkv", "qkv_proj"))]
        if not found or len(found) != int(getattr(self._tower.config, "num_hidden_layers", 0)):
            raise self._unsupported(
                "does not show one attention module per layer of its tower", "leaves the tower alone"
            )
        return found

    @property
    def projector(self) -> nn.Module:
        """The multi-modal projector, or connector.

        Raises:
            UnsupportedModel: the type is not among `KNOWN`.
        """
        inner: Any = getattr(self.model, "model", self.model)
        named = [getattr(inner, name) for name in PROJECTORS if isinstance(getattr(inner, name, None), nn.Module)]
        if self._known is None or len(named) != 1:
            raise self._unsupported("shows no projector that weights of patches could act on", "leaves the tower alone")
        return named[0]

    def tower_pixels(self, inputs: Mapping[str, Any]) -> Any:
        """As `Adapter.tower_pixels`.

        Raises:
            UnsupportedModel: the tower is given something else.
        """
        called = self._first_call(self._tower, inputs)
        pixels: Any = called.args[0] if called.args else called.kwargs.get("pixel_values")
        if not isinstance(pixels, Tensor):
            raise self._unsupported("gives its tower something other than pixels")
        return pixels

    def drawn(self, image: Tensor, draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """A number for each pixel, but 0 in images of zeros: the model takes those for padding."""
        numbers = draw(tuple(image.shape))
        if image.dim() < 4:
            return numbers
        return numbers * image.flatten(1).any(dim=1).view(-1, *[1] * (image.dim() - 1))

    def decoder_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """As `Adapter.decoder_inputs`.

        Raises:
            UnsupportedMode: an image of zeros where the model would take it for padding.
        """
        pixels = inputs.get("pixel_values")
        if self._known is not None and self._known.rows and pixels is not None:
            blank = ~pixels.flatten(1).any(dim=1) & self.image_mask(inputs["input_ids"]).any(dim=1).to(pixels.device)
            if blank.any():
                raise UnsupportedMode(
                    f"{type(self.model).__name__} takes an image of zeros for padding, and leaves it out.",
                    "Use another absent_image, such as noise or mean.",
                )
        return super().decoder_inputs(inputs)

    @property
    def whole_prompt(self) -> bool:
        """True for PaliGemma, and where masks are the model's own and not known."""
        return self._masks in ("prefix", "own")

    @property
    def whole_images(self) -> bool:
        """True for Gemma 3."""
        return self._masks == "blocks"

    @property
    def first_position(self) -> int:
        """1 for PaliGemma."""
        return int(self._type == "paligemma")

    @property
    def new_type(self) -> int:
        """1 for PaliGemma: what is generated does not belong to the prefix."""
        return int(self._masks == "prefix")

    def prompt_mask(self, call: Mapping[str, Any], image: Tensor, cache: Any) -> Any:
        """From the model's own mask function, and token types that follow from `image`.

        Raises:
            UnsupportedMode: the type is not among `KNOWN`, and makes masks of its own.
        """
        if self._masks == "causal":
            return call["attention_mask"]
        if self._masks == "own":
            raise UnsupportedMode(
                f"{type(self.model).__name__} makes masks of its own, and how they follow from a prompt is not known.",
                "Use a strategy whose branches see the base's prompt (for example vcd).",
            )
        embeds = call["inputs_embeds"]
        behind = image.new_zeros(len(image), embeds.shape[1] - image.shape[1])
        if self._masks == "blocks":
            types = torch.cat([image, behind], dim=1)
        else:
            types = torch.cat([torch.zeros_like(image), ~behind], dim=1)
        make: Any = type(self.owner)
        return make.create_masks_for_generate(
            config=self.model.config,
            inputs_embeds=embeds,
            attention_mask=call["attention_mask"],
            **{CACHE: cache},
            position_ids=call["position_ids"],
            token_type_ids=types.long().to(embeds.device),
            is_first_iteration=True,
        )

    def batched(self, rows: Sequence[Sequence[int]], like: Mapping[str, Any]) -> dict[str, Tensor]:
        """As `Adapter.batched`; all tokens of a PaliGemma prompt are of type 0."""
        return self._typed(super().batched(rows, like))

    def reworded(self, inputs: Mapping[str, Any], processor: Any, text: str) -> dict[str, Tensor]:
        """As `Adapter.reworded`; images keep the markers that the family puts around them.

        PaliGemma has no chat format: the text is the prompt, as its processor puts it.

        Raises:
            UnsupportedModel: the type is not among `KNOWN`.
        """
        if self._known is None:
            raise self._unsupported(
                "puts images into a prompt in a way that is not known", "needs no prompt of its own"
            )
        rows = worded_rows(self._type, unpadded(inputs), processor, text, int(self.image_token_id or 0))
        return self.batched(rows, inputs)

    def without_image(self, inputs: Mapping[str, Any], texts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """As `Adapter.without_image`."""
        return self._typed(super().without_image(inputs, texts))

    def images_of(self, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """As `Adapter.images_of`; where images lie one after the other, told by how many image tokens a row has."""
        pixels, rows = inputs.get("pixel_values"), unpadded(inputs)
        if self._known is None or pixels is None:
            return super().images_of(inputs)
        given = {name: inputs[name] for name in ("pixel_values", *self.image_layout) if inputs.get(name) is not None}
        tokens = [int((row == self.image_token_id).sum()) for row in rows]
        counts = (
            [1] * len(rows) if self._known.rows else [count * len(pixels) // max(sum(tokens), 1) for count in tokens]
        )
        even = self._known.rows or all(n * len(pixels) == c * sum(tokens) for n, c in zip(tokens, counts, strict=True))
        if sum(counts) != len(pixels) or not even:
            raise InvalidPrompt(
                f"The rows of the batch have {tokens} image tokens, which {len(pixels)} images do not share evenly.",
                "Pass input_ids and pixel_values as the processor returns them.",
            )
        split = {name: torch.as_tensor(value).split(counts) for name, value in given.items()}
        return [{name: parts[row] for name, parts in split.items()} for row in range(len(rows))]

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Refuse inputs whose meaning is not known; prove once per model, with them, that images are found.

        Raises:
            InvalidPrompt: an input of another name; no token types where masks follow from them, or others.
            SelfCheckFailed: pixels alter embeddings elsewhere than at image tokens, or not there.
            UnsupportedModel: the decoder is called more than once, or given more than embeddings.
        """
        known = (*TEXT_INPUTS, *self.image_inputs, *self.image_layout)
        strange = [name for name, value in inputs.items() if value is not None and name not in known]
        if strange:
            raise InvalidPrompt(
                f"The inputs hold {', '.join(strange)}; what {type(self.model).__name__} makes of that is not known.",
                "Leave it out if it says nothing of the prompt, or use a family that is served by name.",
            )
        self._check_types(inputs)
        if self.model not in _CHECKED["text"]:
            self._check_call(inputs)
            _CHECKED["text"].add(self.model)
        if inputs.get("pixel_values") is not None and self.model not in _CHECKED["image"]:
            self._check_images(inputs)
            _CHECKED["image"].add(self.model)

    def _check_types(self, inputs: Mapping[str, Any]) -> None:
        """Refuse token types from which other masks would follow than those of branches."""
        if self._masks not in ("blocks", "prefix"):
            return
        types, image = inputs.get("token_type_ids"), self.image_mask(inputs["input_ids"])
        if types is None and (self._masks == "prefix" or inputs.get("pixel_values") is not None):
            raise InvalidPrompt(
                f"The inputs hold no token_type_ids, from which {type(self.model).__name__} knows who sees whom.",
                "Pass all that the model's own processor returns.",
            )
        expected = image.to(torch.long) if self._masks == "blocks" else torch.zeros_like(inputs["input_ids"])
        if types is not None and not torch.equal(types.to(expected), expected):
            what = "1 at image tokens and 0 elsewhere" if self._masks == "blocks" else "0: a prompt has no suffix"
            raise InvalidPrompt(
                f"The token_type_ids of a {type(self.model).__name__} prompt must be {what}.",
                "Pass what the model's own processor returns, and candidates to `score`.",
            )

    def _check_call(self, inputs: Mapping[str, Any]) -> None:
        """See how the decoder is called."""
        given = {name: value for name, value in inputs.items() if name != "labels"}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            given["logits_to_keep"] = 1
        calls: list[Mapping[str, Any]] = []
        hook: Any = lambda _module, args, kwargs: calls.append({**kwargs, **({"positional": args} if args else {})})  # noqa: E731
        handle = self.decoder.register_forward_pre_hook(hook, with_kwargs=True)
        try:
            with torch.no_grad():
                self.model(**given, use_cache=False)
        finally:
            handle.remove()
        if len(calls) != 1:
            raise self._unsupported(f"calls its decoder {len(calls)} times in a forward")
        call = calls[0]
        more = [n for n, value in call.items() if n not in ENTERING and isinstance(value, (Tensor, tuple, list, dict))]
        if more:
            raise self._unsupported(f"gives its decoder {', '.join(more)} besides embeddings")
        positions = call.get("position_ids")
        if positions is not None and positions.dim() != 2:
            raise self._unsupported("counts positions on several axes")
        mask = call.get("attention_mask")
        if self._masks == "causal" and not (mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)):
            self._masks = "own"

    def _check_images(self, inputs: Mapping[str, Any]) -> None:
        """Alter the pixels and see which embeddings move."""
        given = {name: value for name, value in inputs.items() if name != "labels"}
        image = self.image_mask(given["input_ids"])
        if not image.any():
            return  # the model's own error, or a strategy's, says it better
        pixels: Tensor = given["pixel_values"]
        filled = pixels.flatten(2).any(dim=2) if pixels.dim() == 5 else pixels.flatten(1).any(dim=1)
        changed = (0.25 - 0.5 * pixels) * filled.view(*filled.shape, *[1] * (pixels.dim() - filled.dim()))
        embeds = [self.decoder_inputs({**given, "pixel_values": each})["inputs_embeds"] for each in (pixels, changed)]
        moved = (embeds[0] != embeds[1]).any(dim=-1).to(image.device)
        name = type(self.model).__name__
        if bool((moved & ~image).any()):
            raise SelfCheckFailed(
                f"Pixels alter embeddings of {name} elsewhere than at image tokens.",
                "Use a text strategy with this model, and report it.",
            )
        if not torch.equal(moved, image):
            raise SelfCheckFailed(
                f"Pixels do not alter the embeddings at the image tokens of {name}: images enter it another way.",
                "Use a text strategy with this model, or a family that is served by name.",
            )

    def _typed(self, made: dict[str, Any]) -> dict[str, Any]:
        if self._masks == "prefix" and made.get("token_type_ids") is not None:
            made["token_type_ids"] = torch.zeros_like(made["input_ids"])
        return made

    def _find_tower(self) -> PreTrainedModel:
        model: Any = self.model
        try:
            tower = model.get_encoder(modality="image")
        except (AttributeError, TypeError, ValueError):
            tower = None
        if not isinstance(tower, PreTrainedModel) or any(module is self.decoder for module in tower.modules()):
            raise self._unsupported("shows no vision tower")
        return tower

    def _unsupported(self, why: str, instead: str = "") -> UnsupportedModel:
        hint = f"Use a strategy that {instead} with this model" if instead else "Use a model of another family"
        return UnsupportedModel(
            f"{type(self.model).__name__} (type {self._type!r}) {why}.",
            f"{hint}; `sightline models` lists the families that are served by name.",
        )
