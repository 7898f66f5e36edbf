"""`sightline gallery`: the samples of runs side by side, in one page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from .write import FILE, TRACED, write_gallery


def main(arguments: Sequence[str]) -> int:
    """`sightline gallery DIR [DIR...] [--trace N] [--out FILE]`"""
    parser = argparse.ArgumentParser(
        "sightline gallery",
        description="Write one page with the samples of runs side by side: image, question, truth, and every answer.",
    )
    parser.add_argument("dirs", nargs="+", metavar="DIR", help="run folders, or a folder of runs")
    parser.add_argument(
        "--trace",
        type=int,
        default=TRACED,
        metavar="N",
        help="samples of each task to decode again, to show why words changed and where the model looked; "
        "0 loads no model (default: %(default)s)",
    )
    parser.add_argument("--out", metavar="FILE", help=f"default: {FILE} in the first DIR")
    given = parser.parse_args(list(arguments))
    if given.trace < 0:
        raise UsageError(f"--trace must be 0 or more, got {given.trace}.")
    folders = [Path(name.removeprefix("run.dir=")) for name in given.dirs]
    written = write_gallery(folders, None if given.out is None else Path(given.out), given.trace)
    sys.stdout.write(f"{written}\n")
    return 0
