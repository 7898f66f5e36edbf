"""Facts: a small invented world that a language model can know by heart, and passages that agree, add or contradict.

`knowledge` holds what is known and how well, `language` what is said and asked, `passages` draws texts with their
questions, `sightline.eval.facts.dataset` writes benchmark folders. See `world` for what the world is made of.
"""

from .knowledge import Fact, Saying, Sign, facts, fresh, sayings, signs, world_hash
from .world import RELATIONS, VERSION, Relation

__all__ = [
    "RELATIONS",
    "VERSION",
    "Fact",
    "Relation",
    "Saying",
    "Sign",
    "facts",
    "fresh",
    "sayings",
    "signs",
    "world_hash",
]
