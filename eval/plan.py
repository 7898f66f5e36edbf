"""From documents to what the model is asked: prompts, keys, seeds, and requests that serve several samples at once.

The three splits of POPE share images and most questions: 9,000 samples are some 5,127 requests. Greedy answers depend
on image and prompt alone, and so do sampled ones, for their seed is made of both; so each request runs once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..models.errors import UnsupportedModel
from ..models.prompts import templated
from .errors import DataError, ImageError
from .images import file_digest, locate
from .records import KEY_VERSION, SampleRecord, digest, sample_seed
from .tasks.base import Dataset, Document


@dataclass(frozen=True)
class Conditions:
    """What enters every key beside the document: who answers, and how.

    Attributes:
        task: name and version.
        model: fingerprint and dtype.
        decoder: key and every parameter.
        generation: the settled settings.
        seed: of the run; None where nothing is drawn.
    """

    task: tuple[str, int]
    model: dict[str, Any]
    decoder: dict[str, Any]
    generation: dict[str, Any]
    seed: int | None


@dataclass(frozen=True)
class Planned:
    """One sample before it is answered. `error` says why it cannot be asked; `image_sha256` is of its image's bytes."""

    key: str
    task: tuple[str, int]
    document: Document
    prompt: str
    seed: int | None
    error: str | None = None
    image_sha256: str = ""

    def record(self, **answer: Any) -> SampleRecord:
        """The sample line for an answer: `output, n_prompt_tokens, n_output_tokens, finish, margin`."""
        return self._record(status="ok", error=None, **answer)

    def failure(self, error: str) -> SampleRecord:
        """The sample line for a failure."""
        empty = {"output": "", "n_prompt_tokens": 0, "n_output_tokens": 0, "finish": None, "margin": None}
        return self._record(status="error", error=error, **empty)

    def _record(self, **rest: Any) -> SampleRecord:
        return SampleRecord(
            key=self.key,
            task=self.task[0],
            task_version=self.task[1],
            split=self.document.split,
            doc_id=self.document.doc_id,
            image_id=self.document.image_id,
            prompt=self.prompt,
            label=self.document.label,
            seed=self.seed,
            candidates=list(self.document.candidates) or None,
            gold=None if self.document.gold is None else dict(self.document.gold),
            **rest,
        )


@dataclass(frozen=True)
class Request:
    """One image (or none) with one prompt, and the samples that its answer serves.

    Files with equal bytes are one image; `image` is the name of the first.
    `candidates` are the continuations to be scored; without them an answer is generated.
    """

    image: str
    prompt: str
    seed: int | None
    samples: tuple[Planned, ...]
    candidates: tuple[str, ...] = ()

    @property
    def image_sha256(self) -> str:
        """sha256 (hex) of the image file's bytes as the keys have them; empty for a text."""
        return self.samples[0].image_sha256

    @property
    def context(self) -> str | None:
        """The part of the prompt that the answer shall be true to, as the document has it."""
        return self.samples[0].document.context


@dataclass(frozen=True)
class Plan:
    """Every sample in the order of the final file, and every request, image by image."""

    samples: tuple[Planned, ...]
    requests: tuple[Request, ...]

    @property
    def images(self) -> int:
        """How many images, or groups of texts, are asked about."""
        return len({planned.document.unit for planned in self.samples} - {""})


def limited(documents: Iterable[Document], limit: int | None, seed: int) -> list[Document]:
    """The documents of `limit` images, chosen by seed; all questions of an image stay, and so do unreadable rows.

    Texts are chosen by their groups. A larger limit adds images and drops none.

    Raises:
        DataError: there is not one image or text.
    """
    every = list(documents)
    names = sorted({document.unit for document in every} - {""}, key=lambda name: digest([seed, name]))
    if not names:
        raise DataError("The task names no image and no text.")
    chosen = {"", *(names if limit is None else names[:limit])}
    return [document for document in every if document.unit in chosen]


