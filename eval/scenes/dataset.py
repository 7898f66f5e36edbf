"""Writes scenes to a folder as a benchmark: images, POPE's three files, captions, facts, and what they were made of.

    images/scene_000000.png ...         64 x 64 RGB
    scenes_pope_{random,popular,adversarial}.json    POPE's own JSON Lines
    instances_scenes.json, captions_scenes.json      COCO's own annotation files, for CHAIR
    mme/{existence,count,position,color}.txt         MME's own files, one for each subtask
    captions.json                       {image: the reference caption}
    objects.json                        {image: facts: objects, counts, colours, places}
    world.json                          version, hash, split, seed, counts, and the sha256 of every other file

The scenes have broken pairs: a partner stays in about 25 %, where training had 90 %. POPE's adversarial negatives come
from co-occurrence in the *training* scenes, because it is that prior which models bring; counted in these scenes, where
the pairs are broken, they would ask for other objects. `world.json` says how many negatives are absent partners.
`tasks.mme_builder` says what MME's questions ask for.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ..tasks import chair_builder, mme_builder, pope_builder
from . import language, world
from .scene import Scene, draw_scene, world_hash

DatasetSplit = Literal["validation", "test"]
CACHE_VARIABLE = "SIGHTLINE_CACHE"
TRAINING_SCENES = 2000
"""How many training scenes the co-occurrence of kinds is counted in."""
MANIFEST = "world.json"
INSTANCES, CAPTIONS = "instances_scenes.json", "captions_scenes.json"
MME = "mme"
LAYOUT = 2
"""The version of the folder's layout; another number makes old folders stale."""


