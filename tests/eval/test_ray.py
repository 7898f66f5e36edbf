"""A run begun in one process goes on on a Ray cluster of two nodes, one of which is killed: the same bytes."""

import json
import os
import sys

import pytest
import ray
from ray.cluster_utils import Cluster
from sightline.eval import preparing, ray_crew
from sightline.eval.cli import main
from sightline.eval.config import compose_settings
from sightline.eval.dispatch import Dispatcher
from sightline.eval.errors import ConfigError, DeviceLost, MissingPackage, RunFailed, RunFolderError
from sightline.eval.records import SampleFiles, read_samples

IMAGES, WORKERS = 8, 3
ASKED = ("decoder=vcd", f"run.limit={IMAGES}", "run.cost_requests=2", "run.threads=1")
QUICK = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 2,
    "prestart_worker_first_driver": False,
}
"""A dead node is noticed within seconds, not half a minute; and no process is started that nothing is asked of."""


@pytest.fixture(scope="module")
def cluster():
    """Two nodes on this machine, with room for two workers and for one, and a driver that is connected."""
    ray_crew.package()
    head = {"num_cpus": 2, "include_dashboard": False, "_system_config": QUICK, "object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves its pipes to the garbage collector
def test_a_killed_node_costs_nothing(cluster, tmp_path, monkeypatch, capsys):
    one, three = tmp_path / "one", tmp_path / "three"
    assert main(["run", *ASKED, f"run.dir={one}"]) == 0
    _, doomed = cluster.list_all_nodes()
    append, written = SampleFiles.append, []

    def append_once(self, records):
        if self.answered():
            raise KeyboardInterrupt
        append(self, records)

    with monkeypatch.context() as once:
        once.setattr(SampleFiles, "append", append_once)
        assert main(["run", "run.batch_size=2", *ASKED, f"run.dir={three}"]) == 130
    begun = len(SampleFiles(three / "samples", "pope_scenes").answered())
    assert 0 < begun < IMAGES * 2  # what is left keeps the worker that is killed busy

    def kill_then_append(self, records):
        if not written:
            cluster.remove_node(doomed, allow_graceful=False)
        written.append(len(records))
        append(self, records)

    answers = Dispatcher.answers

    def once_all_are_ready(self, requests):  # so that the worker that is killed has something to lose
        while len(self._ready) < WORKERS:
            list(self._after(self._next()))
        return answers(self, requests)

    monkeypatch.setattr(SampleFiles, "append", kill_then_append)
    monkeypatch.setattr(Dispatcher, "answers", once_all_are_ready)
    assert main(["run", "run=ray", f"run.workers={WORKERS}", "run.batch_size=5", *ASKED, f"run.dir={three}"]) == 0
    samples = [folder / "samples" / "pope_scenes.jsonl" for folder in (one, three)]
    assert samples[0].read_bytes() == samples[1].read_bytes()
    assert (one / "metrics.json").read_bytes() == (three / "metrics.json").read_bytes()
    assert len(read_samples(samples[1])) == IMAGES * 18
    assert "sightline: a worker was lost (its process or its machine is gone)" in capsys.readouterr().err
    manifest = json.loads((three / "manifest.json").read_text())
    assert manifest["workers"] == {"where": "ray", "number": WORKERS, "cpus": 1, "gpus": 0.0}
    cost = json.loads((three / "timings" / "summary.json").read_text())
    assert cost["requests"] == manifest["n_requests"]
    assert cost["beside_greedy"]["requests"] == 2


def test_what_ends_a_worker_and_what_is_its_answer():
    pool = ray_crew.RayPool(ray, compose_settings(["run=ray"])[0], 0)
    known = ray.exceptions
    assert pool._death(known.ActorDiedError()) == "its process or its machine is gone"
    assert pool._death(known.OutOfMemoryError("killed")) == "memory ran out on its machine"
    assert pool._death(known.RayTaskError("answers", "", DeviceLost("CUDA error."))) == "its GPU failed"
    with pytest.raises(RunFailed, match="wrong shape"):
        pool._death(known.RayTaskError("answers", "", RunFailed("weights of the wrong shape.")))
    with pytest.raises(ValueError, match="answers"):
        pool._death(known.RayTaskError("answers", "in answers", ValueError("a bug")))


def test_machines_that_hold_other_things_are_refused(loaded, overrides, monkeypatch):
    asked, _ = compose_settings(overrides())
    monkeypatch.setattr(preparing, "load_model", lambda settings: loaded)
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    worker = ray_crew.RemoteWorker(asked, ".")
    prepared = worker.prepared(["sightline"])
    worker.join(prepared.same)
    assert sum(done.requests for done in worker.answers(prepared.plan.requests)) == 24
    other = {**prepared.same, "model": {"name": "random-llava", "fingerprint": "other"}}
    with pytest.raises(RunFolderError, match=r"do not hold the same: model\.fingerprint"):
        worker.join(other)


def test_room_of_a_cluster():
    class Fake:
        def __init__(self, gpus, machines):
            self.cluster_resources = lambda: {"GPU": gpus} if gpus else {}
            self.nodes = lambda: [{"Alive": True}] * machines + [{"Alive": False}]

    def room(gpus, machines, *overrides):
        return ray_crew.room(Fake(gpus, machines), compose_settings(["run=ray", *overrides])[0])

    assert room(0, 3) == (3, 0.0)
    assert room(8, 2) == (8, 1.0)
    assert room(8, 2, "run.worker_gpus=0.5") == (16, 0.5)
    assert room(8, 2, "run.worker_gpus=2", "run.workers=3") == (3, 2.0)
    assert room(8, 2, "model.device=cpu") == (2, 0.0)


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(ray_crew.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r'pip install "sightline\[ray\]"'):
        ray_crew.package()


def test_fields_of_ray_belong_to_ray():
    with pytest.raises(ConfigError, match=r"belongs to run=ray"):
        compose_settings(["run.workers=3"])
    with pytest.raises(ConfigError, match=r"run\.limit"):
        compose_settings(["run=ray", "run.limt=3"])
