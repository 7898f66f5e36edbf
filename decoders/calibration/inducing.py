"""Inducing heads (HICD): how much each head matters for right and for wrong answers, and which ones to disperse.

    {"schema": 1, "what": "inducing", "model": "tiny-llama", "fingerprint": "9f...", "layers": 4, "heads": 8,
     "norm": "uniform", "triples": 128, "data": "5e...", "num_heads": 1, "scale": 20.0, "chosen": [[2, 5]],
     "settings": {}, "version": "0.1.0", "correct": [[0.01, 0.02]], "wrong": [[0.01, 0.01]]}

`correct` and `wrong` hold a row a layer and a number a head. Selection starts from these, so that a strategy may ask
for another number of heads or another scale; `chosen` is what the defaults `num_heads` and `scale` select. With na, nb
the two matrices, each moved to between 0 and 1 over all its heads, a head's score is

    na + s (na - nb)        (nb + s (nb - na) for heads of wrong answers)

The reference's own lists of heads, {"7": [1, 30], "layer9": [4]}, are read too; they know no scores and no model.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.errors import InvalidParameter
from .errors import CalibrationInvalid, CalibrationMismatch, CalibrationMissing
from .files import read, write
from .ranking import fingerprint, rank

if TYPE_CHECKING:
    from ...models.adapter import Adapter

AUTO = "auto"
SCHEMA = 1
WHAT = "inducing"
FILE = "inducing_heads.json"
"""The name under which a checkpoint's folder holds its own importances."""
SCALE = 20.0
SHARE = 0.03
"""The share of a model's heads that are dispersed unless a number is given."""
SELECT = ("correct", "incorrect")
Matrix = tuple[tuple[float, ...], ...]
Heads = list[tuple[int, int]]
_REMEDY = "Measure it: sightline calibrate model=... what=inducing out=FILE."


class Source(Protocol):
    """What inducing heads come from."""

    def choose(self, count: int | None, scale: float, select: str) -> Heads:
        """So many heads, (layer, head), best first; None for the usual number."""
        ...

    def check_fits(self, adapter: Adapter) -> None:
        """Refuse another model than the one it was made for."""
        ...


@dataclass(frozen=True)
class Importance:
    """How much each head of a model matters for right and for wrong answers to the same questions.

    Attributes:
        model: name of the model that was measured.
        correct, wrong: a row a layer, a number a head.
        norm: how sums over tokens were normalised; see `importance`.
        triples: how many questions were asked.
        data: sha256 (hex) over what the model was given.
        settings: how the questions were made.
        fingerprint: of the model.
        version: of the package that wrote it.
    """

    model: str
    correct: Matrix
    wrong: Matrix
    norm: str
    triples: int
    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    version: str = field(default_factory=lambda: version("sightline"))

    @property
    def shape(self) -> tuple[int, int]:
        """Layers and heads."""
        return len(self.correct), len(self.correct[0])

    def choose(self, count: int | None, scale: float, select: str) -> Heads:
        """The heads with the largest scores, best first; ties stay in layer-major order.

        Raises:
            InvalidParameter: there are not so many.
        """
        layers, heads = self.shape
        count = usual(layers * heads) if count is None else count
        if count > layers * heads:
            raise InvalidParameter(
                f"hicd: num_heads must be at most {layers * heads}, the heads of {self.model!r}, got {count}."
            )
        correct, wrong = (torch.tensor(each, dtype=torch.float64) for each in (self.correct, self.wrong))
        mine, other = (correct, wrong) if select == "correct" else (wrong, correct)
        scores = discrepancy(mine, other, scale)
        return [(layer, head) for layer, head, _ in rank(scores)[:count]]

    def check_fits(self, adapter: Adapter) -> None:
        """Refuse another model than the one that was measured.

        Raises:
            CalibrationMismatch: other layers or heads, or another fingerprint.
        """
        if self.shape != (adapter.layers, adapter.heads):
            raise CalibrationMismatch(
                f"The inducing heads of {self.model!r} are from {self.shape[0]} layers of {self.shape[1]} heads, and "
                f"this model has {adapter.layers} layers of {adapter.heads}.",
                _REMEDY,
            )
        if self.fingerprint is not None and self.fingerprint != fingerprint(adapter):
            raise CalibrationMismatch(
                f"The inducing heads of {self.model!r} were measured on another model (fingerprints differ).",
                f'{_REMEDY} To try them on a relative of their model, set "fingerprint": null in the file.',
            )

    def save(self, path: str | Path) -> Path:
        """Write the file, a layer a line; its folder is made. Returns the path."""
        layers, heads = self.shape
        count = usual(layers * heads)
        fields = {"schema": SCHEMA, "what": WHAT, "layers": layers, "heads": heads}
        fields |= {"num_heads": count, "scale": SCALE, "chosen": self.choose(count, SCALE, "correct")}
        fields |= dataclasses.asdict(self)
        parts = []
        for name in ("correct", "wrong"):
            rows = ",\n".join("  " + json.dumps(row) for row in fields.pop(name))
            parts.append(f' "{name}": [\n{rows}\n ]')
        lines = [f" {json.dumps(name)}: {json.dumps(value, default=dict)}" for name, value in fields.items()]
        return write(path, "{\n" + ",\n".join([*lines, *parts]) + "\n}\n")


