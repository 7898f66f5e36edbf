"""Runs the tests of the plug-ins inside the real lm-evaluation-harness and lmms-eval, and measures lmms-eval beside us.

python tests/harnesses.py              environments are made below build/harnesses, once
python tests/harnesses.py --speed      questions per second of lmms-eval and of `sightline run` on the same questions;
                                       `make benchmarks` puts what it leaves in build/benchmarks into BENCHMARKS.md

Each harness gets an environment of its own, for they ask for versions of packages that others cannot live with. What
it has no wish about, torch above all, it finds in the environment that this is run in.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "build" / "harnesses"
TABLE = ROOT / "build" / "benchmarks" / "lmms-eval" / "questions.md"
EXTRAS = ("lm-eval", "lmms-eval")
KEPT = ("torch", "transformers", "tokenizers", "safetensors", "numpy")
"""Packages that answers depend on: of the versions that our tests run with. The others are the harness's choice."""
DECODERS = ("greedy", "vcd")


@dataclass(frozen=True)
class Spent:
    """Seconds of a command, on the clock and of the processor."""

    wall: float
    processor: float


def environment(extra: str) -> Path:
    """The Python of an environment with a harness and with us; made unless it is there."""
    folder = PLACE / extra
    python = folder / "bin" / "python"
    if not (folder / "made").is_file():
        run(sys.executable, "-m", "venv", "--clear", str(folder))
        (site,) = (folder / "lib").glob("python*/site-packages")
        (site / "base.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.split("==")[0] in KEPT]
        (folder / "pins.txt").write_text("\n".join(pins) + "\n")
        run(str(python), "-m", "pip", "install", "-q", "-c", str(folder / "pins.txt"), "-e", f"{ROOT}[{extra}]")
        if subprocess.run([python, "-c", "import torchvision"], capture_output=True, check=False).returncode:
            run(str(python), "-m", "pip", "uninstall", "-q", "-y", "torchvision")  # built for another torch than ours
        (folder / "made").touch()
    return python


def speed(python: Path, images: int) -> None:
    """Questions per second of both on the same scenes, of asking and of whole commands; told, and left in `TABLE`."""
    sys.path.append(str(ROOT / "tests" / "support"))
    from harness_tasks import write_lmms_task  # noqa: PLC0415  # it imports the package

    folder, rows = PLACE / "speed", []
    for decoder in DECODERS:
        for share in ("auto", "none"):
            place = folder / f"{decoder}-{share}"
            asked = [f"decoder={decoder}", f"run.limit={images}", f"run.share={share}", "run.score=false"]
            more = ["run.cost_requests=0", "run.threads=1", "run.resume=false", f"run.dir={place}"]
            spent = run(str(python), "-m", "sightline.eval.cli", "run", *asked, *more)
            samples = list(map(json.loads, (place / "samples" / "pope_scenes.jsonl").read_text().splitlines()))
            cost = json.loads((place / "timings" / "summary.json").read_text())
            rows.append(shown(f"sightline run run.share={share}", decoder, len(samples), spent, cost["wall_s"]))
        task = write_lmms_task(folder / "tasks", {sample["image_id"] for sample in samples})
        model = f"pretrained=tiny-llava,decoder={decoder},dtype=float64,device=cpu"
        told = ["--model", "sightline", "--model_args", model, "--tasks", task, "--batch_size", "16"]
        places = ["--include_path", str(folder / "tasks"), "--output_path", str(folder / f"lmms-{decoder}")]
        began = time.time()
        spent = run(str(python), "-m", "lmms_eval", *told, *places)
        (result,) = (file for file in folder.rglob("*results.json") if file.stat().st_mtime > began)
        seconds = float(json.loads(result.read_text())["total_evaluation_time_seconds"])
        rows.append(shown("lmms-eval --model sightline", decoder, len(samples), spent, seconds))
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text("\n".join([*head(images), *rows]) + "\n")


def head(images: int) -> list[str]:
    """What stands above the table's rows."""
    return [
        "## Beside lmms-eval, measured",
        "",
        f"`python tests/harnesses.py --speed --images {images}`",
        "",
        f"tiny-llava in float64, one thread, batches of 16: the same questions of POPE-scenes ({images} scenes), one "
        "command after the other. *Asking* leaves loading and start out.",
        "",
        "| | decoder | questions | asking, questions/s | whole command, s | of the processor, s |",
        "|---|---|---|---|---|---|",
    ]


def shown(what: str, decoder: str, questions: int, spent: Spent, asking: float) -> str:
    """One row of the table; it is told, too."""
    cells = (
        f"`{what}`",
        decoder,
        questions,
        f"{questions / asking:.1f}",
        f"{spent.wall:.0f}",
        f"{spent.processor:.0f}",
    )
    row = f"| {' | '.join(map(str, cells))} |"
    sys.stdout.write(row + "\n")
    sys.stdout.flush()
    return row


def run(*command: str) -> Spent:
    """Run a command; its failure is ours."""
    own = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(PLACE / "cache"), "OMP_NUM_THREADS": "1"}
    if "pip" in command:
        own = {}
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    told = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, check=False)
    if told.returncode:
        raise SystemExit(f"{' '.join(command)}\n{told.stdout[-4000:]}\n{told.stderr[-4000:]}")
    if "pytest" in command:
        sys.stdout.write(told.stdout.strip().splitlines()[-1] + "\n")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(time.perf_counter() - began, processor)


def main() -> None:
    """Make environments, then test or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", action="store_true", help="measure instead of testing")
    parser.add_argument("--images", type=int, default=40, help="scenes to measure on; default: %(default)s")
    given = parser.parse_args()
    if given.speed:
        speed(environment("lmms-eval"), given.images)
        return
    for extra in EXTRAS:
        python = environment(extra)
        sys.stdout.write(f"{extra}: ")
        sys.stdout.flush()
        run(str(python), "-m", "pytest", "tests/eval/plugins", "-v")


if __name__ == "__main__":
    main()
