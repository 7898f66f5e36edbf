"""A run's workers on a Ray cluster: one model each, on GPUs where there are some.

The driver, which is the process that was started, holds no model. It has the first worker plan the run, hands loads of
requests out (`dispatch`), and alone writes the run folder, so that no file system has to be shared but for models and
data, and an answer is either with the driver or is asked again. A worker that dies, or whose machine does, is replaced
as soon as there is room for another one.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from ..models.errors import SightlineError
from .dispatch import Dispatcher, Event, Finished, Lost, Ready, WorkerDied
from .errors import ConfigError, DeviceLost, MissingPackage, RunFolderError
from .manifest import differences
from .plan import Request
from .preparing import Preparation, Prepared
from .settings import Settings
from .worker import Done, Worker

_READY = -1
"""Stands for being ready where else the number of a load stands."""


class RemoteWorker:
    """What an actor is: a model with its preparation, made on the actor's machine.

    Args:
        settings: of the run.
        folder: where the run was started.
    """

    def __init__(self, settings: Settings, folder: str):
        if os.path.isdir(folder):  # so that relative paths mean the same
            os.chdir(folder)
        self._settings = settings
        self._made: tuple[Preparation, Worker] | None = None

    def ready(self) -> None:
        """Load the model and the data; an error comes back as it is, which it would not from the constructor."""
        self._preparation()

    def prepared(self, command: Sequence[str]) -> Prepared:
        """The run's plan and identity, as this machine sees them."""
        return self._preparation()[0].prepared(command)

    def join(self, same: dict[str, Any]) -> None:
        """Make ready to answer.

        Raises:
            RunFolderError: model, data or package are others here than where the run was planned.
        """
        found = differences(same, self._preparation()[0].identity())
        if found:
            raise RunFolderError(
                f"The machines of the cluster do not hold the same: {'; '.join(found[:3])} (where the run was planned, "
                "and on a worker).",
                "Install the same version and copy the same model and data to all of them.",
            )

    def answers(self, requests: Sequence[Request]) -> list[Done]:
        """Answer a load."""
        return list(self._preparation()[1].answers(requests))

    def beside_greedy(self, requests: Sequence[Request]) -> dict[str, Any] | None:
        """The decoder timed beside plain greedy decoding."""
        return self._preparation()[1].beside_greedy(requests)

    def _preparation(self) -> tuple[Preparation, Worker]:
        if self._made is None:
            made = Preparation(self._settings)
            self._made = made, Worker(made.answerer(), made.images, self._settings.run.batch_size)
        return self._made


