"""How often a token changes when the same prompts are run in another way: `sightline bench MODEL --agreement`.

Rows of one forward against passes one after another, and batches against single prompts, decoder by decoder and beside
plain `generate()`, whose own kernels answer to the shape of a batch too. Prompts are captions of scenes and questions
after passages of the facts world, of different lengths, so that batches are padded.

Once a token differs, all that follows is another text. So tokens are counted up to the first change of each prompt, and
the rate is changes per 1,000 of these: the chance that the next token changes where all before it were the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

from ...decoders import Strategy, generate
from ...decoders.branching import Branching
from ...models import Loaded
from ..images import locate, open_image
from ..listing import table
from ..scenes.language import CAPTION_PROMPTS
from ..tasks import registry as tasks
from .contenders import GREEDY
from .subject import templated_prompt

HEADER = ("dtype", "decoder", "compared", "tokens", "changed", "per 1,000", "95 %", "texts changed", "widest gap")
SEQUENTIAL, BATCH = "rows / passes", "single / batch"
DTYPES = ("float32", "bfloat16")
SIZE = 8
"""Prompts of a batch."""
LEVEL = 0.95


@dataclass(frozen=True)
class Prompt:
    """One prompt: its text as the model's processor takes it, its image, and the passage it is about."""

    text: str
    image: Any = None
    passage: str | None = None


@dataclass(frozen=True)
class Told:
    """What a prompt was answered with: tokens up to the end token, and what each was chosen from, `[tokens, vocab]`."""

    tokens: list[int]
    scores: torch.Tensor


@dataclass(frozen=True)
class Agreement:
    """One way to run prompts held against another.

    Attributes:
        dtype, decoder, compared: what was run.
        tokens: compared, up to and with the first change of each prompt.
        changed: prompts whose text changed, each at one token.
        prompts: all of them.
        widest: largest gap of scores between the two tokens of a change, in the first way; None without a change.
    """

    dtype: str
    decoder: str
    compared: str
    tokens: int
    changed: int
    prompts: int
    widest: float | None

    @property
    def rate(self) -> float:
        """Changes per 1,000 tokens."""
        return 1000 * self.changed / self.tokens

    def bounds(self) -> tuple[float, float]:
        """Exact 95 % interval of the rate, tokens taken as independent."""
        found = binomtest(self.changed, self.tokens).proportion_ci(LEVEL, "exact")
        return 1000 * float(found.low), 1000 * float(found.high)


