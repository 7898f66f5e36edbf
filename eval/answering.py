"""Asks a model: one batch of prompts, with images or without, in; answers and costs out.

The list of processors is the attachment, which vouches for the contrast; a reader that notes the yes/no margin of the
first position and counts steps; and, where tokens are drawn, temperature, top-k, top-p and the draw itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ..decoders import Approximate, Attachment, Strategy, attach
from ..models import Loaded
from .choosing import choose
from .plan import has_template
from .sampling import samplers
from .settings import GenerationSettings
from .sharing import Sharing

MARGIN_BOUND = 50.0
"""Margins are clamped to this many nats either way: a cut may leave no yes-word or no no-word at all."""


@dataclass(frozen=True)
class Answer:
    """What the model said to one request; the fields are those of a sample line.

    Of given candidates, `output` is the likeliest and `finish` is `choice`.
    """

    output: str
    n_prompt_tokens: int
    n_output_tokens: int
    finish: str
    margin: float | None
    logprobs: list[float | None] | None = None


@dataclass
class Cost:
    """What answers cost, summed over batches.

    Attributes:
        forwards: calls of the text decoder.
        rows: rows summed over these calls, branches included.
        encodes: forwards that only built a branch's embeddings.
        steps: generated positions, counted once per batch; `forwards / steps` is 1 for plain decoding.
        base_rows: rows of plain decoding for the same steps; `rows / base_rows` is 1 for plain decoding.
        generated_tokens: tokens of the answers, end tokens included.
        gated: tokens of the answers that a gate was asked about.
        opened: those at which it was open.
        asked: rows times steps of an approximate decoder, rows that are done included; 0 of others.
        contrasted: those of them that were contrasted.
        images, encoded, prompt_tokens, prefilled: see `sharing.Shared`; 0 where nothing was to be shared.
    """

    forwards: int = 0
    rows: int = 0
    encodes: int = 0
    steps: int = 0
    base_rows: int = 0
    generated_tokens: int = 0
    gated: int = 0
    opened: int = 0
    asked: int = 0
    contrasted: int = 0
    images: int = 0
    encoded: int = 0
    prompt_tokens: int = 0
    prefilled: int = 0

    def add(self, other: Cost | Mapping[str, int]) -> None:
        """Add another cost to this one."""
        values = vars(other) if isinstance(other, Cost) else other
        for name in vars(self):
            setattr(self, name, getattr(self, name) + int(values.get(name, 0)))


@dataclass(frozen=True)
class Words:
    """Ids of single tokens that say yes, and that say no; without either there is no margin."""

    yes: tuple[int, ...] = ()
    no: tuple[int, ...] = ()

    @classmethod
    def of(cls, loaded: Loaded, answers: Mapping[str, Sequence[str]]) -> Words:
        """Those of a task's answer words that the tokenizer holds as one token; a token never counts for both."""
        if not answers:
            return cls()
        yes, no = (set(loaded.adapter.token_ids(answers[label], loaded.processor)) for label in ("yes", "no"))
        return cls(tuple(sorted(yes - no)), tuple(sorted(no - yes)))

    @property
    def usable(self) -> bool:
        """Whether a margin can be read."""
        return bool(self.yes and self.no)


class Reader(LogitsProcessor):
    """Passes scores on as they are; notes the margin at the first position, and counts steps and rows."""

    def __init__(self, words: Words, beams: int = 1, attachment: Attachment | None = None):
        self.margins: Sequence[float | None] | None = None
        self.steps = 0
        self.rows = 0
        self._words = words
        self._beams = beams
        self._attachment = attachment

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores, untouched."""
        if self.steps == 0:
            first = self._uncut(scores)[:: self._beams]
            self.margins = margins(first, self._words) if self._words.usable else [None] * first.shape[0]
        self.steps += 1
        self.rows += scores.shape[0]
        return scores

    def _uncut(self, scores: Tensor) -> Tensor:
        """The scores before the decoder's cut, which would tie the margins of all samples where a side is cut."""
        uncut = self._attachment.uncut if self._attachment is not None else None
        return scores if uncut is None else uncut


def margins(scores: Tensor, words: Words) -> list[float | None]:
    """log p(yes words) - log p(no words) of each row, six decimals, within +-`MARGIN_BOUND`.

    Where only one side has a finite score the margin is the bound; where neither has, it is 0; where scores are not
    numbers it is None.

    Args:
        scores: `[batch, vocab]`, up to a constant per row.
    """
    yes, no = (scores[:, list(ids)].double().logsumexp(dim=-1).tolist() for ids in (words.yes, words.no))
    return [_margin(*pair) for pair in zip(yes, no, strict=True)]


