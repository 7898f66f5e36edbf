"""Strings and numbers as a reader sees them: untrusted text made harmless, figures set consistently.

HTML is escaped by the templates; what happens here is for every output: control characters, direction overrides,
invisible characters and lone surrogates are shown by their code point instead of being obeyed.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from typing import Any

MINUS, DASH, ELLIPSIS = "\u2212", "\u2013", "\u2026"
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_MARKDOWN = re.compile(r"[\\`*_|~>]|\](?=[(\[:])")
_LINE_START = re.compile(r"^(\d*)([#+=.)-])")
_INTERVAL = re.compile(r"\[[^\[\]]{1,40}, [^\[\]]{1,40}\]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def clean(value: object) -> str:
    """The text of a value on one line, characters that cannot be seen or that reorder text named as `⟨U+202E⟩`."""
    return "".join(_visible(character) for character in str(value))


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if unicodedata.category(character) in _UNSAFE:
        return f"\u27e8U+{ord(character):04X}\u27e9"
    return character


def clean_tree(value: Any) -> Any:
    """A JSON value with every string in it cleaned, keys included."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key): clean_tree(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean_tree(item) for item in value]
    return value


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, the cut marked."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + ELLIPSIS


def number(value: float, digits: int, signed: bool = False) -> str:
    """A figure with thousands separators and a true minus sign; a rounded zero has no sign."""
    text = f"{abs(value):,.{digits}f}"
    if not any(digit in text for digit in "123456789"):
        return text
    return (MINUS if value < 0 else "+" if signed else "") + text


def interval(low: float, high: float, digits: int, signed: bool = False) -> str:
    """`[low, high]`."""
    return f"[{number(low, digits, signed)}, {number(high, digits, signed)}]"


def unbroken(text: str) -> str:
    """The text with intervals that no line break cuts."""
    return _INTERVAL.sub(lambda found: found[0].replace(" ", "\u00a0"), text)


def count(value: int, noun: str) -> str:
    """`1 run`, `9,000 answers`."""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def parameters(params: dict[str, Any]) -> str:
    """`alpha 1.0, beta 0.1`, in the order of the file."""
    return ", ".join(f"{key} {plain(value)}" for key, value in params.items())


def plain(value: object) -> str:
    """A JSON value in one line; strings without quotes."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def markdown(text: str, start: bool = False) -> str:
    """Text that Markdown and the HTML inside it leave alone; `start` where it begins a line."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;")
    safe = _MARKDOWN.sub(r"\\\g<0>", safe)
    return _LINE_START.sub(r"\1\\\2", safe) if start else safe


def csv_text(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return "'" + text if text.startswith(_FORMULA) else text


def finite(value: object) -> float | None:
    """The number, or None where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if math.isfinite(result) else None
