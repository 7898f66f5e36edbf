"""The folder of facts that three tasks read: written on first use, then kept in the cache folder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, unknown

SPLITS = ("test", "validation")


def facts_folder(split: Any) -> tuple[Path, Mapping[str, Any]]:
    """The folder of a split, and what its files were made of.

    Raises:
        ConfigError: the split is not known.
        DataError: the files cannot be written.
    """
    if split not in SPLITS:
        raise ConfigError(*unknown("task.split", split, SPLITS))
    dataset = importlib.import_module("..facts.dataset", __package__)
    try:
        folder = Path(dataset.ensure_dataset(split))
        facts = json.loads((folder / dataset.MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"The facts cannot be written: {error}.", "Point SIGHTLINE_CACHE to another folder.") from error
    return folder, {name: facts[name] for name in ("world", "version", "hash", "split")}