@dataclass(frozen=True)
class HeadList:
    """A list of heads by layer, as the reference's selection writes it."""

    name: str
    listed: tuple[tuple[int, int], ...]

    def choose(self, count: int | None, scale: float, select: str) -> Heads:
        """All of them.

        Raises:
            InvalidParameter: another number is asked for; the list does not say which come first.
        """
        if count is not None and count != len(self.listed):
            raise InvalidParameter(
                f"hicd: num_heads must be None or {len(self.listed)}, the length of the list in {self.name!r}, got "
                f"{count}.",
                "Such a list holds no scores; a file of sightline calibrate what=inducing does.",
            )
        return list(self.listed)

    def check_fits(self, adapter: Adapter) -> None:
        """Refuse a model that lacks one of the heads.

        Raises:
            CalibrationMismatch: it does.
        """
        layers, heads = adapter.layers, adapter.heads
        outside = [f"{layer}-{head}" for layer, head in self.listed if layer >= layers or head >= heads]
        if outside:
            raise CalibrationMismatch(
                f"{self.name!r} lists head {outside[0]}, and this model has {layers} layers of {heads}.", _REMEDY
            )


def usual(heads: int) -> int:
    """How many of a model's heads are dispersed unless a number is given: 3 %, one at least."""
    return max(1, round(SHARE * heads))


def discrepancy(
    mine: Float[Tensor, "layers heads"], other: Float[Tensor, "layers heads"], scale: float
) -> Float[Tensor, "layers heads"]:
    """na + s (na - nb) with na, nb the two importances moved to between 0 and 1 over all heads."""
    one, two = unit(mine), unit(other)
    return one + scale * (one - two)


def unit(values: Float[Tensor, "layers heads"]) -> Float[Tensor, "layers heads"]:
    """(x - min) / (max - min) over all entries; zero where all are the same."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)


def find(source: str, adapter: Adapter) -> Source:
    """What `source` means for a model: `auto` (the checkpoint's own file) or a path; it fits the model.

    Raises:
        CalibrationMissing: there is no such file.
        CalibrationInvalid: it cannot be read.
        CalibrationMismatch: it was made for another model.
    """
    path = Path(source)
    if source == AUTO:
        name = str(getattr(adapter.model.config, "_name_or_path", "") or "")
        path = Path(name) / FILE
        if not name or not path.is_file():
            raise CalibrationMissing(
                f"No inducing heads are known for {name or type(adapter.model).__name__!r}.",
                "Measure them once: sightline calibrate model=... what=inducing out=inducing.json, then "
                "heads=inducing.json.",
            )
    found = load(path)
    found.check_fits(adapter)
    return found


def load(path: str | Path) -> Source:
    """Read importances, or a list of heads.

    Raises:
        CalibrationMissing: there is no such file.
        CalibrationInvalid: it is neither, of another schema, or says something impossible.
    """
    held = read(path)
    try:
        if isinstance(held, dict) and "schema" not in held:
            return _listed(held, Path(path).name)
        return _parsed(held)
    except KeyError as error:
        raise CalibrationInvalid(f"{str(path)!r} holds no inducing heads: {error} missing.", _REMEDY) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise CalibrationInvalid(f"{str(path)!r} holds no inducing heads: {error}.", _REMEDY) from error


def _parsed(held: Any) -> Importance:
    if not isinstance(held, dict) or (held.get("schema"), held.get("what")) != (SCHEMA, WHAT):
        raise ValueError(f"schema must be {SCHEMA} and what {WHAT!r}")
    parts = {spec.name: held[spec.name] for spec in dataclasses.fields(Importance)}
    shape = held["layers"], held["heads"]
    for name in ("correct", "wrong"):
        parts[name] = tuple(tuple(float(value) for value in row) for row in parts[name])
        rows = len(parts[name]), *{len(row) for row in parts[name]}
        if rows != shape or not all(math.isfinite(value) and value >= 0 for row in parts[name] for value in row):
            raise ValueError(f"{name} must hold {shape[0]} rows of {shape[1]} numbers >= 0")
    return Importance(**parts)


def _listed(held: Mapping[str, Any], name: str) -> HeadList:
    listed = [(int(layer.removeprefix("layer")), head) for layer, heads in held.items() for head in heads]
    if not all(layer >= 0 and type(head) is int and head >= 0 for layer, head in listed):
        raise ValueError("heads must be whole numbers from 0")
    if not listed or len(set(listed)) < len(listed):
        raise ValueError("there is no head, or one is listed twice")
    return HeadList(name, tuple(listed))