def make_plan(
    dataset: Dataset, documents: Sequence[Document], render: Callable[[str], str], conditions: Conditions
) -> Plan:
    """Plan the questions of a data set.

    Args:
        dataset: where the images lie.
        documents: what to ask, in order.
        render: question -> prompt, chat template applied.
        conditions: the rest of every key.
    """
    digests: dict[str, str | ImageError] = {}
    samples = [_planned(dataset, document, render, conditions, digests) for document in documents]
    groups: dict[tuple[Any, ...], list[Planned]] = {}
    for planned in samples:
        if planned.error is None:
            asked = planned.document
            content = planned.image_sha256, planned.prompt, asked.candidates, asked.context
            groups.setdefault(content, []).append(planned)
    requests = [
        Request(group[0].document.image, group[0].prompt, group[0].seed, tuple(group), group[0].document.candidates)
        for group in groups.values()
    ]
    first = {name: place for place, name in reversed(list(enumerate(request.image for request in requests)))}
    return Plan(tuple(samples), tuple(sorted(requests, key=lambda request: first[request.image])))


def _planned(
    dataset: Dataset,
    document: Document,
    render: Callable[[str], str],
    conditions: Conditions,
    digests: dict[str, str | ImageError],
) -> Planned:
    if document.error is not None:
        return Planned(_key(document, "", None, None, conditions), conditions.task, document, "", None, document.error)
    prompt = render(document.text)
    if document.image not in digests:
        digests[document.image] = _image_digest(dataset, document.image)
    image = digests[document.image]
    if isinstance(image, ImageError):
        key = _key(document, prompt, None, None, conditions)
        return Planned(key, conditions.task, document, prompt, None, f"ImageError: {image}")
    seed = None if conditions.seed is None else sample_seed(conditions.seed, image, prompt)
    key = _key(document, prompt, image, seed, conditions)
    return Planned(key, conditions.task, document, prompt, seed, image_sha256=image)


def _image_digest(dataset: Dataset, name: str) -> str | ImageError:
    """sha256 of an image; of no image, for a text, the empty string."""
    if dataset.images is None:
        return ""
    try:
        return file_digest(locate(dataset.images, name))
    except (ImageError, OSError) as error:
        return ImageError(str(error))


def _key(document: Document, prompt: str, image: str | None, seed: int | None, conditions: Conditions) -> str:
    return digest(
        {
            "v": KEY_VERSION,
            "task": conditions.task,
            "document": _content(document),
            "prompt": prompt,
            "image": image,
            "model": conditions.model,
            "decoder": conditions.decoder,
            "generation": conditions.generation,
            "seed": seed,
        }
    )


def _content(document: Document) -> list[Any]:
    """What of a document enters its key; what only texts have enters only for texts."""
    content = [document.split, document.doc_id, document.image, document.text, document.label]
    gold = None if document.gold is None else dict(document.gold)
    more = [document.group, list(document.candidates), gold, document.context]
    return content + more if any(more) else content


def renderer(processor: Any, suffix: str) -> Callable[[str], str]:
    """Question -> prompt: the question and the suffix as the user's turn about one image, ready to be answered.

    Args:
        processor: the model's, with its chat template.
        suffix: added to every question.

    Raises:
        UnsupportedModel: the processor has no chat template.
    """
    if not has_template(processor):
        raise UnsupportedModel(
            f"{type(processor).__name__} of this model has no chat template, so prompts cannot be made.",
            "Put the family's template in chat_template.jinja beside the checkpoint.",
        )
    known: dict[str, str] = {}

    def render(question: str) -> str:
        if question not in known:
            content = [{"type": "image"}, {"type": "text", "text": question + suffix}]
            known[question] = templated(processor, content)
        return known[question]

    return render


def text_renderer(processor: Any, suffix: str) -> Callable[[str], str]:
    """Text -> prompt: the text and the suffix, as the user's turn where the model has a chat template.

    Args:
        processor: the model's, or its tokenizer.
        suffix: added to every text.
    """
    if not has_template(processor):
        return lambda text: text + suffix

    return lambda text: templated(processor, text + suffix)


def has_template(processor: Any) -> bool:
    """Whether prompts are turns of a chat."""
    return bool(getattr(processor, "chat_template", None))


def template_digest(processor: Any) -> str:
    """sha256 (hex) of the chat template."""
    return hashlib.sha256(str(getattr(processor, "chat_template", "")).encode()).hexdigest()
