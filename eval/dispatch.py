"""Hands requests out to workers that may die, and takes answers back: each once, nothing lost, nothing doubled.

Requests go out in loads of whole images. A worker that dies is replaced, and its loads go to others. As a death can be
the fault of a request (one that takes all memory, one that brings a kernel down), a load that was there when a worker
died goes out alone the next time; when that worker dies too, it is taken apart into single requests; and a single
request whose worker dies is written down as failed, like any other sample without an answer.

What a worker is, how it is started and how it is asked is the `Pool`'s business; nothing here knows of clusters.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from .errors import WorkersLost
from .plan import Request
from .worker import WINDOW, Done, windows

T = TypeVar("T")
HELD = 2
"""Loads that a worker holds at a time, so that it never waits for the next one."""
ROUNDS = 8
"""Loads for each worker over the whole run: smaller ones are shared out more evenly, larger ones batch better."""
DEATHS = 8
"""Workers that die one after the other without an answer between them, before a run is given up."""


@dataclass(frozen=True)
class Ready:
    """A worker has its model and can be given loads."""

    worker: int


@dataclass(frozen=True)
class Finished:
    """A worker has done a load."""

    worker: int
    load: int
    done: Sequence[Done]


@dataclass(frozen=True)
class Lost:
    """A worker is gone, or was sent away because it cannot be trusted any more."""

    worker: int
    why: str


Event = Ready | Finished | Lost


class WorkerDied(Exception):
    """A worker died while it was asked something that is waited for.

    Args:
        why: in a few words.
    """

    def __init__(self, why: str):
        super().__init__(why)
        self.why = why


class Pool(Protocol):
    """Workers on machines that may go away."""

    def start(self) -> int:
        """Have a worker started, at once or as soon as there is room for it; returns its number. `Ready` follows."""
        ...

    def give(self, worker: int, load: int, requests: Sequence[Request]) -> None:
        """Have a worker answer a load; `Finished` or `Lost` follows."""
        ...

    def next(self, seconds: float) -> Event | None:
        """What happened next; None if nothing did for that long. Errors that are no death of a worker are raised."""
        ...


@dataclass
class Load:
    """Requests that go out together; `deaths` counts the workers that died over them."""

    requests: Sequence[Request]
    deaths: int = 0


@dataclass
class Dispatcher:
    """One run's requests on their way.

    Args:
        pool: the workers.
        workers: how many to keep at work.
        batch_size: requests that a worker answers at a time; a load is not smaller.
        wait_s: seconds to wait for a sign of life.
        say: told of workers that are lost and replaced.
        lost: workers lost so far.
    """

    pool: Pool
    workers: int
    batch_size: int
    wait_s: float
    say: Callable[[str], None]
    lost: int = 0
    _waiting: deque[int] = field(default_factory=deque)
    _loads: dict[int, Load] = field(default_factory=dict)
    _held: dict[int, list[int]] = field(default_factory=dict)
    _ready: set[int] = field(default_factory=set)
    _numbers: int = 0
    _deaths: int = 0

    def gather(self) -> None:
        """Have the workers started; they can be given loads as they come."""
        while len(self._held) < self.workers:
            self._held[self.pool.start()] = []

    def first(self, call: Callable[[int], T]) -> T:
        """What `call` gives for the first worker that is ready; asked of another one where that dies over it.

        Raises:
            WorkersLost: as `answers`.
        """
        self.gather()
        while True:
            event: Event = self._next() if not self._ready else Ready(min(self._ready))
            if isinstance(event, Ready):
                try:
                    self._ready.add(event.worker)
                    return call(event.worker)
                except WorkerDied as death:
                    event = Lost(event.worker, death.why)
            list(self._after(event))

    def renew(self) -> None:
        """Wait for every worker to say anew that it is ready."""
        self._ready.clear()

    def answers(self, requests: Sequence[Request]) -> Iterator[Done]:
        """Answer requests, load by load, in the order in which workers are done.

        Raises:
            WorkersLost: no worker could be started, or each dies before it has answered anything.
        """
        least = math.ceil(len(requests) / (ROUNDS * self.workers))
        for load in windows(requests, min(WINDOW, max(self.batch_size, least))):
            self._add(Load(load))
        self.gather()
        while self._loads:
            self._hand_out()
            yield from self._after(self._next())

    def _add(self, load: Load) -> None:
        self._loads[self._numbers] = load
        self._waiting.append(self._numbers)
        self._numbers += 1

    def _hand_out(self) -> None:
        """Give every worker what it can hold; a load under suspicion goes out alone."""
        for worker in sorted(self._ready, key=lambda each: len(self._held[each])):
            held = self._held[worker]
            while self._waiting and len(held) < HELD and not any(self._loads[number].deaths for number in held):
                number = self._waiting[0]
                if self._loads[number].deaths and held:
                    break
                self._waiting.popleft()
                held.append(number)
                self.pool.give(worker, number, self._loads[number].requests)

    def _next(self) -> Event:
        until = time.monotonic() + self.wait_s
        while (left := until - time.monotonic()) > 0:
            event = self.pool.next(left)
            if event is not None:
                return event
            if any(self._held.values()):  # a load may take as long as it takes: death is what ends it
                until = time.monotonic() + self.wait_s
        raise WorkersLost(
            f"No worker could be started within {self.wait_s:g} seconds.",
            "See that the cluster has room for one (run.worker_cpus, run.worker_gpus), or set run.wait_s higher; "
            "the same command goes on with what is left.",
        )

    def _after(self, event: Event) -> Iterator[Done]:
        if isinstance(event, Ready):
            self._ready.add(event.worker)
        elif isinstance(event, Lost):
            yield from self._bury(event)
        elif event.worker in self._held and event.load in self._held[event.worker]:
            self._held[event.worker].remove(event.load)
            del self._loads[event.load]
            self._deaths = 0
            yield from event.done

    def _bury(self, lost: Lost) -> Iterator[Done]:
        """Put the loads of a worker that is gone in front of the queue, and have another worker started."""
        if lost.worker not in self._held:
            return
        self._ready.discard(lost.worker)
        self.lost += 1
        self._deaths += 1
        if self._deaths >= DEATHS:
            raise WorkersLost(
                f"The last {self._deaths} workers died before one of them had answered anything, the last one: "
                f"{lost.why}.",
                "What is answered is kept, and the same command goes on. Where memory runs out, lower run.batch_size "
                "or the number of run.workers.",
            )
        for number in reversed(self._held.pop(lost.worker)):
            yield from self._again(number, lost.why)
        self._held[self.pool.start()] = []
        self.say(f"a worker was lost ({lost.why}); its requests go to others, and another one is started")

    def _again(self, number: int, why: str) -> Iterator[Done]:
        load = self._loads[number]
        load.deaths += 1
        if load.deaths == 1 or (load.deaths == 2 and len(load.requests) == 1):
            self._waiting.appendleft(number)
            return
        del self._loads[number]
        if len(load.requests) > 1:
            for request in load.requests:
                self._add(Load([request], deaths=load.deaths))
            return
        (request,) = load.requests
        error = f"WorkersLost: every worker that was asked this died, the last one: {why}"
        yield Done(1, [planned.failure(error) for planned in request.samples])
