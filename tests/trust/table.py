"""`make trust`: runs what holds each promise, prints one table, and writes it into docs/trust.md.

    python tests/trust/table.py [--quick] [--only STAGE ...] [--jobs N] [--fuzz SECONDS] [--into docs/trust.md]

Rows of tests come from `promises.py`. Beside them stand the figures of other commands: the whole matrix and coverage as
`make matrix` and `make coverage` left them; fuzzing, mutants (`tests/trust/mutate.py`), agreement (`sightline bench
--agreement`) and the audit (`tests/audit.py`) are run here. What was not measured is not in the page.

Stages do not hang on each other: one that breaks off is a line with a failure, and the others go on. Each leaves its
rows in build/trust/rows.json, so that `--only STAGE` can repeat one and takes the others from there.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "trust"
sys.path.insert(0, str(HERE))
from promises import PROMISES  # noqa: E402 - it lies beside this file

QUICK = (
    "tests/trust",
    "tests/matrix/test_broken.py",
    "tests/decoders/test_promises.py",
    "tests/decoders/test_attachment.py",
    "tests/decoders/test_vcd.py",
    "tests/eval/scoring",
    "tests/eval/test_survival.py",
    "tests/eval/test_bench.py",
    "tests/eval/test_images.py",
)
"""Tests of `--quick`: every promise is there, with fewer cases."""
MODELS = {
    "tiny-llava": "--prompts 64 --new-tokens 24 --threads 1 --device cpu --decoders greedy vcd decore cgvlm causalmm",
    "tiny-llama": "--prompts 256 --new-tokens 12 --threads 1 --device cpu --decoders greedy decore cad dagcd",
}
"""Models whose agreement is measured, and how."""
HEADER = ("promise", "cases", "failures", "seconds")
NEAR = 1e-4
"""Scores so near each other may swap in float32 (promise 2)."""
PATIENCE = 3 * 3600
"""Seconds after which a stage counts as stuck."""


class Row(NamedTuple):
    """One line of the table."""

    promise: str
    cases: str
    failures: int
    seconds: float


def tests(given: argparse.Namespace) -> list[Row]:
    """The rows of tests, run now; a promise that no test holds is a failure, and so is a run that broke off."""
    out = BUILD / "promises.json"
    out.unlink(missing_ok=True)
    paths = given.tests or (QUICK if given.quick else ["tests"])
    many = {} if given.quick else {"SIGHTLINE_PROPERTIES": "trust"}  # 500 inputs for each law instead of 15
    command = [sys.executable, "-m", "pytest", "-p", "promises", "--promises", str(out), "-n", given.jobs, *paths]
    done = _run(command, many)
    if not out.is_file():
        raise RuntimeError(f"pytest wrote no {out.name}; it ended with {done.returncode}")
    held = json.loads(out.read_text())["promises"]
    rows = []
    for promise in PROMISES:
        found = held[promise.key]
        if found["cases"] or found["failed"] or not given.tests:
            skipped = f" ({found['skipped']} skipped)" if found["skipped"] else ""
            failures = len(set(found["failed"])) if found["cases"] or found["failed"] else 1
            rows.append(Row(promise.says, f"{found['cases']:,}{skipped}", failures, found["seconds"]))
        sys.stdout.write("".join(f"failed: {name}\n" for name in dict.fromkeys(found["failed"])))
    if done.returncode and not any(row.failures for row in rows):
        rows.append(Row(f"The run of the tests ends well (pytest ended with {done.returncode})", "1", 1, 0.0))
    return rows


def whole_matrix(given: argparse.Namespace | None = None) -> list[Row]:
    """Every cell, as `make matrix` found it."""
    held = json.loads((ROOT / "eval" / "matrix.json").read_text())
    numbers = [number for rows in held["cells"].values() for row in rows.values() for number in row]
    kinds = [held["outcomes"][number][0] for number in numbers]
    counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in dict.fromkeys(held["counts"]))
    says = f"The whole matrix, every cell ({held['command']}, {held['date']})"
    return [Row(says, f"{len(kinds):,}: {counts}", kinds.count("failed"), held["seconds"])]


def fuzzed(given: argparse.Namespace) -> list[Row]:
    """Fuzzing, now."""
    start = time.perf_counter()
    command = [sys.executable, str(HERE / "fuzz.py"), "--seconds", str(given.fuzz), "--seed", str(int(time.time()))]
    done = _run(command, capture_output=True, text=True)
    sys.stdout.write(done.stdout)
    found = re.search(r"([\d,]+) copies, (\d+) failures; seed (\d+)", done.stdout)
    if found is None:
        raise RuntimeError(f"fuzz.py did not come to its end: {done.stderr.strip()[-300:]}")
    says = f"Fuzzing of every parser and reader for {given.fuzz:.0f} s (seed {found[3]})"
    return [Row(says, f"{found[1]} copies", int(found[2]), time.perf_counter() - start)]


def agreement(given: argparse.Namespace) -> list[Row]:
    """How often tokens change; leaves a file for each model. In float32 only near ties may."""
    start, tokens, ties, wrong = time.perf_counter(), 0, 0, 0
    for model, words in MODELS.items():
        out = BUILD / model
        (out / "agreement.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "sightline.eval.cli", "bench", model, "--agreement", *words.split()]
        _run([*command, "--out", str(out.relative_to(ROOT))], check=True)
        for each in json.loads((out / "agreement.json").read_text())["found"]:
            if each["dtype"] == "float32":
                near = each["widest"] is None or (each["widest"] != "cut" and abs(each["widest"]) <= NEAR)
                tokens += each["tokens"]
                ties += each["changed"] if near else 0
                wrong += 0 if near else each["changed"]
    says = f"In float32 rows = passes and batches = single prompts, but for scores within {NEAR:g}"
    return [Row(says, f"{tokens:,} tokens, {ties} near ties", wrong, time.perf_counter() - start)]


def mutants(given: argparse.Namespace) -> list[Row]:
    """Break the formulas one place at a time; leaves a file."""
    out = BUILD / "mutation.json"
    out.unlink(missing_ok=True)
    done = _run([sys.executable, str(HERE / "mutate.py"), "--jobs", given.jobs, "--json", str(out)])
    if not out.is_file():
        raise RuntimeError(f"mutate.py did not come to its end; it ended with {done.returncode}")
    held = json.loads(out.read_text())
    counted, lived = held["mutants"] - held["equivalent"], len(held["survivors"])
    says = "Tests notice a formula with one thing changed (9 in 10 are asked for)"
    return [Row(says, f"{counted:,}: {lived} unnoticed", 0 if held["score"] >= 0.9 else lived, held["seconds"])]


def coverage(given: argparse.Namespace) -> list[Row]:
    """Branches that tests take, as `make coverage` found them."""
    found = branches()
    if not found:
        sys.stdout.write("Coverage was not measured: `make coverage`, then `make trust ONLY=coverage`.\n")
        return []
    taken, there = (sum(each[place] for each in found.values()) for place in (0, 1))
    day = _coverage()["meta"]["timestamp"][:10]
    says = f"Tests take 95 % of the branches of decoders/ and models/ (make coverage, {day})"
    return [Row(says, f"{there:,}: {taken / there:.1%}", int(taken < 0.95 * there), 0.0)]


def audit(given: argparse.Namespace) -> list[Row]:
    """Known weaknesses of what is installed; where nothing could be asked, that is what is said."""
    start = time.perf_counter()
    done = _run([sys.executable, str(ROOT / "tests" / "audit.py")], capture_output=True, text=True)
    sys.stdout.write(done.stdout)
    found = re.search(r"(\d+) packages audited, (\d+) known", done.stdout)
    if found is None and "NOT AUDITED" not in done.stdout:
        raise RuntimeError(f"audit.py did not come to its end: {done.stderr.strip()[-300:]}")
    cases = f"{found[1]} packages" if found else "not audited: advisory service out of reach"
    failures, seconds = int(found[2]) if found else 0, time.perf_counter() - start
    return [Row("No known weakness in the versions of constraints.txt", cases, failures, seconds)]


STAGES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "tests": tests, "matrix": whole_matrix, "fuzz": fuzzed, "agreement": agreement, "mutants": mutants,
    "coverage": coverage, "audit": audit,
}  # fmt: skip
"""In the order in which they run."""
LONG = ("agreement", "mutants", "audit")
"""Stages that `--quick` leaves out."""


def run_stage(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """A stage's rows and the day; whatever goes wrong is a row with a failure."""
    start = time.perf_counter()
    sys.stdout.write(f"== {name}, {datetime.datetime.now():%H:%M:%S}\n")
    sys.stdout.flush()
    try:
        rows = STAGES[name](given)
    except Exception as error:
        told = " ".join(str(error).split())[:300].replace("|", "/")
        rows = [Row(f"The stage `{name}` comes to its end ({type(error).__name__}: {told})", "1", 1, 0.0)]
    seconds = time.perf_counter() - start
    sys.stdout.write(f"== {name} took {seconds:.0f} s\n")
    return {"date": _today(), "seconds": seconds, "rows": rows}


