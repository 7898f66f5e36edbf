"""The settings of a run: a composed configuration, checked and typed.

Nothing here knows Hydra. `settings(config)` takes plain mappings, as `conf/` composes them, and says in one sentence
what is wrong with them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from .errors import ConfigError, unknown
from .reported import SECTION as REPORTED
from .reported import Reported, reported

MODES = ("greedy", "sample", "beam")
DTYPES = ("auto", "float64", "float32", "bfloat16", "float16")
SHARING = ("auto", "image", "none")
"""What questions about one image share: the encoded image and the start of the prompt, the image alone, nothing."""
PLACES = ("here", "ray")
BRANCHING = ("auto", "rows", "sequential")
"""Where a run's workers are: in this process, or on a Ray cluster."""
_SECTIONS = ("model", "decoder", "task", "prompt", "generation", "run", REPORTED)


@dataclass(frozen=True)
class ModelSettings:
    """Which model answers. `path` is a shipped name, a folder, or a repository of the hub."""

    path: str
    name: str | None = None
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False

    @property
    def title(self) -> str:
        """The name in tables; the last part of the path where none is given."""
        return self.name or PurePath(self.path).name

    def validate(self) -> None:
        """Refuse a dtype that is not known."""
        if self.dtype not in DTYPES:
            raise ConfigError(*unknown("model.dtype", self.dtype, DTYPES))


@dataclass(frozen=True)
class Named:
    """A name of a registry with its parameters: the `decoder` and `task` groups."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptSettings:
    """What is added to the question. The chat template is the model's own."""

    name: str = "plain"
    suffix: str = ""

    def validate(self) -> None:
        """Any text will do."""


@dataclass(frozen=True)
class GenerationSettings:
    """How tokens are chosen. `max_new_tokens` None = what the task asks for."""

    mode: str = "greedy"
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_beams: int = 5
    length_penalty: float = 1.0
    max_new_tokens: int | None = None

    def validate(self) -> None:
        """Ranges; a mode that is not known."""
        if self.mode not in MODES:
            raise ConfigError(*unknown("generation.mode", self.mode, MODES))
        _require(
            self.temperature > 0,
            "generation.temperature",
            "above 0",
            self.temperature,
            "Use generation=greedy.",
        )
        _require(self.top_k >= 0, "generation.top_k", "0 (all tokens) or more", self.top_k)
        _require(0 < self.top_p <= 1, "generation.top_p", "in (0, 1]", self.top_p)
        _require(self.num_beams >= 2 or self.mode != "beam", "generation.num_beams", "2 or more", self.num_beams)
        tokens = self.max_new_tokens
        _require(tokens is None or tokens >= 1, "generation.max_new_tokens", "1 or more, or null", tokens)

    def settled(self, mode: str | None, max_new_tokens: int) -> GenerationSettings:
        """The settings that are carried out.

        Args:
            mode: the one mode of a reference control (`greedy`, `sample`); None = as asked. A control that samples
                takes temperature, top_k and top_p only from settings that sample themselves.
            max_new_tokens: the task's, for settings that leave it open.
        """
        tokens = max_new_tokens if self.max_new_tokens is None else self.max_new_tokens
        base = self if mode is None or mode == self.mode else GenerationSettings(mode=mode)
        return dataclasses.replace(base, max_new_tokens=tokens)

    def describe(self) -> dict[str, Any]:
        """The fields that matter in this mode, for keys, manifests and metrics."""
        relevant = {"sample": ("temperature", "top_k", "top_p"), "beam": ("num_beams", "length_penalty")}
        names = ("mode", *relevant.get(self.mode, ()), "max_new_tokens")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class RunSettings:
    """Where a run is written, how much it asks, and how. Only `limit`, `seed` and `approximate` change answers."""

    dir: str | None = None
    root: str = "runs"
    limit: int | None = None
    batch_size: int = 16
    seed: int = 0
    resume: bool = True
    score: bool = True
    cost_requests: int = 32
    threads: int | None = None
    progress: bool | str = "auto"
    share: str = "auto"
    branching: str = "auto"
    approximate: float | None = None
    where: str = "here"
    address: str | None = None
    workers: int | None = None
    worker_cpus: int = 1
    worker_gpus: float | None = None
    wait_s: float = 600.0

    def validate(self) -> None:
        """Ranges."""
        for name, known in (("share", SHARING), ("where", PLACES), ("branching", BRANCHING)):
            if getattr(self, name) not in known:
                raise ConfigError(*unknown(f"run.{name}", getattr(self, name), known))
        _require(self.workers is None or self.workers >= 1, "run.workers", "1 or more, or null", self.workers)
        _require(self.worker_cpus >= 1, "run.worker_cpus", "1 or more", self.worker_cpus)
        gpus = self.worker_gpus
        _require(gpus is None or gpus >= 0, "run.worker_gpus", "0 (none) or more, or null", gpus)
        _require(self.wait_s > 0, "run.wait_s", "above 0 seconds", self.wait_s)
        least = self.approximate
        _require(least is None or least >= 0, "run.approximate", "a probability from 0, or null", least)
        _require(self.limit is None or self.limit >= 1, "run.limit", "1 or more images, or null", self.limit)
        _require(self.batch_size >= 1, "run.batch_size", "1 or more", self.batch_size)
        _require(self.seed >= 0, "run.seed", "0 or more", self.seed)
        _require(self.cost_requests >= 0, "run.cost_requests", "0 (none) or more", self.cost_requests)
        _require(self.threads is None or self.threads >= 1, "run.threads", "1 or more, or null", self.threads)
        _require(self.progress in (True, False, "auto"), "run.progress", "auto, true or false", self.progress)


