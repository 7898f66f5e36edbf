"""Damages sound files at random and reads them: `python tests/trust/fuzz.py --seconds 600`.

Each target of `fuzz_targets.py` gets its share of the time. A copy that ends in anything but success or a declared
error, or that takes longer than `SLOW` seconds, is a failure; its input is saved in `corpus/crashes/`, where the tests
replay it from then on.
"""

import argparse
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))
os.environ["HF_HUB_OFFLINE"] = "1"

from damage import damaged
from fuzz_targets import CORPUS, DECLARED, TARGETS, Target

CRASHES = CORPUS / "crashes"
SLOW = 60.0
"""Seconds of the processor (the clock would count what else the machine does); a copy that takes longer hangs a run."""


class TooSlow(BaseException):
    """A reader did not come back; not an `Exception`, so that nothing swallows it."""


@dataclass
class Found:
    """What came of one target.

    Attributes:
        tried, refused: copies that were read, and those of them that ended in a declared error.
        failures: what went wrong -> the first input that did it.
    """

    tried: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises `TooSlow` in a block that takes longer."""

    def stop(_signal: int, _frame: object) -> None:
        raise TooSlow(f"took more than {seconds:g} s of the processor")

    held = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, held)


def read(target: Target, name: str, content: bytes, slow: float = SLOW) -> str | None:
    """Read a target's folder in which one file holds this content.

    Args:
        target: what reads it.
        name: of the file, below the target's folder.
        content: what it holds.
        slow: seconds that it may take.

    Returns:
        None where it went well, else `declared` or what went wrong and where.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(scratch) / "data"
        shutil.copytree(CORPUS / target.corpus, folder)
        (folder / name).write_bytes(content)
        try:
            with limited(slow):
                target.read(folder, folder / name)
        except DECLARED:
            return "declared"
        except (Exception, TooSlow) as error:
            return _place(error)
    return None


def _place(error: BaseException) -> str:
    """The error and the last line of ours that it went through: one failure, whatever the input says."""
    trace, last = error.__traceback__, ""
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if "sightline" in str(trace.tb_frame.f_globals.get("__name__")) or file.parent == Path(__file__).parent:
            last = f"{file.parent.name}/{file.name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {last}: {' '.join(str(error).split())[:160]}"


def fuzz(target: Target, seed: int, *, seconds: float | None = None, copies: int | None = None) -> Found:
    """Read damaged copies of a target's files for so long, or so many of them; the same ones for the same seed."""
    draw = Random(f"{seed}/{target.name}")
    files = target.files()
    sound = [file.read_bytes() for file in files]
    found, start = Found(), time.perf_counter()
    while (copies is None or found.tried < copies) and (seconds is None or time.perf_counter() - start < seconds):
        place = draw.randrange(len(files))
        name = files[place].relative_to(CORPUS / target.corpus).as_posix()
        content = damaged(sound[place], sound, draw)
        came = read(target, name, content)
        found.tried += 1
        found.refused += came == "declared"
        if came not in (None, "declared"):
            key = came.split(": ")[0]
            found.failures.setdefault(key, content)
            found.files.setdefault(key, f"{name}: {came}")
    found.seconds = time.perf_counter() - start
    return found


def folder_of(target: Target) -> Path:
    """Where inputs are kept that a target failed on."""
    return CRASHES / target.name.replace(",", "").replace(" ", "_")


def replayed(crash: Path) -> str | None:
    """What `read` says of a file of `corpus/crashes/TARGET/FILE--HASH`; a slash in FILE is written `+`."""
    (target,) = (each for each in TARGETS if folder_of(each) == crash.parent)
    return read(target, crash.name.rpartition("--")[0].replace("+", "/"), crash.read_bytes())


def keep(target: Target, found: Found) -> None:
    """Save the inputs that failed, for `replayed`."""
    for key, content in found.failures.items():
        name = found.files[key].split(": ")[0].replace("/", "+")
        file = folder_of(target) / f"{name}--{hashlib.sha256(content).hexdigest()[:8]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print a table, save what failed; 1 where something did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="in all; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="other damage for another number")
    parser.add_argument("--only", nargs="+", metavar="TARGET", help=", ".join(each.name for each in TARGETS))
    given = parser.parse_args(arguments)
    targets = [each for each in TARGETS if not given.only or each.name in given.only]
    share = given.seconds / sum(each.weight for each in targets)
    failed = tried = 0
    sys.stdout.write(f"{'target':<22}{'copies':>9}{'refused':>9}{'failures':>10}{'seconds':>9}\n")
    for target in targets:
        found = fuzz(target, given.seed, seconds=share * target.weight)
        keep(target, found)
        failed, tried = failed + len(found.failures), tried + found.tried
        row = f"{found.tried:>9}{found.refused:>9}{len(found.failures):>10}{found.seconds:>9.1f}"
        sys.stdout.write(f"{target.name:<22}{row}\n" + "".join(f"    {each}\n" for each in found.files.values()))
        sys.stdout.flush()
    sys.stdout.write(f"{tried:,} copies, {failed} failures; seed {given.seed}\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
