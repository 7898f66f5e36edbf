"""Text models: Llama, Mistral, Qwen, Gemma and other decoder-only language models of transformers."""

from __future__ import annotations

from typing import ClassVar

from .adapter import Adapter


class TextAdapter(Adapter):
    """Adapter for causal language models; image strategies refuse it with advice."""

    family: ClassVar[str] = "text"
