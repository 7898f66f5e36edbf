"""From a model to its adapter, and from a name to a loaded model.

Another package adds a family through the entry-point group `sightline.adapters`: the entry's name is the
`config.model_type`, its value an `Adapter` class. Ours stand behind those.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
)

from . import checkpoint
from .adapter import Adapter
from .auto_image_text import KNOWN, AutoImageTextAdapter
from .errors import AdapterInvalid, InvalidParameter, MissingProcessor, ModelNotFound, SightlineError, UnsupportedModel
from .image_only import image_only, needs_image_only
from .instructblip import InstructBlipAdapter
from .llava import LlavaAdapter
from .qwen_vl import QwenVLAdapter
from .qwen_vl_processor import image_only_processor, needs_image_only_processor
from .refused import no_loop, refuse, refuse_unknown
from .text import TextAdapter
from .wrapped import unwrapped

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

FAMILIES: dict[str, type[Adapter]] = {
    **dict.fromkeys(("llava", "llava_next", "llava_onevision"), LlavaAdapter),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), QwenVLAdapter),
    "instructblip": InstructBlipAdapter,
    **dict.fromkeys(KNOWN, AutoImageTextAdapter),
}
"""`config.model_type` -> adapter of image-text models; other image-text models get `AutoImageTextAdapter`, for what it
can tell of them, and every other decoder-only model is served as text."""

GROUP = "sightline.adapters"
SHIPPED = Path(__file__).parent / "tiny"
_ADAPTERS: WeakKeyDictionary[nn.Module, Adapter] = WeakKeyDictionary()
_WHOLE_FILE = 256 * 2**20


def adapter_for(model: PreTrainedModel) -> Adapter:
    """The adapter of a loaded model, or of the one inside a PEFT model; made once per model.

    Raises:
        UnsupportedModel: the family is not served, with the name of what to use instead.
    """
    model = unwrapped(model)
    if model not in _ADAPTERS:
        model_type = model.config.model_type
        refuse(model.config.to_dict(), trust_remote_code=True)
        visual = getattr(model.config, "vision_config", None) is not None
        _ADAPTERS[model] = _family(model_type, visual)(model)
    return _ADAPTERS[model]


def _family(model_type: str, visual: bool) -> type[Adapter]:
    general = AutoImageTextAdapter if visual else TextAdapter
    return _plugin(model_type) or FAMILIES.get(model_type, general)


@cache
def _plugin(model_type: str) -> type[Adapter] | None:
    """The adapter that another package brings for a family; packages for other families are not touched.

    Raises:
        AdapterInvalid: it cannot be loaded, is no `Adapter`, or two packages bring one.
    """
    entries = [entry for entry in entry_points(group=GROUP) if entry.name == model_type]
    if not entries:
        return None
    brought = [f"{entry.value} of {entry.dist.name if entry.dist else 'a package'}" for entry in entries]
    if len({entry.value for entry in entries}) > 1:
        raise AdapterInvalid(
            f"Two packages bring an adapter for {model_type!r}: {' and '.join(brought)}.", "Uninstall one of them."
        )
    try:
        found = entries[0].load()
    except Exception as error:
        raise AdapterInvalid(
            f"The adapter for {model_type!r}, {brought[0]}, cannot be loaded: {type(error).__name__}: "
            f"{_first_line(error).rstrip('.')}.",
            "Mend or uninstall that package.",
        ) from error
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise AdapterInvalid(
            f"The adapter for {model_type!r}, {brought[0]}, is no class of sightline.models.adapter.Adapter.",
            "Name the class in the entry point, as MODULE:CLASS.",
        )
    return found


@dataclass(frozen=True)
class Loaded:
    """A model with its processor.

    Attributes:
        name: as it was asked for.
        model: in evaluation mode, on its device.
        processor: the model's processor, or its tokenizer for a text model; pads on the left.
        source: folder or hub id the files came from.
        commit: of a hub id, the commit that was read; None for a folder.
    """

    name: str
    model: PreTrainedModel
    processor: Any
    source: str
    commit: str | None = None

    @property
    def adapter(self) -> Adapter:
        """The adapter of the model's family."""
        return adapter_for(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over configuration, dtype and weights (of a hub model: its commit); equal for equal checkpoints."""
        digest = hashlib.sha256(self.model.config.to_json_string(use_diff=False).encode())
        digest.update(str(self.model.dtype).encode())
        folder = Path(self.source)
        if folder.is_dir():
            for file in sorted(folder.glob("*.safetensors")):
                digest.update(_file_digest(file))
        else:
            digest.update(f"{self.source}@{self.commit}".encode())
        return digest.hexdigest()


def load(
    name: str,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Loaded:
    """Load a model and its processor by shipped name, local folder or hub id. Only safetensors are read.

    Args:
        name: `tiny-llava`, a folder, or a hub id such as `llava-hf/llava-1.5-7b-hf`.
        revision: branch, tag or commit of a hub id.
        dtype: a torch dtype or its name; `auto` takes the checkpoint's own.
        device: `cpu`, `cuda`, `cuda:1` ...; `auto` takes a GPU if there is one.
        trust_remote_code: let code from the hub run; never by default.

    Raises:
        ModelNotFound: no such files here or at the hub; says how to get them and how to point to a folder.
        MissingProcessor: its processor needs a package that is not installed.
        UnsupportedModel: the checkpoint's family is not served, or it brings code of its own.
        CheckpointInvalid: its files are broken, lead out of their folder, or are not of one model.
        InvalidParameter: there is no such dtype or device.
    """
    wide = _dtype(dtype)
    place = _device(device)
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        source = str(SHIPPED / name) if (SHIPPED / name / "config.json").is_file() else name
        if _is_folder(name) and not (Path(name) / "config.json").is_file():
            raise _not_found(name, OSError("there is no config.json"))
        model, processor = _read(name, source, wide, common)
    except SightlineError:
        raise
    except OSError as error:
        raise _not_found(name, error) from error
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers raises errors of many kinds on files that are not as they should be
        if "trust_remote_code" in str(error):
            raise _brings_code(name) from error
        raise checkpoint.broken(name, error) from error
    return Loaded(name, model.eval().to(place), processor, source, _commit(source, revision))


def _read(name: str, source: str, wide: Any, common: dict[str, Any]) -> tuple[Any, Any]:
    """Model and processor of a folder or hub id."""
    raw: Any = PretrainedConfig.get_config_dict(source, revision=common["revision"])[0]
    refuse(raw, trust_remote_code=common["trust_remote_code"])
    refuse_unknown(raw)
    config = AutoConfig.from_pretrained(source, **common)
    visual = getattr(config, "vision_config", None) is not None
    made: Any = AutoModelForImageTextToText if visual else AutoModelForCausalLM
    known = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if visual else MODEL_FOR_CAUSAL_LM_MAPPING
    if type(config) not in known and not raw.get("auto_map"):
        raise no_loop(config.model_type)
    if _is_folder(source):
        held = checkpoint.parameters_in(Path(source))
        if not raw.get("auto_map"):
            checkpoint.check_size(held, config, made.from_config)
    model, found = made.from_pretrained(source, dtype=wide, use_safetensors=True, output_loading_info=True, **common)
    checkpoint.check_complete(name, found["missing_keys"])
    reader: Any = AutoProcessor if visual else AutoTokenizer
    if needs_image_only_processor(config.model_type):
        reader = image_only_processor(config.model_type)
    elif needs_image_only(config.model_type):
        reader = image_only(config.model_type)
    processor = _processor(reader, source, common)
    getattr(processor, "tokenizer", processor).padding_side = "left"
    if visual:
        _family(config.model_type, visual).fit(processor)
    return model, processor


def _processor(reader: Any, source: str, common: dict[str, Any]) -> Any:
    """What `reader` loads.

    Raises:
        MissingProcessor: it needs a package that is not installed.
    """
    try:
        return reader.from_pretrained(source, **common)
    except (ImportError, ValueError) as error:
        if isinstance(error, ValueError) and "image processor class" not in str(error):
            raise
        raise MissingProcessor(
            f"The processor of {source!r} needs a package that is not here: {_first_line(error)}",
            "Install what it names (often pip install torchvision), or make the inputs yourself and use `adapter_for`.",
        ) from error


def _commit(source: str, revision: str | None) -> str | None:
    """The commit that a hub id was read at, by where its files lie in the hub's cache: configs no longer hold it."""
    if _is_folder(source):
        return None
    file = try_to_load_from_cache(source, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


def _dtype(dtype: str | torch.dtype) -> Any:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype != "auto" else dtype
    if found != "auto" and not isinstance(found, torch.dtype):
        raise InvalidParameter(f"There is no dtype {dtype!r}.", "Use auto, float32, bfloat16, float16 or float64.")
    return found


def _device(device: str) -> torch.device:
    wanted = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(wanted)
    except RuntimeError as error:
        raise InvalidParameter(f"There is no device {device!r}.", "Use auto, cpu, cuda or cuda:0.") from error


def _brings_code(name: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"The checkpoint {name!r} brings code of its own, which Sightline does not run unasked.",
        "Use a checkpoint converted for transformers (often '...-hf'); or, if you trust the code, load it with "
        "trust_remote_code=True (model.trust_remote_code=true).",
    )


def _is_folder(name: str) -> bool:
    return os.path.isdir(name)  # `Path.is_dir` raises on names that are too long for the system


def _not_found(name: str, error: OSError) -> ModelNotFound:
    shipped = ", ".join(sorted(path.parent.name for path in SHIPPED.glob("*/config.json"))) or "none"
    if _is_folder(name):
        return ModelNotFound(
            f"The folder {name!r} holds no complete checkpoint: {_first_line(error).rstrip('.')}.",
            "It needs config.json, the processor's files and *.safetensors, as save_pretrained() writes them.",
        )
    near = difflib.get_close_matches(name, shipped.split(", "), n=1)
    if near or name.startswith(("/", "~", "./", "../")):
        guess = f"Did you mean {near[0]!r}? " if near else ""
        return ModelNotFound(f"There is no model {name!r}.", f"{guess}Shipped with the package: {shipped}.")
    return ModelNotFound(
        f"The weights of {name!r} are not on this machine and could not be fetched.",
        f"Download them with `hf download {name}`, or point to a folder that holds them (model=local "
        f"model.path=FOLDER); shipped with the package: {shipped}.",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _file_digest(file: Path) -> bytes:
    """sha256 of a weights file; of size, header and 64 evenly spaced mebibytes when it is larger than 256 MiB."""
    digest = hashlib.sha256()
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= _WHOLE_FILE:
            return hashlib.file_digest(stream, "sha256").digest()
        header = int.from_bytes(stream.read(8), "little")
        digest.update(json.dumps({"size": size, "header": header}).encode())
        digest.update(stream.read(header))
        for block in range(64):
            stream.seek(block * (size - 2**20) // 63)
            digest.update(stream.read(2**20))
    return digest.digest()
