"""What one `generate()` costs, counted from outside: every run of the text decoder, the head and the vision tower.

All contenders are counted by the same hooks, with a strategy attached or without, so the figures owe nothing to the
engine's own `Stats`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from ...models.adapter import Adapter
from ...models.versions import CACHE

Where = Literal["decoder", "head", "tower"]


@dataclass(frozen=True)
class Call:
    """One call of a module.

    Attributes:
        where: which one.
        rows: of its batch; of a vision tower the patches of all its images.
        columns: tokens of each row; 1 in the tower.
        keys: columns that the last token of a row sees, padding included; 0 but in the decoder.
    """

    where: Where
    rows: int
    columns: int
    keys: int = 0


@dataclass
class Counts:
    """Calls before the first token was chosen and after it.

    Attributes:
        prefill, decode: the calls, in order.
        steps: tokens chosen after the first.
    """

    prefill: list[Call] = field(default_factory=list)
    decode: list[Call] = field(default_factory=list)
    steps: int = 0

    def forwards(self, phase: str) -> int:
        """Calls of the decoder in `prefill` or `decode`."""
        return len(self._decoder(phase))

    def rows(self, phase: str) -> int:
        """Their rows, summed."""
        return sum(call.rows for call in self._decoder(phase))

    def tokens(self, phase: str) -> int:
        """Rows times columns, summed: tokens that went through the decoder, padding included."""
        return sum(call.rows * call.columns for call in self._decoder(phase))

    def towers(self) -> int:
        """Calls of the vision tower."""
        return sum(call.where == "tower" for call in (*self.prefill, *self.decode))

    def summary(self) -> dict[str, float | None]:
        """Figures of tables: prefill as it is, decoding per token chosen after the first."""
        each = {
            name: getattr(self, name)("decode") / self.steps if self.steps else None for name in ("forwards", "rows")
        }
        return {
            "prefill_forwards": self.forwards("prefill"),
            "prefill_tokens": self.tokens("prefill"),
            "image_encodes": self.towers(),
            "forwards_per_token": each["forwards"],
            "rows_per_token": each["rows"],
        }

    def _decoder(self, phase: str) -> list[Call]:
        calls: list[Call] = getattr(self, phase)
        return [call for call in calls if call.where == "decoder"]


@contextmanager
def counted(adapter: Adapter) -> Iterator[Counts]:
    """Counts what runs inside the block; whoever chooses tokens says so by `Counts.steps`, from -1 on."""
    counts = Counts(steps=-1)

    def note(call: Call) -> None:
        (counts.prefill if counts.steps < 0 else counts.decode).append(call)

    def decoder(_module: nn.Module, args: tuple, kwargs: dict[str, Any], _output: Any) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        cache = kwargs.get(CACHE)
        keys = given.shape[1] if cache is None else int(cache.get_seq_length())
        note(Call("decoder", given.shape[0], given.shape[1], keys))

    def head(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        hidden = args[0]
        note(Call("head", hidden.shape[:-1].numel(), 1))

    def tower(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
        note(Call("tower", hidden.shape[:-1].numel(), 1))

    with ExitStack() as stack:
        # the first layer runs whenever the decoder does, also where one call of the decoder is run in two parts
        first = adapter.decoder_layers()[0]
        stack.callback(first.register_forward_hook(decoder, with_kwargs=True).remove)
        output: Any = adapter.owner.get_output_embeddings()
        stack.callback(output.register_forward_pre_hook(head).remove)
        if adapter.image_inputs:
            stack.callback(adapter.vision_tower.register_forward_hook(tower, with_kwargs=True).remove)
        yield counts
