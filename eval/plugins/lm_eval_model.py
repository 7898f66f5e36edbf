"""lm-evaluation-harness runs a model with any decoder: `--model sightline`.

    sightline-lm-eval --model sightline --model_args pretrained=tiny-llama,decoder=dola,decoder.layers=high --tasks ...

Prompts, stop texts and windows are those of the harness's own `hf` model, so that `decoder=greedy` gives its answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]

from .arguments import read
from .host import Host, Prompt
from .wanted import wanted

NAME = "sightline"


@register_model(NAME)
class SightlineLM(LM):
    """A model with a decoder, as lm-evaluation-harness asks it.

    Args:
        arguments: `--model_args`, see `arguments.read`, with the harness's `batch_size` and `device`.

    Raises:
        SightlineError: the model or the decoder is not to be had as asked.
    """

    def __init__(self, **arguments: Any):
        super().__init__()
        self.host = Host(read(arguments))

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.host.device

    @property
    def tokenizer_name(self) -> str:
        """A name for the harness's caches of rendered requests."""
        return self.host.loaded.source.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes into its results: the decoder, and which weights."""
        strategy = self.host.arguments.strategy
        return {
            "sightline_decoder": {"key": strategy.key, "params": strategy.params()},
            "model_fingerprint": self.host.loaded.fingerprint,
            "model_dtype": str(self.host.loaded.model.dtype),
        }

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's text, for the harness's results; the model has one, whatever name is asked for."""
        return getattr(self.host.loaded.processor, "chat_template", None) if chat_template else None

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """A conversation as the model's chat template has it."""
        return self.host.chat(chat_history, answer=add_generation_prompt)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation) the log-probability, and whether the decoder would have chosen it."""
        pairs = [self._pair(*request.args) for request in requests]
        passages = [self._passage(request) for request in requests]
        found = self._scored(pairs, passages)
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in windows that leave each token as much before it as there is."""
        texts = [self.host.encode(request.args[0]) for request in requests]
        split = [windows(ids, self.host.prefix, self.host.max_length) for ids in texts]
        flat = [window for own in split for window in own]
        scores = iter(self._scored(flat, [None] * len(flat)))
        found = [sum(next(scores)[0] for _ in own) for own in split]
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, result)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """An answer to each (context, generation arguments), without its stop text."""
        arguments = self.host.arguments
        asked = [wanted(request.args[1], arguments.strategy.mode, arguments.max_gen_toks) for request in requests]
        prompts = []
        for request, want in zip(requests, asked, strict=True):
            room = self.host.max_length - int(want.settings.max_new_tokens or 0)
            if room < 1:
                raise ValueError(
                    f"{want.settings.max_new_tokens} new tokens leave no room for a prompt in {self.host.max_length}. "
                    "Lower max_gen_toks, or give max_length in --model_args."
                )
            ids = self.host.encode(request.args[0])[-room:] or [self.host.prefix]
            prompts.append(Prompt(request.args[0], tuple(ids), passage=self._passage(request)))
        found = self.host.answers(prompts, asked)
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, result)
        return found

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both; a continuation without context is scored behind the prefix token."""
        bare = context.rstrip()
        if context:
            before = self.host.encode(bare)  # spaces belong to the word that follows
            return before, self.host.encode(context + continuation)[len(before) :]
        ids = self.host.encode(continuation, special=False)
        return (ids[:1], ids[1:]) if ids[:1] == [self.host.prefix] else ([self.host.prefix], ids)

    def _passage(self, request: Any) -> str | None:
        return self.host.passage(getattr(request, "doc", None))

    def _scored(
        self, pairs: Sequence[tuple[list[int], list[int]]], passages: Sequence[str | None]
    ) -> list[tuple[float, bool]]:
        prompts = []
        for (context, continuation), passage in zip(pairs, passages, strict=True):
            room = max(1, self.host.max_length + 1 - len(continuation))
            prompts.append(Prompt("", tuple(context[-room:]), passage=passage))
        return self.host.scores(prompts, [continuation for _, continuation in pairs])


def windows(ids: Sequence[int], prefix: int, length: int) -> list[tuple[list[int], list[int]]]:
    """A text cut into (context, continuation), each token in one continuation.

    The first window is scored behind the prefix token; the last one reaches back, so that its few tokens see `length`
    tokens too.

    Args:
        ids: of the text.
        prefix: stands before the first token.
        length: of the model's window.
    """
    found = []
    for start in range(0, len(ids), length):
        own = list(ids[start : start + length])
        before = [prefix, *ids][max(0, start + len(own) - length) : start + 1]
        found.append((before, own))
    return found