def _run(command: Sequence[str], more: dict[str, str] | None = None, **settings: Any) -> Any:
    settings = {"check": False} | settings
    sys.stdout.flush()
    return subprocess.run(command, cwd=ROOT, env=_environment() | (more or {}), timeout=PATIENCE, **settings)


def shown(rows: Sequence[Row]) -> str:
    """The table as it is printed."""
    cells = [HEADER, *((row.promise, row.cases, str(row.failures), f"{row.seconds:.0f}") for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "".join(line.rstrip() + "\n" for line in lines)


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    lines = (f"| {row.promise} | {row.cases} | {row.failures} | {row.seconds:.0f} |" for row in rows)
    return "\n".join([f"| {' | '.join(HEADER)} |", "|---|---|---|---|", *lines])


def agreement_page() -> str:
    """The agreement of all models as Markdown; empty where it was not measured."""
    parts = []
    for model in MODELS:
        file = BUILD / model / "agreement.json"
        if file.is_file():
            held = json.loads(file.read_text())
            command = " ".join(held["command"]).partition(" --out ")[0]
            parts.append(f"`{command}`\n\n{file.with_suffix('.md').read_text().strip()}")
    return "\n\n".join(parts)


def mutation_page() -> str:
    """The share of mutants that tests kill; empty where it was not measured."""
    file = BUILD / "mutation.json"
    if not file.is_file():
        return ""
    held = json.loads(file.read_text())
    counted = held["mutants"] - held["equivalent"]
    rows = [f"| `{module}` | {killed} of {every} |" for module, (killed, every) in held["modules"].items()]
    told = f"{held['killed']:,} of {counted:,} mutants killed: {held['score']:.1%}"
    told += f"; {held['equivalent']} more are equal to the original on every input"
    told += f" (`python tests/trust/mutate.py`, {held['seconds']:.0f} s)."
    reasons = json.loads((HERE / "equivalent_mutants.json").read_text())
    page = [told, "", "| module | killed |", "|---|---|", *rows]
    if held["survivors"]:
        page += ["", "Not noticed: " + "; ".join(f"`{key}`" for key in held["survivors"]) + "."]
    if reasons:
        page += ["", f"The equal ones, with reasons: `tests/trust/equivalent_mutants.json` ({len(reasons)})."]
    return "\n".join(page)


def _coverage() -> dict[str, Any]:
    file = ROOT / "build" / "coverage.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def branches() -> dict[str, tuple[int, int]]:
    """Folder -> branches taken, and all; empty where it was not measured."""
    found = {}
    for folder in ("decoders", "models"):
        files = [
            each["summary"] for name, each in _coverage().get("files", {}).items() if name.startswith(f"{folder}/")
        ]
        if files:
            found[folder] = tuple(sum(each[name] for each in files) for name in ("covered_branches", "num_branches"))
    return found


def coverage_page() -> str:
    """Branch coverage of the engine as Markdown; empty where it was not measured."""
    found = branches()
    if not found:
        return ""
    lines = [
        f"| `{folder}/` | {taken:,} of {there:,} | {taken / there:.1%} |" for folder, (taken, there) in found.items()
    ]
    told = f"`make coverage` on {_coverage()['meta']['timestamp'][:10]}."
    return "\n".join([told, "", "| | branches taken | |", "|---|---|---|", *lines])


def within(text: str, name: str, content: str) -> str:
    """The page with this content between the markers of that name; as it is where there is no content."""
    if not content:
        return text
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not closed:
        raise SystemExit(f"The page has no markers {start} and {end}.")
    return f"{before}{start}\n{content}\n{end}{after}"


def dated(given: argparse.Namespace, days: Sequence[str]) -> str:
    """When, with what, and by which command."""
    command = "make trust QUICK=1" if given.quick else "make trust"
    names = ("torch", "transformers")
    told = ", ".join([f"Python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in names)])
    first, last = min(days), max(days)
    when = f"on {last}" if first == last else f"from {first} to {last}"
    return f"`{command}` {when}: {told}; {os.cpu_count()} processors, {given.jobs} processes."


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _environment() -> dict[str, str]:
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"fewer tests, 30 s of fuzzing, without {', '.join(LONG)}")
    parser.add_argument("--only", nargs="+", choices=STAGES, metavar="STAGE", help=f"repeat these: {', '.join(STAGES)}")
    parser.add_argument("--tests", nargs="+", metavar="PATH", help="for trying it out: these tests in place of all")
    parser.add_argument("--jobs", default="2", help="processes of pytest and of mutants; default: %(default)s")
    parser.add_argument("--fuzz", type=float, metavar="SECONDS", help="default: 600, or 30 with --quick")
    parser.add_argument("--into", type=Path, help="the page to write")
    given = parser.parse_args(arguments)
    given.fuzz = given.fuzz if given.fuzz is not None else 30.0 if given.quick else 600.0
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; 1 where a promise failed."""
    given = _parsed(arguments)
    if given.into is not None:
        for name in ("table", "agreement", "mutation", "coverage"):  # before the hour, not after it
            within(given.into.read_text(encoding="utf-8"), name, "figures")
    BUILD.mkdir(parents=True, exist_ok=True)
    kept = BUILD / ("rows_quick.json" if given.quick else "rows.json")
    held = json.loads(kept.read_text()) if given.only and kept.is_file() else {}
    for name in given.only or [name for name in STAGES if not (given.quick and name in LONG)]:
        held[name] = run_stage(name, given)
        kept.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    order = [name for name in STAGES if name in held]
    rows = [Row(*row) for name in order for row in held[name]["rows"]]
    sys.stdout.write(f"\n{shown(rows)}")
    if given.into is not None:
        page = given.into.read_text(encoding="utf-8")
        told = dated(given, [held[name]["date"] for name in order])
        content = {"table": f"{told}\n\n{markdown(rows)}"}
        content |= {"agreement": agreement_page(), "mutation": mutation_page(), "coverage": coverage_page()}
        for name, text in content.items():
            page = within(page, name, text)
        given.into.write_text(page, encoding="utf-8")
    return int(any(row.failures for row in rows))


if __name__ == "__main__":
    sys.exit(main())
