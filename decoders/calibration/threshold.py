"""CG-VLM's threshold: how far the interaction D of image and instruction goes on a model, measured while it captions.

    {"schema": 1, "what": "threshold", "model": "tiny-llava", "fingerprint": "9f...", "k": 0.83, "percentile": 70.0,
     "sensor": {"absent_image": "noise", "top_k_tokens": 50, "seed": 0}, "quantiles": {"0": 0.01, "50": 0.4},
     "mean": 0.6, "tokens": 700, "settings": {"images": 20}, "version": "0.1.0"}

D grows with the square of the logits' scale, so a threshold serves the model it was measured on, and the sensor it was
measured with. `k` is a percentile of D over the tokens of greedy captions: above it lie the tokens that get the boost.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...models.descriptions import plain_greedy
from ..attachment import Attachment
from ..plan import Plan, Request, Step
from ..strategy import Strategy
from .errors import CalibrationFailed, CalibrationInvalid, CalibrationMismatch
from .files import read, write
from .ranking import fingerprint

if TYPE_CHECKING:
    from ...models.adapter import Adapter
    from ..cgvlm import CGVLM

AUTO = "auto"
SCHEMA = 1
WHAT = "threshold"
FILE = "cgvlm_threshold.json"
"""The name under which a checkpoint's folder holds its own threshold."""
PERCENTILE = 70.0
SENSOR = ("absent_image", "top_k_tokens", "seed")
"""Fields of the strategy that D depends on."""
_SHOWN = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
_REMEDY = "Measure it: sightline calibrate model=... what=threshold out=FILE, or give k as a number."


@dataclass(frozen=True)
class Threshold:
    """A threshold of one model.

    Attributes:
        model: name of the model that was measured.
        k: the threshold.
        percentile: which one of D it is.
        sensor: the strategy's fields that D depends on.
        quantiles: D at some percentiles, by their names.
        mean: of D.
        tokens: how many tokens were measured.
        settings: how the prompts were made.
        fingerprint: of the model.
        version: of the package that wrote it.
    """

    model: str
    k: float
    percentile: float
    sensor: Mapping[str, Any]
    quantiles: Mapping[str, float]
    mean: float
    tokens: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    version: str = field(default_factory=lambda: version("sightline"))

    def check_fits(self, adapter: Adapter) -> None:
        """Refuse another model than the one that was measured.

        Raises:
            CalibrationMismatch: the fingerprints differ.
        """
        if self.fingerprint is not None and self.fingerprint != fingerprint(adapter):
            raise CalibrationMismatch(
                f"The threshold of {self.model!r} was measured on another model (fingerprints differ).", _REMEDY
            )

    def check_sensor(self, decoder: CGVLM) -> None:
        """Refuse a sensor other than the one that was measured with; another seed is no other sensor.

        Raises:
            CalibrationMismatch: it differs in how an absent image looks, or in the number of candidates.
        """
        for name in SENSOR[:2]:
            if self.sensor[name] != getattr(decoder, name):
                raise CalibrationMismatch(
                    f"The threshold of {self.model!r} was measured with {name}={self.sensor[name]}, and this decoder "
                    f"has {getattr(decoder, name)}.",
                    _REMEDY,
                )

    def save(self, path: str | Path) -> Path:
        """Write the file; its folder is made. Returns the path."""
        fields = {"schema": SCHEMA, "what": WHAT, **dataclasses.asdict(self)}
        return write(path, json.dumps(fields, indent=1) + "\n")


def load(path: str | Path) -> Threshold:
    """Read a threshold.

    Raises:
        CalibrationMissing: there is no such file.
        CalibrationInvalid: it is not such a file, or of another schema.
    """
    held = read(path)
    try:
        if not isinstance(held, dict) or (held.get("schema"), held.get("what")) != (SCHEMA, WHAT):
            raise ValueError(f"schema must be {SCHEMA} and what {WHAT!r}")
        found = Threshold(**{spec.name: held[spec.name] for spec in dataclasses.fields(Threshold)})
        if type(found.k) not in (int, float) or not math.isfinite(found.k):
            raise ValueError(f"k must be a finite number, got {found.k!r}")
        if not isinstance(found.sensor, dict) or not set(SENSOR) <= set(found.sensor):
            raise ValueError(f"sensor must have {', '.join(SENSOR)}")
    except KeyError as error:
        raise CalibrationInvalid(f"{str(path)!r} is no threshold: {error} missing.", _REMEDY) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise CalibrationInvalid(f"{str(path)!r} is no threshold: {error}.", _REMEDY) from error
    return found


