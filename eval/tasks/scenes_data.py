"""The folder of scenes that three tasks read: drawn on first use, then kept in the cache folder."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, unknown

SPLITS = ("test", "validation")
_FACTS = ("world", "version", "hash", "split", "pairs", "seed", "images")


def scenes_folder(split: Any, images: int) -> Path:
    """The folder with the first `images` scenes of a split.

    Raises:
        ConfigError: the split is not known.
        DataError: the scenes cannot be written.
    """
    if split not in SPLITS:
        raise ConfigError(*unknown("task.split", split, SPLITS))
    dataset = importlib.import_module("..scenes.dataset", __package__)
    try:
        return Path(dataset.ensure_dataset(split, images))
    except OSError as error:
        raise DataError(
            f"The scenes cannot be written: {error}.", "Point SIGHTLINE_CACHE to another folder."
        ) from error


def world_facts(folder: Path, *more: str) -> Mapping[str, Any]:
    """What the folder's `world.json` says it was made of, without the hashes of single files.

    Args:
        folder: the folder of scenes.
        more: facts of the task's own, such as `pope`.

    Raises:
        DataError: there is no such file, or it is not JSON.
    """
    try:
        facts = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder.name}/world.json cannot be read: {error}.", "Delete the folder; it is made anew."
        ) from error
    return {name: facts[name] for name in (*_FACTS, *more) if name in facts}
