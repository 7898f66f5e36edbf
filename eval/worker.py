"""One model at work on requests: images decoded ahead, batches of like length, and what fails is told apart.

Images are decoded once, on a thread of their own: requests are taken in windows of whole images, and while the model
answers one window the next one is made ready. A bad image costs its samples, a failing batch the requests in it that
fail alone too, lack of memory the batch size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from ..models.errors import SightlineError
from .answering import Answerer, Cost
from .errors import DeviceLost, ImageError, RunFailed
from .images import file_digest, locate, open_image
from .plan import Request
from .records import SampleRecord
from .timing import beside_greedy, peak_memory

WINDOW = 128
"""Requests whose images are held decoded at the same time; those of the next window are held beside them."""
PATIENCE = 16
"""A model that fails on this many requests before it answers one is taken to be broken."""
Ready = tuple[Request, Image | None]
"""A request with its decoded image; a text has none."""


@dataclass(frozen=True)
class Done:
    """Requests that are over and done with.

    Attributes:
        requests: how many.
        records: the lines of their samples.
        cost: of those that the model answered.
        answered: how many these are.
        peak_memory_mb: most memory that the worker has held so far.
    """

    requests: int
    records: list[SampleRecord]
    cost: Cost = field(default_factory=Cost)
    answered: int = 0
    peak_memory_mb: float | None = None


class Worker:
    """A model that answers requests, batch after batch.

    Args:
        answerer: the model with its decoder.
        images: folder that image names belong to; None where the task has texts only.
        batch_size: requests per `generate()`; halved for good when memory runs out.
    """

    def __init__(self, answerer: Answerer, images: Path | None, batch_size: int):
        self.answerer = answerer
        self.images = images
        self.batch_size = batch_size
        self._failures = 0
        self._successes = 0

    def answers(self, requests: Sequence[Request]) -> Iterator[Done]:
        """Answer requests; what is done is handed over batch by batch, before the next one is asked.

        Raises:
            RunFailed: the model fails on everything it is asked.
            DeviceLost: the GPU is of no use to this process any more.
            SightlineError: the decoder cannot serve this model or these inputs.
        """
        for ready, failed in self._ahead(requests):
            if failed:
                yield self._failed(failed)
            for batch in self._batches(ready):
                yield from self._answer(batch)

    def beside_greedy(self, requests: Sequence[Request]) -> dict[str, Any] | None:
        """The decoder timed beside plain greedy decoding on these requests."""
        ready, _ = self._decode(requests)
        return beside_greedy(self.answerer, ready, self.batch_size)

    def _ahead(self, requests: Sequence[Request]) -> Iterator[tuple[list[Ready], list[tuple[Request, str]]]]:
        """Windows with their images, the next one decoded while this one is at work."""
        cut = windows(requests)
        with ThreadPoolExecutor(1, "images") as thread:
            try:
                coming: list[Future] = [thread.submit(self._decode, window) for window in islice(cut, 1)]
                while coming:
                    decoded = coming.pop().result()
                    coming += [thread.submit(self._decode, window) for window in islice(cut, 1)]
                    yield decoded
            finally:
                thread.shutdown(wait=False, cancel_futures=True)

    def _decode(self, window: Sequence[Request]) -> tuple[list[Ready], list[tuple[Request, str]]]:
        """The requests of a window with their images, and those whose image is bad."""
        images: dict[str, Image | str | None] = {}
        ready, failed = [], []
        for request in window:
            if request.image not in images:
                images[request.image] = self._open(request)
            image = images[request.image]
            if isinstance(image, str):
                failed.append((request, image))
            else:
                ready.append((request, image))
        return ready, failed

    def _open(self, request: Request) -> Image | str | None:
        if self.images is None or not request.image:
            return None
        try:
            path = locate(self.images, request.image)
            if file_digest(path) != request.image_sha256:
                raise ImageError(f"image {request.image!r} is not the file that the run was planned with.")
            return open_image(path)
        except (ImageError, OSError) as error:
            return f"ImageError: {error}"

    def _batches(self, ready: Sequence[Ready]) -> Iterator[list[Ready]]:
        """Batches of like length; the size is looked up each time, for it may have been halved meanwhile."""
        order = self._order(ready)
        start = 0
        while start < len(order):
            size = self.batch_size
            yield [ready[place] for place in order[start : start + size]]
            start += size

    def _order(self, ready: Sequence[Ready]) -> list[int]:
        """Like with like: by length; where questions share their image, image by image, these by their longest one."""
        lengths = self.answerer.lengths([request.prompt for request, _ in ready]) if ready else []
        if not self.answerer.sharing.by_image:
            return sorted(range(len(ready)), key=lambda place: lengths[place])
        longest: dict[str, int] = {}
        for (request, image), length in zip(ready, lengths, strict=True):
            if image is not None:
                longest[request.image] = max(length, longest.get(request.image, 0))

        def key(place: int) -> tuple[int, str, int]:
            name = ready[place][0].image
            return longest.get(name, lengths[place]), name, lengths[place]

        return sorted(range(len(ready)), key=key)

    def _answer(self, batch: Sequence[Ready]) -> Iterator[Done]:
        """Answer a batch; halve it when memory runs out, take it apart when something else goes wrong."""
        requests = [request for request, _ in batch]
        try:
            answers, cost = self.answerer.ask(
                [request.prompt for request in requests],
                [image for _, image in batch],
                [request.seed for request in requests],
                [request.candidates for request in requests],
                [request.context for request in requests],
            )
        except SightlineError:
            raise
        except Exception as error:
            failure = error
        else:
            self._successes += len(batch)
            done = zip(requests, answers, strict=True)
            records = [planned.record(**vars(answer)) for request, answer in done for planned in request.samples]
            yield Done(len(batch), records, cost, len(batch), peak_memory())
            return
        yield from self._recover(batch, failure)

    def _recover(self, batch: Sequence[Ready], error: Exception) -> Iterator[Done]:
        if device_lost(error):
            raise DeviceLost(
                f"The GPU failed, and this process cannot use it any more: {_first_line(error)}.",
                "Run the same command again; what is answered is kept.",
            ) from error
        memory = out_of_memory(error)
        if memory and torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            self._failures += 1
            if not self._successes and self._failures >= PATIENCE:
                raise RunFailed(
                    f"The first {self._failures} requests all failed, the last with {type(error).__name__}: "
                    f"{_first_line(error)}.",
                    "Set SIGHTLINE_DEBUG=1 to see where.",
                ) from error
            yield self._failed([(batch[0][0], f"{type(error).__name__}: {_first_line(error)}")])
            return
        size = max(1, len(batch) // 2) if memory else 1
        if memory:
            self.batch_size = min(self.batch_size, size)
        for start in range(0, len(batch), size):
            yield from self._answer(batch[start : start + size])

    def _failed(self, failed: Sequence[tuple[Request, str]]) -> Done:
        return Done(len(failed), [planned.failure(why) for request, why in failed for planned in request.samples])


def windows(requests: Sequence[Request], size: int | None = None) -> Iterator[list[Request]]:
    """The requests in order, cut between images into runs of at least `size` (the last one may be shorter)."""
    least = WINDOW if size is None else size
    window: list[Request] = []
    for request in requests:
        if len(window) >= least and (not request.image or request.image != window[-1].image):
            yield window
            window = []
        window.append(request)
    if window:
        yield window


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the processor."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def device_lost(error: BaseException) -> bool:
    """Whether an error leaves a process without its GPU: after such a one every later call fails as well."""
    return isinstance(error, RuntimeError) and not out_of_memory(error) and "CUDA error" in str(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300].rstrip(".")
