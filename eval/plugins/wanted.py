"""What a request of a harness asks of generation: its keyword arguments as our settings, and where answers stop."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import GenerationConfig, StoppingCriteria

from ..errors import ConfigError
from ..settings import GenerationSettings

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_READ = ("until", "do_sample", "temperature", "top_k", "top_p", "num_beams", "length_penalty", *LENGTHS)
_SLACK = 4
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """How one request is to be answered.

    Attributes:
        settings: mode and its parameters; `max_new_tokens` is set.
        until: texts at which an answer ends; they are no part of it.
        more: further fields of transformers' `GenerationConfig`, such as `repetition_penalty`.
    """

    settings: GenerationSettings
    until: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)


def wanted(asked: Mapping[str, Any], mode: Literal["greedy", "sample"] | None, max_gen_toks: int) -> Wanted:
    """Read the keyword arguments of a request.

    A temperature of 0, or `do_sample` false, is greedy; so is saying nothing. What no `GenerationConfig` knows (tasks
    carry hints for one model or another) is left out, with a warning.

    Args:
        asked: such as `{"until": ["\\n"], "max_gen_toks": 32, "temperature": 0.7}`.
        mode: of a control that exists in one mode only, which then stands whatever is asked.
        max_gen_toks: where nothing is said of the length.

    Raises:
        ConfigError: a value is out of range, or beams are to be sampled.
    """
    until = asked.get("until") or ()
    heat = float(asked.get("temperature") or 0)
    asks = asked.get("do_sample")
    samples = mode == "sample" or (mode is None and bool(asks if asks is not None else heat > 0))
    beams = int(asked.get("num_beams") or 1)
    if samples and beams > 1:
        raise ConfigError("Beams are searched, not sampled.", "Set num_beams=1 or do_sample=false.")
    settings = GenerationSettings(
        mode="sample" if samples else "beam" if beams > 1 else "greedy",
        temperature=heat or 1.0,
        top_k=int(asked.get("top_k") or 0),
        top_p=float(1.0 if asked.get("top_p") is None else asked["top_p"]),
        num_beams=beams,
        length_penalty=float(1.0 if asked.get("length_penalty") is None else asked["length_penalty"]),
        max_new_tokens=int(next((asked[name] for name in LENGTHS if asked.get(name) is not None), max_gen_toks)),
    )
    settings.validate()
    stops = (until,) if isinstance(until, str) else tuple(str(each) for each in until)
    return Wanted(settings, tuple(stop for stop in stops if stop), _more(asked))


def _more(asked: Mapping[str, Any]) -> dict[str, Any]:
    known = vars(GenerationConfig())
    rest = {name: value for name, value in asked.items() if name not in _READ and value is not None}
    for name in rest:
        if name not in known:
            _log.warning("Sightline leaves out the generation argument %r: transformers knows none of that name.", name)
    return {name: value for name, value in rest.items() if name in known}


class StopsAt(StoppingCriteria):
    """Ends a row once its answer holds one of the given texts; other rows go on.

    Args:
        until: the texts.
        tokenizer: that reads tokens back.
        start: the first column of answers.
    """

    def __init__(self, until: Sequence[str], tokenizer: Any, start: int):
        self._until = until
        self._tokenizer = tokenizer
        self._start = start
        self._window = max(len(stop.encode()) for stop in until) + _SLACK  # a token is a byte at least

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        """`[rows]` of bool."""
        recent = input_ids[:, max(self._start, input_ids.shape[1] - self._window) :].tolist()
        texts = [self._tokenizer.decode(row, skip_special_tokens=True) for row in recent]
        found = [any(stop in text for stop in self._until) for text in texts]
        return torch.tensor(found, device=input_ids.device)


def before(text: str, until: Sequence[str]) -> str:
    """The text up to the first of the given ones; the whole of it where there is none."""
    return text[: min((place for stop in until if (place := text.find(stop)) >= 0), default=len(text))]
