"""Prompts of a strategy's own: a row's images under another instruction, or a row's words without its images.

Nothing here needs raw images. The model's chat template is rendered with one placeholder for each image and tokenised
as text; the row's own image tokens, as many as its images need, then take the placeholders' place. Image positions come
from the image-token id, row by row; markers around them (`<|vision_start|>` and the like) stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from jinja2 import TemplateError
from torch import Tensor

from .errors import InvalidPrompt, MissingChatTemplate

PER_TOKEN = ("token_type_ids", "mm_token_type_ids")
"""Inputs of some families that say of each token whether it belongs to an image: 1 there, 0 elsewhere."""


def reworded(inputs: Mapping[str, Any], processor: Any, text: str, image_token: int | None) -> dict[str, Tensor]:
    """Prompts with the images of each row and another instruction; see `Adapter.reworded`."""
    known: dict[int, list[int]] = {}
    rows = []
    for ids in unpadded(inputs):
        spans = runs(ids == image_token) if image_token is not None else []
        if len(spans) not in known:
            known[len(spans)] = _prompt_ids(processor, text, len(spans))
        prompt = torch.tensor(known[len(spans)])
        places = runs(prompt == image_token) if image_token is not None else []
        if len(places) != len(spans):
            raise InvalidPrompt(
                f"The instruction {text!r} makes a prompt with {len(places)} image placeholder(s) for a row with "
                f"{len(spans)} image(s).",
                "Leave the image token out of the instruction, and use the model's own chat template.",
            )
        rows.append(replaced(prompt.tolist(), places, [ids[start:end].tolist() for start, end in spans]))
    return batched(rows, inputs, image_token)


def without_image(inputs: Mapping[str, Any], texts: Sequence[Sequence[int]], image_token: int) -> dict[str, Tensor]:
    """Prompts whose image tokens gave way to other ids; see `Adapter.without_image`."""
    rows = []
    for ids, text in zip(unpadded(inputs), texts, strict=True):
        spans = runs(ids == image_token)
        pieces = [text, *([] for _ in spans[1:])]
        rows.append(replaced(ids.tolist(), spans, pieces if spans else []))
    return batched(rows, inputs, image_token)


def runs(marked: Bool[Tensor, " length"]) -> list[tuple[int, int]]:
    """First position, and the one after the last, of each unbroken run of marked positions."""
    edge = marked.new_zeros(1).int()
    steps = torch.cat([edge, marked.int(), edge]).diff()
    starts, ends = ((steps == step).nonzero().flatten().tolist() for step in (1, -1))
    return list(zip(starts, ends, strict=True))


def replaced(ids: Sequence[int], spans: Sequence[tuple[int, int]], pieces: Sequence[Sequence[int]]) -> list[int]:
    """The ids with the i-th span (in order, not overlapping) replaced by the i-th piece, whatever its length."""
    made, done = [], 0
    for (start, end), piece in zip(spans, pieces, strict=True):
        made += [*ids[done:start], *piece]
        done = end
    return [*made, *ids[done:]]


def unpadded(inputs: Mapping[str, Any]) -> list[Tensor]:
    """The ids of each row that are seen, `[length]`.

    Raises:
        InvalidPrompt: the inputs hold embeddings and no ids.
    """
    ids = inputs.get("input_ids")
    if ids is None:
        raise InvalidPrompt("The inputs hold no input_ids.", "Attach with the token ids of the prompt.")
    mask = inputs.get("attention_mask")
    return [row if mask is None else row[mask[place].bool()] for place, row in enumerate(ids)]


def batched(rows: Sequence[Sequence[int]], like: Mapping[str, Any], image_token: int | None) -> dict[str, Tensor]:
    """Rows of ids as model inputs, padded on the left (with id 0, which the mask hides), on the device of `like`.

    Returns:
        `input_ids` and `attention_mask`, `[batch, length]`, and what `like` has of `PER_TOKEN`.
    """
    width = max(map(len, rows))
    device = like["input_ids"].device
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], dtype=torch.long, device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = (torch.arange(width, device=device) >= width - lengths[:, None]).long()
    made = {"input_ids": ids, "attention_mask": mask}
    for name in PER_TOKEN:
        if like.get(name) is not None:
            made[name] = (ids == image_token).long() if image_token is not None else torch.zeros_like(ids)
    return made


def text_ids(text: str, processor: Any, image_token: int | None, *, special: bool = False) -> list[int]:
    """Ids of a text that may say anything: a special token that is spelt out in it is read letter by letter.

    Args:
        text: such as a model's own words.
        processor: the model's, or its tokenizer.
        image_token: id that must not come out, special or not.
        special: add what the tokenizer puts around every text by default (BOS for the Llama family).
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=special, split_special_tokens=True)
    if image_token not in ids:
        return ids
    # An image token that is not marked as special in the tokenizer is matched all the same: spell it in two halves.
    name = tokenizer.decode([image_token])
    halves = [each for half in (name[:1], name[1:]) for each in tokenizer.encode(half, add_special_tokens=False)]
    return [each for one in ids for each in (halves if one == image_token else [one])]


def rendered(processor: Any, text: str, images: int) -> str:
    """The chat template's prompt for one user turn, ready to be answered, with one placeholder for each image.

    Raises:
        MissingChatTemplate: the processor has none.
    """
    if not getattr(processor, "chat_template", None):
        raise MissingChatTemplate(
            f"{type(processor).__name__} of this model has no chat template, so a prompt of the strategy's own cannot "
            "be made.",
            "Set processor.chat_template, or put the family's chat_template.jinja beside the checkpoint.",
        )
    tokenizer = getattr(processor, "tokenizer", processor)
    parts = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": text}]
    content = text if tokenizer is processor else parts  # templates of text models take strings alone
    return templated(processor, content)


def templated(processor: Any, content: Any) -> str:
    """The chat template's prompt for one user turn with this content, ready to be answered.

    Raises:
        InvalidPrompt: the template cannot be read, or does not take such a turn.
    """
    turns = [{"role": "user", "content": content}]
    try:
        return processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        text = " ".join(str(error).split())[:200].rstrip(".")
        raise InvalidPrompt(
            f"The chat template of this model cannot make a prompt ({type(error).__name__}: {text}).",
            "Mend chat_template.jinja beside the checkpoint, or take the one of the model's family.",
        ) from error


def _prompt_ids(processor: Any, text: str, images: int) -> list[int]:
    """`rendered`, tokenised."""
    tokenizer = getattr(processor, "tokenizer", processor)
    prompt = rendered(processor, text, images)
    start = tokenizer.bos_token
    return tokenizer.encode(prompt, add_special_tokens=not (start and prompt.startswith(start)))
