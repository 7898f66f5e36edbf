"""What tasks that read files of the user's share: folders that must be there, names from a closed list."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, unknown


def folder(task: str, option: str, value: Any, holds: str, hint: str) -> Path:
    """The folder that an option names.

    Raises:
        DataError: the option is not set, or no such folder exists.
    """
    if not isinstance(value, str) or not value:
        raise DataError(f"task={task} needs {option}, the folder with the {holds}.", hint)
    path = Path(value).expanduser()
    if not path.is_dir():
        raise DataError(f"{option} {value!r} is not a folder.", hint)
    return path


def chosen(option: str, noun: str, value: Any, known: Sequence[str]) -> tuple[str, ...]:
    """The names asked for, in the order of `known`.

    Args:
        option: such as `task.splits`.
        noun: what one of them is called.
        value: a name, or a list of names.
        known: all of them.

    Raises:
        ConfigError: a name is not known, or there is none.
    """
    asked = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) else []
    for name in asked:
        if name not in known:
            raise ConfigError(*unknown(f"{noun} ({option})", name, known))
    if not asked:
        raise ConfigError(f"{option} must be a list of {noun}s, got {value!r}.", f"Known: {', '.join(known)}.")
    return tuple(name for name in known if name in asked)


def count(option: str, value: Any, what: str) -> int:
    """A number of things, 1 or more; raises `ConfigError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{option} must be a whole number of {what}, 1 or more, got {value!r}.")
    return value


def is_text(value: str) -> bool:
    """Whether the text can be written as UTF-8 (no lone surrogates)."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_id(value: Any) -> bool:
    """Whether it is a whole number or a text that tells a row apart."""
    return (
        isinstance(value, int | str)
        and not isinstance(value, bool)
        and is_text(str(value))
        and bool(str(value).strip())
    )


def tag(value: Any) -> str:
    """A name for what rows share, as text that can be written: lone surrogates as their escapes."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def sha256(content: bytes) -> str:
    """The hash of a file's content in hex."""
    return hashlib.sha256(content).hexdigest()
