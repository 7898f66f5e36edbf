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
    assert promises.of("tests/trust/test_table.py::test_each_test_counts_once", ()) is None
    assert len({promise.key for promise in promises.PROMISES}) == len(promises.PROMISES)


def test_the_matrix_is_counted_cell_by_cell():
    held = json.loads((ROOT / "eval" / "matrix.json").read_text())
    (row,) = table.whole_matrix()
    assert row.cases.startswith(f"{sum(held['counts'].values()):,}: ")
    assert all(f"{count:,} {kind}" in row.cases for kind, count in held["counts"].items())
    assert row.failures == held["counts"].get("failed", 0)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """The table's own files elsewhere; every stage gives one row without a failure."""
    monkeypatch.setattr(table, "BUILD", tmp_path / "build")
    monkeypatch.setattr(table, "ROOT", tmp_path)
    ran = []

    def stage(name):
        return lambda given: ran.append(name) or [table.Row(f"{name} holds", "2", 0, 1.0)]

    monkeypatch.setattr(table, "STAGES", {name: stage(name) for name in table.STAGES})
    page = tmp_path / "page.md"
    page.write_text("".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in MARKS))
    return page, ran


MARKS = ("table", "agreement", "mutation", "coverage")


def test_a_stage_that_breaks_off_is_a_failure_and_no_end(bench, monkeypatch, capsys):
    page, ran = bench

    def breaks(given):
        raise subprocess.CalledProcessError(3, "sightline bench | tee")

    stages = table.STAGES | {"agreement": breaks}
    monkeypatch.setattr(table, "STAGES", stages)
    assert table.main(["--into", str(page)]) == 1
    assert ran == [name for name in stages if name != "agreement"]
    written = page.read_text()
    assert "| The stage `agreement` comes to its end (CalledProcessError: Command 'sightline bench / tee'" in written
    assert "| tests holds | 2 | 0 | 1 |" in written
    assert "| audit holds | 2 | 0 | 1 |" in written
    assert written.count("\nold\n") == 3  # what was not measured stays
    assert "== fuzz," in capsys.readouterr().out
    monkeypatch.setattr(table, "STAGES", stages | {"agreement": lambda given: [table.Row("again", "2", 0, 1.0)]})
    ran.clear()
    assert table.main(["--only", "agreement", "--into", str(page)]) == 0
    assert ran == []
    written = page.read_text()
    assert "CalledProcessError" not in written
    assert written.index("| tests holds") < written.index("| again |") < written.index("| mutants holds")


def test_a_page_without_its_marks_is_refused_before_any_stage(bench):
    page, ran = bench
    page.write_text(page.read_text().replace("<!-- /mutation -->", ""))
    with pytest.raises(SystemExit, match="no markers"):
        table.main(["--into", str(page)])
    assert ran == []


def test_a_promise_that_no_test_holds_is_a_failure(tmp_path, monkeypatch):
    """As after an error of collection, of which pytest runs nothing."""
    monkeypatch.setattr(table, "BUILD", tmp_path)
    found = {promise.key: {"cases": 1, "failed": [], "skipped": 0, "seconds": 0.0} for promise in promises.PROMISES}

    def ran(command, more):
        (tmp_path / "promises.json").write_text(json.dumps({"promises": found}))
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(table, "_run", ran)
    given, code = table._parsed(["--quick"]), 0
    assert not any(row.failures for row in table.tests(given))
    code = 3
    assert table.tests(given)[-1] == ("The run of the tests ends well (pytest ended with 3)", "1", 1, 0.0)
    found["faults"] = {"cases": 0, "failed": [], "skipped": 4, "seconds": 0.0}
    assert [row.cases for row in table.tests(given) if row.failures] == ["0 (4 skipped)"]
    monkeypatch.setattr(table, "_run", lambda command, more: subprocess.CompletedProcess(command, 4))
    with pytest.raises(RuntimeError, match="it ended with 4"):
        table.tests(given)


def test_mutants_and_branches_and_tokens_are_held_to_their_limits(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "BUILD", tmp_path / "build")
    monkeypatch.setattr(table, "ROOT", tmp_path)
    given, found = table._parsed([]), {}

    def ran(command, *more, **settings):
        for name, content in found.items():
            file = tmp_path / "build" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(content))
        return subprocess.CompletedProcess(command, 1, "3 packages audited, 1 known weaknesses.", "")

    monkeypatch.setattr(table, "_run", ran)
    measured = {"mutants": 21, "equivalent": 1, "killed": 18, "score": 0.9, "survivors": ["a", "b"], "seconds": 5.0}
    for score, failures in ((0.9, 0), (0.89, 2)):
        found = {"mutation.json": measured | {"score": score}}
        assert table.mutants(given)[0][1:] == ("20: 2 unnoticed", failures, 5.0)
    found = {"coverage.json": {"meta": {"timestamp": "2030-01-02T03"}, "files": {
        "decoders/a.py": {"summary": {"covered_branches": 94, "num_branches": 100}},
        "models/a.py": {"summary": {"covered_branches": 97, "num_branches": 100}},
    }}}  # fmt: skip
    assert table.coverage(given) == []
    ran([])
    assert table.coverage(given)[0][1:3] == ("200: 95.5%", 0)
    assert "| `decoders/` | 94 of 100 | 94.0% |" in table.coverage_page()
    found["coverage.json"]["files"]["decoders/a.py"]["summary"]["covered_branches"] = 92
    ran([])
    assert table.coverage(given)[0][1:3] == ("200: 94.5%", 1)
    one = {"dtype": "float32", "tokens": 100, "changed": 2, "widest": 5e-5}
    for widest, dtype, said in (
        (5e-5, "float32", ("200 tokens, 4 near ties", 0)), (0.1, "float32", ("200 tokens, 0 near ties", 4)),
        ("cut", "float32", ("200 tokens, 0 near ties", 4)), (0.1, "bfloat16", ("0 tokens, 0 near ties", 0)),
    ):  # fmt: skip
        found = {
            f"{model}/agreement.json": {"found": [one | {"widest": widest, "dtype": dtype}]} for model in table.MODELS
        }
        assert table.agreement(given)[0][1:3] == said
    assert table.audit(given)[0][1:3] == ("3 packages", 1)


def test_the_page_keeps_what_was_not_measured_again():
    page = "# A\n<!-- table -->\nold\n<!-- /table -->\nB\n<!-- mutation -->\nkept\n<!-- /mutation -->\n"
    page = table.within(table.within(page, "table", "new"), "mutation", "")
    assert page == "# A\n<!-- table -->\nnew\n<!-- /table -->\nB\n<!-- mutation -->\nkept\n<!-- /mutation -->\n"
    with pytest.raises(SystemExit, match="no markers"):
        table.within(page, "coverage", "x")
    docs = (ROOT / "docs" / "trust.md").read_text()
    for name in ("table", "agreement", "mutation", "coverage"):
        assert table.within(docs, name, "figures") != docs
