"""What a strategy and the engine may know of a model family. One subclass per family; no forward is copied.

Words: the *decoder* is the text decoder (a stack of layers over embeddings), the *owner* is the module whose
`generate()` loop runs it and whose head turns hidden states into logits. For LLaVA the owner is the model itself, for
InstructBLIP its language model.
"""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .blanks import blank_tokens
from .descriptions import Descriptions, describe
from .errors import InvalidPrompt, MissingImage, UnsupportedModel
from .parts import attention_of, decoder_of, layers_of, owner_of, refuse_compiled
from .prompts import batched, reworded, runs, text_ids, unpadded, without_image
from .self_check import self_check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class _Captured(Exception):
    """Carries the arguments of a module's first call out of a forward that is to go no further."""

    def __init__(self, args: tuple, kwargs: dict[str, Any]):
        self.args = args
        self.kwargs = kwargs


class Adapter:
    """Base of all adapters; serves any decoder-only model of transformers as it stands.

    Args:
        model: the model as loaded; left as it is.

    Raises:
        UnsupportedModel: the model has no decoder, no generate loop, or was compiled as a whole.
    """

    family: ClassVar[str] = "text"
    image_inputs: ClassVar[tuple[str, ...]] = ()
    """Names of the model inputs that carry pixels; the first one is what image strategies alter."""
    image_layout: ClassVar[tuple[str, ...]] = ()
    """Names of the model inputs that say how pixels are laid out, with one entry for each image or each row."""
    words_inputs: ClassVar[tuple[str, ...]] = ()
    """Names of the model inputs that hold the instruction once more, for what encodes the image (a Q-Former)."""

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.decoder = decoder_of(model)
        self.owner = owner_of(model, self.decoder)
        refuse_compiled(model, self.owner)
        self._descriptions = Descriptions()

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return int(self.decoder.config.num_hidden_layers)

    @property
    def heads(self) -> int:
        """Number of query heads per layer."""
        return int(self.decoder.config.num_attention_heads)

    @property
    def image_token_id(self) -> int | None:
        """Id that marks image positions in `input_ids`; None for text models."""
        return getattr(self.model.config, "image_token_id", None)

    @property
    def end_tokens(self) -> list[int]:
        """Ids that end a text, as the generation config has them."""
        end = self.model.generation_config.eos_token_id if self.model.generation_config is not None else None
        return [] if end is None else list(end) if isinstance(end, (list, tuple)) else [int(end)]

    def end_or_blank_tokens(self, processor: Any = None) -> list[int]:
        """Ids that end a text or are white space alone, sorted; without a processor, `end_tokens` alone."""
        if processor is None:
            return sorted(self.end_tokens)
        end = getattr(getattr(processor, "tokenizer", processor), "eos_token_id", None)
        return sorted({*self.end_tokens, *blank_tokens(processor)} | ({end} if isinstance(end, int) else set()))

    def attention_modules(self) -> list[nn.Module]:
        """The attention module of each decoder layer, first layer first."""
        return attention_of(self.decoder, self.layers)

    def decoder_layers(self) -> list[nn.Module]:
        """The layers of the decoder, first layer first.

        Raises:
            UnsupportedModel: the decoder keeps them elsewhere than transformers' decoders do.
        """
        return layers_of(self.decoder, self.layers)

    def early_logits(self, hidden: Tensor) -> Tensor:
        """What the model's own head makes of a hidden state `[..., hidden]` between layers, without the final norm."""
        head: Any = self.owner.get_output_embeddings()
        logits = head(hidden)
        cap = getattr(self.decoder.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def vision_tower(self) -> PreTrainedModel:
        """The module that encodes images.

        Raises:
            UnsupportedModel: the model has none.
        """
        raise UnsupportedModel(f"{type(self.model).__name__} has no vision tower.", "Use an image-text model.")

    @property
    def vision_heads(self) -> int:
        """Number of heads per layer of the vision tower."""
        return int(self.vision_tower.config.num_attention_heads)

    @property
    def vision_layer(self) -> int:
        """The last layer of the vision tower whose output the decoder gets; 0-based.

        Raises:
            UnsupportedModel: the model has no vision tower, or its family does not say.
        """
        raise UnsupportedModel(
            f"{type(self.model).__name__} does not say which layers of its vision tower are used.",
            "Use a strategy that leaves the vision tower alone with this model.",
        )

    @property
    def projector(self) -> nn.Module:
        """The module that turns features of the vision tower, `[rows, patches, hidden]`, into embeddings.

        Without rows, `[patches, hidden]`, where the tower packs all images in one.

        Raises:
            UnsupportedModel: the model has none of that kind.
        """
        raise UnsupportedModel(
            f"{type(self.model).__name__} has no projector that weights of patches could act on.",
            "Use vision_mode in_layer with this model.",
        )

    def tower_pixels(self, inputs: Mapping[str, Any]) -> Sequence[Tensor]:
        """What the vision tower is given for `inputs`, image by image or crop by crop; nothing is encoded."""
        called = self._first_call(self.vision_tower, inputs)
        return called.args[0] if called.args else called.kwargs["pixel_values"]

    def vision_attention_modules(self) -> list[nn.Module]:
        """The attention module of each layer of the vision tower, first layer first."""
        return [module for module in self.vision_tower.modules() if hasattr(module, "q_proj")]

    def image_mask(self, input_ids: Tensor) -> Tensor:
        """Which positions hold image tokens: `[batch, length]` of bool, from the image-token id, row by row."""
        if self.image_token_id is None:
            return torch.zeros_like(input_ids, dtype=torch.bool)
        return input_ids == self.image_token_id

    @staticmethod
    def fit(processor: Any) -> None:
        """Set what a loaded processor of this family lacks; called once, by `load`."""

    def check_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Refuse inputs that the model's `generate()` cannot take, before anything is run."""

    def require_images(self, inputs: Mapping[str, Any], who: str) -> None:
        """Check that every prompt of the batch has an image.

        Raises:
            MissingImage: the model takes no images, no pixels were given, or a row has no image token.
        """
        if not self.image_inputs:
            raise MissingImage(
                f"{who} contrasts images, and {type(self.model).__name__} takes none.",
                "Use an image-text model or a text strategy (see `sightline decoders`; causalmm: modality=language).",
            )
        if inputs.get(self.image_inputs[0]) is None:
            raise MissingImage(
                f"{who} contrasts images, and the inputs hold no {self.image_inputs[0]!r}.",
                "Pass images to the processor, or use a text strategy for prompts without one.",
            )
        if inputs.get("input_ids") is not None:
            without = (~self.image_mask(inputs["input_ids"]).any(dim=1)).nonzero().flatten().tolist()
            if without:
                raise MissingImage(
                    f"{who} contrasts images, and row(s) {without} of the batch have no image token.",
                    "Run prompts without an image in a batch of their own, with a text strategy.",
                )

    def decoder_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the decoder is given for `inputs`: embeddings, masks, positions, as the model's own forward makes them.

        Returns:
            The decoder's keyword arguments; `inputs_embeds` is `[batch, length, hidden]`.
        """
        return self._first_call(self.decoder, inputs).kwargs

    def _first_call(self, module: nn.Module, inputs: Mapping[str, Any]) -> _Captured:
        """What `module` is first called with for `inputs`, in this thread; nothing behind it is run."""
        here = get_ident()

        def stop(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if get_ident() == here:
                raise _Captured(args, kwargs)

        uncompiled: Any = torch.compiler.disable
        handle = module.register_forward_pre_hook(uncompiled(stop), with_kwargs=True, prepend=True)
        try:
            with torch.no_grad():
                self.model(**inputs, use_cache=False)
        except _Captured as captured:
            return captured
        finally:
            handle.remove()
        raise UnsupportedModel(
            f"{type(self.model).__name__}.forward never calls its {type(module).__name__}.",
            "Report this model family to us.",
        )

    def prompt_embeddings(self, inputs: Mapping[str, Any]) -> Tensor:
        """What enters the decoder for `inputs`, images in place, as `entering` has it: `[batch, length, width]`."""
        return self.entering(self.decoder_inputs(inputs))

    def entering(self, call: Mapping[str, Any]) -> Tensor:
        """All that a decoder call says of its columns, `[rows, columns, width]`: embeddings, `width` then is `hidden`.

        A family that adds to image tokens in later layers too puts that behind the embeddings, so that whoever blinds,
        noises or moves a token does so with the whole of it.
        """
        embeds = call.get("inputs_embeds")
        if embeds is None:
            with torch.no_grad():
                embeds = self.decoder.get_input_embeddings()(call["input_ids"])
        return embeds

    def entered(self, call: Mapping[str, Any], entering: Tensor) -> dict[str, Any]:
        """The decoder call with other columns, given as `entering` gives them."""
        return {**call, "inputs_embeds": entering}

    def positions(self, inputs: Mapping[str, Any]) -> Tensor | None:
        """Position ids of a prompt in a family with several axes, `[axes, batch, length]`, 0 where padded.

        None where positions are those of the tokens that are seen, counted from 0.
        """
        return None

    @property
    def whole_prompt(self) -> bool:
        """True where tokens of a prompt see later ones, so that a prompt cannot be run in two parts."""
        return False

    @property
    def whole_images(self) -> bool:
        """True where tokens of an image see later ones of it, which a prompt in parts would hide."""
        return False

    @property
    def first_position(self) -> int:
        """Position of a prompt's first token, as `generate()` counts."""
        return 0

    @property
    def new_type(self) -> int:
        """Token type of what follows a prompt, in families that tell tokens apart."""
        return 0

    def prompt_mask(self, call: Mapping[str, Any], image: Tensor, cache: Any) -> Any:
        """What the decoder is to get as its mask where prompts of different lengths, padded, are run whole.

        Args:
            call: of the decoder: embeddings `[rows, columns, hidden]`, positions, padding mask `[rows, columns]`.
            image: which columns of the padded prompts hold image tokens, `[rows, length]` of bool; columns behind
                them, if any, hold what was generated.
            cache: that the call fills; None without one.

        Returns:
            The padding mask, of which decoders make causal masks, or masks that are ready to use.
        """
        return call["attention_mask"]

    def split_images(self, inputs: Mapping[str, Any]) -> list[Tensor]:
        """The pixels of each image of a batch, in order, as the model takes them; see `joined_images`."""
        return list(inputs[self.image_inputs[0]])

    def joined_images(self, images: Sequence[Tensor]) -> Tensor:
        """Pixels of images, as `split_images` gives them, as one model input."""
        return torch.stack(list(images))

    def drawn(self, image: Tensor, draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        """A number for each pixel of an image, in the layout of `image`, from `draw(shape)`.

        Where a pixel stands in the layout more than once, it has one number.
        """
        return draw(tuple(image.shape))

    def packed_columns(self, inputs: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Columns of each image where the vision tower reads all images in one row; None where each is a row."""
        return None

    def token_ids(self, words: Sequence[str], processor: Any) -> list[int]:
        """Ids of those `words` that the tokenizer holds as one token, sorted, without repeats."""
        tokenizer = getattr(processor, "tokenizer", processor)
        encoded = (tokenizer.encode(word, add_special_tokens=False) for word in words)
        return sorted({ids[0] for ids in encoded if len(ids) == 1})

    def text_ids(self, text: str, processor: Any, *, special: bool = False) -> list[int]:
        """Ids of a text that may say anything, a model's own words above all.

        Special tokens that are spelt out in it, the image token among them, are read letter by letter.

        Args:
            special: add what the tokenizer puts around every text by default (BOS for the Llama family).
        """
        return text_ids(text, processor, self.image_token_id, special=special)

    def batched(self, rows: Sequence[Sequence[int]], like: Mapping[str, Any]) -> dict[str, Tensor]:
        """Prompts given as ids, as model inputs padded on the left; with token types if `like` has them."""
        return batched(rows, like, self.image_token_id)

    def reworded(self, inputs: Mapping[str, Any], processor: Any, text: str) -> dict[str, Tensor]:
        """The prompts of a batch with another instruction: one user turn of the row's images and `text`.

        Made by the model's chat template, with as many image tokens as the row has; pixel inputs stay the batch's. A
        run of image tokens counts as one image. Earlier turns and a system prompt of the caller's own are not kept.

        Args:
            text: the instruction; may be empty.

        Returns:
            `input_ids` and `attention_mask`, `[batch, length]`, padded on the left, and the batch's token types.

        Raises:
            MissingChatTemplate: the processor has none.
            InvalidPrompt: there are no ids, or the instruction spells out the image token.
        """
        return reworded(inputs, processor, text, self.image_token_id)

    def without_image(self, inputs: Mapping[str, Any], texts: Sequence[Sequence[int]]) -> dict[str, Any]:
        """The prompts of a batch with token ids in place of their images.

        Args:
            texts: ids for each row, of any lengths; of several images of a row the first gives way to them and the
                rest goes. Markers around an image stay.

        Returns:
            As `reworded`, and every image input of the batch at None.

        Raises:
            InvalidPrompt: there are no ids.
        """
        token = self.image_token_id
        prompts = without_image(inputs, texts, -1 if token is None else token)
        return prompts | {name: None for name in (*self.image_inputs, *self.image_layout) if name in inputs}

    def images_of(self, inputs: Mapping[str, Any]) -> list[dict[str, Tensor]]:
        """The image inputs of each row of a batch, one row's alone; joined in order they are the batch's.

        Raises:
            InvalidPrompt: the images cannot be told to rows.
        """
        given = {n: inputs[n] for n in (*self.image_inputs, *self.image_layout) if inputs.get(n) is not None}
        rows = unpadded(inputs)
        counts = [len(runs(row == self.image_token_id)) for row in rows]
        images = len(given[self.image_inputs[0]]) if given else sum(counts)
        counts = [images] if len(rows) == 1 else counts
        if sum(counts) != images:
            raise InvalidPrompt(
                f"The rows of the batch have {counts} runs of image tokens for {images} images.",
                "Put text between the images of a prompt, or give prompts with several images one at a time.",
            )
        split = {n: torch.as_tensor(v).split(counts if len(v) == images else 1) for n, v in given.items()}
        return [{name: parts[row] for name, parts in split.items()} for row in range(len(rows))]

    def describe(self, inputs: Mapping[str, Any], processor: Any, prompt: str, max_new_tokens: int) -> list[str]:
        """What the model says of each row's images when asked `prompt`: plain greedy decoding, special tokens left out.

        Descriptions are remembered, the latest 4,096 of them, by the image's pixels, the prompt and `max_new_tokens`,
        so an image is described once however many questions follow; an image that stands twice in a batch, too. The
        memory goes with the model. Call `forget` when its weights change.

        Raises:
            MissingChatTemplate, InvalidPrompt: as `reworded` and `images_of`.
        """
        return describe(self, self._descriptions, inputs, processor, prompt, max_new_tokens)

    def forget(self) -> None:
        """Drop all descriptions; needed only when the weights of a loaded model change."""
        self._descriptions.clear()

    def self_check(self) -> None:
        """Prove, once per model and process, that probes and edits act. Two forwards of two tokens.

        Raises:
            SelfCheckFailed: our attention function is not called, ignores the padding mask, or an edit changes nothing.
        """
        self_check(self)
