"""What a benchmark is: documents about images or texts, a version, and the settings its scorer needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ..scoring.vocabulary import Vocabulary


@dataclass(frozen=True)
class Document:
    """One question (or request) about one image, or about a text that it brings along.

    Attributes:
        split: part of the task, such as `random`.
        doc_id: unique within the split.
        image: file name within the image folder; empty for texts, and where the row could not be read.
        text: the question as it stands in the file; of a text task the whole prompt.
        label: gold label, or None where there is none.
        error: why the row cannot be asked, or None.
        group: what documents share that must not be torn apart, where that is not the image; always given for texts.
        candidates: given continuations of the prompt, which are scored instead of an answer being generated.
        gold: what scorers need beside the label, as JSON holds it.
        context: the part of the text that the answer shall be true to, for strategies that ask for it; empty where
            this text has none, None where the task knows none.
    """

    split: str
    doc_id: str
    image: str
    text: str
    label: str | None
    error: str | None = None
    group: str = ""
    candidates: tuple[str, ...] = ()
    gold: Mapping[str, Any] | None = None
    context: str | None = None

    @property
    def image_id(self) -> str:
        """The image's file name without its suffix, or a text's group: documents that share it are resampled as one."""
        return PurePosixPath(self.image).with_suffix("").as_posix() if self.image else self.group

    @property
    def unit(self) -> str:
        """The group, or else the image: what `run.limit` counts. Empty where the row could not be read."""
        return self.group or self.image


@dataclass(frozen=True)
class Source:
    """One data file as it was read: its name, sha256 (hex), rows, and how many of them are broken."""

    file: str
    sha256: str
    rows: int
    broken: int = 0


@dataclass(frozen=True)
class Dataset:
    """The documents of a task in file order, split by split.

    Attributes:
        documents: every row, readable or not.
        images: folder that the image names belong to; None where no document has an image.
        sources: the files the documents came from.
        world: version and hash of a generated data set; None for files.
        truth: image id -> object classes true of it, for tasks that score captions; None for others.
        words: how words of captions are read, for tasks that bring their own list (AMBER); None for others.
        revision: commit of the hub that the files are of, where their copy says so.
    """

    documents: tuple[Document, ...]
    images: Path | None
    sources: tuple[Source, ...]
    world: Mapping[str, Any] | None = None
    truth: Mapping[str, Sequence[str]] | None = None
    words: Mapping[str, Any] | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Task:
    """A benchmark, as the registry holds it.

    Attributes:
        name: in the registry and on the command line.
        version: raised whenever prompt, parser or data change.
        title: one line for lists.
        load: options -> data set; raises `DataError`.
        options: every option with its default; others are refused.
        max_new_tokens: unless the generation settings say otherwise.
        scorer: key in `eval.score`.
        parser: the dialect that answers are read in by default.
        answers: label -> words whose first-token probability enters the margin; empty = no margin.
        vocabulary: the object words that captions are read with; None for tasks without captions.
        reads: as `load`, with captions in the data read with another vocabulary (another dialect of the same words).
        places: options that say where data lies, not what it is; they do not enter keys.
        about: whether documents are about an image or a text.
        scored: whether given candidates are scored instead of answers being generated.
    """

    name: str
    version: int
    title: str
    load: Callable[[Mapping[str, Any]], Dataset]
    options: Mapping[str, Any]
    max_new_tokens: int
    scorer: str = "pope"
    parser: str = "pope_official"
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    vocabulary: Vocabulary | None = None
    reads: Callable[[Mapping[str, Any], Vocabulary], Dataset] | None = None
    places: frozenset[str] = frozenset()
    about: Literal["image", "text"] = "image"
    scored: bool = False
