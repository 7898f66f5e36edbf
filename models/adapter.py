"""What a strategy and the engine may know of a model family. One subclass per family; no forward is copied.

Words: the *decoder* is the text decoder (a stack of layers over embeddings), the *owner* is the module whose
`generate()` loop runs it and whose head turns hidden states into logits. For LLaVA the owner is the model itself, for
InstructBLIP its language model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel

from .attention import LayerState, installed
from .errors import MissingImage, SelfCheckFailed, UnsupportedModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CHECKED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


class _Captured(Exception):
    """Carries the keyword arguments of the decoder's first call out of a forward that is to go no further."""

    def __init__(self, kwargs: dict[str, Any]):
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

    def __init__(self, model: PreTrainedModel):
        self.model = model
        self.decoder = self._find_decoder(model)
        self.owner = self._find_owner(model, self.decoder)
        self._refuse_compiled()

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

    def attention_modules(self) -> list[nn.Module]:
        """The attention module of each decoder layer, first layer first."""
        found: dict[int, nn.Module] = {}
        for module in self.decoder.modules():
            layer = getattr(module, "layer_idx", None)
            if isinstance(layer, int) and hasattr(module, "q_proj"):
                found[layer] = module
        if sorted(found) != list(range(self.layers)):
            raise UnsupportedModel(
                f"{type(self.decoder).__name__} does not show one attention module per layer.",
                "Use a strategy that leaves attention alone with this model.",
            )
        return [found[layer] for layer in sorted(found)]

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

    def vision_attention_modules(self) -> list[nn.Module]:
        """The attention module of each layer of the vision tower, first layer first."""
        return [module for module in self.vision_tower.modules() if hasattr(module, "q_proj")]

    def image_mask(self, input_ids: Tensor) -> Tensor:
        """Which positions hold image tokens: `[batch, length]` of bool, from the image-token id, row by row."""
        if self.image_token_id is None:
            return torch.zeros_like(input_ids, dtype=torch.bool)
        return input_ids == self.image_token_id

    def require_images(self, inputs: Mapping[str, Any], who: str) -> None:
        """Check that every prompt of the batch has an image.

        Raises:
            MissingImage: the model takes no images, no pixels were given, or a row has no image token.
        """
        if not self.image_inputs:
            raise MissingImage(
                f"{who} contrasts images, and {type(self.model).__name__} takes none.",
                "Use an image-text model, or a text strategy (see `sightline decoders`).",
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

        The forward runs as far as the decoder and no further; the vision tower is run once.

        Returns:
            The decoder's keyword arguments; `inputs_embeds` is `[batch, length, hidden]`.
        """

        def stop(_module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
            raise _Captured(kwargs)

        handle = self.decoder.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.no_grad():
                self.model(**inputs, use_cache=False)
        except _Captured as captured:
            return captured.kwargs
        finally:
            handle.remove()
        raise UnsupportedModel(
            f"{type(self.model).__name__}.forward never calls its text decoder.",
            "Report this model family to us.",
        )

    def prompt_embeddings(self, inputs: Mapping[str, Any]) -> Tensor:
        """Embeddings `[batch, length, hidden]` that enter the decoder for `inputs`, images in place."""
        kwargs = self.decoder_inputs(inputs)
        embeds = kwargs.get("inputs_embeds")
        if embeds is None:
            with torch.no_grad():
                embeds = self.decoder.get_input_embeddings()(kwargs["input_ids"])
        return embeds

    def token_ids(self, words: Sequence[str], processor: Any) -> list[int]:
        """Ids of those `words` that the tokenizer holds as one token, sorted, without repeats."""
        tokenizer = getattr(processor, "tokenizer", processor)
        encoded = (tokenizer.encode(word, add_special_tokens=False) for word in words)
        return sorted({ids[0] for ids in encoded if len(ids) == 1})

    def self_check(self) -> None:
        """Prove, once per model and process, that probes and edits act. Two forwards of two tokens.

        Raises:
            SelfCheckFailed: our attention function is not called, ignores the padding mask, or an edit changes nothing.
        """
        if self.decoder in _CHECKED:
            return
        modules = self.attention_modules()
        states = {module: LayerState(probe=True) for module in modules}
        plain = self._two_tokens(states)
        silent = [layer for layer, module in enumerate(modules) if states[module].calls == 0]
        if silent:
            raise SelfCheckFailed(f"Layers {silent} never call the attention interface.", "Use another strategy.")
        seen = torch.stack([state.reading for state in states.values() if state.reading is not None])
        if not torch.allclose(seen, torch.tensor([0.0, 1.0], device=seen.device, dtype=seen.dtype), atol=1e-4):
            raise SelfCheckFailed("A probe saw a padded key: the padding mask does not reach attention.", "Report it.")
        mask = torch.ones(1, self.heads, dtype=torch.bool)
        edited = self._two_tokens({module: LayerState(zero=mask) for module in modules})
        if torch.equal(plain, edited):
            raise SelfCheckFailed("Silencing every head changes nothing.", "Report this model family to us.")
        _CHECKED[self.decoder] = True

    def _two_tokens(self, states: Mapping[nn.Module, LayerState]) -> Tensor:
        """Last hidden state `[1, hidden]` of a padded token and a real one."""
        device = next(self.decoder.get_input_embeddings().parameters()).device
        ids = torch.tensor([[0, 1]], device=device)
        with installed(self.decoder, states), torch.no_grad():
            out = self.decoder(input_ids=ids, attention_mask=torch.tensor([[0, 1]], device=device), use_cache=False)
        return out[0][:, -1]

    @staticmethod
    def _find_decoder(model: PreTrainedModel) -> PreTrainedModel:
        decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
        if not isinstance(decoder, PreTrainedModel) or decoder is model:
            raise UnsupportedModel(
                f"{type(model).__name__} has no text decoder of its own.",
                "Sightline serves decoder-only models of transformers; see `sightline models`.",
            )
        return decoder

    @staticmethod
    def _find_owner(model: PreTrainedModel, decoder: PreTrainedModel) -> PreTrainedModel:
        loops = [m for m in model.modules() if isinstance(m, GenerationMixin) and isinstance(m, PreTrainedModel)]
        owners = [m for m in loops if m.get_decoder() is decoder]
        if not owners or getattr(model.config, "is_encoder_decoder", False):
            raise UnsupportedModel(
                f"{type(model).__name__} has no decoder-only generate() loop.",
                "Use a decoder-only model; encoder-decoder language models (T5) are not supported.",
            )
        return owners[-1]

    def _refuse_compiled(self) -> None:
        for module in (self.model, self.owner):
            compiled = getattr(module, "_compiled_call_impl", None) is not None
            if compiled or hasattr(module.forward, "_torchdynamo_orig_callable"):
                raise UnsupportedModel(
                    f"{type(module).__name__} was compiled before attaching, and compiled code does not see hooks.",
                    "Attach to the model as loaded; compile the text decoder alone if you wish.",
                )
