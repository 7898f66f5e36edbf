"""POPE on the scenes world: the same questions and splits, about images that the package draws itself.

The world's trained models carry a planted prior: kinds of objects that come in pairs. The adversarial split asks for
absent partners. Settings are chosen on `validation` and reported on `test`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import files, pope
from .base import Dataset, Task
from .scenes_data import scenes_folder, world_facts


def load(options: Mapping[str, Any]) -> Dataset:
    """The questions on `images` scenes of a split; drawn on first use, then kept in the cache folder.

    Raises:
        ConfigError: the split is not known, or the number of images is none.
        DataError: the folder that was drawn cannot be read.
    """
    images = files.count("task.images", options["images"], "scenes")
    splits = pope.check_splits(options["splits"])
    folder = scenes_folder(options["split"], images)
    world = world_facts(folder, "pope", "adversarial_cooccurrence")
    return pope.read_folder(folder, folder / "images", "scenes", splits, world=world)


TASK = Task(
    name="pope_scenes",
    version=1,
    title="POPE on scenes drawn by the package, no download",
    load=load,
    options={"split": "test", "images": 500, "splits": list(pope.SPLITS)},
    max_new_tokens=16,
    answers=pope.ANSWERS,
)
