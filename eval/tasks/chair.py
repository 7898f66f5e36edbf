"""CHAIR (Rohrbach et al., EMNLP 2018): objects that a caption names and the image does not hold.

Data are COCO's own annotation files, `instances_{split}.json` and `captions_{split}.json`: an image holds the classes
of its annotations (crowds count) and those that its reference captions name. Scores on samples of images that differ
are not to be compared, and no sample is standard, so ours is fixed: the images in the order of a hash of their ids, in
which another `task.seed` enters.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..scoring.chair import build_ground_truth
from ..scoring.errors import ScoringError, WordsMissing
from ..scoring.vocabulary import COCO, VARIANT, Vocabulary
from . import files
from .base import Dataset, Document, Source, Task

SPLIT = "captions"
INSTRUCTION = "Please describe this image in detail."
_HINT = (
    "Get annotations and val2014 images from cocodataset.org, then give task.data=FOLDER (with instances_val2014.json "
    "and captions_val2014.json) and task.images=FOLDER; task=chair_scenes needs no download."
)
_NEEDED = {
    "instances": {
        "images": ("id", "file_name"),
        "annotations": ("image_id", "category_id"),
        "categories": ("id", "name"),
    },
    "captions": {"images": ("id",), "annotations": ("image_id", "caption")},
}
_TYPES = {"id": int | str, "image_id": int | str, "category_id": int | str, "name": str, "caption": str}
Images = Mapping[Any, str]
"""Image id -> file name, as an instance file has them."""


def load(options: Mapping[str, Any], vocabulary: Vocabulary = COCO) -> Dataset:
    """A request for a caption of each chosen image, and the classes true of it.

    Args:
        options: of the task.
        vocabulary: what the reference captions are read with.

    Raises:
        ConfigError: the number of images or the seed is none, or the instruction or the split is no text.
        DataError: a folder or file is missing, is no annotation file, or lists an image that there is not.
    """
    number = files.count("task.number", options["number"], "images")
    for name in ("instruction", "split"):
        if not isinstance(options[name], str) or not options[name].strip():
            raise ConfigError(f"task.{name} must be text, got {options[name]!r}.")
    data = files.folder("chair", "task.data", options["data"], "annotation files", _HINT)
    images = files.folder("chair", "task.images", options["images"], "images", _HINT)
    if isinstance(options["seed"], bool) or not isinstance(options["seed"], int):
        raise ConfigError(f"task.seed must be a whole number, got {options['seed']!r}.")
    choose, sources = _drawn(number, options["seed"]), []
    if options["list"] is not None:
        choose, source = _listed(options["list"])
        sources = [source]
    return read_folder(data, images, options["split"], vocabulary, options["instruction"], choose, sources, hint=_HINT)


def read_folder(
    data: Path,
    images: Path,
    split: str,
    vocabulary: Vocabulary,
    instruction: str,
    choose: Callable[[Images], list[Any]] = list,
    sources: Sequence[Source] = (),
    *,
    hint: str = "",
    world: Mapping[str, Any] | None = None,
) -> Dataset:
    """The files `instances_{split}.json` and `captions_{split}.json` of a folder.

    Args:
        data: holds the files.
        images: holds the images they name.
        split: part of the files' names.
        vocabulary: maps category names and words of captions to classes.
        instruction: what is asked of every image.
        choose: which images, in which order; all of the instance file by default.
        sources: files that were read before, such as a list of images.
        hint: where files are to be had.
        world: facts of generated data.

    Raises:
        DataError: a file is missing or is no annotation file of this vocabulary, or two chosen images share an id.
        WordsMissing: the vocabulary reads captions with a library that is not installed.
    """
    instances, first = _read(data, "instances", split, hint)
    captions, second = _read(data, "captions", split, hint)
    names = _names(instances, first.file)
    try:
        truth = build_ground_truth([instances], [captions], vocabulary=vocabulary)
    except WordsMissing:
        raise
    except ScoringError as error:
        raise DataError(f"{first.file}: {error.problem}", error.advice) from error
    chosen = {place: Document(SPLIT, str(place), names[place], instruction, None) for place in choose(names)}
    if not chosen:
        raise DataError(f"{first.file} names no image.", hint)
    documents = tuple(chosen.values())
    held = {document.image_id: truth[place] for place, document in chosen.items()}
    if len(held) < len(documents):
        raise DataError(f"Two images of {first.file} have the same name but for their suffix.", "Rename one of them.")
    return Dataset(documents, images, (*sources, first, second), world, held)


def _names(instances: Mapping[str, Any], file: str) -> dict[Any, str]:
    """Image id -> file name."""
    for image in instances["images"]:
        place, name = image["id"], image["file_name"]
        if not isinstance(place, int | str) or not isinstance(name, str) or not name or not files.is_text(name):
            raise DataError(f"{file} has an image with id {place!r} and file name {name!r}.", "Check the download.")
    return {image["id"]: image["file_name"] for image in instances["images"]}


def _read(data: Path, kind: str, split: str, hint: str) -> tuple[dict[str, Any], Source]:
    """One annotation file, checked for the fields that are used."""
    file = data / f"{kind}_{split}.json"
    if not file.is_file():
        raise DataError(f"There is no {file.name} in {str(data)!r}.", hint)
    content = file.read_bytes()
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.name} is not JSON: {error}.", "Check the download.") from error
    for name, fields in _NEEDED[kind].items():
        rows = parsed.get(name) if isinstance(parsed, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= set(fields) for row in rows):
            raise DataError(
                f"{file.name} has no list {name!r} of objects with {', '.join(fields)}.",
                f"Is it a COCO file of {kind}?",
            )
        for field, types in _TYPES.items():
            odd = [row[field] for row in rows if field in fields and not _is(row[field], types)]
            if odd:
                raise DataError(f"{file.name} has the {field} {odd[0]!r} in {name!r}.", "Check the download.")
    return parsed, Source(file.name, files.sha256(content), len(parsed["annotations"]))


def _is(value: Any, types: Any) -> bool:
    return isinstance(value, types) and (not isinstance(value, str) or files.is_text(value))


def _drawn(number: int, seed: int) -> Callable[[Images], list[Any]]:
    """The first images in the order of a hash of seed (unless it is 0) and ids; more images drop none."""
    head = f"chair/{seed}" if seed else "chair"

    def choose(names: Images) -> list[Any]:
        return sorted(names, key=lambda place: hashlib.sha256(f"{head}/{place}".encode()).digest())[:number]

    return choose


def _listed(value: Any) -> tuple[Callable[[Images], list[Any]], Source]:
    """The images of a list file: ids or file names, one a line or as a JSON array."""
    file = Path(str(value)).expanduser()
    try:
        content = file.read_bytes()
        text = content.decode()
        lines = json.loads(text) if text.lstrip()[:1] == "[" else text.split()
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"task.list {str(value)!r} cannot be read: {error}.", "Give a text file with one image id or name a line."
        ) from error
    wanted = list(dict.fromkeys(str(line) for line in lines))

    def choose(names: Images) -> list[Any]:
        known = {str(place): place for place in names} | {name: place for place, name in names.items()}
        missing = [name for name in wanted if name not in known]
        if missing:
            raise DataError(
                f"{file.name} lists {missing[0]!r}, which the annotations do not name.", "Is it a list for this split?"
            )
        return list(dict.fromkeys(known[name] for name in wanted))

    return choose, Source(file.name, files.sha256(content), len(wanted))


TASK = Task(
    name="chair",
    version=1,
    title="CHAIR: absent objects in captions of COCO images (own annotation files and images)",
    load=load,
    options={
        "split": "val2014",
        "number": 500,
        "seed": 0,
        "list": None,
        "instruction": INSTRUCTION,
        "data": None,
        "images": None,
    },
    max_new_tokens=512,
    scorer="chair",
    parser=VARIANT,
    vocabulary=COCO,
    reads=load,
    places=frozenset({"data", "images", "list"}),
)
