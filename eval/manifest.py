"""The manifest of a run: what was run, on what, with what, so that its numbers can be traced and its answers reused.

`identity` is the part that decides answers; two runs with the same identity write the same samples. Folders, batch
size, device and times are facts beside it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..decoders import Strategy
from ..models import Loaded
from .answering import Words
from .plan import Plan, template_digest
from .records import digest
from .settings import GenerationSettings, Settings
from .tasks.base import Dataset, Task

SCHEMA = 1
FILE = "manifest.json"
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pillow", "hydra-core", "safetensors")
_ROOT = Path(__file__).resolve().parent.parent


def identity(
    settings: Settings,
    task: Task,
    options: Mapping[str, Any],
    dataset: Dataset,
    loaded: Loaded,
    strategy: Strategy,
    generation: GenerationSettings,
) -> dict[str, Any]:
    """Everything that decides the answers of a run, as JSON holds it."""
    calibration = strategy.calibration(loaded.adapter)
    content = {
        "sightline": package_version("sightline"),
        "model": {"name": settings.model.title, "fingerprint": loaded.fingerprint},
        "decoder": {"key": strategy.key, "params": strategy.params()}
        | ({} if calibration is None else {"calibration": calibration}),
        "task": {
            "name": task.name,
            "version": task.version,
            "options": {name: value for name, value in options.items() if name not in task.places},
            "data": [dataclasses.asdict(source) for source in dataset.sources],
            "world": None if dataset.world is None else dict(dataset.world),
        },
        "prompt": {**dataclasses.asdict(settings.prompt), "template_sha256": template_digest(loaded.processor)},
        "generation": generation.describe(),
        "seed": settings.run.seed,
        "limit": settings.run.limit,
    }
    return json.loads(json.dumps(content))


def facts(
    settings: Settings,
    loaded: Loaded,
    strategy: Strategy,
    task: Task,
    plan: Plan,
    words: Words,
    command: Sequence[str],
    dataset: Dataset | None = None,
) -> dict[str, Any]:
    """What is worth knowing about a run beside its identity."""
    return {
        "command": list(command),
        "started": now(),
        "finished": None,
        "scorer": {"name": task.scorer, "parser": task.parser},
        "task": {"revision": None if dataset is None else dataset.revision},
        "model": {
            "path": settings.model.path,
            "revision": settings.model.revision,
            "class": type(loaded.model).__name__,
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
            "device": device_name(loaded.model.device),
            "attention": getattr(loaded.model.config, "_attn_implementation", None),
        },
        "decoder": {"kind": strategy.kind, "class": type(strategy).__qualname__},
        "margin_words": {"yes": list(words.yes), "no": list(words.no)},
        "batch_size": settings.run.batch_size,
        "share": settings.run.share,
        "n_samples": len(plan.samples),
        "n_requests": len(plan.requests),
        "n_images": plan.images,
        "machine": machine(),
        "versions": {name: package_version(name) for name in _PACKAGES},
        "git_commit": git_commit(_ROOT),
    }


def build(same: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a run that starts: sections of both parts side by side, `identity` as their digest."""
    manifest: dict[str, Any] = {"schema": SCHEMA, "status": "running", "identity": digest(dict(same))}
    for name in (*same, *(key for key in beside if key not in same)):
        ours, theirs = same.get(name), beside.get(name)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            manifest[name] = {**ours, **theirs}
        else:
            manifest[name] = ours if name in same else theirs
    return manifest


def differences(held: Mapping[str, Any], wanted: Mapping[str, Any], path: str = "") -> list[str]:
    """Where two identities differ, as `decoder.params.alpha: 1.0, not 0.5`; only names that `wanted` has."""
    found = []
    for name, value in wanted.items():
        where = f"{path}.{name}" if path else name
        other = held.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            found += differences(other, value, where)
        elif other != value:
            found.append(f"{where} is {_short(other)} there and {_short(value)} here")
    return found


def machine() -> dict[str, Any]:
    """Kind of machine and number of threads; no names, no paths."""
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def device_name(device: Any) -> str:
    """`cpu`, `cuda:0` ..."""
    return str(device)


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_commit(root: Path) -> str | None:
    """The commit of a working tree at `root`, read from its files; None where there is none."""
    git = root / ".git"
    try:
        if git.is_file():
            git = (root / git.read_text().removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        name = head.removeprefix("ref:").strip()
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        if (common / name).is_file():
            return (common / name).read_text().strip()
        packed = (common / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except (OSError, ValueError, IndexError):
        return None


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
