"""DAGCD's detector: the attention heads that show which tokens of a passage are about to be used, and their weights.

    {"schema": 1, "what": "detector", "model": "tiny-llama", "fingerprint": "9f...", "layers": 4, "heads": 8,
     "chosen": [[2, 5, 31.2], [1, 0, 12.9]], "intercept": -4.1, "c": 100.0, "accuracy": 0.97, "positives": 640,
     "negatives": 640, "settings": {"data": "facts", "items": 300}, "version": "0.1.0"}

`chosen` holds [layer, query head, coefficient], both counted from 0. It is a logistic regression on attention ratios
(`decoders.context_tokens`); `c` is its inverse strength of regularisation, `accuracy` that on rows it was not fitted
to, `positives` and `negatives` how many rows there were. `detector_training` makes it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..context_tokens import FLOOR
from .errors import CalibrationInvalid, CalibrationMismatch, CalibrationMissing
from .files import read, write
from .ranking import fingerprint

if TYPE_CHECKING:
    from ...models.adapter import Adapter

AUTO = "auto"
SCHEMA = 1
WHAT = "detector"
FILE = "dagcd_detector.json"
"""The name under which a checkpoint's folder holds its own detector."""
WEIGHT_NORMS = ("relu_sum", "sum")
_REMEDY = "Measure it: sightline calibrate model=... what=detector out=FILE, then detector=FILE."


@dataclass(frozen=True)
class Detector:
    """A detector of one model.

    Attributes:
        model: name of the model that was measured.
        layers, heads: of that model's text decoder.
        chosen: (layer, query head, coefficient).
        intercept: of the regression.
        c: its inverse strength of regularisation.
        accuracy: share of rows it tells apart among those it was not fitted to.
        positives, negatives: rows of used and unused tokens.
        settings: how it was measured.
        fingerprint: of the model.
        version: of the package that wrote it.
    """

    model: str
    layers: int
    heads: int
    chosen: tuple[tuple[int, int, float], ...]
    intercept: float
    c: float
    accuracy: float
    positives: int
    negatives: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    version: str = field(default_factory=lambda: version("sightline"))

    @property
    def coef(self) -> list[float]:
        """The coefficient of each chosen head."""
        return [value for _, _, value in self.chosen]

    @property
    def read(self) -> tuple[int, ...]:
        """Layers with chosen heads, ascending."""
        return tuple(sorted({layer for layer, _, _ in self.chosen}))

    def weights(self, norm: str) -> list[float]:
        """The share of each chosen head in a token's score: `sum` (coef / sum of coef, the reference), or `relu_sum`
        (the same of max(coef, 0))."""
        kept = [max(value, 0.0) for value in self.coef] if norm == "relu_sum" else self.coef
        total = sum(kept)
        total = max(total, FLOOR) if norm == "relu_sum" else total
        return [value / total for value in kept]

    def check_fits(self, adapter: Adapter) -> None:
        """Refuse another model than the one that was measured.

        Raises:
            CalibrationMismatch: other layers or heads, or another fingerprint.
        """
        if (self.layers, self.heads) != (adapter.layers, adapter.heads):
            raise CalibrationMismatch(
                f"The detector of {self.model!r} is from {self.layers} layers of {self.heads} heads, and this model "
                f"has {adapter.layers} layers of {adapter.heads}.",
                _REMEDY,
            )
        if self.fingerprint is not None and self.fingerprint != fingerprint(adapter):
            raise CalibrationMismatch(
                f"The detector of {self.model!r} was measured on another model (fingerprints differ).", _REMEDY
            )

    def save(self, path: str | Path) -> Path:
        """Write the file; its folder is made. Returns the path."""
        fields = {"schema": SCHEMA, "what": WHAT, **dataclasses.asdict(self)}
        chosen = ", ".join(json.dumps(entry) for entry in fields.pop("chosen"))
        head = json.dumps(fields, indent=1, default=dict).removesuffix("\n}")
        return write(path, f'{head},\n "chosen": [{chosen}]\n}}\n')


def load(path: str | Path) -> Detector:
    """Read a detector.

    Raises:
        CalibrationMissing: there is no such file.
        CalibrationInvalid: it is not such a file, of another schema, or names heads that cannot be.
    """
    held = read(path)
    try:
        return _parsed(held)
    except KeyError as error:
        raise CalibrationInvalid(f"{str(path)!r} is no detector: {error} missing.", _REMEDY) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise CalibrationInvalid(f"{str(path)!r} is no detector: {error}.", _REMEDY) from error


def _parsed(held: Any) -> Detector:
    """A detector from what a file holds; raises `KeyError`, `TypeError` or `ValueError` with what is wrong."""
    if not isinstance(held, dict) or (held.get("schema"), held.get("what")) != (SCHEMA, WHAT):
        raise ValueError(f"schema must be {SCHEMA} and what {WHAT!r}")
    parts = {spec.name: held[spec.name] for spec in dataclasses.fields(Detector)}
    parts["chosen"] = tuple((int(layer), int(head), float(value)) for layer, head, value in held["chosen"])
    found = Detector(**parts)
    if not found.chosen or len({entry[:2] for entry in found.chosen}) < len(found.chosen):
        raise ValueError("chosen must list one head or more, each of them once")
    for layer, head, value in found.chosen:
        if not (0 <= layer < found.layers and 0 <= head < found.heads and math.isfinite(value)):
            raise ValueError(f"no head {layer}-{head} with {value} in {found.layers} layers of {found.heads} heads")
    if not math.isfinite(found.intercept):
        raise ValueError(f"intercept must be a finite number, got {found.intercept!r}")
    if sum(found.coef) == 0:
        raise ValueError("the coefficients add up to 0")
    return found


def find(source: str, adapter: Adapter) -> Detector:
    """The detector that `source` means for a model: `auto` (the checkpoint's own) or a path. It fits the model.

    Raises:
        CalibrationMissing: there is none; says how to measure one.
        CalibrationInvalid: the file cannot be read.
        CalibrationMismatch: it was measured on another model.
    """
    path = Path(source)
    if source == AUTO:
        name = str(getattr(adapter.model.config, "_name_or_path", "") or "")
        path = Path(name) / FILE
        if not name or not path.is_file():
            raise CalibrationMissing(f"No detector is known for {name or type(adapter.model).__name__!r}.", _REMEDY)
    found = load(path)
    found.check_fits(adapter)
    return found
