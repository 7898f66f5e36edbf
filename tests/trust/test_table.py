"""`make trust`: tests count for the promise they hold, failures are failures, the page keeps what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import promises
import pytest
import table

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest
@pytest.mark.parametrize("n", range(3))
def test_nothing_stays_behind(n):
    assert n < 2
def test_neutral_is_plain_generate():
    pytest.skip("no")
def test_what_no_promise_knows():
    raise SystemExit("is not run")
@pytest.fixture
def golden():
    raise OSError("no vectors")
def test_formula(golden):
    pass
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_tests_are_counted_for_their_promise(processes, tmp_path):
    (tmp_path / "decoders").mkdir()
    (tmp_path / "decoders" / "test_some.py").write_text(TESTS)
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "pytest", "-p", "promises", "--promises", str(out), "-n", processes, "decoders"]
    paths = os.pathsep.join([str(ROOT / "tests" / "trust"), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, check=False
    )
    assert done.returncode == 1
    found = json.loads(out.read_text())["promises"]
    counted = {
        key: (row["cases"], len(row["failed"]), row["skipped"]) for key, row in found.items() if any(row.values())
    }
    assert counted == {"residue": (3, 1, 0), "neutral": (0, 0, 1), "golden": (0, 1, 0)}


def test_each_test_counts_once():
    taken = {
        "tests/matrix/test_matrix.py::test_cell[llava-vcd-greedy]": "matrix",
        "tests/trust/test_hostile_files.py::test_no_row_reads_a_file_outside_its_folder": "hostile",
        "tests/decoders/test_promises.py::test_neutral_is_plain_generate[vcd-greedy]": "neutral",
        "tests/decoders/test_promises.py::test_rows_sequence_batch_and_cache_agree[vcd]": "equal",
        "tests/decoders/test_attachment.py::test_two_hundred_generations_leak_nothing": "residue",
        "tests/decoders/test_guard.py::test_continuous_batching_is_refused": "refused",
        "tests/eval/scoring/test_pope.py::test_anything": "scores",
        "tests/eval/test_survival.py::test_twenty_kills_and_the_same_bytes": "survive",
        "tests/eval/test_bench.py::test_forwards_rows_and_tokens[vcd]": "counts",
    }
    assert {name: promises.of(name, ()).key for name in taken} == taken
    assert promises.of("tests/decoders/test_vcd.py::test_neutral_vectors", ("golden",)).key == "golden"
    assert promises.of("tests/eval/test_report.py::test_colours", ()) is None
    assert len({promise.key for promise in promises.PROMISES}) == len(promises.PROMISES)


def test_the_matrix_is_counted_cell_by_cell():
    held = json.loads((ROOT / "eval" / "matrix.json").read_text())
    row = table.whole_matrix()
    assert row.cases.startswith(f"{sum(held['counts'].values()):,}: ")
    assert all(f"{count:,} {kind}" in row.cases for kind, count in held["counts"].items())
    assert row.failures == held["counts"].get("failed", 0)


def test_the_page_keeps_what_was_not_measured_again():
    page = "# A\n<!-- table -->\nold\n<!-- /table -->\nB\n<!-- mutation -->\nkept\n<!-- /mutation -->\n"
    page = table.within(table.within(page, "table", "new"), "mutation", "")
    assert page == "# A\n<!-- table -->\nnew\n<!-- /table -->\nB\n<!-- mutation -->\nkept\n<!-- /mutation -->\n"
    with pytest.raises(SystemExit, match="no markers"):
        table.within(page, "coverage", "x")
    docs = (ROOT / "docs" / "trust.md").read_text()
    for name in ("table", "agreement", "mutation", "coverage"):
        assert table.within(docs, name, "figures") != docs
