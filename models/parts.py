"""Where a model of transformers keeps what the engine needs, and states of it that the engine cannot serve."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import GenerationMixin, PreTrainedModel

from .errors import UnsupportedModel


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The text decoder.

    Raises:
        UnsupportedModel: there is none, it is the model itself, or it stands inside `torch.compile()`.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if isinstance(getattr(decoder, "_orig_mod", None), PreTrainedModel):
        raise UnsupportedModel(
            f"The text decoder of {type(model).__name__} stands inside torch.compile(), which hides it.",
            "Compile it in place: model.get_decoder().compile().",
        )
    if not isinstance(decoder, PreTrainedModel) or decoder is model:
        raise UnsupportedModel(
            f"{type(model).__name__} has no text decoder of its own.",
            "Sightline serves decoder-only models of transformers; see `sightline models`.",
        )
    return decoder


def owner_of(model: PreTrainedModel, decoder: PreTrainedModel) -> PreTrainedModel:
    """The module whose `generate()` loop runs the decoder.

    Raises:
        UnsupportedModel: there is none, or it has an encoder beside the decoder.
    """
    loops = [m for m in model.modules() if isinstance(m, GenerationMixin) and isinstance(m, PreTrainedModel)]
    owners = [m for m in loops if m.get_decoder() is decoder]
    if not owners or getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(
            f"{type(model).__name__} has no decoder-only generate() loop.",
            "Use a decoder-only model; encoder-decoder language models (T5) are not supported.",
        )
    return owners[-1]


def attention_of(decoder: PreTrainedModel, layers: int) -> list[nn.Module]:
    """The attention module of each of so many layers, first layer first.

    Raises:
        UnsupportedModel: there is not one for each layer.
    """
    found: dict[int, nn.Module] = {}
    for module in decoder.modules():
        layer = getattr(module, "layer_idx", None)
        if isinstance(layer, int) and hasattr(module, "q_proj"):
            found[layer] = module
    if sorted(found) != list(range(layers)):
        raise UnsupportedModel(
            f"{type(decoder).__name__} does not show one attention module per layer.",
            "Use a strategy that leaves attention alone with this model.",
        )
    return [found[layer] for layer in sorted(found)]


def layers_of(decoder: PreTrainedModel, count: int) -> list[nn.Module]:
    """The layers of a decoder, first layer first.

    Raises:
        UnsupportedModel: it keeps them elsewhere than transformers' decoders do.
    """
    layers: Any = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) != count:
        raise UnsupportedModel(
            f"{type(decoder).__name__} does not show its layers.", "Use a strategy without early exits."
        )
    return list(layers)


def refuse_compiled(*modules: PreTrainedModel) -> None:
    """Refuse modules that were compiled around the decoder.

    Raises:
        UnsupportedModel: one was.
    """
    for module in modules:
        compiled = getattr(module, "_compiled_call_impl", None) is not None
        if compiled or hasattr(module.forward, "_torchdynamo_orig_callable"):
            raise UnsupportedModel(
                f"{type(module).__name__} was compiled before attaching, and compiled code sees no hooks.",
                "Attach to the model as loaded; compile its decoder alone, in place: model.get_decoder().compile().",
            )
