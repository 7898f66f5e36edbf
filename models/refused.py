"""Families that are not served, and what to use in their place; told by a checkpoint's config alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .errors import UnsupportedModel

VICUNA = "Salesforce/instructblip-vicuna-7b"
BLIP = ("blip", "blip-2", "instructblipvideo", "kosmos-2", "git")
OWLS = "mplugowl"  # their types are mplug-owl, mplug_owl2, mplugowl3


def refuse(config: Mapping[str, Any], *, trust_remote_code: bool = False) -> None:
    """Refuse a checkpoint that cannot be served; silent about all others.

    Args:
        config: its `config.json`.
        trust_remote_code: the caller lets code that comes with the checkpoint run.

    Raises:
        UnsupportedModel: it cannot, with the name of what can.
    """
    kind = str(config.get("model_type", ""))
    text = config.get("text_config")
    text = text if isinstance(text, Mapping) else {}
    if kind == "instructblip" and str(text.get("model_type", "opt")) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedModel(
            f"This InstructBLIP has an encoder-decoder language model ({text.get('model_type')}), and Sightline serves "
            "decoder-only ones.",
            f"Use an InstructBLIP with Vicuna, such as {VICUNA}.",
        )
    if kind in BLIP:
        raise UnsupportedModel(
            f"Models of type {kind!r} are not served.",
            f"Use an InstructBLIP with Vicuna, such as {VICUNA}, or a LLaVA.",
        )
    if kind.replace("-", "").replace("_", "").lower().startswith(OWLS):
        raise UnsupportedModel(
            f"mPLUG-Owl ({kind}) is not part of transformers; it runs code of its own.",
            "Use a LLaVA, or Qwen/Qwen2.5-VL-7B-Instruct.",
        )
    if "mm_vision_tower" in config and "vision_config" not in config:
        raise UnsupportedModel(
            f"This is a LLaVA ({kind}) as its authors published it, which runs code of their own.",
            "Use its conversion for transformers, such as llava-hf/llava-1.5-7b-hf.",
        )
    if kind == "qwen":
        what = "Qwen-VL" if "visual" in config else "Qwen"
        newer = "Qwen/Qwen2.5-VL-7B-Instruct or Qwen/Qwen2-VL-7B-Instruct" if "visual" in config else "Qwen/Qwen2.5-7B"
        raise UnsupportedModel(
            f"The first {what} is not part of transformers; it runs code of its own.",
            f"Use {newer}.",
        )
    if config.get("auto_map") and kind not in CONFIG_MAPPING and not trust_remote_code:
        raise UnsupportedModel(
            f"The model type {kind!r} is not part of transformers: the checkpoint brings code of its own, which "
            "Sightline does not run unasked.",
            "Use a checkpoint converted for transformers (often '...-hf'); or, if you trust the code and the model has "
            "a text decoder of transformers, load it with trust_remote_code=True (model.trust_remote_code=true).",
        )


def refuse_unknown(config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose type the installed transformers does not have; code of its own aside.

    Args:
        config: its `config.json`.

    Raises:
        UnsupportedModel: it has not.
    """
    kind = config.get("model_type")
    if isinstance(kind, str) and kind not in CONFIG_MAPPING and not config.get("auto_map"):
        raise UnsupportedModel(
            f"The model type {kind!r} is not part of transformers {transformers.__version__}.",
            "Use a checkpoint converted for transformers (often '...-hf'), or a newer transformers if the type is new.",
        )


def no_loop(kind: str) -> UnsupportedModel:
    """The error of a type that transformers has, but not as a model that reads a prompt and writes on."""
    return UnsupportedModel(
        f"Models of type {kind!r} are not served: transformers has no decoder-only language model of that type.",
        "Use a LLaVA, an InstructBLIP with Vicuna, a Qwen-VL or a decoder-only text model; see `sightline models`.",
    )
