"""What a paper reports, as a preset of `conf/experiment/` holds it: numbers beside the settings that should give them.

The section `reported` of a configuration is kept in the run folder's `config.yaml` and enters no key and no identity:
a run made with a preset has the same answers as one made with the same settings by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..decoders.strategy import is_finite
from .errors import ConfigError, unknown

SECTION = "reported"
_FIELDS = ("preset", "paper", "source", "model", "parser", "scale", "missing", "differs", "rows")
_ROW = ("decoder", "table", "n")


@dataclass(frozen=True)
class Row:
    """Numbers of one decoder in one table.

    Attributes:
        decoder: its key in the registry; the baselines of papers are `greedy` and `sample`.
        table: as `metrics.json` names it.
        values: metric -> number, in the paper's unit.
        n: how many samples they are about, where that is known.
    """

    decoder: str
    table: str
    values: Mapping[str, float]
    n: int | None = None


@dataclass(frozen=True)
class Reported:
    """Numbers of a paper.

    Attributes:
        preset: the choice of the group `experiment` that holds them.
        paper: whose numbers.
        source: where they stand, and how they came about.
        model: name of the model in `conf/model`; None where the source does not say.
        parser: dialect that the paper's script reads answers in; None = the task's own.
        scale: the paper's numbers over ours; 100 for percent.
        missing: why there is no number; empty where there are some.
        differs: what is known to be another way in the paper and cannot be set.
        rows: the numbers.
    """

    preset: str
    paper: str
    source: str
    model: str | None = None
    parser: str | None = None
    scale: float = 1.0
    missing: str = ""
    differs: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()

    @property
    def decoders(self) -> list[str]:
        """The decoders that there are numbers of."""
        return list(dict.fromkeys(row.decoder for row in self.rows))


def reported(section: Any) -> Reported | None:
    """The section of a configuration, checked; None where there is none.

    Raises:
        ConfigError: it is no such section, lacks a field, or holds something that is no number.
    """
    if section is None:
        return None
    held = _mapping(SECTION, section)
    for name in held:
        if name not in _FIELDS:
            raise ConfigError(*unknown("setting", f"{SECTION}.{name}", [f"{SECTION}.{each}" for each in _FIELDS]))
    for name in ("preset", "paper", "source"):
        _text(f"{SECTION}.{name}", held.get(name))
    for name in ("model", "parser", "missing"):
        if held.get(name) is not None:
            _text(f"{SECTION}.{name}", held[name])
    scale = held.get("scale", 1)
    if not is_finite(scale) or scale <= 0:
        raise ConfigError(f"{SECTION}.scale must be a number above 0, got {scale!r}.", "Use 100 for percent, else 1.")
    rows = tuple(_row(place, row) for place, row in enumerate(_list("rows", held.get("rows") or ()), start=1))
    if bool(rows) == bool(held.get("missing")):
        raise ConfigError(f"{SECTION} needs either rows or missing.", "Say in missing why there is no number.")
    differs = _list("differs", held.get("differs") or ())
    for place, line in enumerate(differs, start=1):
        _text(f"{SECTION}.differs, entry {place}", line)
    texts = {name: held[name] for name in ("preset", "paper", "source", "model", "parser") if held.get(name)}
    return Reported(
        **texts, scale=float(scale), missing=held.get("missing") or "", differs=tuple(map(str, differs)), rows=rows
    )


def _row(place: int, value: Any) -> Row:
    where = f"{SECTION}.rows, row {place}"
    held = _mapping(where, value)
    for name in ("decoder", "table"):
        _text(f"{where}: {name}", held.get(name))
    n = held.get("n")
    if n is not None and (not isinstance(n, int) or isinstance(n, bool) or n < 1):
        raise ConfigError(f"{where}: n must be a whole number above 0, got {n!r}.")
    values = {str(name): number for name, number in held.items() if name not in _ROW}
    for name, number in values.items():
        if not is_finite(number):
            raise ConfigError(f"{where}: {name} must be a number, got {number!r}.")
    if not values:
        raise ConfigError(f"{where} holds no number.", "Write them as metric: number, such as accuracy: 87.73.")
    return Row(held["decoder"], held["table"], values, n)


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be a group of settings, got {value!r}.")
    return value


def _list(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{SECTION}.{name} must be a list, got {value!r}.")
    return value


def _text(where: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} must be text, got {value!r}.")
