"""A checkpoint's files, looked at before and after they are loaded: whole, within their folder, of this configuration.

What transformers takes in silence would give answers of random weights: layers that the files do not hold, or another
architecture under the right names. Here that is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from math import prod
from operator import index
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from transformers import PreTrainedConfig

from .errors import CheckpointInvalid

INDEX = "model.safetensors.index.json"
MAX_HEADER = 100_000_000
"""Bytes; a longer header of a weights file is none (the format's own bound)."""
ROOM = 2
"""A configuration that asks for this many times the parameters that the files hold is of another model."""
_WHOLE = "It needs config.json, the processor's files and *.safetensors, as save_pretrained() writes them."
_ANEW = "Copy or download the checkpoint again."


def parameters_in(folder: Path) -> int:
    """How many numbers a folder's weights hold; 0 where there are no safetensors.

    Raises:
        CheckpointInvalid: a file is cut short or none of its kind, or the index names one outside the folder.
    """
    names = _indexed(folder) or [path.name for path in sorted(folder.glob("*.safetensors")) if path.is_file()]
    return sum(_numbers_in(folder / name) for name in names if os.path.isfile(folder / name))  # any name, however long


def check_size(held: int, config: PreTrainedConfig, make: Callable[[PreTrainedConfig], Any]) -> None:
    """Refuse weights that are too few for their configuration, before memory is taken for the rest.

    Args:
        held: numbers in the files; 0 is not checked, nor are quantised weights, which pack several into one.
        config: of the checkpoint.
        make: a model of a configuration; called on the meta device.

    Raises:
        CheckpointInvalid: they are.
    """
    if not held or getattr(config, "quantization_config", None) is not None:
        return
    with torch.device("meta"):
        asked = sum(parameter.numel() for parameter in make(config).parameters())
    if asked > ROOM * held:
        raise CheckpointInvalid(
            f"config.json asks for a model of {asked:,} parameters, and the weights beside it hold {held:,}.",
            "They are not of one model: put the config.json of these weights beside them.",
        )


def check_complete(name: str, missing: Collection[str]) -> None:
    """Refuse a model some of whose weights were drawn at random because the files do not hold them.

    Args:
        name: as the model was asked for.
        missing: names of those weights.

    Raises:
        CheckpointInvalid: there are any.
    """
    if missing:
        raise CheckpointInvalid(
            f"The weights of {name!r} lack {len(missing)} of the tensors that config.json asks for, such as "
            f"{min(missing)!r}; they would be random.",
            "Put the config.json of these weights beside them, or the missing files.",
        )


def _indexed(folder: Path) -> list[str]:
    """The files that an index names; none where there is no index."""
    if not (folder / INDEX).is_file():
        return []
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointInvalid(f"{INDEX} in {str(folder)!r} is no index of weights: {_told(error)}.", _ANEW) from error
    for name in names:
        if not isinstance(name, str) or PurePosixPath(name).name != name or PureWindowsPath(name).name != name:
            raise CheckpointInvalid(
                f"{INDEX} names the file {name!r}, which is outside {str(folder)!r}.",
                "Weights lie beside their index; do not load a checkpoint that says otherwise.",
            )
    return names


def _numbers_in(file: Path) -> int:
    """Elements of all tensors of a safetensors file, by its header."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(MAX_HEADER, size - 8):
            raise CheckpointInvalid(f"{str(file)!r} is cut short, or no safetensors file.", _ANEW)
        content = stream.read(length)
    try:
        header: Mapping[str, Any] = json.loads(content)
        held = [tensor for name, tensor in header.items() if name != "__metadata__"]
        end = index(max((tensor["data_offsets"][1] for tensor in held), default=0))
        count = index(sum(prod(tensor["shape"]) for tensor in held))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointInvalid(f"{str(file)!r} is no safetensors file: {_told(error)}.", _ANEW) from error
    if end != size - 8 - length:
        raise CheckpointInvalid(
            f"{str(file)!r} is cut short, or has too much: {8 + length + end:,} bytes would be right, not {size:,}.",
            _ANEW,
        )
    return count


def broken(name: str, error: Exception) -> CheckpointInvalid:
    """What is said where transformers could not make a model of the files, for whatever reason."""
    return CheckpointInvalid(f"The checkpoint {name!r} cannot be loaded ({_told(error)}).", _WHOLE)


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())[:250].rstrip(".: ")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
