"""Puts what `make benchmarks` measured into BENCHMARKS.md, and the short table into README.md.

    python tests/benchmarks.py build/benchmarks

The folder holds what `sightline bench ... --out FOLDER/NAME` wrote: a measured part has a `bench.json`, an analytic one
an `analytic.json`, one on questions a `questions.json`. Nothing is measured here, and no figure is typed.
"""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- costs: written by `make benchmarks` -->", "<!-- end of costs -->"
MEASURED = ("tiny-llava", "tiny-llama", "llava-0.5b")
ANALYTIC = ("llava-1.5-7b", "instructblip-vicuna-7b", "qwen2.5-vl-7b", "llama-3-8b")


def main(folder: Path) -> None:
    """Write both files."""
    measured = {name: json.loads((folder / name / "bench.json").read_text()) for name in MEASURED}
    analytic = {name: json.loads((folder / name / "analytic.json").read_text()) for name in ANALYTIC}
    parts = ["# Benchmarks", "", *_head(measured)]
    for name, found in measured.items():
        parts += ["", f"## {name}, measured", "", *_said(found), "", (folder / name / "bench.md").read_text().rstrip()]
        once = [f"{each['name']} {_once(each)}" for each in found["contenders"] if each["once_per_image"]]
        parts += ["", f"Once per image, not in the table: {'; '.join(once)}."] if once else []
    for name, found in analytic.items():
        text = (folder / name / "analytic.md").read_text().rstrip()
        parts += ["", f"## {name}, analytic", "", *_predicted(found), "", text]
    for file in sorted(folder.glob("*/questions.md")):
        parts += ["", file.read_text().rstrip()]
    (ROOT / "BENCHMARKS.md").write_text("\n".join(parts) + "\n")
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"README.md has no {BEGIN} and {END}"
    readme.write_text("\n".join([before + BEGIN, *_short(measured, analytic), END + after]))


def _head(measured: dict[str, Any]) -> list[str]:
    machine = next(iter(measured.values()))["machine"]
    return [
        f"Written by `make benchmarks` on {date.today()}: {machine['device']} (a shared server), "
        f"torch {machine['torch']}, transformers {machine['transformers']}. No GPU was at hand: "
        "what is said of one is arithmetic, and marked so.",
        "",
        "Contenders take turns within each round; ratios are taken within rounds. Medians, quartiles in brackets. "
        "*Naive* is the same formula as two `generate()`-like passes with eager attention. Counts of forwards and rows "
        "are tested (docs/speed.md); times never are.",
    ]


def _said(found: dict[str, Any]) -> list[str]:
    model, shape, machine = found["model"], found["shape"], found["machine"]
    return [
        f"`{' '.join(found['command'])}`",
        "",
        f"{model['parameters'] / 1e6:,.0f} million parameters ({model['source']}), {model['dtype']}, "
        f"{machine['threads']} thread(s), batch {shape['batch_size']}, prompt of {shape['prompt_columns']} tokens, "
        f"{shape['new_tokens']} new tokens.",
    ]


def _predicted(found: dict[str, Any]) -> list[str]:
    return [
        f"`{' '.join(found['command'])}`",
        "",
        f"**Arithmetic, not a measurement**: {found['bandwidth']:g} GB/s and {found['tflops']:g} TFLOP/s (the data sheet of "
        "an H100 SXM). A lower bound of the ratios: kernel launches and the algebra over the vocabulary are left out.",
    ]


def _once(contender: dict[str, Any]) -> str:
    once = contender["once_per_image"]
    return f"{once['forwards']:.0f} forwards, {once['seconds'] * 1e3:.0f} ms"


def _short(measured: dict[str, Any], analytic: dict[str, Any]) -> list[str]:
    """Decoders down, each model's price of a token across, as a multiple of greedy's."""
    image, half = (
        {each["name"]: each for each in measured[name]["contenders"]} for name in ("tiny-llava", "llava-0.5b")
    )
    sized = {each["name"]: each for each in analytic["llava-1.5-7b"]["contenders"]}
    lines = [
        "| time, x greedy | a token: tiny-llava, float32 | llava-0.5b, bfloat16 | 7B on an H100, *analytic* | "
        "one-word answer, 7B, *analytic* | forwards a token | rows |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in sized.items():
        here = image.get(name)
        counts = each["counts"]
        lines.append(
            f"| {name} | {_ratio(here)} | {_ratio(half.get(name))} | {each['token']:.2f} | {each['word']:.2f} | "
            f"{counts['forwards_per_token']:g} | {counts['rows_per_token']:g} |"
        )
    return lines


def _ratio(contender: dict[str, Any] | None) -> str:
    if contender is None:
        return "-"
    found = contender["per_token_to_greedy"]
    return f"{found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
