"""Models inside other objects: what PEFT has put around a model of transformers."""

from __future__ import annotations

from typing import Any

from torch import nn

from .errors import UnsupportedModel


def unwrapped(model: Any) -> Any:
    """The model of transformers inside a PEFT model, its adapters in place; any other model as it is.

    Raises:
        UnsupportedModel: the PEFT method puts tokens or keys of its own before the prompt, or the object holds no
            model of transformers that can be found.
    """
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
        if getattr(model.active_peft_config, "is_prompt_learning", False):
            kind = getattr(model.active_peft_config.peft_type, "value", model.active_peft_config.peft_type)
            raise UnsupportedModel(
                f"The PEFT method {kind} puts tokens of its own before the prompt, which branches would not have.",
                "Use a method that changes weights, such as LoRA.",
            )
        return model.get_base_model()
    if isinstance(model, nn.Module) and not hasattr(model, "config"):
        raise UnsupportedModel(
            f"A {type(model).__name__} is not a model of transformers.", "Attach to the model inside it (model.module)."
        )
    return model
