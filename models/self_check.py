"""The proof that probes and edits act on a model: two forwards of two tokens, once per model and process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .attention import LayerState, installed
from .errors import SelfCheckFailed

if TYPE_CHECKING:
    from .adapter import Adapter

_CHECKED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def self_check(adapter: Adapter) -> None:
    """Prove it for the decoder of `adapter`; see `Adapter.self_check`."""
    if adapter.decoder in _CHECKED:
        return
    modules = adapter.attention_modules()
    states = {module: LayerState(probe=True) for module in modules}
    plain = _two_tokens(adapter, states)
    silent = [layer for layer, module in enumerate(modules) if states[module].calls == 0]
    if silent:
        raise SelfCheckFailed(f"Layers {silent} never call the attention interface.", "Use another strategy.")
    seen = torch.stack([state.reading for state in states.values() if state.reading is not None])
    if not torch.allclose(seen, torch.tensor([0.0, 1.0], device=seen.device, dtype=seen.dtype), atol=1e-4):
        raise SelfCheckFailed("A probe saw a padded key: the padding mask does not reach attention.", "Report it.")
    mask = torch.ones(1, adapter.heads, dtype=torch.bool)
    edited = _two_tokens(adapter, {module: LayerState(zero=mask) for module in modules})
    if torch.equal(plain, edited):
        raise SelfCheckFailed("Silencing every head changes nothing.", "Report this model family to us.")
    _CHECKED[adapter.decoder] = True


def _two_tokens(adapter: Adapter, states: Mapping[nn.Module, LayerState]) -> Tensor:
    """Last hidden state `[1, hidden]` of a padded token and a real one."""
    decoder = adapter.decoder
    device = next(decoder.get_input_embeddings().parameters()).device
    ids = torch.tensor([[0, 1]], device=device)
    with installed(decoder, states), torch.no_grad():
        out = decoder(input_ids=ids, attention_mask=torch.tensor([[0, 1]], device=device), use_cache=False)
    return out[0][:, -1]