def cache_folder() -> Path:
    """Where built data are kept: `$SIGHTLINE_CACHE`, else `~/.cache/sightline`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "sightline").expanduser()


@lru_cache(maxsize=1)
def training_cooccurrence(scenes: int = TRAINING_SCENES) -> dict[str, dict[str, int]]:
    """In how many of the first training scenes each kind is beside each other one."""
    rows = [{"objects": list(draw_scene("train", index).kinds)} for index in range(scenes)]
    return pope_builder.co_occurrence(rows)


def build_dataset(folder: Path, split: DatasetSplit, images: int = 500, seed: int = 0) -> Path:
    """Writes the scenes of a split, or leaves the folder as it is if it already holds just these.

    A folder that is incomplete, damaged or of another world, split, size or seed is made anew. The new one takes its
    place in one step, so that a stopped build leaves nothing half done under the folder's name.

    Args:
        folder: where to; its parents are made.
        split: `validation` (for choosing) or `test` (for reporting).
        images: the number of scenes.
        seed: another seed, another set of scenes.

    Returns:
        The folder.

    Raises:
        ValueError: an unknown split, or no images.
        FileExistsError: the folder holds something that this function did not write.
    """
    if split not in ("validation", "test") or images < 1:
        raise ValueError(f"scenes are built for validation or test, 1 image or more; got {split!r}, {images!r}")
    order = _order(split, images, seed)
    if is_complete(folder, order):
        return folder
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists() and not _looks_ours(folder):
        raise FileExistsError(f"{folder} is not empty and not a folder of scenes: choose another one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(part, order)
        _replace(part, folder, order)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def ensure_dataset(split: DatasetSplit, images: int = 500, seed: int = 0) -> Path:
    """The folder with these scenes in the cache, built if need be."""
    return build_dataset(cache_folder() / "scenes" / f"v{world.VERSION}-{split}-{images}-{seed}", split, images, seed)


def is_complete(folder: Path, order: Mapping[str, Any]) -> bool:
    """Whether a folder holds what `order` asks for, byte for byte."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if any(manifest.get(name) != value for name, value in order.items()):
            return False
        return all(_sha256((folder / name).read_bytes()) == value for name, value in manifest["sha256"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _order(split: DatasetSplit, images: int, seed: int) -> dict[str, Any]:
    """What decides a folder's content."""
    return {
        "world": "scenes",
        "version": world.VERSION,
        "hash": world_hash(),
        "layout": LAYOUT,
        "split": split,
        "pairs": "broken",
        "seed": seed,
        "images": images,
    }


def _looks_ours(folder: Path) -> bool:
    """Whether a folder without manifest holds only names that a build writes."""
    known = {"images", "captions.json", "objects.json", INSTANCES, CAPTIONS, MME}
    known |= set(map(pope_file, pope_builder.SPLITS))
    return {item.name for item in folder.iterdir()} <= known


def pope_file(split: pope_builder.Split) -> str:
    """The name of a POPE file: `scenes_pope_random.json` and so on."""
    return f"scenes_pope_{split}.json"


def _write(folder: Path, order: Mapping[str, Any]) -> None:
    split, pairs, seed = order["split"], order["pairs"], order["seed"]
    scenes = {
        f"scene_{index:06d}.png": draw_scene(split, index, pairs=pairs, seed=seed) for index in range(order["images"])
    }
    (folder / "images").mkdir()
    for name, scene in scenes.items():
        scene.image().save(folder / "images" / name)
    _dump(folder / "captions.json", {name: language.caption(scene) for name, scene in scenes.items()})
    _dump(folder / "objects.json", {name: scene.facts() for name, scene in scenes.items()})
    _write_coco(folder, scenes)
    facts = {
        "pope": _write_pope(folder, scenes, seed),
        "adversarial_cooccurrence": f"the first {TRAINING_SCENES} training scenes",
        "mme": _write_mme(folder / MME, scenes),
    }
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    hashes = {name: _sha256((folder / name).read_bytes()) for name in files}
    _dump(folder / MANIFEST, {**order, **facts, "sha256": hashes})


def _write_pope(folder: Path, scenes: Mapping[str, Scene], seed: int) -> dict[str, dict[str, Any]]:
    """POPE's three files; what there is to know of each."""
    rows = [{"image": name, "objects": list(scene.kinds)} for name, scene in scenes.items()]
    facts: dict[str, dict[str, Any]] = {}
    for split in pope_builder.SPLITS:
        questions = pope_builder.build_pope(rows, split, seed=seed, cooccurrence=training_cooccurrence())
        _write_text(folder / pope_file(split), "".join(json.dumps(row) + "\n" for row in questions))
        facts[split] = {
            "questions": len(questions),
            "negatives_that_are_absent_partners": round(partner_share(questions, scenes), 4),
        }
    return facts


def _write_coco(folder: Path, scenes: Mapping[str, Scene]) -> None:
    """COCO's instance and caption files, without indents as theirs are."""
    made = {INSTANCES: chair_builder.build_instances(scenes), CAPTIONS: chair_builder.build_captions(scenes)}
    for name, content in made.items():
        _write_text(folder / name, json.dumps(content) + "\n")


def _write_mme(folder: Path, scenes: Mapping[str, Scene]) -> dict[str, Any]:
    """MME's four files; what there is to know of them."""
    folder.mkdir()
    subtasks = mme_builder.build_mme(scenes)
    for subtask, rows in subtasks.items():
        _write_text(folder / f"{subtask}.txt", mme_builder.as_text(rows))
    existence = subtasks["existence"]
    return {
        "images": len({image for image, _, _ in existence}),
        "questions": {subtask: len(rows) for subtask, rows in subtasks.items()},
        "existence_negatives": mme_builder.NEGATIVES,
        "existence_negatives_that_are_absent_partners": round(mme_builder.partner_share(existence, scenes), 4),
    }


def partner_share(questions: Sequence[Mapping[str, Any]], scenes: Mapping[str, Scene]) -> float:
    """The share of POPE's negatives that ask for an absent partner of a kind that is there."""
    negatives = [row for row in questions if row["label"] == "no"]
    hits = sum(
        any(row["text"] == language.existence(scene, kind).text for kind in scene.missing_partners)
        for row in negatives
        for scene in [scenes[row["image"]]]
    )
    return hits / len(negatives)


def _replace(part: Path, folder: Path, order: Mapping[str, Any]) -> None:
    """Puts the finished folder in place. Where another process has just put the same there, that one stays."""
    part.chmod(0o755)
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        part.rename(folder)
    except OSError:
        if not is_complete(folder, order):
            raise


def _dump(path: Path, content: Any) -> None:
    _write_text(path, json.dumps(content, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
