"""A ranking of attention heads, measured once per model, and its JSON file.

    {"schema": 1, "what": "retrieval", "model": "tiny-llava", "fingerprint": "9f...", "layers": 4, "heads": 8,
     "ranked": [[2, 5, 0.83], [1, 0, 0.41]], "settings": {"trials": 90}, "version": "0.1.0",
     "checkpoints": [], "shape": {}}

`ranked` holds [layer, query head, score], best first, both counted from 0. A file made by `sightline calibrate` carries
the fingerprint of its model and serves no other. A published list has none; it names its checkpoints and their shape.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from jaxtyping import Float
from torch import Tensor, nn

from .errors import CalibrationInvalid, CalibrationMismatch
from .files import read, write

if TYPE_CHECKING:
    from ...models.adapter import Adapter

SCHEMA = 1
WHAT = ("retrieval", "image")
Ranked = tuple[tuple[int, int, float], ...]
_FIELDS = (
    "model_type", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size",
    "intermediate_size", "vocab_size", "max_position_embeddings", "rope_parameters", "sliding_window",
)  # fmt: skip
"""What of a text decoder's configuration decides what a head is; names and versions do not."""
_FINGERPRINTS: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


@dataclass(frozen=True)
class HeadRanking:
    """Heads of one model, best first.

    Attributes:
        what: `retrieval` (heads that copy from the context) or `image` (heads that look at image tokens).
        model: name of the model that was measured.
        layers, heads: of that model's text decoder.
        ranked: (layer, query head, score), best first.
        settings: how it was measured.
        fingerprint: of the model, see `fingerprint`; None for a published list.
        version: of the package that wrote it.
        checkpoints: names that a published list is meant for.
        shape: fields of their text configuration, for copies under other names.
    """

    what: str
    model: str
    layers: int
    heads: int
    ranked: Ranked
    settings: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    version: str = field(default_factory=lambda: version("sightline"))
    checkpoints: tuple[str, ...] = ()
    shape: Mapping[str, Any] = field(default_factory=dict)

    def top(self, count: int) -> list[tuple[int, int]]:
        """The first `count` heads as (layer, head); fewer where fewer are listed."""
        return [(layer, head) for layer, head, _ in self.ranked[:count]]

    def check_fits(self, adapter: Adapter) -> None:
        """Refuse another model than the one that was measured.

        Raises:
            CalibrationMismatch: other layers or heads, or another fingerprint.
        """
        if (self.layers, self.heads) != (adapter.layers, adapter.heads):
            raise CalibrationMismatch(
                f"The {self.what} heads of {self.model!r} are from {self.layers} layers of {self.heads} heads, and "
                f"this model has {adapter.layers} layers of {adapter.heads}.",
                f"Measure this model: sightline calibrate model=... what={self.what} out=FILE.",
            )
        if self.fingerprint is not None and self.fingerprint != fingerprint(adapter):
            raise CalibrationMismatch(
                f"The {self.what} heads of {self.model!r} were measured on another model (fingerprints differ).",
                f"Measure this one: sightline calibrate model=... what={self.what} out=FILE. To try a list on a "
                'relative of its model, set "fingerprint": null in the file.',
            )

    def save(self, path: str | Path) -> Path:
        """Write the file, one head a line; its folder is made.

        Returns:
            The path.
        """
        fields = {"schema": SCHEMA, **dataclasses.asdict(self)}
        ranked = ",\n".join("  " + json.dumps(entry) for entry in fields.pop("ranked"))
        head = json.dumps(fields, indent=1, default=dict).removesuffix("\n}")
        return write(path, f'{head},\n "ranked": [\n{ranked}\n ]\n}}\n')


def load(path: str | Path) -> HeadRanking:
    """Read a calibration file.

    Raises:
        CalibrationMissing: there is no such file.
        CalibrationInvalid: it is not such a file, of another schema, or lists heads that cannot be.
    """
    held = read(path)
    try:
        return _parsed(held)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CalibrationInvalid(
            f"{str(path)!r} is no calibration file: {error}.", "Make it anew with sightline calibrate."
        ) from error


def _parsed(held: Any) -> HeadRanking:
    """A ranking from what a file holds; raises `KeyError`, `TypeError` or `ValueError` with what is wrong."""
    if not isinstance(held, dict) or held.get("schema") != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA}")
    names = [spec.name for spec in dataclasses.fields(HeadRanking)]
    missing = [name for name in names if name not in held]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    if held["what"] not in WHAT:
        raise ValueError(f"what must be one of {', '.join(WHAT)}, got {held['what']!r}")
    layers, heads = held["layers"], held["heads"]
    ranked = tuple((int(layer), int(head), float(score)) for layer, head, score in held["ranked"])
    for layer, head, value in ranked:
        if not (0 <= layer < layers and 0 <= head < heads and math.isfinite(value)):
            raise ValueError(f"no head {layer}-{head} with score {value} in {layers} layers of {heads} heads")
    if len({entry[:2] for entry in ranked}) < len(ranked):
        raise ValueError("a head is listed twice")
    parts = {name: held[name] for name in names} | {"ranked": ranked, "checkpoints": tuple(held["checkpoints"])}
    return HeadRanking(**parts)


def rank(scores: Float[Tensor, "layers heads"]) -> Ranked:
    """Heads by score, best first; ties stay in layer-major order."""
    heads = scores.shape[1]
    order = scores.flatten().argsort(descending=True, stable=True).tolist()
    return tuple((place // heads, place % heads, round(float(scores.flatten()[place]), 6)) for place in order)


def fingerprint(adapter: Adapter) -> str:
    """sha256 (hex) over a model's configuration and the names and shapes of its parameters; weights do not enter.

    Names, folders, dtypes and versions of transformers do not either.
    """
    model = adapter.model
    if model not in _FINGERPRINTS:
        config = adapter.decoder.config
        held = {name: getattr(config, name, None) for name in _FIELDS}
        shapes = sorted((name, list(parameter.shape)) for name, parameter in model.named_parameters())
        whole = [model.config.model_type, adapter.image_token_id, held, shapes]
        _FINGERPRINTS[model] = hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).hexdigest()
    return _FINGERPRINTS[model]
