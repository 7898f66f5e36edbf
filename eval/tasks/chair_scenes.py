"""CHAIR on the scenes world: captions of images that the package draws itself, and what they name that is not there.

The annotation files are written in COCO's formats beside the images. Models trained on scenes know a few wordings of
the request, any of which may be asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, unknown
from ..scenes import KINDS, PLURAL
from ..scenes.language import CAPTION_PROMPTS
from ..scoring.vocabulary import VARIANT, Vocabulary
from . import chair, files
from .base import Dataset, Task
from .scenes_data import scenes_folder, world_facts

VOCABULARY = Vocabulary.of("scenes", {kind: (PLURAL[kind],) for kind in KINDS})
"""The kinds of the world, each with its plural."""


def load(options: Mapping[str, Any], vocabulary: Vocabulary = VOCABULARY) -> Dataset:
    """A request for a caption of each of `images` scenes of a split, and the kinds that are in them.

    Args:
        options: of the task.
        vocabulary: what the reference captions are read with.

    Raises:
        ConfigError: the split or the instruction is not known, or the number of images is none.
        DataError: the folder that was drawn cannot be read.
    """
    images, instruction = files.count("task.images", options["images"], "scenes"), options["instruction"]
    if instruction not in CAPTION_PROMPTS:
        raise ConfigError(*unknown("task.instruction", instruction, CAPTION_PROMPTS))
    folder = scenes_folder(options["split"], images)
    return chair.read_folder(folder, folder / "images", "scenes", vocabulary, instruction, world=world_facts(folder))


TASK = Task(
    name="chair_scenes",
    version=1,
    title="CHAIR: absent objects in captions of scenes drawn by the package, no download",
    load=load,
    options={"split": "test", "images": 500, "instruction": chair.INSTRUCTION},
    max_new_tokens=48,
    scorer="chair",
    parser=VARIANT,
    vocabulary=VOCABULARY,
    reads=load,
)
