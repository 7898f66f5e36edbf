"""Model families: adapters, the attention function, loading. Names are imported when they are first used."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapter import Adapter
    from .auto import FAMILIES, Loaded, adapter_for, load

__all__ = ["FAMILIES", "Adapter", "Loaded", "adapter_for", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(".adapter" if name == "Adapter" else ".auto", __name__), name)


def __dir__() -> list[str]:
    return __all__
