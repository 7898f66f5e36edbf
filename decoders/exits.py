"""Early exits: what the model's own head makes of hidden states between layers, for strategies that ask (DoLa)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..models.adapter import Adapter
from ..models.errors import UnsupportedMode
from .contrast import widen


class Exits:
    """Keeps what enters some layers, and reads early logits off all of it at once.

    Args:
        adapter: of the model.
        layers: 0 (what enters the first layer: the embeddings) to one less than there are.
        key: of the strategy that asks.
    """

    def __init__(self, adapter: Adapter, layers: Sequence[int], key: str):
        self._adapter = adapter
        self._layers = layers
        self._key = key
        self._held: dict[int, Tensor] = {}

    @contextmanager
    def heard(self, chosen: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
        """Inside, what enters the layers is kept: what `chosen` makes of it, unless that is None.

        Raises:
            UnsupportedMode: there is no such layer.
        """
        layers = self._adapter.decoder_layers() if self._layers else []
        if any(not 0 <= exit < len(layers) for exit in self._layers):
            raise UnsupportedMode(
                f"{self._key}: there is no exit {list(self._layers)} in a model of {len(layers)} layers.",
                f"Exits are 0 (the embeddings) to {len(layers) - 1}.",
            )

        def listener(exit: int) -> Callable[..., None]:
            def listen(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
                kept = chosen(args[0] if args else kwargs["hidden_states"])
                if kept is not None:
                    self._held[exit] = kept

            return uncompiled(listen)

        with ExitStack() as stack:
            for exit in self._layers:
                handle = layers[exit].register_forward_pre_hook(listener(exit), with_kwargs=True)
                stack.callback(handle.remove)
            stack.callback(self._held.clear)
            yield

    def logits(self) -> dict[int, Tensor]:
        """Early logits `[rows, columns, vocab]` of each exit, by one call of the head, which reads its weights once."""
        if not self._held:
            return {}
        device = self._held[max(self._held)].device
        hidden = torch.stack([each.to(device) for each in self._held.values()])
        return dict(zip(self._held, widen(self._adapter.early_logits(hidden)), strict=True))


def uncompiled(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook as torch.compile has to leave it: ordinary Python between graphs."""
    disable: Any = torch.compiler.disable
    return disable(hook)
