"""POPE's three question files for any annotated set of images (`sightline build-pope`).

The source is JSON Lines (or an array) of `{"image": name, "objects": [names]}`, or a COCO instance file. Of the latter
an image holds what is annotated in it, in the order of the annotations; with caption files also what its captions name,
which is POPE's own ground truth for COCO: both by CHAIR's words where the categories are those of COCO.

Beside the questions a file says what they were made of, so that they can be made again, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..models.errors import SightlineError
from .errors import ConfigError, DataError
from .records import write_atomic, write_json
from .scoring.vocabulary import COCO
from .tasks import files, hub, rows
from .tasks.pope_builder import SPLITS, build_pope, draw_rows, object_frequency

IMAGES, NEGATIVES = 500, 3
"""The paper's: images drawn, and questions of each answer for every one of them."""
_HINT = 'Give JSON Lines of {"image": "name.jpg", "objects": ["dog", "cup"]}, or a COCO instance file.'


def build(
    source: Path,
    out: Path,
    name: str,
    *,
    captions: Sequence[Path] = (),
    images: int = IMAGES,
    k: int = NEGATIVES,
    seed: int = 0,
) -> list[Path]:
    """Write `{name}_pope_{split}.json` for the three splits, and `{name}_pope.facts.json`.

    Args:
        source: the annotated images.
        out: folder to write into; made if need be.
        name: of the data set; `task.dataset` takes it.
        captions: COCO caption files of the same images.
        images: how many are drawn; all that are rich enough where there are fewer is an error, not a smaller set.
        k: questions with the answer yes, and with the answer no, about each image.
        seed: of the drawing of images and of random negatives.

    Returns:
        The files written.

    Raises:
        ConfigError: a number or the name is none.
        DataError: the source cannot be read, or holds too few objects.
    """
    for option, value, what in (("--images", images, "images"), ("--negatives", k, "negatives")):
        files.count(option, value, what)
    if not name.isascii() or not name.replace("_", "").replace("-", "").isalnum():
        raise ConfigError(f"--name must be letters, digits, - and _, got {name!r}.")
    annotated = read_annotated(source, captions)
    drawn = draw_rows(annotated, images, k=k, seed=seed)
    questions = {split: build_pope(drawn, split, k, seed) for split in SPLITS}
    written = []
    for split, asked in questions.items():
        written.append(out / f"{name}_pope_{split}.json")
        write_atomic(written[-1], "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in asked))
    made_of = [{"file": path.name, "sha256": files.sha256(path.read_bytes())} for path in (source, *captions)]
    facts = {
        "sources": made_of,
        "images": images,
        "negatives_per_image": k,
        "seed": seed,
        "rows": {split: len(asked) for split, asked in questions.items()},
        "images_annotated": len(annotated),
        "images_with_enough_objects": sum(len(row["objects"]) >= k for row in annotated),
        "objects": len(object_frequency(drawn)),
        "sha256": {path.name: files.sha256(path.read_bytes()) for path in written},
    }
    written.append(out / f"{name}_pope.facts.json")
    write_json(written[-1], facts)
    return written


def read_annotated(source: Path, captions: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """The annotated images of a file, `{"image", "objects"}`, each object once.

    Raises:
        DataError: the file cannot be read, a row is broken, or two rows are about the same image.
    """
    if source.suffix == ".json" and (held := _object(source)) is not None:
        return _distinct(_from_coco(held, [_captions(path) for path in captions], source.name), source.name)
    if captions:
        raise DataError(f"{source.name} is no COCO instance file, so captions cannot be added.", _HINT)
    if source.suffix not in (".json", ".jsonl"):
        raise DataError(f"{source.name!r} is neither .json nor .jsonl.", _HINT)
    found = []
    for row in _read(lambda: rows.read_rows(source)[0], source):
        problem = rows.missing_text(row, ("image",)) or rows.missing_texts(row, ("objects",))
        if row.problem is None and row.fields.get("objects") == []:
            problem = None  # an image with nothing in it is one that cannot be asked about, no mistake
        if problem is not None or not hub.safe(row.fields["image"]):
            raise DataError(f"Row {row.number} of {source.name} {problem or 'has an image name that leaves'}.", _HINT)
        found.append({"image": row.fields["image"], "objects": list(dict.fromkeys(row.fields["objects"]))})
    return _distinct(found, source.name)


def _from_coco(held: Mapping[str, Any], captions: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """Images in the file's order with their objects in the order of annotations, then of captions."""
    try:
        categories = {each["id"]: str(each["name"]) for each in held["categories"]}
        words = COCO.class_of if set(categories.values()) <= COCO.class_of.keys() else {}
        objects: dict[Any, dict[str, None]] = {image["id"]: {} for image in held["images"]}
        for note in held["annotations"]:
            category = categories[note["category_id"]]
            objects[note["image_id"]].setdefault(words.get(category, category))
        for file in captions:
            for note in file["annotations"]:
                said = (mention.cls for mention in COCO.read(note["caption"]).mentions)
                objects.get(note["image_id"], {}).update(dict.fromkeys(said))
        if captions and not words:
            raise DataError(f"The categories of {name} are not COCO's, so its captions cannot be read.", _HINT)
        return [{"image": str(image["file_name"]), "objects": list(objects[image["id"]])} for image in held["images"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name} is no COCO file: {type(error).__name__} {error}.", _HINT) from error


def _object(path: Path) -> Mapping[str, Any] | None:
    """The JSON object of a COCO file; None for a list of rows."""

    def read() -> Mapping[str, Any] | None:
        content = path.read_bytes()
        if b'"annotations"' not in content:
            return None
        held = json.loads(content)
        return held if isinstance(held, dict) else None

    return _read(read, path)


def _captions(path: Path) -> Mapping[str, Any]:
    held = _object(path)
    if held is None:
        raise DataError(f"{path.name} is no COCO caption file.", _HINT)
    return held


def _read(reader: Any, path: Path) -> Any:
    try:
        return reader()
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, SightlineError):
            raise
        raise DataError(f"{path.name} cannot be read: {error}.", _HINT) from error


def _distinct(found: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    seen: set[str] = set()
    for row in found:
        if row["image"] in seen:
            raise DataError(f"{name} has two rows about {row['image']!r}.", "Put all objects of an image in one row.")
        seen.add(row["image"])
    return found
