"""Published models by their shapes: full-size configurations for random weights, so that nothing is downloaded.

The numbers are facts of the checkpoints' own `config.json`. `llava-0.5b` is nobody's checkpoint: a LLaVA of half a
billion parameters, which a CPU can time. A *narrow twin* has the same prompts, image tokens, vocabulary and layers of
the decoder, but thin ones: what is counted on it holds for the full size, for counts do not know widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, PretrainedConfig

Shape = dict[str, Any]

_VICUNA: Shape = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
}  # fmt: skip
_CLIP_L: Shape = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
_NARROW_TEXT: Shape = {
    "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 8, "head_dim": 4,
}  # fmt: skip
_NARROW_TOWER: Shape = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
}  # fmt: skip

SHAPES: dict[str, Shape] = {
    "llava-1.5-7b": {
        "model_type": "llava", "image_token_index": 32000, "image_seq_length": 576, "vision_feature_layer": -2,
        "text_config": {**_VICUNA, "vocab_size": 32064}, "vision_config": _CLIP_L,
    },
    "instructblip-vicuna-7b": {
        "model_type": "instructblip", "num_query_tokens": 32, "image_token_index": 32000,
        "text_config": {**_VICUNA, "vocab_size": 32001},
        "vision_config": {
            "hidden_size": 1408, "intermediate_size": 6144, "num_hidden_layers": 39, "num_attention_heads": 16,
            "image_size": 224, "patch_size": 14,
        },
        "qformer_config": {
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "encoder_hidden_size": 1408, "cross_attention_frequency": 2, "vocab_size": 30523,
        },
    },
    "qwen2.5-vl-7b": {
        "model_type": "qwen2_5_vl", "image_token_id": 151655, "video_token_id": 151656,
        "vision_start_token_id": 151652, "vision_end_token_id": 151653,
        "text_config": {
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "vision_config": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    },
    "llama-3-8b": {
        "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
    "llava-0.5b": {
        "model_type": "llava", "image_token_index": 32000, "image_seq_length": 196, "vision_feature_layer": -2,
        "text_config": {
            **_VICUNA, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32064,
        },
        "vision_config": {
            **_CLIP_L, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "image_size": 224, "patch_size": 16,
        },
    },
}  # fmt: skip
"""Configurations by the names under which `sightline bench` knows them."""


def config(name: str, *, narrow: bool = False, image_size: int | None = None) -> PretrainedConfig:
    """The configuration of a published model, or of its narrow twin.

    Args:
        name: a key of `SHAPES`.
        narrow: thin layers in place of the full size.
        image_size: pixels a side, for towers of one size; None is the published one.
    """
    shape = dict(SHAPES[name])
    if image_size is not None and "image_size" in shape.get("vision_config", {}):
        side = image_size // shape["vision_config"]["patch_size"]
        shape["vision_config"] = {**shape["vision_config"], "image_size": image_size}
        shape |= {"image_seq_length": side * side} if "image_seq_length" in shape else {}
    shape = _narrowed(shape) if narrow else shape
    return AutoConfig.for_model(shape["model_type"], **{key: v for key, v in shape.items() if key != "model_type"})


def _narrowed(shape: Mapping[str, Any]) -> Shape:
    text = shape.get("text_config", shape)
    grouped = 1 if text["num_key_value_heads"] < text["num_attention_heads"] else 4
    thin = {**text, **_NARROW_TEXT, "num_key_value_heads": 2 * grouped}
    if "text_config" not in shape:
        return thin
    tower = {**shape["vision_config"], **_NARROW_TOWER}
    if "depth" in tower:  # Qwen's names for the same things; three axes share the 8 frequencies of a head of 16
        tower |= {"depth": 3, "num_heads": 2, "out_hidden_size": 128, "fullatt_block_indexes": [2]}
        rope = {**thin["rope_parameters"], "mrope_section": [2, 3, 3]}
        thin |= {"hidden_size": 128, "head_dim": 16, "rope_parameters": rope}
    narrowed = {**shape, "text_config": thin, "vision_config": tower}
    if "qformer_config" in shape:
        reader = {**_NARROW_TOWER, "encoder_hidden_size": tower["hidden_size"]}
        narrowed["qformer_config"] = {**shape["qformer_config"], **reader}
    return narrowed
