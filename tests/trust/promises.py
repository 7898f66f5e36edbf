"""Which test holds which promise: a pytest plugin that runs these tests alone and writes how each promise fared.

pytest -p promises --promises build/trust/promises.json tests
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Promise:
    """A promise, and the tests that hold it; a test counts for the first promise that it fits.

    Attributes:
        key: short name.
        says: the promise, as the table has it.
        tests: pattern of their ids.
        golden: they read golden vectors instead of having such an id.
    """

    key: str
    says: str
    tests: str = ""
    golden: bool = False

    def holds(self, name: str, fixtures: Sequence[str]) -> bool:
        """Whether this test is one of its."""
        return ("golden" in fixtures) if self.golden else re.search(self.tests, name) is not None


PROMISES = (
    Promise("matrix", "Every decoder in every mode on every family: equal, or refused (pairs)", r"^tests/matrix/"),
    Promise("properties", "Laws of the algebra and the engine, on random inputs", r"trust/test_(engine_)?properties"),
    Promise("faults", "An exception anywhere leaves the model as it was", r"trust/test_faults"),
    Promise("sabotage", "A broken mask, probe, span or row order is noticed", r"trust/test_(sabotage|mut)"),
    Promise("hostile", "Hostile files end in declared errors", r"trust/test_hostile|test_(images|config|loading)\.py"),
    Promise("fuzz", "Damaged files end in declared errors (a sample of each kind)", r"trust/test_fuzz"),
    Promise("network", "No network at import, in a run or in help; versions and advisories", r"trust/test_supply"),
    Promise("golden", "Every formula equals its reference on golden vectors", golden=True),
    Promise("neutral", "Neutral is plain `generate()`, token for token", r"decoders/.*test_(neutral|alpha_zero)"),
    Promise(
        "equal", "Rows = passes one by one = batches = no cache; beams carry branches along",
        r"decoders/.*(agree|equal|one_by_one|beams|chain|naive|several_images|static_caches)",
    ),
    Promise("residue", "Nothing stays behind; 200 generations leak nothing", r"(stays_behind|leak_nothing|a_block)"),
    Promise(
        "refused", "What is not supported is refused before the first forward",
        r"(decoders|models)/.*(refuse|an_error|asked_for|asks_for|cannot|without)",
    ),
    Promise("scores", "Scores equal the official scripts'", r"eval/scoring/|test_(score|statistics|pope_data)\.py"),
    Promise("survive", "Kill and resume give the same bytes", r"eval/test_survival|eval/test_runner|killed_node"),
    Promise(
        "counts", "Forwards and rows per token are what the plan says",
        r"(decoders|models|eval)/.*(counts|forwards|operations)",
    ),
)  # fmt: skip


def of(name: str, fixtures: Sequence[str]) -> Promise | None:
    """The promise that a test holds."""
    return next((promise for promise in PROMISES if promise.holds(name, fixtures)), None)


class Counting:
    """Keeps how each test ended, and writes it when all are through.

    Args:
        out: the JSON file.
    """

    def __init__(self, out: Path):
        self.out = out
        self.kept: dict[str, dict[str, Any]] = {}
        self.found = {promise.key: {"cases": 0, "failed": [], "skipped": 0, "seconds": 0.0} for promise in PROMISES}
        self.start = time.perf_counter()

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        kept, left = [], []
        for item in items:
            promise = of(item.nodeid, item.fixturenames)
            (left if promise is None else kept).append(item)
            if promise is not None:
                item.user_properties.append(("promise", promise.key))
        config.hook.pytest_deselected(items=left)
        items[:] = kept

    def pytest_runtest_logreport(self, report: Any) -> None:
        key = dict(report.user_properties).get("promise")
        if key is None and report.failed:  # the report of a process that died has no properties
            promise = of(report.nodeid, ())
            key = None if promise is None else promise.key
        if key is None:
            return
        row = self.found[key]
        row["seconds"] += report.duration
        if report.failed:
            row["failed"].append(report.nodeid)
        row["skipped"] += report.skipped
        row["cases"] += report.when == "call" and not report.skipped

    def pytest_sessionfinish(self, session: Any) -> None:
        if not hasattr(session.config, "workerinput"):  # of xdist: the workers' reports all come here
            self.out.parent.mkdir(parents=True, exist_ok=True)
            held = {"promises": self.found, "seconds": time.perf_counter() - self.start}
            self.out.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--promises", type=Path, help="run the tests of promises alone; write how they fared there")


def pytest_configure(config: Any) -> None:
    out = config.getoption("promises")
    if out is not None:
        config.pluginmanager.register(Counting(out))
