"""Runs the whole matrix and writes how each cell ended to eval/matrix.json.

python tests/matrix/whole.py [--jobs N] [--out FILE] [--family NAME...]
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import multiprocessing
import os
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "tests" / "matrix")]
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
PACKAGES = ("sightline", "transformers", "torch", "peft")


def of_family(family: str) -> dict[tuple[str, str, str], tuple[str, str]]:
    """How the cells of a family end: (mode, family, strategy) -> (kind, detail)."""
    import torch  # noqa: PLC0415 - in the worker, which is spawned
    from cells import STRATEGIES, Bench  # noqa: PLC0415
    from every_cell import MODES, run_cell  # noqa: PLC0415

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("transformers", "sightline"):
        logging.getLogger(name).setLevel(logging.ERROR)
    bench, found, start = Bench(), {}, time.perf_counter()
    for mode in MODES:
        for strategy in STRATEGIES:
            try:
                outcome = run_cell(bench, strategy, family, mode)
                found[mode, family, strategy] = outcome.kind, outcome.detail
            except Exception as error:
                said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                found[mode, family, strategy] = "failed", said
                sys.stderr.write(f"FAILED {family} {strategy} {mode}: {said}\n")
    sys.stderr.write(f"{family}: {len(found)} cells, {time.perf_counter() - start:.0f} s\n")
    return found


def main() -> int:
    """Run, write, and say whether every promise held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, help="processes; each takes a family at a time")
    parser.add_argument("--out", type=Path, default=ROOT / "eval" / "matrix.json")
    parser.add_argument("--family", nargs="+", help="these alone; for a look, not for the table")
    given = parser.parse_args()
    from every_cell import FAMILIES  # noqa: PLC0415

    families, start = given.family or list(FAMILIES), time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(given.jobs) as pool:
        ended = {cell: how for found in pool.imap(of_family, families, chunksize=1) for cell, how in found.items()}
    held = table(ended, families, round(time.perf_counter() - start))
    given.out.write_text(written(held), encoding="utf-8")
    sys.stdout.write(f"{given.out}: {held['counts']}\n")
    return 1 if "failed" in held["counts"] else 0


def table(ended: dict[tuple[str, str, str], tuple[str, str]], families: list[str], seconds: int) -> dict[str, Any]:
    """What the file holds; `sightline.eval.matrix` reads it."""
    from cells import STRATEGIES  # noqa: PLC0415
    from every_cell import FAMILIES, MODES  # noqa: PLC0415
    from sightline.eval.matrix import KINDS, SCHEMA  # noqa: PLC0415

    outcomes = sorted(set(ended.values()))
    kinds = [kind for kind, _ in ended.values()]
    return {
        "schema": SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "make matrix",
        "seconds": seconds,
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
        "counts": {kind: kinds.count(kind) for kind in KINDS if kind in kinds},
        "decoders": list(STRATEGIES),
        "families": {name: type(FAMILIES[name].make()[0]).__name__ for name in families},
        "modes": {key: {"title": mode.title, "shows": mode.shows} for key, mode in MODES.items()},
        "outcomes": outcomes,
        "cells": {
            mode: {f: [outcomes.index(ended[mode, f, s]) for s in STRATEGIES] for f in families} for mode in MODES
        },
    }


def written(held: dict[str, Any]) -> str:
    """JSON with one line for each outcome and each row of cells."""
    text = json.dumps(held | {"outcomes": 0, "cells": 0}, indent=1, ensure_ascii=False)
    outcomes = ",\n".join(f"  {json.dumps(each, ensure_ascii=False)}" for each in held["outcomes"])
    cells = ",\n".join(
        f'  "{mode}": {{\n' + ",\n".join(f'   "{f}": {json.dumps(row)}' for f, row in rows.items()) + "\n  }"
        for mode, rows in held["cells"].items()
    )
    text = text.replace('"outcomes": 0', f'"outcomes": [\n{outcomes}\n ]')
    return text.replace('"cells": 0', f'"cells": {{\n{cells}\n }}') + "\n"


if __name__ == "__main__":
    sys.exit(main())