def _margin(yes: float, no: float) -> float | None:
    if math.isnan(yes) or math.isnan(no):
        return None
    if math.isinf(yes) and yes == no:
        return 0.0
    return round(min(MARGIN_BOUND, max(-MARGIN_BOUND, yes - no)), 6) + 0.0


class Answerer:
    """A model with a strategy and generation settings, ready to be asked.

    Args:
        loaded: model and processor.
        strategy: what decodes; None = `generate()` as it stands, nothing attached.
        generation: settled settings.
        words: tokens of the margin.
        share: what questions about one image share: `auto`, `image` or `none`.
        branching: as `attach` takes it.
    """

    def __init__(
        self,
        loaded: Loaded,
        strategy: Strategy | None,
        generation: GenerationSettings,
        words: Words,
        share: str = "none",
        branching: Any = "auto",
    ):
        self.sharing = Sharing(loaded.adapter, share, loaded.processor)
        self.loaded = loaded
        self.strategy = strategy
        self.generation = generation
        self.words = words
        self.branching = branching
        self.config = generation_config(loaded.adapter.owner, generation)
        self._tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
        self._special = not has_template(loaded.processor)  # a template writes its own start tokens

    def alone(self) -> Answerer:
        """The same, with nothing shared between questions."""
        return Answerer(self.loaded, self.strategy, self.generation, self.words, branching=self.branching)

    @torch.no_grad()
    def ask(
        self,
        prompts: Sequence[str],
        images: Sequence[Image | None],
        seeds: Sequence[int | None],
        candidates: Sequence[Sequence[str]] = (),
        contexts: Sequence[str | None] = (),
    ) -> tuple[list[Answer], Cost]:
        """Answer a batch.

        Args:
            prompts: with the chat template applied.
            images: one for each prompt; None for each where the task has texts only.
            seeds: one for each prompt where tokens are drawn.
            candidates: continuations of each prompt, scored instead of answers being generated.
            contexts: the part of each prompt that its answer shall be true to; empty where there is none, None where
                the task knows of no such part.

        Raises:
            SightlineError: the strategy cannot serve this model, these inputs or this mode.
        """
        with self.sharing.batch() as shared:
            answers, cost = self._ask(prompts, images, seeds, candidates, contexts)
        cost.add(vars(shared))
        return answers, cost

    def _ask(
        self,
        prompts: Sequence[str],
        images: Sequence[Image | None],
        seeds: Sequence[int | None],
        candidates: Sequence[Sequence[str]],
        contexts: Sequence[str | None],
    ) -> tuple[list[Answer], Cost]:
        inputs = self._inputs(prompts, images)
        if any(candidates):
            return self._choose(inputs, prompts, candidates, contexts)
        if self.strategy is None:
            ids, reader = self._generate(inputs, seeds, None)
            return self._answers(inputs, ids, reader), self._plain_cost(reader)
        marked = {"processor": self.loaded.processor, "spans": spans(contexts), "branching": self.branching}
        with attach(self.loaded.model, self.strategy, inputs, **marked) as attachment:
            ids, reader = self._generate(inputs, seeds, attachment)
        answers, cost = self._answers(inputs, ids, reader), self._plain_cost(reader)
        if not attachment.plan.is_neutral:
            stats = attachment.stats
            cost.forwards, cost.rows, cost.encodes = stats.passes, stats.rows, stats.encodes
            if isinstance(self.strategy, Approximate):
                cost.asked, cost.contrasted = stats.steps, stats.contrasted
        cost.generated_tokens = sum(answer.n_output_tokens for answer in answers)
        if attachment.gates and self.generation.mode != "beam":
            gates = torch.stack(attachment.gates, dim=1).cpu()
            lengths = torch.tensor([answer.n_output_tokens for answer in answers])
            asked = torch.arange(gates.shape[1]) < lengths[:, None]
            cost.gated, cost.opened = int(asked.sum()), int((gates & asked).sum())
        return answers, cost

    def lengths(self, prompts: Sequence[str]) -> list[int]:
        """Tokens of each prompt, images not unfolded: enough to put like with like."""
        return [len(ids) for ids in self._tokenizer(list(prompts), add_special_tokens=False)["input_ids"]]

    def _inputs(self, prompts: Sequence[str], images: Sequence[Image | None]) -> dict[str, Any]:
        shared = {"padding": True, "return_tensors": "pt"}
        if any(image is None for image in images):
            made = self._tokenizer(list(prompts), add_special_tokens=self._special, **shared)
            made = {name: made[name] for name in ("input_ids", "attention_mask")}
        else:
            made = self.loaded.processor(images=list(images), text=list(prompts), **shared)
        model = self.loaded.model
        moved = {name: value.to(model.device) for name, value in made.items()}
        return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in moved.items()}

    def _choose(
        self,
        inputs: dict[str, Any],
        prompts: Sequence[str],
        candidates: Sequence[Sequence[str]],
        contexts: Sequence[str | None],
    ) -> tuple[list[Answer], Cost]:
        how = {"special": self._special, "spans": spans(contexts)}
        found = choose(self.loaded, self.strategy or "greedy", inputs, prompts, candidates, **how)
        width = max(map(len, candidates))
        cost = Cost(found.forwards, found.rows, steps=width, base_rows=width * len(prompts))
        cost.generated_tokens = sum(map(sum, found.tokens))
        answers = []
        for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
            best, own = found.best(row), found.tokens[row]
            answers.append(Answer(candidates[row][best], length, own[best], "choice", None, found.logprobs[row]))
        return answers, cost

    def _generate(
        self, inputs: dict[str, Any], seeds: Sequence[int | None], attachment: Attachment | None, **more: Any
    ) -> tuple[Tensor, Reader]:
        drawn = [seed for seed in seeds if seed is not None] if self.generation.mode == "sample" else []
        beams = self.generation.num_beams if self.generation.mode == "beam" else 1
        reader = Reader(self.words, beams, attachment)
        first = [] if attachment is None else [attachment]
        last = samplers(self.generation, drawn) if self.generation.mode == "sample" else []
        processors = LogitsProcessorList([*first, reader, *last])
        run: Any = self.loaded.model.generate
        ids = run(**inputs, generation_config=self.config, logits_processor=processors, **more)
        return ids[:, inputs["input_ids"].shape[1] :], reader

    def _plain_cost(self, reader: Reader) -> Cost:
        return Cost(forwards=reader.steps, rows=reader.rows, steps=reader.steps, base_rows=reader.rows)

    def _answers(self, inputs: dict[str, Any], ids: Tensor, reader: Reader) -> list[Answer]:
        prompts = inputs["attention_mask"].sum(dim=1).tolist()
        found = reader.margins or [None] * len(prompts)
        rows = [self._answer(row, prompt, margin) for row, prompt, margin in zip(ids, prompts, found, strict=True)]
        return rows

    def _answer(self, ids: Tensor, n_prompt_tokens: int, margin: float | None) -> Answer:
        tokens, finish = finished(ids.tolist(), self.config.eos_token_id, self.generation.max_new_tokens)
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Answer(text, int(n_prompt_tokens), len(tokens), finish, margin)