class RayPool:
    """Actors as a `Pool`.

    Args:
        ray: the package.
        settings: of the run.
        gpus: GPUs of a worker.
    """

    def __init__(self, ray: Any, settings: Settings, gpus: float):
        self.gpus = gpus
        self._same: dict[str, Any] | None = None
        self._ray = ray
        self._settings = settings
        options = {"num_cpus": settings.run.worker_cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        self._kind = ray.remote(**options)(RemoteWorker)
        self._actors: dict[int, Any] = {}
        self._tickets: dict[Any, tuple[int, int]] = {}
        self._numbers = 0

    def start(self) -> int:
        """As `Pool.start`."""
        number, self._numbers = self._numbers, self._numbers + 1
        self._actors[number] = self._kind.remote(self._settings, os.getcwd())
        self._greet(number)
        return number

    def agree(self, same: dict[str, Any]) -> None:
        """From now on a worker is ready once it has seen that its model and data are those of this identity."""
        self._same = same
        self._tickets.clear()
        for worker in self._actors:
            self._greet(worker)

    def _greet(self, worker: int) -> None:
        actor = self._actors[worker]
        self._tickets[actor.ready.remote() if self._same is None else actor.join.remote(self._same)] = worker, _READY

    def give(self, worker: int, load: int, requests: Sequence[Request]) -> None:
        """As `Pool.give`."""
        self._tickets[self._actors[worker].answers.remote(list(requests))] = worker, load

    def call(self, worker: int, method: str, *args: Any) -> Any:
        """One call of a worker, waited for.

        Raises:
            WorkerDied: it died over it.
        """
        try:
            return self._ray.get(getattr(self._actors[worker], method).remote(*args))
        except self._ray.exceptions.RayError as error:
            why = self._death(error)
            self._bury(worker)
            raise WorkerDied(why) from error

    def next(self, seconds: float) -> Event | None:
        """As `Pool.next`."""
        if not self._tickets:
            return None
        done, _ = self._ray.wait(list(self._tickets), num_returns=1, timeout=seconds)
        if not done:
            return None
        worker, load = self._tickets.pop(done[0])
        try:
            answer = self._ray.get(done[0])
        except self._ray.exceptions.RayError as error:
            why = self._death(error)
            self._bury(worker)
            return Lost(worker, why)
        return Ready(worker) if load == _READY else Finished(worker, load, answer)

    def close(self) -> None:
        """End all workers."""
        for worker in list(self._actors):
            self._bury(worker)

    def _bury(self, worker: int) -> None:
        """Forget a worker and what it was asked; a process that is still there is ended, so that none answers twice."""
        actor = self._actors.pop(worker, None)
        self._tickets = {ticket: held for ticket, held in self._tickets.items() if held[0] != worker}
        if actor is not None:
            self._ray.kill(actor)

    def _death(self, error: Any) -> str:
        """Why a worker is gone, in words that do not change from run to run.

        Raises:
            Exception: the worker lives, and what it was asked cannot be done; the error is its own.
        """
        known = self._ray.exceptions
        if isinstance(error, known.RayTaskError):
            cause: Any = getattr(error, "cause", None)
            if isinstance(cause, DeviceLost):
                return "its GPU failed"
            raise cause if isinstance(cause, SightlineError) else error.as_instanceof_cause() from error
        if isinstance(error, known.OutOfMemoryError) or "OOM" in str(error):
            return "memory ran out on its machine"
        return "its process or its machine is gone"


class RayCrew:
    """Workers on a cluster as a `Crew`.

    Args:
        ray: the package, connected.
        settings: of the run.
    """

    def __init__(self, ray: Any, settings: Settings):
        run = settings.run
        workers, gpus = room(ray, settings)
        self._facts = {"where": run.where, "number": workers, "cpus": run.worker_cpus, "gpus": gpus}
        self._pool = RayPool(ray, settings, gpus)
        self._dispatcher = Dispatcher(self._pool, workers, run.batch_size, run.wait_s, _say)

    def prepared(self, command: Sequence[str]) -> Prepared:
        """The plan of the run, made by the worker that is ready first; the others have to agree with it."""
        made: Prepared = self._dispatcher.first(lambda worker: self._pool.call(worker, "prepared", list(command)))
        self._dispatcher.renew()
        self._pool.agree(made.same)
        return dataclasses.replace(made, beside={**made.beside, "workers": self._facts})

    def answers(self, requests: Sequence[Request]) -> Iterator[Done]:
        """Answer requests on all workers, in the order in which they are done."""
        return self._dispatcher.answers(requests)

    def beside_greedy(self, requests: Sequence[Request]) -> dict[str, Any] | None:
        """The decoder timed beside plain greedy decoding, on one worker."""
        if not requests:
            return None
        return self._dispatcher.first(lambda worker: self._pool.call(worker, "beside_greedy", list(requests)))

    def close(self) -> None:
        """End all workers."""
        self._pool.close()


def room(ray: Any, settings: Settings) -> tuple[int, float]:
    """How many workers a cluster is asked for, and how many GPUs each has."""
    run = settings.run
    there = float(ray.cluster_resources().get("GPU", 0))
    gpus = run.worker_gpus
    if gpus is None:
        gpus = 1.0 if there and settings.model.device != "cpu" else 0.0
    machines = sum(bool(node["Alive"]) for node in ray.nodes())
    return run.workers or max(1, int(there // gpus) if gpus else machines), gpus


@contextmanager
def opened(settings: Settings) -> Iterator[RayCrew]:
    """A crew on the cluster that the settings name; its workers are ended after the block.

    Raises:
        MissingPackage: Ray is not installed.
        ConfigError: there is no cluster at the address.
    """
    ray = package()
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(address=settings.run.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"There is no Ray cluster at run.address {settings.run.address!r}: {error}.",
                "Start one with `ray start --head`, or leave run.address out for one on this machine.",
            ) from error
    try:
        crew = RayCrew(ray, settings)
        try:
            yield crew
        finally:
            crew.close()
    finally:
        if own:
            ray.shutdown()


def package() -> Any:
    """Ray, told not to report its use and to leave the GPUs of processes that asked for none as they are.

    Raises:
        MissingPackage: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingPackage("run=ray needs Ray, which is not installed.", 'Install it: pip install "sightline[ray]".')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return importlib.import_module("ray")


def _say(text: str) -> None:
    tqdm.write(f"sightline: {text}", file=sys.stderr)