def find(source: str, adapter: Adapter) -> Threshold | None:
    """The threshold that `source` means for a model: `auto` (the checkpoint's own; None where it has none) or a path.

    Raises:
        CalibrationMissing, CalibrationInvalid: as `load`.
        CalibrationMismatch: it was measured on another model.
    """
    path = Path(source)
    if source == AUTO:
        name = str(getattr(adapter.model.config, "_name_or_path", "") or "")
        path = Path(name) / FILE
        if not name or not path.is_file():
            return None
    found = load(path)
    found.check_fits(adapter)
    return found


@dataclass(frozen=True)
class _Listening(Strategy):
    """Plain decoding beside which the three coalitions run; D of each step is written down, `[rows]`."""

    key: ClassVar[str] = "cgvlm"
    title: ClassVar[str] = "CG-VLM's sensor"
    needs_image: ClassVar[bool] = True
    needs_processor: ClassVar[bool] = True

    decoder: Any = None
    heard: Any = field(default_factory=list)

    def plan(self, request: Request) -> Plan:
        return Plan(branches=self.decoder.coalitions(request), combines=True)

    def combine(self, base: Tensor, branches: Sequence[Tensor], step: Step) -> Tensor:
        self.heard.append(self.decoder.conflict(base, branches))
        return base


@torch.no_grad()
def listen(
    adapter: Adapter, decoder: CGVLM, inputs: Mapping[str, Any], processor: Any, max_new_tokens: int
) -> Float[Tensor, " tokens"]:
    """D of every token of greedy answers, the end token included, row after row; on the CPU."""
    listening = _Listening(decoder)
    settings = plain_greedy(adapter.owner, max_new_tokens)
    run: Any = adapter.model.generate
    with Attachment(adapter, listening, Request(dict(inputs), adapter, processor)) as attachment:
        made = run(**inputs, logits_processor=[attachment], generation_config=settings)
    heard = torch.stack(listening.heard, dim=1).double().cpu()
    lengths = _lengths(made[:, inputs["input_ids"].shape[1] :].cpu(), adapter.end_tokens)
    return torch.cat([row[:length] for row, length in zip(heard, lengths.tolist(), strict=True)])


def measure(
    adapter: Adapter,
    decoder: CGVLM,
    batches: Iterable[Mapping[str, Any]],
    processor: Any,
    *,
    percentile: float = PERCENTILE,
    max_new_tokens: int = 64,
    name: str = "",
    settings: Mapping[str, Any] | None = None,
) -> Threshold:
    """Measure D while a model answers greedily, and take a percentile of it for the threshold.

    Args:
        adapter: of the model.
        decoder: whose sensor is used; its gate is not.
        batches: model inputs with images, padded on the left, such as requests for captions.
        processor: the model's own.
        percentile: of D, 0 to 100 (typical 60 to 80).
        max_new_tokens: longest answer.
        name: of the model, kept in the file.
        settings: how the batches were made, kept in the file.

    Raises:
        MissingImage, MissingProcessor, MissingChatTemplate: the sensor cannot be run.
        CalibrationFailed: no token was measured.
    """
    found = [listen(adapter, decoder, inputs, processor, max_new_tokens) for inputs in batches]
    values = torch.cat([each[each.isfinite()] for each in found]) if found else torch.zeros(0)
    if not len(values):
        raise CalibrationFailed("There is no token to measure.", "Give one batch of image prompts or more.")
    quantiles = torch.quantile(values, torch.tensor([*_SHOWN, percentile], dtype=values.dtype) / 100)
    *shown, k = (float(f"{value:.6g}") for value in quantiles.tolist())
    return Threshold(
        model=name,
        k=k,
        percentile=percentile,
        sensor={field: getattr(decoder, field) for field in SENSOR},
        quantiles=dict(zip(map(str, _SHOWN), shown, strict=True)),
        mean=float(f"{values.mean():.6g}"),
        tokens=len(values),
        settings={"max_new_tokens": max_new_tokens, **(settings or {})},
        fingerprint=fingerprint(adapter),
    )


def _lengths(ids: Int[Tensor, "rows length"], ends: Sequence[int]) -> Int[Tensor, " rows"]:
    """Tokens of each row up to its end token, that one included."""
    done = torch.isin(ids, torch.tensor(ends, dtype=ids.dtype)).cumsum(dim=1)
    return (done.cumsum(dim=1) <= 1).sum(dim=1)
