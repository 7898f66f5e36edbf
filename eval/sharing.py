"""What questions about one image share: its encoding, and the start of the prompt that the decoder has seen.

Benchmarks ask many questions about an image (POPE 6 to 18). While a batch is asked, the modules that encode images are
told to work out each image once, also when the batch before had it, and the text decoder to run a beginning that rows
have in common once (`prefixes`). Both go by content, bit for bit: what is not the same is not shared, and strategies,
hooks and `generate()` know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..decoders.prefixes import PrefilledOnce
from ..models.adapter import Adapter
from ..models.errors import UnsupportedModel
from .encoded import EncodedOnce
from .processed import processed_once


@dataclass
class Shared:
    """What one batch was spared.

    Attributes:
        images: images (or crops) that the vision tower was asked to encode, those of branches included.
        encoded: those that it did encode.
        prompt_tokens: prompt tokens that the text decoder was asked to run, those of branches included.
        prefilled: those that it did run.
    """

    images: int = 0
    encoded: int = 0
    prompt_tokens: int = 0
    prefilled: int = 0


class Sharing:
    """Has the questions of a batch share what they can.

    Args:
        adapter: of the model.
        how: `auto` (encoded images and beginnings of prompts), `image` (the first alone) or `none`.
        processor: what makes inputs of pictures, if that is done while a batch is asked.
    """

    def __init__(self, adapter: Adapter, how: str, processor: Any = None):
        self.how = how
        self._processor = processor
        self._encoders = [EncodedOnce(module) for module in image_modules(adapter)] if how != "none" else []
        self._prefix = PrefilledOnce(adapter) if how == "auto" and PrefilledOnce.serves(adapter) else None

    @property
    def by_image(self) -> bool:
        """Whether questions about one image had better stand side by side."""
        return self.how != "none"

    @contextmanager
    def batch(self) -> Iterator[Shared]:
        """Inside, one batch is asked; what it was spared is filled in at the end.

        What is kept of a batch serves the next one and goes when that is over; after an error nothing is kept.
        """
        shared, encoders, prefix = Shared(), self._encoders, self._prefix
        with ExitStack() as stack:
            if self.how != "none":
                stack.enter_context(processed_once(self._processor))
            for each in encoders if prefix is None else [*encoders, prefix]:
                stack.enter_context(_in_place_of_forward(each.module, each))
            try:
                yield shared
            except BaseException:
                for each in encoders:
                    each.forget()
                if prefix is not None:
                    prefix.counts()
                raise
        for each in encoders:
            each.turn()
        if encoders:
            shared.images, shared.encoded = encoders[0].counts()
        if prefix is not None:
            shared.prompt_tokens, shared.prefilled = prefix.counts()


def image_modules(adapter: Adapter) -> list[nn.Module]:
    """The vision tower and, where there is one behind it, what turns its features into embeddings row by row.

    Empty for a family that shows no tower. A projector that gave the same image other bits in another row would leave
    no beginning in common.
    """
    tower = _found(adapter, "vision_tower") if adapter.image_inputs else None
    if tower is None:
        return []
    projector = _found(adapter, "projector")
    inside = any(module is projector for module in tower.modules())
    return [tower] if projector is None or inside else [tower, projector]


def _found(adapter: Adapter, name: str) -> nn.Module | None:
    try:
        module = getattr(adapter, name)
    except UnsupportedModel:
        return None
    return None if getattr(module, "_compiled_call_impl", None) is not None else module


@contextmanager
def _in_place_of_forward(module: nn.Module, other: EncodedOnce | PrefilledOnce) -> Iterator[None]:
    """Inside, `other` is called for the forward of `module`, between its hooks, with that forward before the rest."""
    held = vars(module).get("forward")
    plain: Callable[..., Any] = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return other(plain, *args, **kwargs)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if held is not None:
            module.forward = held
