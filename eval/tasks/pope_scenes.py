"""POPE on the scenes world: the same questions and splits, about images that the package draws itself.

The world's trained models carry a planted prior: kinds of objects that come in pairs. The adversarial split asks for
absent partners. Settings are chosen on `validation` and reported on `test`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, unknown
from . import pope
from .base import Dataset, Task

SPLITS = ("test", "validation")
_FACTS = ("world", "version", "hash", "layout", "split", "pairs", "seed", "images", "pope", "adversarial_cooccurrence")


def load(options: Mapping[str, Any]) -> Dataset:
    """The questions on `images` scenes of a split; drawn on first use, then kept in the cache folder.

    Raises:
        ConfigError: the split is not known, or the number of images is none.
        DataError: the folder that was drawn cannot be read.
    """
    split, images = options["split"], options["images"]
    if split not in SPLITS:
        raise ConfigError(*unknown("task.split", split, SPLITS))
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise ConfigError(f"task.images must be a whole number of scenes, 1 or more, got {images!r}.")
    splits = pope.check_splits(options["splits"])
    dataset = importlib.import_module("..scenes.dataset", __package__)
    try:
        folder = Path(dataset.ensure_dataset(split, images))
    except OSError as error:
        raise DataError(
            f"The scenes cannot be written: {error}.", "Point SIGHTLINE_CACHE to another folder."
        ) from error
    return pope.read_folder(folder, folder / "images", "scenes", splits, world=world_facts(folder))


def world_facts(folder: Path) -> dict[str, Any]:
    """What the folder's `world.json` says it was made of, without the hashes of single files.

    Raises:
        DataError: there is no such file, or it is not JSON.
    """
    try:
        facts = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder.name}/world.json cannot be read: {error}.", "Delete the folder; it is made anew."
        ) from error
    return {name: facts[name] for name in _FACTS if name in facts}


TASK = Task(
    name="pope_scenes",
    version=1,
    title="POPE on scenes drawn by the package, no download",
    load=load,
    options={"split": "test", "images": 500, "splits": list(pope.SPLITS)},
    max_new_tokens=16,
    answers=pope.ANSWERS,
)
