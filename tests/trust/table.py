"""`make trust`: runs what holds each promise, prints one table, and writes it into docs/trust.md.

    python tests/trust/table.py [--quick] [--jobs N] [--fuzz SECONDS] [--into docs/trust.md]

Rows of tests come from `promises.py`. Beside them stand figures of commands that take longer and leave a file: the
whole matrix (`make matrix`), fuzzing (run here), mutants (`tests/trust/mutate.py`), agreement (`sightline bench
--agreement`) and coverage (`make coverage`). What was not measured is not in the page.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
BUILD = ROOT / "build" / "trust"
QUICK = (
    "tests/trust",
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


class Row(NamedTuple):
    """One line of the table; a figure that was not measured is None."""

    promise: str
    cases: str
    failures: int
    seconds: float


def tests(paths: Sequence[str], jobs: str) -> list[Row]:
    """The rows of tests, run now."""
    out = BUILD / "promises.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "promises", "--promises", str(out), "-n", jobs, *paths]
    many = {} if len(paths) > 1 else {"SIGHTLINE_PROPERTIES": "trust"}  # 500 inputs for each law instead of 25
    done = subprocess.run(command, cwd=ROOT, env=_environment() | many, check=False)
    if not out.is_file():
        raise SystemExit(f"pytest wrote no {out.name}; it ended with {done.returncode}.")
    held = json.loads(out.read_text())["promises"]
    sys.path.insert(0, str(HERE))
    from promises import PROMISES  # noqa: PLC0415 - a plugin of the other process

    rows = []
    for promise in PROMISES:
        found = held[promise.key]
        if found["cases"] or found["failed"]:
            skipped = f" ({found['skipped']} skipped)" if found["skipped"] else ""
            rows.append(Row(promise.says, f"{found['cases']:,}{skipped}", len(found["failed"]), found["seconds"]))
    return rows


def whole_matrix() -> Row:
    """Every cell, as `make matrix` found it."""
    held = json.loads((ROOT / "eval" / "matrix.json").read_text())
    numbers = [number for rows in held["cells"].values() for row in rows.values() for number in row]
    kinds = [held["outcomes"][number][0] for number in numbers]
    counts = ", ".join(f"{kinds.count(kind):,} {kind}" for kind in dict.fromkeys(held["counts"]))
    says = f"The whole matrix, every cell ({held['command']}, {held['date']})"
    return Row(says, f"{len(kinds):,}: {counts}", kinds.count("failed"), held["seconds"])


def fuzzed(seconds: float) -> Row:
    """Fuzzing, now."""
    start = time.perf_counter()
    command = [sys.executable, str(HERE / "fuzz.py"), "--seconds", str(seconds), "--seed", str(int(time.time()))]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout)
    found = re.search(r"([\d,]+) copies, (\d+) failures; seed (\d+)", done.stdout)
    if found is None:
        raise SystemExit(f"fuzz.py said nothing: {done.stderr[-500:]}")
    says = f"Fuzzing of every parser and reader (seed {found[3]})"
    return Row(says, f"{found[1]} copies", int(found[2]), time.perf_counter() - start)


def agreement() -> None:
    """Measure how often tokens change; leaves a file for each model."""
    for model, words in MODELS.items():
        command = [sys.executable, "-m", "sightline.eval.cli", "bench", model, "--agreement", *words.split()]
        out = (BUILD / model).relative_to(ROOT)
        subprocess.run([*command, "--out", str(out)], cwd=ROOT, env=_environment(), check=True)


def mutants() -> None:
    """Break the formulas one place at a time; leaves a file. Too few killed is said there, and by its exit code."""
    command = [sys.executable, str(HERE / "mutate.py"), "--json", str(BUILD / "mutation.json")]
    subprocess.run(command, cwd=ROOT, env=_environment(), check=False)


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
    return "\n".join([told, "", "| module | killed |", "|---|---|", *rows])


def coverage_page() -> str:
    """Branch coverage of the engine; empty where it was not measured."""
    file = ROOT / "build" / "coverage.json"
    if not file.is_file():
        return ""
    held = json.loads(file.read_text())
    lines = []
    for folder in ("decoders", "models"):
        found = [each["summary"] for name, each in held["files"].items() if name.startswith(f"{folder}/")]
        taken, there = (sum(each[name] for each in found) for name in ("covered_branches", "num_branches"))
        lines.append(f"| `{folder}/` | {taken:,} of {there:,} | {taken / there:.1%} |")
    return "\n".join(["| | branches taken | |", "|---|---|---|", *lines])


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


def dated(quick: bool, fuzz: float, jobs: str) -> str:
    """When, with what, and by which command."""
    command = "make trust QUICK=1" if quick else "make trust"
    names = ("torch", "transformers")
    told = ", ".join([f"Python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in names)])
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    return f"`{command}` on {day}: {told}; {os.cpu_count()} processors, {jobs} processes, {fuzz:.0f} s of fuzzing."


def _environment() -> dict[str, str]:
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; 1 where a promise failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer tests, 30 s of fuzzing, no agreement")
    parser.add_argument("--jobs", default="2", help="processes of pytest; default: %(default)s")
    parser.add_argument("--fuzz", type=float, metavar="SECONDS", help="default: 600, or 30 with --quick")
    parser.add_argument("--into", type=Path, help="the page to write")
    given = parser.parse_args(arguments)
    seconds = given.fuzz if given.fuzz is not None else 30.0 if given.quick else 600.0
    BUILD.mkdir(parents=True, exist_ok=True)
    rows = tests(QUICK if given.quick else ["tests"], given.jobs)
    rows += [whole_matrix(), fuzzed(seconds)]
    if not given.quick:
        agreement()
        mutants()
    sys.stdout.write(shown(rows))
    if given.into is not None:
        page = given.into.read_text(encoding="utf-8")
        held: dict[str, Any] = {"table": f"{dated(given.quick, seconds, given.jobs)}\n\n{markdown(rows)}"}
        held |= {"agreement": agreement_page(), "mutation": mutation_page(), "coverage": coverage_page()}
        for name, content in held.items():
            page = within(page, name, content)
        given.into.write_text(page, encoding="utf-8")
    return int(any(row.failures for row in rows))


if __name__ == "__main__":
    sys.exit(main())
