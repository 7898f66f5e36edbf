"""Model families: adapters, the attention function, loading."""

from .adapter import Adapter
from .auto import FAMILIES, Loaded, adapter_for, load

__all__ = ["FAMILIES", "Adapter", "Loaded", "adapter_for", "load"]
