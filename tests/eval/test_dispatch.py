"""Handing requests out to workers that die: each answered once, whoever died over what; no cluster is needed."""

import random
from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from sightline.eval.dispatch import DEATHS, HELD, Dispatcher, Finished, Lost, Ready, WorkerDied
from sightline.eval.errors import WorkersLost
from sightline.eval.plan import Planned, Request
from sightline.eval.tasks.base import Document
from sightline.eval.worker import Done


def requests(images=12, questions=3):
    found = []
    for image in range(images):
        for question in range(questions):
            document = Document("s", f"{image}-{question}", f"{image}.png", f"q{question}", "yes")
            planned = Planned(f"{image}-{question}", ("t", 1), document, document.text, None)
            found.append(Request(document.image, document.text, None, (planned,)))
    return found


@dataclass
class FakePool:
    """Workers that answer in random order; `kills(worker, keys)` says who dies over what."""

    kills: object = lambda worker, keys: False
    room: int = 99
    seed: int = 0
    started: int = 0
    given: list = field(default_factory=list)
    busiest: int = 0
    late: list = field(default_factory=list)

    def __post_init__(self):
        self.random = random.Random(self.seed)
        self.queues: dict[int, deque] = {}
        self.new: list[int] = []

    def start(self):
        self.started += 1
        if self.started <= self.room:
            self.new.append(self.started)
        return self.started

    def give(self, worker, load, asked):
        keys = [request.samples[0].key for request in asked]
        self.given.append((worker, load, keys))
        self.queues[worker].append((load, asked, keys))
        self.busiest = max(self.busiest, len(self.queues[worker]))

    def next(self, seconds):
        if self.late and self.random.random() < 0.5:
            return self.late.pop()
        able = [worker for worker, queue in self.queues.items() if queue]
        if self.new and (not able or self.random.random() < 0.3):
            worker = self.new.pop()
            self.queues[worker] = deque()
            return Ready(worker)
        if not able:
            return None
        worker = self.random.choice(able)
        load, asked, keys = self.queues[worker].popleft()
        done = [Done(1, [request.samples[0].record(output=f"{worker}", n_prompt_tokens=1, n_output_tokens=1,
                                                   finish="eos", margin=None)]) for request in asked]  # fmt: skip
        if self.kills(worker, keys):
            self.late += [Finished(worker, load, done)]  # what a worker that was given up says nevertheless
            del self.queues[worker]
            return Lost(worker, "its process died")
        return Finished(worker, load, done)


def answered(pool, workers=3, asked=None, batch_size=2):
    said = []
    dispatcher = Dispatcher(pool, workers, batch_size, 0.01, said.append)
    records = [record for done in dispatcher.answers(asked or requests()) for record in done.records]
    return records, dispatcher, said


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("workers", [1, 3, 20])
def test_each_is_answered_once_though_workers_die(seed, workers):
    luck = random.Random(seed)
    pool = FakePool(kills=lambda worker, keys: luck.random() < 0.15, seed=seed)
    records, dispatcher, said = answered(pool, workers)
    assert Counter(record.key for record in records) == Counter(r.samples[0].key for r in requests())
    assert len(said) == dispatcher.lost == pool.started - workers
    assert pool.busiest <= HELD


def test_images_stay_whole_and_loads_are_many():
    pool = FakePool()
    answered(pool, workers=2)
    loads = [keys for _, _, keys in pool.given]
    assert len(loads) >= 6
    images = [{key.split("-")[0] for key in keys} for keys in loads]
    assert sum(map(len, images)) == 12


def test_a_request_that_kills_is_found_and_fails_alone():
    pool = FakePool(kills=lambda worker, keys: "5-1" in keys)
    records, dispatcher, _ = answered(pool)
    failed = [record for record in records if record.status == "error"]
    assert [record.key for record in failed] == ["5-1"]
    assert failed[0].error == "WorkersLost: every worker that was asked this died, the last one: its process died"
    assert len(records) == 36
    assert dispatcher.lost == 3


def test_suspects_go_out_alone():
    pool = FakePool(kills=lambda worker, keys: "5-1" in keys)
    answered(pool)
    over = [(worker, keys) for worker, _, keys in pool.given if "5-1" in keys]
    for worker, keys in over[1:]:
        own = [given for given in pool.given if given[0] == worker]
        assert own[-1][2] == keys  # nothing was given to it behind what it died of
    assert over[-1][1] == ["5-1"]


def test_what_is_left_goes_to_the_workers_that_are_left():
    luck = iter([True] + [False] * 99)
    pool = FakePool(kills=lambda worker, keys: next(luck), room=2)
    records, dispatcher, _ = answered(pool, workers=2)
    assert len(records) == 36
    assert (dispatcher.lost, len(pool.queues)) == (1, 1)


def test_no_room_for_a_worker_is_an_error():
    with pytest.raises(WorkersLost, match=r"within 0\.01 seconds.*run\.worker_gpus"):
        answered(FakePool(room=0))


def test_workers_that_all_die_are_an_error():
    pool = FakePool(kills=lambda worker, keys: True)
    with pytest.raises(WorkersLost, match=rf"last {DEATHS} workers died.*its process died"):
        answered(pool)


def test_what_is_asked_first_is_asked_again_of_another_worker():
    pool = FakePool()
    dispatcher = Dispatcher(pool, 2, 2, 0.01, lambda text: None)
    asked = []

    def plan(worker):
        asked.append(worker)
        if len(asked) < 3:
            del pool.queues[worker]
            raise WorkerDied("its machine is gone")
        return "the plan"

    assert dispatcher.first(plan) == "the plan"
    assert len(set(asked)) == 3
    assert len(list(dispatcher.answers(requests()))) == 36
