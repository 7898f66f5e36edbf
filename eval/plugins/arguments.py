"""What a harness is told in `--model_args`: which model, which decoder, and how they are asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ... import decoders
from ...decoders import Strategy
from ..errors import ConfigError, UsageError, unknown
from ..settings import ModelSettings

AUTO_BATCH = 32
"""Requests at a time where the batch size is `auto`; halved when memory runs out."""
_MODEL = ("revision", "dtype", "device", "trust_remote_code")
_OWN = ("pretrained", "decoder", "batch_size", "max_batch_size", "max_length", "max_gen_toks", "seed")
_KNOWN = (*_OWN, "branching", "context_field", *_MODEL)


@dataclass(frozen=True)
class Arguments:
    """A model with a decoder, as a harness asks for it.

    Attributes:
        model: which one.
        strategy: what decodes.
        batch_size: requests at a time.
        max_length: longest prompt with its answer, in tokens; None = the model's own limit.
        max_gen_toks: longest answer, for requests that do not say.
        seed: of sampling.
        branching: as `sightline.attach` takes it.
        context_field: the field of a task's documents that holds the passage an answer shall be true to.
    """

    model: ModelSettings
    strategy: Strategy
    batch_size: int = 1
    max_length: int | None = None
    max_gen_toks: int = 256
    seed: int = 0
    branching: Any = "auto"
    context_field: str | None = None


def read(given: Mapping[str, Any]) -> Arguments:
    """Read `--model_args`.

    Args:
        given: `pretrained=NAME,decoder=KEY,decoder.FIELD=VALUE,...`, parsed; `decoder` may be a mapping with `key`.

    Raises:
        ConfigError: an argument that is not known, missing, of the wrong type or out of range.
        SightlineError: there is no such decoder, or it has no such parameter.
        UsageError: the harness was launched in several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "Sightline runs in one process of a harness, and WORLD_SIZE is above 1.",
            "Start the harness itself, not `accelerate launch`; or spread a run with `sightline run run=ray`.",
        )
    plain = {name: value for name, value in given.items() if not name.startswith("decoder.")}
    for name in plain:
        if name not in _KNOWN:
            raise ConfigError(*unknown("model argument", name, (*_KNOWN, "decoder.FIELD")))
    if not isinstance(plain.get("pretrained"), str):
        raise ConfigError(
            f"pretrained must name a model, got {plain.get('pretrained')!r}.",
            "Give --model_args pretrained=FOLDER_OR_HUB_ID,decoder=KEY.",
        )
    held = {name: plain[name] for name in _MODEL if plain.get(name) is not None}
    model = ModelSettings(plain["pretrained"], **held)
    model.validate()
    return Arguments(
        model=model,
        strategy=_strategy(plain.get("decoder") or "greedy", given),
        batch_size=_batch(plain.get("batch_size")),
        max_length=_whole("max_length", plain.get("max_length")),
        max_gen_toks=_whole("max_gen_toks", plain.get("max_gen_toks")) or 256,
        seed=_whole("seed", plain.get("seed"), least=0) or 0,
        branching=plain.get("branching") or "auto",
        context_field=plain.get("context_field"),
    )


def _strategy(decoder: Any, given: Mapping[str, Any]) -> Strategy:
    """The decoder: a key with `decoder.FIELD` beside it, or a mapping that holds both."""
    params: dict[str, Any] = dict(decoder) if isinstance(decoder, Mapping) else {"key": decoder}
    key = params.pop("key", None)
    if not isinstance(key, str):
        raise ConfigError(f"decoder must be a key, got {decoder!r}.", "See `sightline decoders`.")
    for name, value in given.items():
        if name.startswith("decoder."):
            *parts, last = name.split(".")[1:]
            inner = params
            for part in parts:  # cgvlm+vcd: decoder.cgvlm.alpha
                inner = inner.setdefault(part, {})
            inner[last] = value
    return decoders.build(key, params)


def _batch(value: Any) -> int:
    if value is None:
        return 1
    if isinstance(value, str) and value.startswith("auto"):
        return AUTO_BATCH
    return _whole("batch_size", value) or 1


def _whole(name: str, value: Any, least: int = 1) -> int | None:
    """A whole number from `least` on; harnesses hand some of them over as text."""
    if value is None:
        return None
    number = int(value) if isinstance(value, str) and value.isdigit() else value
    if type(number) is not int or number < least:
        raise ConfigError(f"{name} must be a whole number from {least} on, got {value!r}.")
    return number