def spans(contexts: Sequence[str | None]) -> list[str | None] | None:
    """Contexts as `attach` takes them; None where the task knows none, so that who needs them refuses."""
    known = any(context is not None for context in contexts)
    return [context or None for context in contexts] if known else None


def finished(ids: list[int], end: int | list[int] | None, limit: int | None) -> tuple[list[int], str]:
    """The tokens up to the first end token, which is included, and why they end: `eos`, `length` or `stop`."""
    ends = {end} if isinstance(end, int) else set(end or ())
    for place, token in enumerate(ids):
        if token in ends:
            return ids[: place + 1], "eos"
    return ids, "length" if limit is not None and len(ids) >= limit else "stop"


def generation_config(model: Any, generation: GenerationSettings) -> GenerationConfig:
    """Every choice spelt out, so that defaults that come with a checkpoint (sampling, penalties) do not slip in.

    Drawing is left to `sampling.GumbelMax`, so `do_sample` is always off.
    """
    own = model.generation_config
    end = own.eos_token_id
    first_end = end[0] if isinstance(end, list) and end else end
    pad = own.pad_token_id if own.pad_token_id is not None else first_end
    beams = {"num_beams": generation.num_beams, "length_penalty": generation.length_penalty}
    return GenerationConfig(
        do_sample=False,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        num_return_sequences=1,
        max_new_tokens=generation.max_new_tokens,
        bos_token_id=own.bos_token_id,
        eos_token_id=end,
        pad_token_id=pad,
        **(beams if generation.mode == "beam" else {"num_beams": 1}),
    )
