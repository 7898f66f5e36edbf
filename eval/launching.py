"""Where the jobs of a sweep run: in this process, or where one of Hydra's launchers sends them.

A launcher is code that a configuration names, so only Hydra's own and its plug-ins are let through, and what they need
is checked before the first job is sent.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .errors import ConfigError, JobFailed, MissingPackage

GROUP = "hydra/launcher"
CHOICES = ("basic", "slurm", "submitit_local", "submitit_slurm")
"""Those of Hydra, of ours, and of the package hydra-submitit-launcher."""
_TRUSTED = ("hydra._internal.", "hydra_plugins.")
_NAMES_CODE = ("_target_", "()", "class")
_OF_THE_EXTRA = "submitit"


def refuse_in_single_run(overrides: Sequence[str]) -> None:
    """Raises `ConfigError` where a launcher is named and nothing would be launched."""
    for value in overrides:
        if value.lstrip("+~").startswith((GROUP, "hydra.launcher")):
            raise ConfigError(
                f"{value!r} says where the jobs of a sweep run, and this is one run.", "Add -m: a sweep of one will do."
            )


def unknown_launcher(name: str) -> ConfigError | MissingPackage:
    """The error for a launcher that Hydra has no configuration of."""
    if name.startswith(_OF_THE_EXTRA):
        return MissingPackage(
            "Jobs are sent with hydra-submitit-launcher, which is not installed.",
            'Install it: pip install "sightline[slurm]". Without it a sweep runs in this process.',
        )
    return ConfigError(f"There is no launcher {name!r}.", f"Choose {GROUP}={' | '.join(CHOICES)}.")


def unknown_field(path: str) -> tuple[str, str]:
    """Problem and hint for `hydra.launcher.FIELD` that the launcher does not have."""
    name = path.removeprefix("hydra.launcher.")
    return f"The launcher has no field {name!r}.", "conf/hydra/launcher/slurm.yaml and submitit's own have them all."


def check(config: DictConfig) -> None:
    """Look at what Hydra would call for a sweep.

    Args:
        config: of the sweep, with Hydra's own part.

    Raises:
        ConfigError: it names code that is not Hydra's, or Slurm is asked for on a machine without it.
    """
    _refuse_foreign_code(OmegaConf.to_container(config.hydra, resolve=False), "hydra")
    if str(config.hydra.launcher.get("_target_")).endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise ConfigError(
            "Jobs are to go to Slurm, and there is no `srun` on this machine.",
            f"Start the sweep on a login node of the cluster, or leave {GROUP} out.",
        )


@contextmanager
def sending(folder: str) -> Iterator[None]:
    """Turns errors of submitit into one that says where the jobs' logs are.

    Args:
        folder: of the sweep.

    Raises:
        JobFailed: a job could not be sent, or ended without a result.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(f"{_OF_THE_EXTRA}."):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise JobFailed(
            f"A job could not be sent or has no result: {(lines or [type(error).__name__])[0].rstrip('.')}.",
            f"Logs are in {folder}/.submitit. What is answered is kept, and the same command goes on with it.",
        ) from error


def _refuse_foreign_code(tree: Any, path: str) -> None:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key in _NAMES_CODE and isinstance(value, str) and not value.startswith(_TRUSTED):
                raise ConfigError(
                    f"{path}.{key} names the code {value!r}, which a configuration may not.",
                    f"Choose {GROUP}={' | '.join(CHOICES)}.",
                )
            _refuse_foreign_code(value, f"{path}.{key}")
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            _refuse_foreign_code(value, f"{path}[{index}]")
