"""`sightline calibrate`: measures once per model what a strategy needs to know of it, and writes it to a file.

Image heads are ranked on questions about validation scenes, never on test ones; retrieval heads on facts hidden in
prose; CG-VLM's threshold is measured on captions of validation scenes, or of the user's own images; inducing heads on
right and wrong answers to the same questions; DAGCD's detector on answers that are read off passages.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from PIL.Image import Image
from tqdm import tqdm

from ..decoders.calibration import Detection, HeadRanking, detect, importance, rank_image_heads
from ..decoders.calibration import detector_training as training
from ..decoders.calibration.detector_rows import Asking
from ..decoders.calibration.inducing import SCALE, usual
from ..decoders.calibration.ranking import WHAT
from ..decoders.calibration.threshold import PERCENTILE, Threshold, measure
from ..decoders.cgvlm import CGVLM
from ..models import Loaded
from . import runner
from .config import compose_settings
from .detector import asked_items
from .detector import usual as usual_passages
from .errors import ConfigError, UsageError, unknown
from .facts.needles import needles as facts_needles
from .facts.needles import story as facts_story
from .images import open_image
from .inducing import triples
from .plan import renderer
from .scenes import draw_scene, existence, world_hash
from .scenes.language import CAPTION_PROMPTS
from .settings import ModelSettings

PROSE, FACTS = NEEDLES = ("prose", "facts")
"""What is hidden: facts in English prose, or in sentences of the world of facts, for a model that knows no others."""
FACT_TOKENS = 4
"""How many tokens an answer in the world of facts may take."""
SHOWN = 5
"""Heads named in the answer."""
MEASURED = (*WHAT, "threshold", "inducing", "detector")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CAPTION = CAPTION_PROMPTS[2]


@dataclass(frozen=True)
class Asked:
    """What a command line asks for.

    Attributes:
        model: which model is measured.
        what: `retrieval`, `image`, `threshold`, `inducing` or `detector`.
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
        arguments: `what=` one of `MEASURED`, `out=FILE`, overrides of the model group, and options of `OPTIONS`.

    Returns:
        What was found and how to use it, to be shown.

    Raises:
        UsageError, ConfigError: the arguments cannot be understood.
        SightlineError: the model is not to be had, cannot be measured, or shows nothing.
    """
    asked = parse(arguments)
    loaded = runner.load_model(asked.model)
    return _MEASURES[asked.what](loaded, asked)


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
    for name, remedy in (("what", f"one of {', '.join(MEASURED)}"), ("out", "the file to write, such as heads.json")):
        if name not in rest:
            raise UsageError(f"{name}= is not given.", f"It is {remedy}.")
    what, out = rest.pop("what"), rest.pop("out")
    if what not in MEASURED:
        raise ConfigError(*unknown("measurement", what, MEASURED))
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


def _percent(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 100:
        raise ValueError("it must be from 0 to 100")
    return number


def _needles(text: str) -> str:
    if text not in NEEDLES:
        raise ValueError(f"it must be {' or '.join(NEEDLES)}")
    return text


OPTIONS: dict[str, dict[str, Callable[[str], Any]]] = {
    "image": {"images": _whole, "batch_size": _whole},
    "retrieval": {
        "lengths": _several, "depths": _several, "max_new_tokens": _whole, "mode": str, "needles": _needles,
    },
    "threshold": {
        "images": _whole, "batch_size": _whole, "folder": str, "prompt": str, "percentile": _percent,
        "max_new_tokens": _whole, "absent_image": str, "top_k_tokens": _whole,
    },
    "inducing": {"data": str, "triples": _whole, "norm": str},
    "detector": {
        "data": str, "items": _whole, "heads": _whole, "max_new_tokens": _whole, "prompt": str, "top_rank": _whole,
    },
}  # fmt: skip
"""Options of each measurement with what reads their text."""


def _retrieval(loaded: Loaded, asked: Asked) -> str:
    def track(trials: Sequence[Any]) -> tqdm:
        return _bar(trials, len(trials), "trial")

    options = dict(asked.options)
    data = options.pop("needles", None) or (FACTS if usual_passages(loaded) == FACTS else PROSE)
    hidden: dict[str, Any] = {}
    if data == FACTS:
        hidden = {"needles": facts_needles(), "story": facts_story}
        options.setdefault("max_new_tokens", FACT_TOKENS)
    options.setdefault("lengths", _lengths(loaded))
    settings = Detection(**options)
    ranking = detect(loaded.adapter, loaded.processor, settings, name=asked.model.title, track=track, **hidden)
    return _ranked(ranking, asked, f"{ranking.settings['trials_kept']} trials")


def _lengths(loaded: Loaded) -> tuple[int, ...]:
    """The usual lengths that the model reads; up to half of what it reads where all of them are too long."""
    reads = getattr(loaded.adapter.decoder.config, "max_position_embeddings", None)
    usual_ones = Detection.lengths
    if reads is None or min(usual_ones) <= reads:
        return tuple(length for length in usual_ones if reads is None or length <= reads)
    return reads // 4, 3 * reads // 8, reads // 2


def _image(loaded: Loaded, asked: Asked) -> str:
    images, size = asked.options.get("images", 50), asked.options.get("batch_size", 16)
    _require_images(loaded, asked, "so it has no image heads")
    about = _scenes(images)
    batches = _batches(loaded, _questions(loaded, images), size)
    track = _bar(batches, -(-2 * images // size), "batch")
    ranking = rank_image_heads(loaded.adapter, track, name=asked.model.title, settings=about)
    return _ranked(ranking, asked, f"{ranking.settings['prompts']} prompts")


def _threshold(loaded: Loaded, asked: Asked) -> str:
    options = dict(asked.options)
    images, size, folder = options.pop("images", 20), options.pop("batch_size", 8), options.pop("folder", None)
    prompt, percentile = options.pop("prompt", CAPTION), options.pop("percentile", PERCENTILE)
    tokens = options.pop("max_new_tokens", 64)
    _require_images(loaded, asked, "so no image can interact with an instruction")
    decoder = CGVLM(**options)
    pictures = _pictures(Path(folder), images) if folder else (_scene(number).image() for number in range(images))
    text = renderer(loaded.processor, "")(prompt)
    about = {**({"data": "folder", "images": images} if folder else _scenes(images)), "prompt": prompt}
    track = _bar(_batches(loaded, ((picture, text) for picture in pictures), size), -(-images // size), "batch")
    found = measure(
        loaded.adapter, decoder, track, loaded.processor, percentile=percentile, max_new_tokens=tokens,
        name=asked.model.title, settings=about,
    )  # fmt: skip
    return _told(found, found.save(asked.out))


def _inducing(loaded: Loaded, asked: Asked) -> str:
    asks, about = triples(loaded, asked.options.get("data"), asked.options.get("triples"))
    settings = {"name": asked.model.title, "settings": about, "norm": asked.options.get("norm", importance.NORMS[0])}

    def track(each: Sequence[importance.Triple]) -> tqdm:
        return _bar(each, len(each), "question")

    found = importance.measure(loaded.adapter, asks, track=track, **settings)
    path, count = found.save(asked.out), usual(found.shape[0] * found.shape[1])
    first = ", ".join(f"{layer}-{head}" for layer, head in found.choose(count, SCALE, "correct")[:SHOWN])
    return (
        f"{path}: what each head of {found.model} does for right and for wrong answers to {found.triples} questions "
        f"({about['data']}); {count} of them are dispersed by default; first {first}\n"
        f"Use it: sightline run model=... decoder=hicd decoder.heads={path}\n"
    )


def _detector(loaded: Loaded, asked: Asked) -> str:
    options = dict(asked.options)
    top = options.pop("heads", training.TOP)
    items, about = asked_items(loaded, options.pop("data", None), options.pop("items", None))
    asking = Asking(from_memory=about["data"] == "file", **options)

    def track(each: Sequence[Any]) -> tqdm:
        return _bar(each, len(each), "question")

    found = training.measure(
        loaded.adapter, loaded.processor, items, asking, top=top, name=asked.model.title, settings=about, track=track
    )
    path, first = found.save(asked.out), ", ".join(f"{layer}-{head}" for layer, head, _ in found.chosen[:SHOWN])
    return (
        f"{path}: {len(found.chosen)} heads of {found.model} tell used tokens of a passage from others, "
        f"{100 * found.accuracy:.1f} % right on held-out ones ({found.positives} tokens of "
        f"{found.settings['answered']} answers, {found.settings['items']} asked, {about['data']}); first {first}\n"
        f"Use it: sightline run model=... decoder=dagcd decoder.detector={path}\n"
    )


def _told(found: Threshold, path: Path) -> str:
    shown = ", ".join(f"{name} %: {value:g}" for name, value in found.quantiles.items())
    return (
        f"{path}: the interaction of image and instruction at {found.tokens} tokens of {found.model}: {shown}; "
        f"k {found.k:g} is its percentile {found.percentile:g}\n"
        f"Use it: sightline run model=... decoder=cgvlm decoder.threshold={path}\n"
    )


def _ranked(ranking: HeadRanking, asked: Asked, over: str) -> str:
    path = ranking.save(asked.out)
    first = ", ".join(f"{layer}-{head} ({value:.3f})" for layer, head, value in ranking.ranked[:SHOWN])
    return (
        f"{path}: {len(ranking.ranked)} heads of {asked.model.title} ranked over {over}; first {first}\n"
        f"Use it: sightline run model=... decoder=decore decoder.heads={path}\n"
    )


_MEASURES: dict[str, Callable[[Loaded, Asked], str]] = {
    "image": _image,
    "retrieval": _retrieval,
    "threshold": _threshold,
    "inducing": _inducing,
    "detector": _detector,
}


def _require_images(loaded: Loaded, asked: Asked, why: str) -> None:
    if not loaded.adapter.image_inputs:
        raise ConfigError(f"{asked.model.title} takes no images, {why}.", "Use what=retrieval, or an image-text model.")


def _scenes(images: int) -> dict[str, Any]:
    return {"data": "scenes", "split": "validation", "world": world_hash(), "images": images}


def _scene(number: int) -> Any:
    return draw_scene("validation", number, pairs="broken")


def _questions(loaded: Loaded, images: int) -> Iterator[tuple[Image, str]]:
    """Two questions a scene: is there one of its kinds, and is there one that is absent?"""
    render = renderer(loaded.processor, "")
    for number in range(images):
        scene = _scene(number)
        absent = (*scene.missing_partners, *scene.absent)[0]
        yield from ((scene.image(), render(existence(scene, kind).text)) for kind in (scene.kinds[0], absent))


def _pictures(folder: Path, images: int) -> Iterator[Image]:
    """The first images of a folder, by name.

    Raises:
        ConfigError: there are too few.
        ImageError: one of them cannot be read.
    """
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)[:images]
    if len(found) < images:
        raise ConfigError(
            f"{str(folder)!r} holds {len(found)} images, and {images} are asked for.",
            f"Set images=, or add some ({', '.join(PICTURES)}).",
        )
    return map(open_image, found)


def _batches(loaded: Loaded, asked: Iterable[tuple[Image, str]], size: int) -> Iterator[dict[str, Any]]:
    """Model inputs of images and prompts, so many at a time."""
    remaining = iter(asked)
    while batch := list(islice(remaining, size)):
        pictures, texts = (list(column) for column in zip(*batch, strict=True))
        made = loaded.processor(images=pictures, text=texts, padding=True, return_tensors="pt").to(loaded.model.device)
        wide = loaded.model.dtype
        yield {key: value.to(wide) if value.is_floating_point() else value for key, value in made.items()}


def _bar(each: Any, total: int, unit: str) -> tqdm:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(each, total=total, desc="calibrate", unit=unit, disable=not sys.stderr.isatty(), file=sys.stderr)
