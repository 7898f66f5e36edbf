"""What a run costs: counts of all attempts, and the decoder timed beside plain greedy decoding.

Counts are exact and depend on batch sizes only through `steps`; times are measured and never enter a score.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from .answering import Answerer, Cost
from .folder import read_json
from .plan import Request
from .records import write_json
from .settings import GenerationSettings

SCHEMA = 1


class Ledger:
    """The costs of a run, kept on disk after every batch so that a kill loses none.

    Args:
        folder: `RUN/timings`.
    """

    def __init__(self, folder: Path):
        self.cost = Cost()
        self.requests = 0
        self._peak: float | None = None
        self._folder = folder
        self._started = time.perf_counter()
        earlier = sorted(folder.glob("attempt-*.json"))
        self._file = folder / f"attempt-{len(earlier) + 1:04d}.json"

    def add(self, cost: Cost, requests: int, peak_memory_mb: float | None) -> None:
        """Add a batch; `peak_memory_mb` is what the worker that answered it has held at most."""
        self.cost.add(cost)
        self.requests += requests
        self._peak = max((peak for peak in (self._peak, peak_memory_mb) if peak is not None), default=None)
        self._folder.mkdir(parents=True, exist_ok=True)
        entry = {**vars(self.cost), "requests": self.requests, "wall_s": self._wall(), "peak_memory_mb": self._peak}
        write_json(self._file, entry)

    def write_summary(self, path: Path, samples: int, beside_greedy: dict[str, Any] | None) -> None:
        """Write the totals to a file."""
        write_json(path, self.summary(samples, beside_greedy))

    def summary(self, samples: int, beside_greedy: dict[str, Any] | None) -> dict[str, Any]:
        """The totals of all attempts, as `timings/summary.json` holds them; None where nothing was generated."""
        entries = [read_json(path) for path in sorted(self._folder.glob("attempt-*.json"))]
        total = Cost()
        for entry in entries:
            total.add(entry)
        tokens, steps, rows = total.generated_tokens, total.steps, total.base_rows
        return {
            "schema": SCHEMA,
            "samples": samples,
            "requests": sum(entry["requests"] for entry in entries),
            "attempts": len(entries),
            "generated_tokens": tokens,
            "wall_s": round(sum(entry["wall_s"] for entry in entries), 3),
            **{name: getattr(total, name) for name in ("forwards", "rows", "encodes", "steps", "base_rows")},
            "forwards_per_token": round(total.forwards / steps, 4) if steps else None,
            "rows_per_token": round(total.rows / rows, 4) if rows else None,
            "focus": round(total.opened / total.gated, 4) if total.gated else None,
            "contrasted": round(total.contrasted / total.asked, 4) if total.asked else None,
            "shared": {
                "images": {"asked": total.images, "encoded": total.encoded} if total.images else None,
                "prompt_tokens": {"asked": total.prompt_tokens, "prefilled": total.prefilled}
                if total.prompt_tokens
                else None,
            },
            "peak_memory_mb": max((entry["peak_memory_mb"] or 0.0 for entry in entries), default=peak_memory()) or None,
            "beside_greedy": beside_greedy,
        }

    def _wall(self) -> float:
        return round(time.perf_counter() - self._started, 3)


def beside_greedy(
    answerer: Answerer, requests: Sequence[tuple[Request, Image | None]], batch_size: int
) -> dict[str, Any] | None:
    """Time the decoder and plain greedy `generate()` in turn on the same batches, after a batch of warming up.

    Nothing is shared between questions meanwhile, whatever the run shares.

    Args:
        answerer: the decoder.
        requests: what to ask, with decoded images.
        batch_size: requests per `generate()`.

    Returns:
        Seconds and tokens per second of both, and their ratio; None without requests.
    """
    if not requests:
        return None
    greedy = dataclasses.replace(GenerationSettings(), max_new_tokens=answerer.generation.max_new_tokens)
    plain = Answerer(answerer.loaded, None, greedy, answerer.words)
    answerer = (
        answerer.alone()
    )  # what can be shared differs between decoders and tasks, the price of a decoder does not
    seconds, tokens = [0.0, 0.0], [0, 0]
    batches = [requests[start : start + batch_size] for start in range(0, len(requests), batch_size)]
    for who in (answerer, plain):
        _timed(who, batches[0])
    for number, batch in enumerate(batches):
        answerer.loaded.adapter.forget()  # what is kept per image was paid for by the first question about it
        for place in (0, 1) if number % 2 == 0 else (1, 0):
            spent, generated = _timed((answerer, plain)[place], batch)
            seconds[place] += spent
            tokens[place] += generated
    return {
        "requests": len(requests),
        "batch_size": batch_size,
        "decoder_s": round(seconds[0], 4),
        "greedy_s": round(seconds[1], 4),
        "ratio": round(seconds[0] / seconds[1], 3),
        "decoder_tokens_per_s": round(tokens[0] / seconds[0], 2),
        "greedy_tokens_per_s": round(tokens[1] / seconds[1], 2),
    }


def _timed(answerer: Answerer, batch: Sequence[tuple[Request, Image | None]]) -> tuple[float, int]:
    _synchronize(answerer)
    start = time.perf_counter()
    asked = [request for request, _ in batch]
    answers, _ = answerer.ask(
        [request.prompt for request in asked],
        [image for _, image in batch],
        [request.seed for request in asked],
        [request.candidates for request in asked],
        [request.context for request in asked],
    )
    _synchronize(answerer)
    return time.perf_counter() - start, sum(answer.n_output_tokens for answer in answers)


def _synchronize(answerer: Answerer) -> None:
    if answerer.loaded.model.device.type == "cuda":
        torch.cuda.synchronize(answerer.loaded.model.device)


def peak_memory() -> float | None:
    """Most memory held so far in MB: of the GPU where there is one, otherwise of the process; None if not known."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if sys.platform == "win32":
        return None
    resource = importlib.import_module("resource")
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(usage / (2**20 if sys.platform == "darwin" else 2**10), 1)
