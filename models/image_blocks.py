"""Prompts of families whose processors put markers around image tokens: an image's *block* in the words of its family.

    gemma3             two line ends, start, image tokens, end, two line ends; the template has the start alone
    idefics3, smolvlm  marker, tag, image tokens for each crop, rows apart by line ends; last the whole image, a marker
    internvl           start, image tokens, end
    paligemma          image tokens first, then the start token, the text, a line end; there is no chat format

A block is written out as text and tokenised together with the prompt, as the processors do, for tokens may reach across
its ends. How many image tokens it has comes from the row; a run of image tokens counts as one image, but for
Idefics 3 and SmolVLM, where the tag of the whole image ends one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .errors import InvalidPrompt, MissingProcessor
from .prompts import rendered, runs


def worded_rows(kind: str, rows: Sequence[Tensor], processor: Any, text: str, image_token: int) -> list[list[int]]:
    """Ids of prompts with the images of each row and another instruction.

    Args:
        kind: `config.model_type`, one of the above.
        rows: ids of the prompts that the images are taken from, `[length]` each, without padding.
        processor: the model's.
        text: the instruction.
        image_token: id of image tokens.

    Raises:
        InvalidPrompt: the instruction spells out the image token, or the markers are not the family's.
        MissingChatTemplate: the processor has none.
        MissingProcessor: a tokenizer was given.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None:
        raise MissingProcessor(
            f"A {type(processor).__name__} does not know how images stand in a prompt of type {kind!r}.",
            "Pass the model's whole processor.",
        )
    made = []
    for ids in rows:
        prompt = (_prefixed if kind == "paligemma" else _templated)(kind, ids, processor, text, image_token)
        start = tokenizer.bos_token
        found = tokenizer.encode(prompt, add_special_tokens=not (start and prompt.startswith(start)))
        if found.count(image_token) != int((ids == image_token).sum()):
            raise _spelt_out(text)
        made.append(found)
    return made


def _templated(kind: str, ids: Tensor, processor: Any, text: str, image_token: int) -> str:
    """The chat template's prompt with blocks in the place of its placeholders."""
    blocks = BLOCKS[kind](ids, processor, image_token)
    placeholder = processor.boi_token if kind == "gemma3" else processor.image_token
    pieces = rendered(processor, text, len(blocks)).split(placeholder)
    if len(pieces) != len(blocks) + 1:
        raise _spelt_out(text)
    return "".join(piece + block for piece, block in zip(pieces, [*blocks, ""], strict=True))


def _prefixed(kind: str, ids: Tensor, processor: Any, text: str, image_token: int) -> str:
    """All images, the start token, the text, a line end."""
    words = rendered(processor, text, 0) if getattr(processor, "chat_template", None) else text
    count = int((ids == image_token).sum())
    return f"{processor.image_token * count}{processor.tokenizer.bos_token}{words}\n"


def _between(ids: Tensor, processor: Any, image_token: int) -> list[str]:
    """InternVL: between a start and an end."""
    start, end, image = processor.start_image_token, processor.end_image_token, processor.image_token
    return [f"{start}{image * (after - first)}{end}" for first, after in runs(ids == image_token)]


def _apart(ids: Tensor, processor: Any, image_token: int) -> list[str]:
    """Gemma 3: between a start and an end, in a paragraph of its own."""
    words = processor.tokenizer
    start, end, image = processor.boi_token, words.eoi_token, words.image_token
    return [f"\n\n{start}{image * (after - first)}{end}\n\n" for first, after in runs(ids == image_token)]


def _tagged(ids: Tensor, processor: Any, image_token: int) -> list[str]:
    """Idefics 3 and SmolVLM: from the first marker to the one behind the whole image, as the row has it."""
    words, listed = processor.tokenizer, ids.tolist()
    tag = getattr(processor, "global_image_tag", None) or processor.global_image_token
    marker, whole = (words.convert_tokens_to_ids(token) for token in (processor.fake_image_token, tag))
    blocks, place = [], 0
    for first, after in runs(ids == image_token):
        if listed[first - 1 : first] != [whole]:
            continue  # a crop: its block goes on
        if after >= len(listed) or listed[after] != marker or marker not in listed[place:first]:
            raise InvalidPrompt(
                f"The image tokens at {first} to {after} do not stand between markers {processor.fake_image_token!r}.",
                "Pass input_ids as the model's own processor makes them.",
            )
        start = listed.index(marker, place)
        blocks.append(words.decode(listed[start : after + 1], clean_up_tokenization_spaces=False))
        place = after + 1
    return blocks


def _spelt_out(text: str) -> InvalidPrompt:
    return InvalidPrompt(
        f"The instruction {text!r} makes a prompt with other image tokens than those of its row.",
        "Leave the image token out of the instruction, and use the model's own chat template and processor.",
    )


BLOCKS: dict[str, Callable[[Tensor, Any, int], list[str]]] = {
    "gemma3": _apart,
    "idefics3": _tagged,
    "internvl": _between,
    "smolvlm": _tagged,
}
"""What writes the blocks of a row's images."""
