"""One scene: its objects, the facts that follow from them, and its pixels."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import world
from .world import CELL, COLOURS, GRID, KINDS, PAIRS, SHAPE, SHAPES, SIZE


@dataclass(frozen=True)
class Placed:
    """An object in its cell. `row` and `col` count from the top left; `contrast` is in percent."""

    kind: str
    colour: str
    row: int
    col: int
    contrast: int


@dataclass(frozen=True)
class Scene:
    """A scene of the world.

    `objects` are in reading order (row by row, left to right). All objects of one kind share a colour. `name` seeds the
    noise; `background` is a grey level.
    """

    name: str
    objects: tuple[Placed, ...]
    background: int

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The distinct kinds that are there, in reading order of their first object."""
        return tuple(dict.fromkeys(item.kind for item in self.objects))

    @cached_property
    def absent(self) -> tuple[str, ...]:
        """The kinds of the world that are not there, in the world's order."""
        return tuple(kind for kind in KINDS if kind not in self.kinds)

    @cached_property
    def missing_partners(self) -> tuple[str, ...]:
        """The absent kinds whose partner is there: those that the prior of training expects."""
        return tuple(kind for kind in self.absent if world.PARTNER[kind] in self.kinds)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many objects there are of each kind, in reading order."""
        return dict(Counter(item.kind for item in self.objects))

    @cached_property
    def colours(self) -> dict[str, str]:
        """The colour of each kind, in reading order."""
        return {kind: self.of(kind)[0].colour for kind in self.kinds}

    def of(self, kind: str) -> tuple[Placed, ...]:
        """The objects of one kind, in reading order; empty where there are none."""
        return tuple(item for item in self.objects if item.kind == kind)

    def evidence(self, kind: str) -> int:
        """The contrast of the clearest object of a kind in percent; 0 where there is none."""
        return max((item.contrast for item in self.of(kind)), default=0)

    def pixels(self, *, noise: bool = True) -> NDArray[np.uint8]:
        """The image, `uint8[64, 64, 3]` in RGB; without its noise if asked."""
        canvas = np.full((SIZE, SIZE, 3), self.background, dtype=np.int64)
        for item in self.objects:
            top, left = item.row * CELL + (CELL - SHAPE) // 2, item.col * CELL + (CELL - SHAPE) // 2
            step = item.contrast * (np.array(COLOURS[item.colour]) - self.background) // 100
            canvas[top : top + SHAPE, left : left + SHAPE] += SHAPES[item.kind][..., None] * step
        if noise:
            canvas += _noise(self.name)
        return np.clip(canvas, 0, 255).astype(np.uint8)

    def image(self) -> Image.Image:
        """The image as 64 x 64 RGB."""
        return Image.fromarray(self.pixels())

    def facts(self) -> dict[str, object]:
        """What there is to know of the scene, in JSON's types."""
        return {
            "objects": list(self.kinds),
            "counts": self.counts,
            "colours": self.colours,
            "missing_partners": list(self.missing_partners),
            "background": self.background,
            "placed": [vars(item) for item in self.objects],
        }


def _noise(name: str) -> NDArray[np.int64]:
    """Noise in grey levels, `int64[64, 64, 3]`: sums of four uniform bytes, near enough to a normal law."""
    rng = world.generator("noise", name)
    blocks = SIZE // world.BLOCK
    fine = rng.randint(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8).sum(axis=0, dtype=np.int64) - 510
    coarse = rng.randint(0, 256, (4, blocks, blocks, 3), dtype=np.uint8).sum(axis=0, dtype=np.int64) - 510
    coarse = coarse.repeat(world.BLOCK, axis=0).repeat(world.BLOCK, axis=1)
    return (fine * world.FINE_NOISE + coarse * world.COARSE_NOISE) // 148  # 148: the deviation of such a sum


def _draw_kinds(rng: np.random.RandomState, pairs: world.Pairs) -> list[str]:
    """The kinds of a scene: some pairs without replacement, each with both kinds or with one of them."""
    low, high = world.UNITS[pairs]
    while True:
        weights, kinds = np.array(world.PAIR_WEIGHTS), []
        for _ in range(rng.randint(low, high + 1)):
            drawn = world.weighted_draw(rng, weights)
            weights[drawn] = 0.0
            both = rng.random_sample() < world.BOTH[pairs]
            kinds += PAIRS[drawn] if both else [PAIRS[drawn][rng.randint(2)]]
        if world.KINDS_PER_SCENE[0] <= len(kinds) <= world.KINDS_PER_SCENE[1]:
            return kinds


def _draw_counts(rng: np.random.RandomState, kinds: int) -> list[int]:
    """How many objects of each kind, `MAX_OBJECTS` at most in all."""
    while True:
        counts = [1 + world.weighted_draw(rng, np.array(world.COUNT_SHARES)) for _ in range(kinds)]
        if sum(counts) <= world.MAX_OBJECTS:
            return counts


def draw_scene(split: world.Split, index: int, *, pairs: world.Pairs = "intact", seed: int = 0) -> Scene:
    """The scene with this number.

    Args:
        split: `train`, `validation` or `test`. No two splits share a stream of random numbers.
        index: the number of the scene in its split, from 0.
        pairs: `intact` as in training (a kind has its partner beside it in 90 % of cases), or `broken` (25 %).
        seed: another seed, another set of scenes.

    Raises:
        ValueError: an unknown split or pairing, a negative index, or training scenes with broken pairs.
    """
    if split not in ("train", "validation", "test") or pairs not in world.UNITS or index < 0:
        raise ValueError(
            f"no scene {split!r}, {pairs!r}, {index!r}: train | validation | test, intact | broken, from 0"
        )
    if split == "train" and pairs != "intact":
        raise ValueError("training scenes have their pairs intact; broken pairs are for validation and test")
    name = f"{split}/{pairs}/{seed}/{index}"
    rng = world.generator(name)
    kinds = _draw_kinds(rng, pairs)
    counts = _draw_counts(rng, len(kinds))
    cells = rng.permutation(GRID * GRID)[: sum(counts)]
    colours = [list(COLOURS)[rng.randint(len(COLOURS))] for _ in kinds]
    looks = [look for kind, colour, n in zip(kinds, colours, counts, strict=True) for look in [(kind, colour)] * n]
    objects = []
    for (kind, colour), cell in zip(looks, cells, strict=True):
        row, col = divmod(int(cell), GRID)
        objects.append(Placed(kind, colour, row, col, int(rng.randint(world.CONTRAST[0], world.CONTRAST[1] + 1))))
    objects.sort(key=lambda item: (item.row, item.col))
    return Scene(name, tuple(objects), int(rng.randint(world.BACKGROUND[0], world.BACKGROUND[1] + 1)))


@lru_cache(maxsize=1)
def world_hash() -> str:
    """The hash of the world, 16 hex digits: its constants, and the facts and pixels of a few scenes."""
    digest = hashlib.sha256(world.definition().encode())
    samples: tuple[tuple[world.Split, world.Pairs], ...] = (
        ("train", "intact"),
        ("validation", "intact"),
        ("validation", "broken"),
        ("test", "broken"),
    )
    for split, pairs in samples:
        for index in range(4):
            scene = draw_scene(split, index, pairs=pairs)
            digest.update(repr(scene).encode())
            digest.update(scene.pixels().tobytes())
    return digest.hexdigest()[:16]