@dataclass(frozen=True)
class Settings:
    """Everything a run is told. `reported` is what a paper says of it, and changes no answer."""

    model: ModelSettings
    decoder: Named
    task: Named
    prompt: PromptSettings = PromptSettings()
    generation: GenerationSettings = GenerationSettings()
    run: RunSettings = RunSettings()
    reported: Reported | None = None


def settings(config: Mapping[str, Any]) -> Settings:
    """Check a composed configuration.

    Args:
        config: section -> field -> value, as plain containers.

    Raises:
        ConfigError: a section or field is not known, missing, of the wrong type or out of range.
    """
    for section in config:
        if section not in _SECTIONS:
            raise ConfigError(*unknown("section", section, _SECTIONS))
    return Settings(
        model=_typed("model", ModelSettings, _section(config, "model")),
        decoder=_named("decoder", "key", _section(config, "decoder")),
        task=_named("task", "name", _section(config, "task")),
        prompt=_typed("prompt", PromptSettings, _section(config, "prompt")),
        generation=_typed("generation", GenerationSettings, _section(config, "generation")),
        run=_typed("run", RunSettings, _section(config, "run")),
        reported=reported(config.get(REPORTED)),
    )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name, {})
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be a group of settings, got {value!r}.", f"Choose one with {name}=NAME.")
    return value


def _named(section: str, key: str, values: Mapping[str, Any]) -> Named:
    name = values.get(key)
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{section}.{key} must be a name, got {name!r}.", f"See `sightline {section}s`.")
    return Named(name, {field: value for field, value in values.items() if field != key})


def _typed(section: str, cls: Any, values: Mapping[str, Any]) -> Any:
    """An instance of `cls`, one of the dataclasses above, from the fields of a section."""
    specs = {spec.name: spec for spec in dataclasses.fields(cls)}
    for name in values:
        if name not in specs:
            raise ConfigError(*unknown("setting", f"{section}.{name}", [f"{section}.{known}" for known in specs]))
    for name, spec in specs.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and values.get(name) is None:
            raise ConfigError(f"{section}.{name} is not set.", f"Give it: {section}.{name}=...")
    made = cls(**{name: _coerced(f"{section}.{name}", str(specs[name].type), value) for name, value in values.items()})
    made.validate()
    return made


def _coerced(where: str, kind: str, value: Any) -> Any:
    """The value, if it is of the declared type; a whole number passes for a float, nothing else is converted."""
    kinds = [part.strip() for part in kind.split("|")]
    if value is None and "None" in kinds:
        return None
    if isinstance(value, bool):
        fits = "bool" in kinds
    elif isinstance(value, int):
        fits = "int" in kinds or "float" in kinds
    elif isinstance(value, float):
        fits = "float" in kinds and math.isfinite(value)
    else:
        fits = isinstance(value, str) and "str" in kinds
    if not fits:
        names = {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "str": "text",
            "None": "null",
        }
        raise ConfigError(f"{where} must be {' or '.join(names[part] for part in kinds)}, got {value!r}.")
    return _as_float(where, value) if "float" in kinds and isinstance(value, int) else value


def _as_float(where: str, value: int) -> float:
    try:
        return float(value)
    except OverflowError as error:
        raise ConfigError(f"{where} must be a number of at most 1e308.") from error


def _require(holds: bool, where: str, rule: str, value: object, hint: str = "") -> None:
    if not holds:
        raise ConfigError(f"{where} must be {rule}, got {value!r}.", hint)
