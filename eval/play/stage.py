"""Decoders that answer one after the other, told as they go; nothing here knows the page."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from queue import Queue
from typing import Any

import torch
from PIL.Image import Image
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from ... import decoders
from ...decoders import Strategy
from ...models import Loaded
from ...models.errors import SightlineError
from ..answering import Words
from ..errors import UsageError
from ..explain.command import TracingAnswerer
from ..explain.explanation import Explanation, explanation
from ..explain.words import whole
from ..plan import renderer, text_renderer
from ..records import sample_seed
from ..settings import GenerationSettings

LONGEST = 1024
"""Tokens of an answer, at most."""


@dataclass(frozen=True)
class Asked:
    """What decoders are asked.

    Attributes:
        question: what the user typed.
        image: or None for a text.
        passage: a text that the answer shall be true to; put before the question.
        mode: `greedy` or `sample`.
        temperature: where tokens are drawn.
        max_new_tokens: of each answer.
        seed: of the draws.
    """

    question: str
    image: Image | None = None
    passage: str = ""
    mode: str = "greedy"
    temperature: float = 1.0
    max_new_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise UsageError("There is no question.", "Type one, such as: Please describe this image in detail.")
        if not 1 <= self.max_new_tokens <= LONGEST:
            raise UsageError(f"An answer has 1 to {LONGEST} tokens, not {self.max_new_tokens}.")


@dataclass(frozen=True)
class Said:
    """One decoder's answer, so far.

    Attributes:
        key, title: of the decoder.
        text: so far.
        state: `waiting`, `speaking`, `done` or `failed`.
        problem: why it failed.
        told: what it did, once it is done.
    """

    key: str
    title: str
    text: str = ""
    state: str = "waiting"
    problem: str = ""
    told: Explanation | None = field(default=None, compare=False)


def chosen(keys: Sequence[str], parameters: str) -> list[Strategy]:
    """The decoders of these keys, with the parameters that lines such as `vcd.alpha=2` give them.

    Raises:
        UsageError: there are none, or a line is no such thing.
        SightlineError: a decoder has no such parameter, or not that value.
    """
    if not keys:
        raise UsageError("No decoder is chosen.", "Choose greedy and another one.")
    given: dict[str, dict[str, Any]] = {}
    for line in parameters.replace(",", "\n").split():
        name, mark, value = line.partition("=")
        key, dot, parameter = name.partition(".")
        if not (mark and dot and parameter):
            raise UsageError(f"{line!r} is no parameter.", "Write vcd.alpha=2, one in each line.")
        if key not in keys:
            raise UsageError(f"{line!r} is for a decoder that is not chosen.", f"Chosen are {', '.join(keys)}.")
        given.setdefault(key, {})[parameter] = _value(value)
    return [decoders.build(key, given.get(key)) for key in keys]


def _value(text: str) -> Any:
    """A number, a truth value or a word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def fitting(loaded: Loaded) -> list[str]:
    """The decoders that can serve a model: those about images one that reads images, those about passages another."""
    images = bool(loaded.adapter.image_inputs)
    found = {name: decoders.get(name) for name in decoders.names()}
    able = [name for name, cls in found.items() if not (cls.needs_context if images else cls.needs_image)]
    return sorted(able, key=lambda name: (name != "greedy", found[name].kind != "strategy"))


def perform(loaded: Loaded, strategies: Sequence[Strategy], asked: Asked) -> Iterator[list[Said]]:
    """Every answer so far, whenever a token is added; decoders speak one after the other, for they share the model.

    What goes wrong with a decoder ends its answer and no other's. Closing the iterator stops the model.
    """
    said = [Said(strategy.key, strategy.title) for strategy in strategies]
    yield list(said)
    for place, strategy in enumerate(strategies):
        said[place] = replace(said[place], state="speaking")
        with closing(_speak(loaded, strategy, asked, said[place])) as growing:
            for answer in growing:
                said[place] = answer
                yield list(said)


def _speak(loaded: Loaded, strategy: Strategy, asked: Asked, first: Said) -> Generator[Said, None, None]:
    heard: Queue[Any] = Queue()
    stop = threading.Event()

    def work() -> None:
        try:
            heard.put(_told(loaded, strategy, asked, heard, stop))
        except Exception as error:  # told in the page, whatever it is
            heard.put(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    tokenizer = getattr(loaded.processor, "tokenizer", loaded.processor)
    ids: list[int] = []
    try:
        yield first
        while isinstance(found := heard.get(), list):
            ids += found
            yield replace(first, text=whole(tokenizer, ids).rstrip("\ufffd"))
        yield _ended(first, found)
    finally:
        stop.set()
        worker.join()


def _ended(first: Said, found: Explanation | Exception) -> Said:
    if isinstance(found, Explanation):
        return replace(first, text=found.answer, state="done", told=found)
    if isinstance(found, SightlineError):
        return replace(first, state="failed", problem=str(found))
    return replace(first, state="failed", problem=f"{type(found).__name__}: {found}")


class _Listener(BaseStreamer):
    """Puts new tokens into a queue; the prompt, which comes first, is left out."""

    def __init__(self, heard: Queue[Any]):
        self._heard = heard
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Take in ids."""
        if self._prompt:
            self._prompt = False
        else:
            self._heard.put(value.flatten().tolist())

    def end(self) -> None:
        """Nothing: the explanation that follows ends the answer."""


class _Stop(StoppingCriteria):
    """Stops when nobody listens any more."""

    def __init__(self, event: threading.Event):
        self._event = event

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        """Whether each row is done."""
        return torch.full((len(input_ids),), self._event.is_set(), device=input_ids.device)


def _told(loaded: Loaded, strategy: Strategy, asked: Asked, heard: Queue[Any], stop: threading.Event) -> Explanation:
    """The explanation of an answer, whose tokens are put into the queue as they come."""
    image = asked.image if loaded.adapter.image_inputs else None
    if loaded.adapter.image_inputs and image is None:
        raise UsageError("This model asks about an image.", "Give one, or choose a model that reads texts.")
    passage = asked.passage.strip()
    question = f"{passage}\n{asked.question}" if passage else asked.question
    prompt = (text_renderer if image is None else renderer)(loaded.processor, "")(question)
    seed = sample_seed(asked.seed, "", prompt)
    settings = GenerationSettings(asked.mode, asked.temperature, max_new_tokens=asked.max_new_tokens)
    settings.validate()
    answerer = TracingAnswerer(loaded, strategy, settings.settled(strategy.mode, asked.max_new_tokens), Words())
    more: Mapping[str, Any] = {
        "streamer": _Listener(heard),
        "stopping_criteria": StoppingCriteriaList([_Stop(stop)]),
    }
    inputs, ids, tokens, names = answerer.trace(prompt, image, seed, passage or None, **more)
    return explanation(loaded.model, strategy, inputs, ids, tokens, loaded.processor, image, None, loaded.name, names)
