"""What a model says of an image when it decodes plainly, and the memory of what it has said."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig

if TYPE_CHECKING:
    from .adapter import Adapter

REMEMBERED = 4096
"""Descriptions that a model's memory holds by default: a benchmark's images, in some megabytes of text."""


@dataclass
class Descriptions:
    """A bounded memory of texts; the one that was asked for longest ago goes first.

    Attributes:
        limit: how many texts are kept.
    """

    limit: int = REMEMBERED
    _texts: OrderedDict[str, str] = field(default_factory=OrderedDict)

    def get(self, key: str) -> str | None:
        """The text under a key, which counts as asked for; None if it is not there."""
        if key not in self._texts:
            return None
        self._texts.move_to_end(key)
        return self._texts[key]

    def put(self, key: str, text: str) -> None:
        """Remember a text."""
        self._texts[key] = text
        self._texts.move_to_end(key)
        while len(self._texts) > self.limit:
            self._texts.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        self._texts.clear()

    def __len__(self) -> int:
        return len(self._texts)


def describe(
    adapter: Adapter, memory: Descriptions, inputs: Mapping[str, Any], processor: Any, prompt: str, max_new_tokens: int
) -> list[str]:
    """What the model says of each row's images; see `Adapter.describe`."""
    worded = adapter.reworded(inputs, processor, prompt)
    images = adapter.images_of(inputs)
    keys = [_digest(row, images[place], max_new_tokens) for place, row in enumerate(_seen(worded))]
    known = {key: memory.get(key) for key in keys}
    missing = [keys.index(key) for key, text in known.items() if text is None]
    if missing:
        rows = {name: value[missing] for name, value in worded.items()}
        pixels = {name: torch.cat([images[row][name] for row in missing]) for name in images[missing[0]]}
        for row, text in zip(missing, _generate(adapter, rows | pixels, processor, max_new_tokens), strict=True):
            known[keys[row]] = text
            memory.put(keys[row], text)
    return [known[key] or "" for key in keys]


def plain_greedy(model: Any, max_new_tokens: int) -> GenerationConfig:
    """Greedy decoding with every choice spelt out, so that defaults of a checkpoint do not slip in.

    `generate()` fills what is left at None from the model's own settings: sampling, beams, penalties, lengths.
    """
    own = model.generation_config
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        typical_p=1.0,
        epsilon_cutoff=0.0,
        eta_cutoff=0.0,
        repetition_penalty=1.0,
        encoder_repetition_penalty=1.0,
        length_penalty=1.0,
        no_repeat_ngram_size=0,
        min_new_tokens=0,
        max_new_tokens=max_new_tokens,
        disable_compile=True,  # a static cache of the checkpoint's settings would have the model compiled for it
        return_dict_in_generate=False,
        use_cache=True,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id if own.pad_token_id is not None else ends[0],
    )


@torch.no_grad()
def _generate(adapter: Adapter, inputs: dict[str, Tensor], processor: Any, max_new_tokens: int) -> list[str]:
    run: Any = adapter.model.generate
    settings = plain_greedy(adapter.owner, max_new_tokens)
    made = run(**inputs, generation_config=settings)[:, inputs["input_ids"].shape[1] :]
    ends = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    tokenizer = getattr(processor, "tokenizer", processor)
    texts = []
    for row in made.tolist():
        length = next((place for place, token in enumerate(row) if token in ends), len(row))
        text = tokenizer.decode(row[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        texts.append(text.strip())
    return texts


def _seen(prompts: Mapping[str, Tensor]) -> list[Tensor]:
    """The ids of each row without its padding."""
    pairs = zip(prompts["input_ids"], prompts["attention_mask"], strict=True)
    return [ids[mask.bool()] for ids, mask in pairs]


def _digest(ids: Tensor, images: Mapping[str, Tensor], max_new_tokens: int) -> str:
    """sha256 of all that a description depends on, the model apart: prompt, pixels and their layout, length."""
    digest = hashlib.sha256(f"{max_new_tokens} {ids.tolist()}".encode())
    for name, value in images.items():
        value = _without_padding(value).detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _without_padding(pixels: Tensor) -> Tensor:
    """Crops `[images, crops, 3, height, width]` without those of zeros at the end; anything else as it is.

    An image has them only because another one of its batch was cut into more.
    """
    if pixels.dim() != 5:
        return pixels
    filled = pixels.flatten(2).any(dim=2).any(dim=0).nonzero().flatten().tolist()
    return pixels[:, : max(filled, default=0) + 1]
