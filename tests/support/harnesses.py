"""The parts of lm-evaluation-harness and lmms-eval that our plug-ins touch, for machines without them.

`stand_in()` puts modules of their names into `sys.modules` where the packages are not installed. The tests of the real
packages hold these to be true (`tests/eval/plugins/test_real_*.py`).
"""

import abc
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

from sightline.eval.preparing import load_model

LLAMA = {"pretrained": "tiny-llama", "dtype": "float64", "device": "cpu"}
LLAVA = {"pretrained": "tiny-llava", "dtype": "float64", "device": "cpu"}
load_once = cache(load_model)
REAL = {name: find_spec(name) is not None for name in ("lm_eval", "lmms_eval")}
LM_METHODS = ("loglikelihood", "loglikelihood_rolling", "generate_until")
LMMS_METHODS = ("loglikelihood", "generate_until", "generate_until_multi_round")
MANIFEST_FIELDS = ("model_id", "simple_class_path", "chat_class_path")


@dataclass
class Asked:
    """A request of a harness: `args`, and the document where lm-evaluation-harness gives one."""

    args: tuple
    doc: Any = None


def _interface(name: str, methods: tuple[str, ...], attributes: dict[str, Any]) -> type:
    """A class with these abstract methods; its constructor sets the attributes."""

    def start(self):
        for key, value in attributes.items():
            setattr(self, key, value)

    body: dict[str, Any] = {method: abc.abstractmethod(lambda self, requests: None) for method in methods}
    return abc.ABCMeta(name, (), {**body, "__init__": start})


class Registry(dict):
    """Names -> classes, or the places where they are."""

    def register(self, name: str, target: Any = None):
        """As a decorator, or with a target; a class takes the place of its own path."""

        def store(found):
            held = self.get(name)
            path = f"{getattr(found, '__module__', '')}:{getattr(found, '__name__', '')}"
            if held is not None and held not in (found, path):
                raise ValueError(f"{name} is taken")
            self[name] = found
            return found

        return store if target is None else store(target)


def stand_in() -> None:
    """Modules under the harnesses' names, where these are not installed."""
    if not REAL["lm_eval"] and "lm_eval" not in sys.modules:
        registry = Registry()
        hook = SimpleNamespace(add_partial=lambda *args: None)
        _modules(
            {
                "lm_eval": {},
                "lm_eval.models": {},
                "lm_eval.api": {},
                "lm_eval.api.model": {"LM": _interface("LM", LM_METHODS, {"cache_hook": hook})},
                "lm_eval.api.registry": {"model_registry": registry, "register_model": registry.register},
            }
        )
    if not REAL["lmms_eval"] and "lmms_eval" not in sys.modules:
        known = {"ModelManifest": lambda **given: SimpleNamespace(**given)}
        _modules(
            {
                "lmms_eval": {},
                "lmms_eval.api": {},
                "lmms_eval.api.model": {"lmms": _interface("lmms", LMMS_METHODS, {"task_dict": {}})},
                "lmms_eval.models": {},
                "lmms_eval.models.registry_v2": known,
            }
        )


def _modules(contents: dict[str, dict[str, Any]]) -> None:
    for name, content in contents.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        sys.modules[name] = module
