"""Where head lists come from: the checkpoint's own folder, the lists that ship with the package, a file.

Shipped are the twenty strongest retrieval heads of five published checkpoints, as the detector that DeCoRe was built on
found them. They serve a model of the same name, or of exactly the same shape (a copy in a folder, a fine-tune).
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from ..registry import did_you_mean
from .errors import CalibrationMissing
from .ranking import WHAT, HeadRanking, load

if TYPE_CHECKING:
    from ...models.adapter import Adapter

FOLDER = Path(__file__).parent / "lists"
AUTO = "auto"


def names() -> list[str]:
    """The shipped lists, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def own_file(what: str) -> str:
    """The name under which a checkpoint's folder holds its own list: `retrieval_heads.json`, `image_heads.json`."""
    return f"{what}_heads.json"


def find(source: str, adapter: Adapter) -> HeadRanking:
    """The list that `source` means for a model; it fits the model.

    Args:
        source: `auto` (the checkpoint's own list, retrieval before image, else a shipped one of its name or shape),
            `retrieval` or `image` (the same, of that kind alone), the name of a shipped list, or a path.
        adapter: of the model.

    Raises:
        CalibrationMissing: there is none; says how to measure one.
        CalibrationInvalid: the file cannot be read.
        CalibrationMismatch: it was made for another model.
    """
    if source in (AUTO, *WHAT):
        ranking = _of_model(WHAT if source == AUTO else (source,), adapter)
    elif source in names():
        ranking = load(FOLDER / f"{source}.json")
    elif PurePath(source).suffix or Path(source).exists():
        ranking = load(source)
    else:
        raise CalibrationMissing(
            f"There is no list of heads {source!r}.",
            f"{did_you_mean(source, [AUTO, *WHAT, *names()])}Give auto, {', '.join([*WHAT, *names()])}, or the path of "
            "a file that sightline calibrate wrote.",
        )
    ranking.check_fits(adapter)
    return ranking


def _of_model(kinds: tuple[str, ...], adapter: Adapter) -> HeadRanking:
    name = str(getattr(adapter.model.config, "_name_or_path", "") or "")
    for what in kinds:
        file = Path(name) / own_file(what)
        if name and file.is_file():
            return load(file)
    shipped = [ranking for ranking in map(load, sorted(FOLDER.glob("*.json"))) if ranking.what in kinds]
    for agrees in (_by_name, _by_shape):
        for ranking in shipped:
            if agrees(ranking, adapter, name):
                return ranking
    raise CalibrationMissing(
        f"No list of {' or '.join(kinds)} heads is known for {name or type(adapter.model).__name__!r}.",
        f"Measure them once: sightline calibrate model=... what={kinds[0]} out=heads.json, then heads=heads.json.",
    )


def _by_name(ranking: HeadRanking, adapter: Adapter, name: str) -> bool:
    """Whether the checkpoint is one of the list's; a folder goes by its last part."""
    return PurePath(name).name.lower() in {PurePath(each).name.lower() for each in ranking.checkpoints}


def _by_shape(ranking: HeadRanking, adapter: Adapter, name: str) -> bool:
    """Whether the text configuration has every field of the list's shape."""
    config = adapter.decoder.config
    return bool(ranking.shape) and all(getattr(config, key, None) == value for key, value in ranking.shape.items())
