"""`sightline calibrate`: measures once per model what a strategy needs to know of it, and writes it to a file.

Image heads are ranked on questions about validation scenes, never on test ones; retrieval heads on facts hidden in
prose.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from ..decoders.calibration import Detection, HeadRanking, detect, rank_image_heads
from ..decoders.calibration.ranking import WHAT
from ..models import Loaded
from . import runner
from .config import compose_settings
from .errors import ConfigError, UsageError, unknown
from .plan import renderer
from .scenes import draw_scene, existence, world_hash
from .settings import ModelSettings

SHOWN = 5
"""Heads named in the answer."""


@dataclass(frozen=True)
class Asked:
    """What a command line asks for.

    Attributes:
        model: which model is measured.
        what: `retrieval` or `image`.
        out: the file to write.
        options: how to measure it.
    """

    model: ModelSettings
    what: str
    out: str
    options: Mapping[str, Any] = field(default_factory=dict)


def calibrate(arguments: Sequence[str]) -> str:
    """Measure a model and write the file.

    Args:
        arguments: `what=retrieval|image`, `out=FILE`, overrides of the model group, and options of `OPTIONS`.

    Returns:
        What was found and how to use it, to be shown.

    Raises:
        UsageError, ConfigError: the arguments cannot be understood.
        SightlineError: the model is not to be had, cannot be measured, or shows nothing.
    """
    asked = parse(arguments)
    loaded = runner.load_model(asked.model)
    measure = _image if asked.what == "image" else _retrieval
    ranking = measure(loaded, asked.model.title, asked.options)
    path = ranking.save(asked.out)
    first = ", ".join(f"{layer}-{head} ({value:.3f})" for layer, head, value in ranking.ranked[:SHOWN])
    count = ranking.settings["prompts"] if asked.what == "image" else ranking.settings["trials_kept"]
    unit = "prompts" if asked.what == "image" else "trials"
    return (
        f"{path}: {len(ranking.ranked)} heads of {asked.model.title} ranked over {count} {unit}; first {first}\n"
        f"Use it: sightline run model=... decoder=decore decoder.heads={path}\n"
    )


def parse(arguments: Sequence[str]) -> Asked:
    """Sort `NAME=VALUE` arguments.

    Raises:
        UsageError: one is no such pair, `what` or `out` is missing.
        ConfigError: a name or a value is not known, or belongs to the other measurement.
    """
    model, rest = [], {}
    for argument in arguments:
        name, found, value = argument.partition("=")
        if not found or not value:
            raise UsageError(f"{argument!r} is not NAME=VALUE.", "Such as model=tiny-llava what=image out=heads.json.")
        if name == "model" or name.startswith("model."):
            model.append(argument)
        else:
            rest[name] = value
    for name, remedy in (("what", f"one of {', '.join(WHAT)}"), ("out", "the file to write, such as heads.json")):
        if name not in rest:
            raise UsageError(f"{name}= is not given.", f"It is {remedy}.")
    what, out = rest.pop("what"), rest.pop("out")
    if what not in WHAT:
        raise ConfigError(*unknown("measurement", what, WHAT))
    options = {}
    for name, value in rest.items():
        if name not in OPTIONS[what]:
            raise ConfigError(*unknown(f"option of what={what}", name, [*OPTIONS[what], "model"]))
        try:
            options[name] = OPTIONS[what][name](value)
        except ValueError as error:
            raise ConfigError(f"{name}={value} cannot be read: {error}.") from error
    return Asked(compose_settings(model)[0].model, what, out, options)


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError("it must be 1 or more")
    return number


def _several(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip("[]()").split(","))


OPTIONS: dict[str, dict[str, Callable[[str], Any]]] = {
    "image": {"images": _whole, "batch_size": _whole},
    "retrieval": {"lengths": _several, "depths": _several, "max_new_tokens": _whole, "mode": str},
}
"""Options of each measurement with what reads their text."""


def _retrieval(loaded: Loaded, name: str, options: Mapping[str, Any]) -> HeadRanking:
    def track(trials: Sequence[Any]) -> tqdm:
        return _bar(trials, len(trials), "trial")

    return detect(loaded.adapter, loaded.processor, Detection(**options), name=name, track=track)


def _image(loaded: Loaded, name: str, options: Mapping[str, Any]) -> HeadRanking:
    images, size = options.get("images", 50), options.get("batch_size", 16)
    if not loaded.adapter.image_inputs:
        raise ConfigError(f"{name} takes no images, so it has no image heads.", "Use what=retrieval.")
    about = {"data": "scenes", "split": "validation", "world": world_hash(), "images": images}
    batches = _batches(loaded, images, size)
    track = _bar(batches, -(-2 * images // size), "batch")
    return rank_image_heads(loaded.adapter, track, name=name, settings=about)


def _batches(loaded: Loaded, images: int, size: int) -> Iterator[dict[str, Any]]:
    """Model inputs of two questions a scene: is there one of its kinds, and is there one that is absent?"""
    render = renderer(loaded.processor, "")
    asked = []
    for number in range(images):
        scene = draw_scene("validation", number, pairs="broken")
        absent = (*scene.missing_partners, *scene.absent)[0]
        asked += [(scene.image(), render(existence(scene, kind).text)) for kind in (scene.kinds[0], absent)]
    for start in range(0, len(asked), size):
        pictures, texts = (list(column) for column in zip(*asked[start : start + size], strict=True))
        made = loaded.processor(images=pictures, text=texts, padding=True, return_tensors="pt").to(loaded.model.device)
        wide = loaded.model.dtype
        yield {key: value.to(wide) if value.is_floating_point() else value for key, value in made.items()}


def _bar(each: Any, total: int, unit: str) -> tqdm:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(each, total=total, desc="calibrate", unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr)
