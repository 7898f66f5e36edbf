"""Scenes as COCO annotation files: objects with their boxes, and one reference caption an image.

CHAIR builds its ground truth from such files. Ids are whole numbers: an image's is its scene's number, those of
annotations, captions and categories count from 1. An object's area is that of its shape, in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..scenes import language, world
from ..scenes.scene import Placed, Scene

CATEGORY = {kind: number for number, kind in enumerate(world.KINDS, start=1)}


def build_instances(scenes: Mapping[str, Scene]) -> dict[str, Any]:
    """A COCO instance file: `info, images, annotations, categories`.

    Args:
        scenes: file name -> scene, in the order of their numbers, from 0.
    """
    placed = [(number, item) for number, scene in enumerate(scenes.values()) for item in scene.objects]
    return {
        **_head(scenes),
        "annotations": [_instance(number, image, item) for number, (image, item) in enumerate(placed, start=1)],
        "categories": [{"id": number, "name": kind, "supercategory": "shape"} for kind, number in CATEGORY.items()],
    }


def build_captions(scenes: Mapping[str, Scene]) -> dict[str, Any]:
    """A COCO caption file: `info, images, annotations`; scenes as in `build_instances`."""
    captions = [
        {"id": number + 1, "image_id": number, "caption": language.caption(scene)}
        for number, scene in enumerate(scenes.values())
    ]
    return {**_head(scenes), "annotations": captions}


def _head(scenes: Mapping[str, Scene]) -> dict[str, Any]:
    images = [
        {"id": number, "file_name": name, "width": world.SIZE, "height": world.SIZE}
        for number, name in enumerate(scenes)
    ]
    return {"info": {"description": "scenes", "version": world.VERSION}, "images": images}


def _instance(number: int, image: int, item: Placed) -> dict[str, Any]:
    margin = (world.CELL - world.SHAPE) // 2
    return {
        "id": number,
        "image_id": image,
        "category_id": CATEGORY[item.kind],
        "bbox": [item.col * world.CELL + margin, item.row * world.CELL + margin, world.SHAPE, world.SHAPE],
        "area": int(world.SHAPES[item.kind].sum()),
        "iscrowd": 0,
    }
