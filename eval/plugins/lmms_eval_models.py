"""lmms-eval runs a model with any decoder: `--model sightline`.

    lmms-eval --model sightline --model_args pretrained=llava-hf/llava-1.5-7b-hf,decoder=vcd --tasks pope

`SightlineChat` gets the messages of a conversation, and is what lmms-eval takes; `SightlineSimple` (`--force_simple`)
gets text and images apart, and scores given answers too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from PIL.Image import Image

from ...models.errors import InvalidPrompt, UnsupportedMode
from ..choosing import continuation
from .arguments import read
from .host import Host, Prompt
from .wanted import wanted

Document = Mapping[str, Any]


class SightlineSimple(lmms):
    """A model with a decoder, asked with a text and its images.

    Args:
        arguments: `--model_args`, see `arguments.read`, with the harness's `batch_size` and `device`.

    Raises:
        SightlineError: the model or the decoder is not to be had as asked.
    """

    is_simple = True

    def __init__(self, **arguments: Any):
        super().__init__()
        self.host = Host(read(arguments))

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.host.device

    @property
    def tokenizer(self) -> Any:
        """The model's."""
        return self.host.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return self.host.end

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each (text, generation arguments, images of a document, document, task, split)."""
        arguments = self.host.arguments
        prompts, asked = [], []
        for request in requests:
            text, how, visuals, *where = request.args
            document = self._document(*where)
            prompts.append(self._prompt(text, visuals(document), document))
            asked.append(wanted(how, arguments.strategy.mode, arguments.max_gen_toks))
        return self.host.answers(prompts, asked)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each (text, continuation, images of a document, document, task, split) its log-probability.

        And whether the decoder would have chosen it. A continuation without a document (for mutual information) is
        scored behind the bare text.
        """
        prompts, continuations = [], []
        for request in requests:
            text, target, *rest = request.args
            if rest:
                document = self._document(*rest[1:])
                prompt = self._prompt(text, rest[0](document), document)
                target = target if isinstance(target, str) else str(target(document))
            else:
                prompt = Prompt(text, tuple(self.host.encode(text)) or (self.host.prefix,))
            prompts.append(prompt)
            special = not (prompt.images or rest)
            continuations.append(continuation(self.host.tokenizer, prompt.text, str(target), special))
        return self.host.scores(prompts, continuations)

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Refused."""
        raise UnsupportedMode(
            "Sightline answers one round at a time.", "Leave out tasks of type generate_until_multi_round."
        )

    def _document(self, number: Any, task: str, split: str) -> Document:
        return self.task_dict[task][split][number]

    def _prompt(self, text: str, visuals: Sequence[Any] | None, document: Document) -> Prompt:
        """One user turn: the images where the text has placeholders for them, before the text where it has none."""
        images = [_image(each) for each in visuals or ()]
        placeholder = self._placeholder()
        pieces = text.split(placeholder) if placeholder else [text]
        if len(pieces) == 1:
            parts = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
        elif len(pieces) == len(images) + 1:
            parts = _between(pieces)
        else:
            raise InvalidPrompt(
                f"A text has {len(pieces) - 1} placeholders {placeholder!r} for {len(images)} images.",
                "Leave them out of the task's text, or give one image for each.",
            )
        return self._asked([{"role": "user", "content": parts}], images, document)

    def _asked(self, turns: Sequence[Mapping[str, Any]], images: Sequence[Image], document: Document) -> Prompt:
        """A conversation as a prompt. The template writes its own start tokens."""
        if self.host.tokenizer is self.host.loaded.processor:  # templates of text models take strings alone
            turns = [{**turn, "content": "".join(part["text"] for part in turn["content"])} for turn in turns]
        text = self.host.chat(turns)
        ids = () if images else tuple(self.host.encode(text, special=False))
        return Prompt(text, ids, tuple(images), self.host.passage(document))

    def _placeholder(self) -> str | None:
        token = self.host.loaded.adapter.image_token_id
        return None if token is None else self.host.tokenizer.decode([token])


class SightlineChat(SightlineSimple):
    """A model with a decoder, asked with the messages of a conversation."""

    is_simple = False

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each (text, messages of a document, generation arguments, document, task, split)."""
        arguments = self.host.arguments
        prompts, asked = [], []
        for request in requests:
            _, messages, how, *where = request.args
            document = self._document(*where)
            turns, images = _turns(messages(document))
            prompts.append(self._asked(turns, images, document))
            asked.append(wanted(how, arguments.strategy.mode, arguments.max_gen_toks))
        return self.host.answers(prompts, asked)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Refused: lmms-eval makes no such requests of a conversation."""
        raise UnsupportedMode(
            "lmms-eval scores given answers behind plain texts, not behind messages.", "Run it with --force_simple."
        )


def _turns(messages: Sequence[Any]) -> tuple[list[dict[str, Any]], list[Image]]:
    """Messages as a chat template takes them, and their images in order."""
    turns, images = [], []
    for message in messages:
        parts = []
        for part in message["content"]:
            if part["type"] == "text":
                parts.append({"type": "text", "text": part["text"]})
            else:
                images.append(_image(part["url"] if part["type"] == "image" else part["type"]))
                parts.append({"type": "image"})
        turns.append({"role": message["role"], "content": parts})
    return turns, images


def _between(pieces: Sequence[str]) -> list[dict[str, Any]]:
    """The pieces of a text with an image between each two; empty pieces are left out."""
    parts: list[dict[str, Any]] = []
    for place, piece in enumerate(pieces):
        parts += [{"type": "image"}] if place else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


def _image(value: Any) -> Image:
    if not isinstance(value, Image):
        what = value if isinstance(value, str) else type(value).__name__
        raise InvalidPrompt(
            f"Sightline reads images, and a document holds {what}.",
            "Run image tasks; video and audio are not served.",
        )
    return value.convert("RGB")
