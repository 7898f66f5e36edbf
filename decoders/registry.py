"""The registry of decoders: keys to strategy classes, our own and those of other packages.

Another package registers through the entry-point group `sightline.decoders`, each entry naming a `Strategy` class.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from ..models.errors import DecoderCollision, UnknownDecoder, UnknownParameter
from .strategy import Strategy
from .together import Together

GROUP = "sightline.decoders"
S = TypeVar("S", bound=type[Strategy])
_REGISTRY: dict[str, type[Strategy]] = {}
_loaded_plugins = False


def register(cls: S) -> S:
    """Class decorator: make a strategy known under its key.

    Raises:
        DecoderCollision: the key belongs to another class; both are named.
    """
    held = _REGISTRY.get(cls.key)
    if held is not None and held is not cls:
        raise DecoderCollision(
            f"Decoder key {cls.key!r} is asked for by {_where(cls)} and held by {_where(held)}.",
            "Give one of them another key.",
        )
    _REGISTRY[cls.key] = cls
    return cls


def names() -> list[str]:
    """All keys: controls first, then strategies, each in alphabetical order."""
    _load_plugins()
    return sorted(_REGISTRY, key=lambda key: (_REGISTRY[key].kind == "strategy", key))


def get(key: str) -> type[Strategy]:
    """The class behind a key.

    Raises:
        UnknownDecoder: no such key; names the nearest one and lists all.
    """
    _load_plugins()
    if key not in _REGISTRY:
        raise UnknownDecoder(
            f"There is no decoder {key!r}.", f"{did_you_mean(key, _REGISTRY)}Known: {', '.join(names())}."
        )
    return _REGISTRY[key]


def build(key: str, params: Mapping[str, Any] | None = None) -> Strategy:
    """A strategy from its key and its fields, as a YAML file or a command line gives them.

    Args:
        key: of a decoder, or of several joined by `+`, which then act one after the other (`cgvlm+vcd`).
        params: its fields; of several, each one's fields under its key.

    Raises:
        UnknownDecoder: no such key.
        UnknownParameter: no such field; names the nearest one.
        InvalidParameter: a value has the wrong type or is out of range.
    """
    if "+" in key:
        return _together(key.split("+"), params or {})
    cls = get(key)
    fields = [spec.name for spec in dataclasses.fields(cls)]
    for name in params or {}:
        if name not in fields:
            has = f"It has: {', '.join(fields)}." if fields else "It has none."
            raise UnknownParameter(f"{key} has no parameter {name!r}.", f"{did_you_mean(name, fields)}{has}")
    return cls(**(params or {}))


def _together(keys: list[str], params: Mapping[str, Any]) -> Strategy:
    for name in params:
        if name not in keys:
            own = ", ".join(keys)
            raise UnknownParameter(f"{'+'.join(keys)} has no part {name!r}.", f"Give the fields of each part: {own}.")
    return Together(tuple(build(key, params.get(key)) for key in keys))


def did_you_mean(word: str, known: Any) -> str:
    """`"Did you mean 'x'? "`, or nothing if no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def _load_plugins() -> None:
    global _loaded_plugins
    if not _loaded_plugins:
        _loaded_plugins = True
        for entry in entry_points(group=GROUP):
            register(entry.load())


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
