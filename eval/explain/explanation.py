"""`explain`: one prompt decoded with a trace, and the trace told in words and figures.

inputs = processor(images=image, text=prompt, return_tensors="pt")
told = sightline.explain(model, "vcd", inputs, processor=processor, image=image, max_new_tokens=48)
print(told.table())
told.save("explain.html")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from ... import decoders
from ...decoders import Strategy
from ...decoders.branching import Branching
from ...decoders.generate import as_strategy
from ...decoders.tracing import Chances, TokenTrace
from ...models.auto import adapter_for
from ..errors import UsageError
from .page import as_page
from .picture import draw
from .places import Grid, image_grid
from .tables import as_json, as_text
from .words import instead, pieces, whole

FORMATS = (".html", ".svg", ".png", ".json", ".txt")


@dataclass(frozen=True, eq=False)
class Step:
    """One generated token.

    Attributes:
        text: what it adds to the answer; special tokens by their names.
        trace: what the decoder did (`decoders.tracing.TokenTrace`).
        ousted: the text of the base's likeliest token where another one was chosen, else None.
    """

    text: str
    trace: TokenTrace
    ousted: str | None = None

    @property
    def chances(self) -> Chances:
        """Probabilities of the token."""
        return self.trace.chances


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a decoder did with one prompt.

    Attributes:
        decoder: its key.
        title: its name for readers.
        params: its parameters.
        model: the model's name.
        prompt: as text, special tokens left out.
        answer: what the decoder said.
        plain: what greedy decoding says; None where it was not asked.
        steps: token by token, the end token included.
        branches: names of the branches, in the order of `Chances.branches`.
        grid: where the image tokens lie; None for texts and for models whose image tokens have no place.
        image: the picture asked about, or None.
    """

    decoder: str
    title: str
    params: Mapping[str, Any]
    model: str
    prompt: str
    answer: str
    plain: str | None
    steps: tuple[Step, ...]
    branches: tuple[str, ...] = ()
    grid: Grid | None = None
    image: Image.Image | None = field(default=None, repr=False)

    @property
    def changed(self) -> list[Step]:
        """The steps at which another token was chosen than the base's likeliest."""
        return [step for step in self.steps if step.ousted is not None]

    @cached_property
    def attention(self) -> Tensor | None:
        """Mean attention on the image over all tokens, `[rows, columns]`; None where there is no grid."""
        maps = [self.attention_at(place) for place in range(len(self.steps))]
        known = [each for each in maps if each is not None]
        return torch.stack(known).mean(0) if known else None

    def attention_at(self, place: int) -> Tensor | None:
        """Attention on the image when the token of that place was chosen, `[rows, columns]`."""
        shown = self.steps[place].trace.image_map
        return None if self.grid is None or shown is None else self.grid.spread(shown)

    def table(self) -> str:
        """Every token with its probabilities, for a terminal."""
        return as_text(self)

    def html(self) -> str:
        """One page, self-contained: the answer, why it changed, a table, and attention on the image."""
        return as_page(self)

    def svg(self) -> str:
        """The picture, light or dark as the reader's screen is."""
        return draw(self).svg()

    def png(self, dark: bool = False) -> Image.Image:
        """The picture in pixels; characters that Pillow's font lacks are boxes."""
        return draw(self).png(dark)

    def json(self) -> dict[str, Any]:
        """Everything but the image, as JSON holds it (docs/explain.md)."""
        return as_json(self)

    def save(self, path: Path | str) -> Path:
        """Write it: `.html`, `.svg`, `.png`, `.json` or `.txt` decides the form.

        Raises:
            UsageError: another suffix, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in FORMATS:
            raise UsageError(f"{str(path)!r} has no form that is known.", f"End it in one of {', '.join(FORMATS)}.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix.lower() == ".png":
                self.png().save(path)
            else:
                path.write_text(self._text(path.suffix.lower()), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{str(path)!r} cannot be written: {error.strerror}.", "Name another file.") from error
        return path

    def _text(self, suffix: str) -> str:
        if suffix == ".json":
            return json.dumps(self.json(), ensure_ascii=False, indent=1) + "\n"
        return {".html": self.html, ".svg": self.svg, ".txt": self.table}[suffix]()

    def _repr_html_(self) -> str:
        """The picture in a notebook."""
        return self.svg()


@torch.no_grad()
def explain(
    model: PreTrainedModel,
    decoder: Strategy | str,
    inputs: Mapping[str, Any],
    *,
    processor: Any,
    image: Image.Image | None = None,
    spans: Any = None,
    branching: Branching = "auto",
    compare: bool = True,
    name: str = "",
    **kwargs: Any,
) -> Explanation:
    """Decode one prompt and tell what the decoder did at each token.

    Args:
        model, decoder, inputs, spans, branching: as for `sightline.attach`; the inputs hold one prompt.
        processor: the model's own, or its tokenizer: tokens are shown as text.
        image: the picture that was given to the processor, to draw attention on.
        compare: decode greedily as well, to show what the answer would have been.
        name: of the model, for the page; the last part of its path where left out.
        kwargs: everything else that `model.generate()` takes.

    Raises:
        UsageError: there are several prompts.
        SightlineError: whatever the strategy lacks.
    """
    if len(inputs["input_ids"]) != 1:
        raise UsageError(
            f"explain tells of one prompt, and got {len(inputs['input_ids'])}.", "Call it once for each of them."
        )
    strategy = as_strategy(decoder)
    shared: dict[str, Any] = {"processor": processor, "spans": spans, "branching": branching, **kwargs}
    found = decoders.trace(model, strategy, inputs, **shared)
    plain = None
    if compare and strategy.key != "greedy":
        plain = _answer(decoders.generate(model, "greedy", inputs, **shared), inputs, processor)
    ids = _ids(found.output)[0]
    title = name or Path(str(model.config.name_or_path)).name or type(model).__name__
    return explanation(model, strategy, inputs, ids, found.tokens[0], processor, image, plain, title, found.branches)


def explanation(
    model: PreTrainedModel,
    strategy: Strategy,
    inputs: Mapping[str, Any],
    ids: Tensor,
    tokens: Sequence[TokenTrace],
    processor: Any,
    image: Image.Image | None,
    plain: str | None,
    name: str,
    branches: Sequence[str] = (),
) -> Explanation:
    """The explanation of tokens that are traced already.

    Args:
        ids: prompt and answer, `[length]`.
        branches: their names; numbered where left out.
        others: as for `explain`.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    width = inputs["input_ids"].shape[1]
    new = [token.token for token in tokens]
    ends = set(adapter_for(model).end_tokens)
    said = new[:-1] if new and new[-1] in ends else new
    widest = max((len(token.chances.branches) for token in tokens), default=0)
    shown = next((len(token.image_map) for token in tokens if token.image_map is not None), 0)
    return Explanation(
        decoder=strategy.key,
        title=strategy.title,
        params=strategy.params(),
        model=name,
        prompt=whole(tokenizer, ids[:width].tolist()),
        answer=whole(tokenizer, said),
        plain=plain,
        steps=tuple(
            Step(text, token, None if token.ousted is None else instead(tokenizer, new[:place], token.ousted))
            for place, (text, token) in enumerate(zip(pieces(tokenizer, new), tokens, strict=True))
        ),
        branches=tuple(branches) if len(branches) == widest else _numbered(widest),
        grid=image_grid(model, inputs, shown, image, processor),
        image=image,
    )


def _numbered(count: int) -> tuple[str, ...]:
    return ("branch",) if count == 1 else tuple(f"branch {place + 1}" for place in range(count))


def _ids(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.sequences


def _answer(output: Any, inputs: Mapping[str, Any], processor: Any) -> str:
    new = _ids(output)[0, inputs["input_ids"].shape[1] :].tolist()
    return whole(getattr(processor, "tokenizer", processor), new)
