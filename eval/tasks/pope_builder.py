"""Builds POPE's questions for any annotated set of images (Li et al. 2023, "Evaluating Object Hallucination in Large
Vision-Language Models").

A row is `{"image": name, "objects": [distinct names]}`. Each image is asked about its first k objects, and about k that
it does not hold: drawn at random, or the most frequent ones (popular), or those that keep company with the object just
asked about (adversarial). The three splits share images and positives.

Departures from the reference: a generator per split, so that no split depends on another; "an" is put by rule, not by
replacing letters (the reference's "imange"); an image that leaves nothing to ask for raises where the reference loops.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..errors import ConfigError, TooFewObjects, unknown
from ..scenes.language import article

Split = Literal["random", "popular", "adversarial"]
SPLITS: tuple[Split, ...] = ("random", "popular", "adversarial")
TEMPLATE = "Is there {article} {object} in the image?"


def draw_rows(rows: Sequence[Mapping[str, Any]], images: int, *, k: int = 3, seed: int = 0) -> list[Mapping[str, Any]]:
    """Draws images that hold at least k objects, without replacement.

    Raises:
        TooFewObjects: fewer than `images` rows hold k objects.
    """
    rich = [row for row in rows if len(row["objects"]) >= k]
    if len(rich) < images:
        raise TooFewObjects(
            f"POPE needs {images} images with {k} objects or more, and only {len(rich)} of {len(rows)} hold as many.",
            f"Ask for at most {len(rich)} images, lower k, or annotate more images.",
        )
    return random.Random(f"pope/rows/{seed}").sample(rich, images)


def object_frequency(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """In how many images each object is, in order of first appearance."""
    frequency: dict[str, int] = {}
    for row in rows:
        for name in row["objects"]:
            frequency[name] = frequency.get(name, 0) + 1
    return frequency


def co_occurrence(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """In how many images each object is beside each other one, in order of first appearance."""
    table: dict[str, dict[str, int]] = {}
    for row in rows:
        for name in row["objects"]:
            company = table.setdefault(name, {})
            for other in row["objects"]:
                if other != name:
                    company[other] = company.get(other, 0) + 1
    return table


def ranked(counts: Mapping[str, int]) -> list[str]:
    """Names by descending count; ties keep their order."""
    return sorted(counts, key=lambda name: -counts[name])


def build_pope(
    rows: Sequence[Mapping[str, Any]],
    split: Split,
    k: int = 3,
    seed: int = 0,
    cooccurrence: Mapping[str, Mapping[str, int]] | None = None,
) -> list[dict[str, Any]]:
    """The questions of one split, k with the answer yes and k with the answer no for each image, alternating.

    Args:
        rows: the images, all of them used, in this order; `objects` distinct, k at least.
        split: `random`, `popular` or `adversarial`.
        k: positives and negatives per image.
        seed: seeds the split's own generator.
        cooccurrence: counts to rank adversarial negatives by; counted in `rows` if None, as in the paper.

    Returns:
        Rows `{"question_id": 1.., "image", "text", "label": "yes" | "no"}`.

    Raises:
        ConfigError: there is no such split.
        TooFewObjects: an image has fewer than k objects, or holds every object there is to ask for.
    """
    if split not in SPLITS:
        raise ConfigError(*unknown("split", split, SPLITS))
    pool = object_frequency(rows)
    popular = ranked(pool)
    company = {name: ranked(counts) for name, counts in (cooccurrence or co_occurrence(rows)).items()}
    rng = random.Random(f"pope/{split}/{seed}")
    questions: list[dict[str, Any]] = []
    for row in rows:
        if len(row["objects"]) < k:
            raise TooFewObjects(
                f"POPE needs {k} objects in each image, and {row['image']!r} has {len(row['objects'])}.",
                "Draw the images with draw_rows, leave this one out, or lower k.",
            )
        taken = set(row["objects"])
        for positive in row["objects"][:k]:
            preferred = {"random": [], "popular": popular, "adversarial": company.get(positive, [])}[split]
            negative = _negative(preferred, list(pool), taken, rng, row["image"])
            taken.add(negative)
            questions.append(_question(len(questions) + 1, row["image"], positive, "yes"))
            questions.append(_question(len(questions) + 1, row["image"], negative, "no"))
    return questions


def _negative(preferred: Sequence[str], pool: Sequence[str], taken: set[str], rng: random.Random, image: str) -> str:
    """The first preferred object that is not taken, else any of the pool that is not."""
    for name in preferred:
        if name not in taken:
            return name
    free = [name for name in pool if name not in taken]
    if not free:
        raise TooFewObjects(
            f"No object is left to ask for that is not in {image!r}: the data set holds {len(pool)} kinds in all.",
            "Take more images, lower k, or leave this image out.",
        )
    return rng.choice(free)


def _question(number: int, image: str, name: str, label: str) -> dict[str, Any]:
    text = TEMPLATE.format(article=article(name), object=name)
    return {"question_id": number, "image": image, "text": text, "label": label}
