"""From a command line to a configuration: Hydra composes `conf/`, its complaints become one readable sentence.

A configuration names things of our registries; it never names code. So `_target_` is refused everywhere, and so is
every interpolation but those of other settings, the clock and Hydra's own facts: `${oc.env:...}` would copy secrets of
the environment into run folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from . import launching
from .errors import ConfigError, MissingPackage, unknown
from .settings import Settings, settings

CONF = "conf"
ROOT = "config"
GROUPS = ("model", "decoder", "task", "prompt", "generation", "run", "experiment")
_PACKAGE = __name__.split(".", 1)[0]
_ALLOWED = re.compile(r"\$\{(?:[A-Za-z0-9_./\[\]-]+|(?:now|hydra):[^${}]*)\}")


def compose_settings(overrides: Sequence[str], config_dir: str | None = None) -> tuple[Settings, dict[str, Any]]:
    """The settings that a command line asks for.

    Args:
        overrides: Hydra overrides, such as `decoder=vcd` and `decoder.alpha=0.5`.
        config_dir: a folder with more choices, laid out as `conf/`.

    Returns:
        The checked settings, and the resolved configuration as plain containers.

    Raises:
        ConfigError: an override cannot be read, names something unknown, or asks for code or the environment.
    """
    with _hydra(overrides, config_dir) as full:
        launching.refuse_in_single_run(overrides)
        config = compose(ROOT, overrides=full)
    return from_config(config)


def from_config(config: DictConfig) -> tuple[Settings, dict[str, Any]]:
    """Settings and plain containers of one composed configuration; raises as `compose_settings` does."""
    raw = OmegaConf.to_container(config, resolve=False)
    _refuse_code(raw)
    with _readable([]):
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    if not isinstance(plain, dict):
        raise ConfigError("The configuration is not a mapping.")
    tree = {str(key): value for key, value in plain.items() if key not in ("hydra", "experiment")}
    return settings(tree), tree


def multirun(
    overrides: Sequence[str], job: Callable[[DictConfig], Any], config_dir: str | None = None
) -> list[tuple[list[str], Any]]:
    """Run `job` for every combination of a sweep, through Hydra's sweeper and launcher.

    Args:
        overrides: as for `compose_settings`, with values to sweep separated by commas.
        job: gets the composed configuration of one combination; a function of a module, so that launchers can send it.
        config_dir: a folder with more choices.

    Returns:
        For each job its overrides and what `job` returned.

    Raises:
        ConfigError: as `compose_settings`, or the launcher lacks something; any job may raise errors of its own once
            the others have run.
        MissingPackage: the launcher is not installed.
        JobFailed: a job could not be sent to where it should run, or has no result.
    """
    with _hydra(overrides, config_dir) as full:
        hydra = GlobalHydra.instance().hydra
        if hydra is None:
            raise ConfigError("Hydra did not start.")
        folder = [value.removeprefix("run.dir=") for value in overrides if value.startswith("run.dir=")]
        full += [f"hydra.sweep.dir={folder[-1]}"] if folder else []
        whole = hydra.compose_config(ROOT, full, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
        launching.check(whole)
        with launching.sending(str(whole.hydra.sweep.dir)):
            batches = hydra.multirun(config_name=ROOT, task_function=job, overrides=full, with_log_configuration=False)
    return [(list(result.overrides or []), result.return_value) for batch in batches or [] for result in batch]


def choices(group: str) -> list[str]:
    """The names that a group of `conf/` offers, sorted."""
    return [path.stem for path in _files(group)]


def conf_folder() -> Path:
    """The folder with the packaged configuration."""
    return Path(__file__).resolve().parent.parent / CONF


@contextmanager
def _hydra(overrides: Sequence[str], config_dir: str | None):
    """Hydra, initialised on our `conf/` and put back as it was; gives the overrides to use."""
    _refuse_unsafe(overrides)
    extra = []
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"--config-dir {config_dir!r} is not a folder.")
        extra = [f"hydra.searchpath=[{Path(config_dir).resolve().as_uri()}]"]
    with _readable(overrides), initialize_config_module(f"{_PACKAGE}.{CONF}", version_base="1.3"):
        yield [*overrides, *extra]


@contextmanager
def _readable(overrides: Sequence[str]):
    """Turns errors of Hydra and OmegaConf into a `ConfigError`."""
    try:
        yield
    except OverrideParseException as error:
        raise ConfigError(
            f"Cannot read the override {error.override!r}.", "Overrides are written group=choice or group.field=value."
        ) from error
    except MissingConfigException as error:
        raise _unknown_choice(error) from error
    except HydraException as error:
        raise _explain(error, overrides) from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"The configuration cannot be resolved: {_first_line(error)}.") from error
    except (YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise ConfigError(
            f"A configuration file cannot be read ({type(error).__name__}: {_first_line(error)}).",
            "Files of --config-dir are YAML in UTF-8, one field a line; see `conf/` of the package.",
        ) from error
    except ValueError as error:  # Python's own for very long numbers; Hydra's own for null as the choice of a group
        if "integer string conversion" in str(error):
            raise ConfigError("An override holds a number of thousands of digits.", "Give a shorter one.") from error
        if isinstance(error, ConfigError) or "Config group override" not in str(error):
            raise
        raise ConfigError("A group cannot be set to null.", f"Choose one of its names: {', '.join(GROUPS)}.") from error


def _unknown_choice(error: MissingConfigException) -> ConfigError | MissingPackage:
    wanted = str(error.missing_cfg_file or "")
    group, _, name = wanted.rpartition("/")
    if group == launching.GROUP:
        return launching.unknown_launcher(name)
    if group in GROUPS and group:
        return ConfigError(*unknown(group, name, error.options or choices(group)))
    return ConfigError(f"There is no configuration {wanted!r}.", f"Groups: {', '.join(GROUPS)}.")


def _explain(error: HydraException, overrides: Sequence[str]) -> ConfigError:
    """The sentence for an override that Hydra could not apply."""
    text = str(error)
    at_fault = re.search(r"Could not override '([^']+)'", text)
    if at_fault and at_fault.group(1):
        return _unknown_field(at_fault.group(1), overrides)
    ambiguous = re.search(r"Ambiguous value for argument '([^']*)'", text)
    if ambiguous:
        return ConfigError(
            f"{ambiguous.group(1)!r} gives several values.", "Add -m to run one job per value, or quote a single value."
        )
    missing = re.search(r"Could not override '?([\w/.@]+)'?\.\s*No match in the defaults list", text)
    if missing:
        return ConfigError(*unknown("group", missing.group(1), GROUPS))
    named = next((value for value in overrides if value.split("=")[0] in text), "")
    return ConfigError(f"The configuration cannot be composed: {_first_line(error)}.", f"See {named}." if named else "")


def _unknown_field(path: str, overrides: Sequence[str]) -> ConfigError:
    """The sentence for `group.field` where the field, or the group, does not exist."""
    section, dot, _ = path.partition(".")
    if path.startswith("hydra.launcher."):
        return ConfigError(*launching.unknown_field(path))
    if "/" in section or (section in GROUPS and not dot):
        return ConfigError(f"{path!r} is not a group or a setting.", "Write group=choice or group.field=value.")
    if section not in GROUPS:
        return ConfigError(*unknown("group", section, GROUPS))
    fields = {file.stem: [f"{section}.{key}" for key in _keys(file)] for file in _files(section)}
    holders = sorted(name for name, known in fields.items() if path in known)
    if holders:
        return ConfigError(f"{path!r} is no setting of the {section} chosen.", f"It belongs to {section}={holders[0]}.")
    chosen = [value.split("=", 1)[1] for value in overrides if value.startswith(f"{section}=")]
    known = fields.get(chosen[-1]) if chosen else None
    return ConfigError(*unknown("setting", path, known or {name for names in fields.values() for name in names}))


def _files(group: str) -> list[Path]:
    return sorted((conf_folder() / group).glob("*.yaml"))


def _keys(file: Path) -> list[str]:
    """The fields of a choice, with those of the choices that it builds on."""
    own: Any = OmegaConf.load(file)
    others = [file.with_name(f"{name}.yaml") for name in own.get("defaults", ()) if name != "_self_"]
    return [key for other in others for key in _keys(other)] + [str(key) for key in own if key != "defaults"]


def _refuse_unsafe(overrides: Iterable[str]) -> None:
    for value in overrides:
        if "_target_" in value:
            raise ConfigError(f"{value!r} names code, which a configuration may not.", "Use names of the registries.")
        if "oc.env" in value:
            raise ConfigError(
                f"{value!r} reads the environment, which a configuration may not.",
                "Let the shell fill it in: run.dir=$HOME/runs.",
            )


def _refuse_code(tree: Any, path: str = "") -> None:
    """Refuse `_target_` keys and interpolations that are not of settings, anywhere in a configuration."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            where = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                raise ConfigError(f"{where} names code, which a configuration may not.", "Use names of the registries.")
            _refuse_code(value, where)
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            _refuse_code(value, f"{path}[{index}]")
    elif isinstance(tree, str) and "${" in _ALLOWED.sub("", tree):
        raise ConfigError(
            f"{path} holds the interpolation {tree!r}, which a configuration may not.",
            "Only other settings (${model.name}), ${now:...} and ${hydra:...} can be put in.",
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