def prompts(loaded: Loaded, count: int) -> list[Prompt]:
    """So many prompts of different lengths, always the same ones.

    Raises:
        DataError: the scenes or the facts cannot be written or read.
    """
    processor = loaded.processor
    if loaded.adapter.image_inputs:
        held = tasks.load(tasks.get("chair_scenes"), {"images": count})
        images = [open_image(locate(held.images or Path(), document.image)) for document in held.documents]
        wordings = [templated_prompt(processor, text, True) for text in sorted(CAPTION_PROMPTS, key=len)]
        return [Prompt(wordings[place % len(wordings)], image) for place, image in enumerate(images)]
    held = tasks.load(tasks.get("nq_swap_facts"), {"contexts": ["substituted", "original"]})
    step = max(1, len(held.documents) // count)
    chosen = held.documents[::step][:count]
    return [Prompt(templated_prompt(processor, each.text, False), None, each.context) for each in chosen]


def agreements(
    loaded: Loaded, strategies: Sequence[Strategy], asked: Sequence[Prompt], new_tokens: int, size: int = SIZE
) -> Iterator[Agreement]:
    """Every decoder held against itself, plain `generate()` first.

    Args:
        loaded: model and processor.
        strategies: the decoders.
        asked: what to ask.
        new_tokens: most tokens of an answer.
        size: of batches.
    """
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    settings = {"max_new_tokens": new_tokens, "do_sample": False, "num_beams": 1}
    settings |= {"return_dict_in_generate": True, "output_logits": True}
    model: Any = loaded.model

    def plain(inputs: Mapping[str, Any], spans: Any) -> Any:
        return model.generate(**inputs, **settings)

    def under(strategy: Strategy, branching: Branching) -> Callable[[Mapping[str, Any], Any], Any]:
        return lambda inputs, spans: generate(
            model, strategy, inputs, processor=loaded.processor, spans=spans, branching=branching, **settings
        )

    yield _held(dtype, GREEDY, BATCH, _answers(loaded, asked, 1, plain), _answers(loaded, asked, size, plain))
    for strategy in strategies:
        single = _answers(loaded, asked, 1, under(strategy, "rows"))
        if strategy.max_branches:
            apart = _answers(loaded, asked, 1, under(strategy, "sequential"))
            yield _held(dtype, strategy.key, SEQUENTIAL, single, apart)
        batched = _answers(loaded, asked, size, under(strategy, "rows"))
        yield _held(dtype, strategy.key, BATCH, single, batched)


def _answers(
    loaded: Loaded, asked: Sequence[Prompt], size: int, run: Callable[[Mapping[str, Any], Any], Any]
) -> list[Told]:
    found = []
    for start in range(0, len(asked), size):
        batch = asked[start : start + size]
        inputs, spans = _inputs(loaded, batch)
        output = run(inputs, spans)
        new = output.sequences[:, -len(output.logits) :].tolist()
        scores = torch.stack(output.logits, dim=1).double().cpu()
        found += [_told(tokens, each, loaded) for tokens, each in zip(new, scores, strict=True)]
    return found


def _told(tokens: list[int], scores: torch.Tensor, loaded: Loaded) -> Told:
    """An answer without what stands behind its end token."""
    end = loaded.adapter.owner.generation_config.eos_token_id
    ends = set(end if isinstance(end, list) else [end])
    length = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
    return Told(tokens[:length], scores[:length])


def _inputs(loaded: Loaded, batch: Sequence[Prompt]) -> tuple[dict[str, Any], Any]:
    """A batch as `generate()` takes it, padded on the left, and the passages of its rows."""
    texts, images = [prompt.text for prompt in batch], [prompt.image for prompt in batch]
    if images[0] is None:
        made = loaded.processor(texts, padding=True, return_tensors="pt")
    else:
        made = loaded.processor(images=images, text=texts, padding=True, return_tensors="pt")
    device, dtype = loaded.model.device, loaded.model.dtype
    inputs = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in made.items()}
    return inputs, None if batch[0].passage is None else [prompt.passage for prompt in batch]


def _held(dtype: str, decoder: str, compared: str, first: Sequence[Told], second: Sequence[Told]) -> Agreement:
    tokens, gaps = 0, []
    for one, other in zip(first, second, strict=True):
        pairs = enumerate(zip(one.tokens, other.tokens, strict=False))
        place = next((at for at, (ours, theirs) in pairs if ours != theirs), None)
        tokens += len(one.tokens) if place is None else place + 1
        if place is not None:
            scores = one.scores[place]
            gaps.append(float(scores[one.tokens[place]] - scores[other.tokens[place]]))
    return Agreement(dtype, decoder, compared, tokens, len(gaps), len(first), max(gaps, default=None))


def shown(found: Sequence[Agreement]) -> str:
    """The table."""
    rows = []
    for each in found:
        low, high = each.bounds()
        rows.append((
            each.dtype, each.decoder, each.compared, str(each.tokens), str(each.changed), f"{each.rate:.2f}",
            f"{low:.2f} to {high:.2f}", f"{each.changed} of {each.prompts}",
            "-" if each.widest is None else str(_gap(each.widest)),
        ))  # fmt: skip
    return table(HEADER, rows)


def as_json(found: Sequence[Agreement]) -> list[dict[str, Any]]:
    """What a file holds."""
    return [
        {**dataclasses.asdict(each), "widest": _gap(each.widest), "per_1000": each.rate, "interval": each.bounds()}
        for each in found
    ]


def _gap(value: float | None) -> float | str | None:
    """A gap; `cut` where the second way chose a token that the first one's cut had left out."""
    return "cut" if value == float("inf") else None if value is None else float(f"{value:.3g}")
