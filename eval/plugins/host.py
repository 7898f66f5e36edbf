"""A model with a decoder that answers the requests of a harness: continuations generated, or given ones scored.

Requests are batched by length, and halved when memory runs out. What is sampled is drawn from a generator of its own
for each request (`eval.sampling`), so answers depend neither on the batch nor on the order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from PIL.Image import Image
from torch import Tensor
from tqdm import tqdm

from ...decoders import generate
from ...decoders.scoring import added, continuation_scores
from ...models.errors import MissingChatTemplate, MissingContext, SightlineError
from ..answering import finished, generation_config
from ..preparing import load_model
from ..records import sample_seed
from ..sampling import samplers
from ..worker import out_of_memory
from .arguments import Arguments
from .wanted import StopsAt, Wanted, before

T = TypeVar("T")
R = TypeVar("R")
_DEFAULT_LENGTH = 2048
_LONGEST = 10**6


@dataclass(frozen=True)
class Prompt:
    """What is continued.

    Attributes:
        text: with the chat template applied, or as the harness has it.
        ids: the same in tokens; of a prompt with images the processor makes them.
        images: in the order of their placeholders.
        passage: the part of the text that is context, or None.
    """

    text: str
    ids: tuple[int, ...] = ()
    images: tuple[Image, ...] = ()
    passage: str | None = None


class Host:
    """A loaded model and its decoder.

    Args:
        arguments: as `arguments.read` reads them.
    """

    def __init__(self, arguments: Arguments):
        self.arguments = arguments
        self.loaded = load_model(arguments.model)
        self.tokenizer = getattr(self.loaded.processor, "tokenizer", self.loaded.processor)
        self._size = arguments.batch_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.loaded.model.device

    @cached_property
    def max_length(self) -> int:
        """Longest prompt with its answer, in tokens."""
        if self.arguments.max_length is not None:
            return self.arguments.max_length
        config = self.loaded.adapter.decoder.config
        own = getattr(config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        return int(own) if own and own < _LONGEST else _DEFAULT_LENGTH

    @property
    def end(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix(self) -> int:
        """What stands before a text that has nothing before it."""
        start = self.tokenizer.bos_token_id
        return self.end if start is None else int(start)

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """Tokens of a text; None adds what the tokenizer adds, unless the text begins with its start token."""
        start = self.tokenizer.bos_token
        adds = special if special is not None else not (start and text.startswith(start))
        return list(self.tokenizer.encode(text, add_special_tokens=adds))

    def chat(self, turns: Sequence[Mapping[str, Any]], *, answer: bool = True) -> str:
        """A conversation as the model's chat template has it.

        Args:
            turns: `role` and `content`; of image-text models content may come in parts.
            answer: the model is to answer; False goes on with the last turn.

        Raises:
            MissingChatTemplate: the model has none.
        """
        processor = self.loaded.processor
        if not getattr(processor, "chat_template", None):
            raise MissingChatTemplate(
                f"{self.arguments.model.title} has no chat template.",
                "Ask without one, or put the family's chat_template.jinja beside the checkpoint.",
            )
        if self.tokenizer is not processor:  # templates of image-text models take parts alone
            turns = [{**turn, "content": _parts(turn["content"])} for turn in turns]
        how = {"add_generation_prompt": answer, "continue_final_message": not answer}
        return processor.apply_chat_template(list(turns), tokenize=False, **how)

    def passage(self, document: Any) -> str | None:
        """The part of a document's prompt that is context; None where the harness was not told of any.

        Raises:
            MissingContext: the document has no such field.
        """
        name = self.arguments.context_field
        if name is None:
            return None
        value = document.get(name) if isinstance(document, Mapping) else None
        if not isinstance(value, str):
            has = ", ".join(map(str, document)) if isinstance(document, Mapping) else "none"
            raise MissingContext(
                f"context_field={name}: the documents of this task have no text of that name.",
                f"Their fields: {has}.",
            )
        return value

    def answers(self, prompts: Sequence[Prompt], asked: Sequence[Wanted]) -> list[str]:
        """An answer to each prompt."""
        drawn = Counter[tuple[str, str]]()
        jobs = []
        for prompt, want in zip(prompts, asked, strict=True):
            what = (_digest(prompt.images), prompt.text)
            seed = sample_seed(self.arguments.seed, f"{what[0]}/{drawn[what]}", prompt.text)
            drawn[what] += 1  # a prompt that is asked again is answered anew
            jobs.append((prompt, want, seed))
        return self._batched(jobs, lambda job: (repr(job[1]), bool(job[0].images)), _size, self._answer)

    def scores(self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[int]]) -> list[tuple[float, bool]]:
        """For each prompt the log-probability of its continuation, and whether the decoder would have chosen it.

        Raises:
            SightlineError: the strategy cannot serve this model or these prompts.
        """
        jobs = list(zip(prompts, map(list, continuations), strict=True))
        return self._batched(jobs, lambda job: bool(job[0].images), _size, self._score)

    def _answer(self, jobs: Sequence[tuple[Prompt, Wanted, int]]) -> list[str]:
        want = jobs[0][1]
        inputs, spans = self._inputs([prompt for prompt, _, _ in jobs])
        config = generation_config(self.loaded.adapter.owner, want.settings)
        config.update(**want.more, do_sample=False)
        start = inputs["input_ids"].shape[1]
        stops = [StopsAt(want.until, self.tokenizer, start)] if want.until else []
        draws = samplers(want.settings, [seed for _, _, seed in jobs]) if want.settings.mode == "sample" else []
        marked = {"processor": self.loaded.processor, "spans": spans, "branching": self.arguments.branching}
        ids = generate(
            self.loaded.model,
            self.arguments.strategy,
            inputs,
            **marked,
            logits_processor=draws,
            generation_config=config,
            stopping_criteria=stops,
        )
        return [self._text(row[start:].tolist(), want, config) for row in ids]

    def _text(self, ids: list[int], want: Wanted, config: Any) -> str:
        tokens, _ = finished(ids, config.eos_token_id, want.settings.max_new_tokens)
        text = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return before(text, want.until)

    def _score(self, jobs: Sequence[tuple[Prompt, list[int]]]) -> list[tuple[float, bool]]:
        inputs, spans = self._inputs([prompt for prompt, _ in jobs])
        marked = {"processor": self.loaded.processor, "spans": spans, "branching": self.arguments.branching}
        given = [ids for _, ids in jobs]
        found, ids, lengths = continuation_scores(self.loaded.model, self.arguments.strategy, inputs, given, **marked)
        sums = added(found.log_softmax(-1), ids, lengths)
        beyond = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
        chosen = ((found.argmax(-1) == ids) | beyond).all(dim=1)
        return list(zip(sums.tolist(), chosen.tolist(), strict=True))

    def _inputs(self, prompts: Sequence[Prompt]) -> tuple[dict[str, Any], list[str | None] | None]:
        """A batch as the model takes it, and its passages, if any row has one."""
        passages = [prompt.passage for prompt in prompts]
        spans = passages if any(each is not None for each in passages) else None
        if not prompts[0].images:
            like = {"input_ids": torch.empty(0, dtype=torch.long, device=self.device)}
            rows = [prompt.ids or tuple(self.encode(prompt.text)) for prompt in prompts]
            return self.loaded.adapter.batched(rows, like), spans
        images: Any = [list(prompt.images) for prompt in prompts]
        texts = [prompt.text for prompt in prompts]
        made = self.loaded.processor(images=images, text=texts, padding=True, return_tensors="pt")
        return {name: self._moved(value) for name, value in made.items()}, spans

    def _moved(self, value: Tensor) -> Tensor:
        moved = value.to(self.device)
        return moved.to(self.loaded.model.dtype) if moved.is_floating_point() else moved

    def _batched(
        self, jobs: list[T], group: Callable[[T], Any], size: Callable[[T], int], ask: Callable[[Sequence[T]], list[R]]
    ) -> list[R]:
        """Asks in batches of one group, longest first; results in the order of `jobs`."""
        order = sorted(range(len(jobs)), key=lambda place: (group(jobs[place]), -size(jobs[place])))
        results: dict[int, R] = {}
        bar = tqdm(total=len(jobs), desc=self.arguments.strategy.key, unit="request", disable=None)
        while order:
            first = group(jobs[order[0]])
            batch = [place for place in order[: self._size] if group(jobs[place]) == first]
            try:
                found = ask([jobs[place] for place in batch])
            except SightlineError:
                raise
            except Exception as error:
                if len(batch) == 1 or not out_of_memory(error):
                    raise
                self._size = len(batch) // 2
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            results.update(zip(batch, found, strict=True))
            order = order[len(batch) :]
            bar.update(len(batch))
        bar.close()
        return [results[place] for place in range(len(jobs))]


def _digest(images: Sequence[Image]) -> str:
    """sha256 of the pixels of a prompt's images."""
    found = hashlib.sha256()
    for image in images:
        found.update(f"{image.mode}{image.size}".encode() + image.tobytes())
    return found.hexdigest()


def _size(job: Any) -> int:
    prompt = job[0]
    return len(prompt.ids) or len(prompt.text)


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
