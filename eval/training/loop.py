"""What the training loops share: batches made ahead in a thread, the learning rate, the progress bar, the log."""

from __future__ import annotations

import json
import logging
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..scenes.scene import Scene

logger = logging.getLogger(__name__)


def stack(scenes: Sequence[Scene]) -> NDArray[np.uint8]:
    """The images of scenes, `uint8[scenes, 64, 64, 3]`."""
    return np.stack([scene.pixels() for scene in scenes])


def learning_rate(step: int, steps: int, rate: float, *, warmup: int, floor: float = 0.03) -> float:
    """A linear warm-up, then half a cosine from `rate` down to `floor * rate`."""
    if step < warmup:
        return rate * (step + 1) / warmup
    part = (step - warmup) / max(1, steps - warmup)
    return rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, part))))


class Batches:
    """Pairs of a step and its batch, made a few steps ahead in a thread.

    Args:
        make: makes the batch of a step; the same step must always give the same batch.
        start: the first step.
        steps: one past the last step.
        ahead: how many batches wait at most.
    """

    def __init__(self, make: Callable[[int], Any], start: int, steps: int, *, ahead: int = 4) -> None:
        self._make, self._start, self._steps = make, start, steps
        self._queue: queue.Queue[tuple[int, Any] | BaseException | None] = queue.Queue(maxsize=ahead)

    def _fill(self) -> None:
        try:
            for step in range(self._start, self._steps):
                self._queue.put((step, self._make(step)))
            self._queue.put(None)
        except BaseException as error:  # handed on to the training loop
            self._queue.put(error)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        threading.Thread(target=self._fill, daemon=True).start()
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


class Progress:
    """A progress bar on a terminal, and a line in the log every half minute elsewhere."""

    def __init__(self, title: str, steps: int, done: int = 0) -> None:
        self._title, self._steps, self._done = title, steps, done
        self._bar = tqdm(total=steps, initial=done, desc=title, unit="step") if sys.stderr.isatty() else None
        self._started, self._spoke, self._first = time.monotonic(), time.monotonic(), done

    def advance(self, **figures: float) -> None:
        """One step is done; `figures` are shown beside it."""
        self._done += 1
        shown = {name: f"{value:.3f}" for name, value in figures.items()}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()
        elif time.monotonic() - self._spoke > 30 or self._done == self._steps:
            self._spoke = time.monotonic()
            pace = (self._spoke - self._started) / (self._done - self._first)
            left = pace * (self._steps - self._done) / 60
            logger.info(
                "%s: %d of %d, %s, %.2f s a step, %.0f min left",
                self._title,
                self._done,
                self._steps,
                shown,
                pace,
                left,
            )

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()


class TrainLog:
    """A JSON Lines file of records, numbers rounded to four places, each with the minutes of training so far.

    A log that is there already is gone on with, and its minutes count.
    """

    def __init__(self, path: Path) -> None:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._earlier = json.loads(lines[-1])["minutes"] if lines else 0.0
        self._path, self._started = path, time.monotonic()

    def __call__(self, record: dict[str, Any]) -> None:
        rounded = {name: round(value, 4) if isinstance(value, float) else value for name, value in record.items()}
        minutes = self._earlier + (time.monotonic() - self._started) / 60
        line = json.dumps({**rounded, "minutes": round(minutes, 1)})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        logger.info("%s", line)
