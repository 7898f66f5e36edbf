"""What the world of scenes is made of: kinds, colours, shapes, frequencies, noise. Frozen by a version and a hash.

A scene is an image of 64 x 64 pixels, a grid of 4 x 4 cells. A cell is empty or holds one object: a kind (its shape)
in a colour, drawn at a contrast against a grey background, under additive noise. Kinds come in pairs, and in the
scenes that models are trained on both of a pair are mostly present: that is the prior which makes a model see the
partner of an object that is there.

All drawing is integer arithmetic on a generator whose stream is frozen (`numpy.random.RandomState`), so that pixels are
the same bytes on every machine.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

VERSION = "1"
SIZE = 64
GRID = 4
CELL = SIZE // GRID
SHAPE = 14

PAIRS: tuple[tuple[str, str], ...] = (
    ("star", "moon"),
    ("house", "tree"),
    ("ball", "kite"),
    ("ring", "heart"),
    ("arrow", "cross"),
    ("square", "triangle"),
)
KINDS: tuple[str, ...] = tuple(kind for pair in PAIRS for kind in pair)
PARTNER: dict[str, str] = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
PLURAL: dict[str, str] = {kind: kind + ("es" if kind.endswith("s") else "s") for kind in KINDS}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 45, 45),
    "green": (50, 195, 65),
    "blue": (55, 85, 230),
    "yellow": (230, 210, 50),
    "purple": (175, 60, 205),
    "white": (240, 240, 240),
}

PAIR_WEIGHTS: tuple[float, ...] = (1.0, 0.66, 0.52, 0.44, 0.38, 0.34)
"""How often a pair is drawn, relative to the first: 1 / rank^0.6, rounded."""
COUNT_SHARES: tuple[float, ...] = (0.6, 0.25, 0.15)
"""The shares of kinds that occur once, twice and three times in a scene."""
KINDS_PER_SCENE = (3, 6)
MAX_OBJECTS = 12

BACKGROUND = (70, 100)
CONTRAST = (20, 100)
"""Percent of the way from the background to the colour: low and high, both included."""
FINE_NOISE = 30
COARSE_NOISE = 18
"""Standard deviations in grey levels: of each pixel, and of each block of 4 x 4 pixels."""
BLOCK = 4

Split = Literal["train", "validation", "test"]
Pairs = Literal["intact", "broken"]
UNITS: dict[str, tuple[int, int]] = {"intact": (2, 3), "broken": (3, 4)}
"""How many of the pairs a scene draws from: low and high, both included."""
BOTH: dict[str, float] = {"intact": 9 / 11, "broken": 1 / 7}
"""The share of drawn pairs that come with both kinds. b / (b + (1 - b) / 2) is the chance that a kind has its partner
beside it: 0.9 with pairs intact, 0.25 with pairs broken."""


def _shapes() -> dict[str, NDArray[np.bool_]]:
    """The mask of each kind, `bool[14, 14]`, from integer geometry on coordinates -13, -11, ..., 13."""
    y, x = np.mgrid[-13:14:2, -13:14:2]
    ax, ay = abs(x), abs(y)
    disc = x * x + y * y <= 170
    up = (y <= 7) & (2 * ax <= y + 13)
    down = (y >= -7) & (2 * ax <= 13 - y)
    return {
        "star": up | down | (ax + ay <= 5),
        "moon": disc & ((x - 6) ** 2 + y * y > 110),
        "house": ((y <= -1) & (ax <= y + 13)) | ((y > -1) & (ax <= 9) & ~((ax <= 3) & (y >= 5))),
        "tree": (x * x + (y + 5) ** 2 <= 75) | ((ax <= 2) & (y >= 1)),
        "ball": disc,
        "kite": ax + ay <= 13,
        "ring": disc & (x * x + y * y >= 65),
        "heart": ((ax - 6) ** 2 + (y + 6) ** 2 <= 50) | ((y >= -5) & (ax + y <= 10)),
        "arrow": ((ay <= 3) & (x <= 1)) | ((x >= 0) & (ay <= 13 - x)),
        "cross": (ax <= 3) | (ay <= 3),
        "square": (ax <= 11) & (ay <= 11) & ((ax >= 7) | (ay >= 7)),
        "triangle": (y <= 11) & (2 * ax <= y + 13),
    }


SHAPES: dict[str, NDArray[np.bool_]] = _shapes()


def generator(*names: object) -> np.random.RandomState:
    """A random generator of its own for these names.

    Seeded by all 256 bits of a hash over the world's version and the names: two different names never share a stream.
    """
    digest = hashlib.sha256("/".join(["scenes", VERSION, *map(str, names)]).encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32))  # type: ignore[arg-type]


def weighted_draw(rng: np.random.RandomState, weights: NDArray[np.float64]) -> int:
    """An index drawn in proportion to its weight, from one uniform number."""
    bounds = np.cumsum(weights)
    return int(np.searchsorted(bounds, rng.random_sample() * bounds[-1], side="right"))


def definition() -> str:
    """Every constant of the world in one text, for its hash."""
    names = ("VERSION", "SIZE", "GRID", "PAIRS", "PLURAL", "COLOURS", "PAIR_WEIGHTS", "COUNT_SHARES")
    names += (
        "KINDS_PER_SCENE",
        "MAX_OBJECTS",
        "BACKGROUND",
        "CONTRAST",
        "FINE_NOISE",
        "COARSE_NOISE",
        "BLOCK",
    )
    names += ("UNITS", "BOTH")
    lines = [f"{name} = {globals()[name]!r}" for name in names]
    lines += [f"{kind}: {np.packbits(mask).tobytes().hex()}" for kind, mask in SHAPES.items()]
    return "\n".join(lines)
