"""Scenes: a small synthetic world with known facts and a planted prior.

`draw_scene` gives a scene with its pixels and facts, `language` what can be asked and said about it,
`sightline.eval.scenes.dataset` writes benchmark folders. See `world` for what the world is made of.
"""

from .language import Question, caption, existence
from .scene import Placed, Scene, draw_scene, world_hash
from .world import COLOURS, KINDS, PAIRS, PARTNER, PLURAL, VERSION

__all__ = [
    "COLOURS",
    "KINDS",
    "PAIRS",
    "PARTNER",
    "PLURAL",
    "VERSION",
    "Placed",
    "Question",
    "Scene",
    "caption",
    "draw_scene",
    "existence",
    "world_hash",
]
