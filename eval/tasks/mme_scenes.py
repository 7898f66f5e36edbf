"""MME's existence, count, position and color on the scenes world, two questions an image, in MME's own files.

The four subtasks ask about the same images, so a run limited to some images still has all four.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import DataError
from . import files, mme
from .base import Dataset, Document, Task
from .mme_builder import SUBTASKS
from .pope import ANSWERS
from .scenes_data import scenes_folder, world_facts

SCENES = 500
"""How many scenes are drawn at least; some 96 % hold a kind of one object and can be asked about."""


def load(options: Mapping[str, Any]) -> Dataset:
    """The questions on the first `images` scenes that can be asked about, subtask by subtask.

    Raises:
        ConfigError: the split or a subtask is not known, or the number of images is none.
        DataError: the folder that was drawn cannot be read.
    """
    images = files.count("task.images", options["images"], "scenes")
    subtasks = files.chosen("task.subtasks", "subtask", options["subtasks"], SUBTASKS)
    folder = scenes_folder(options["split"], max(SCENES, 2 * images))
    read = [mme.read_template(folder / "mme" / f"{subtask}.txt", subtask) for subtask in subtasks]
    documents = tuple(document for found, _ in read for document in _first(found, images))
    return Dataset(documents, folder / "images", tuple(source for _, source in read), world_facts(folder, "mme"))


def _first(documents: list[Document], images: int) -> list[Document]:
    """The questions on the first images of a file."""
    names = list(dict.fromkeys(document.image for document in documents))[:images]
    if len(names) < images:
        raise DataError(f"There are questions on {len(names)} scenes, not on {images}.", "Lower task.images.")
    wanted = set(names)
    return [document for document in documents if document.image in wanted]


TASK = Task(
    name="mme_scenes",
    version=1,
    title="MME's existence, count, position and color on scenes drawn by the package, no download",
    load=load,
    options={"split": "test", "images": 60, "subtasks": list(SUBTASKS)},
    max_new_tokens=16,
    scorer="mme",
    parser="official",
    answers=ANSWERS,
)
