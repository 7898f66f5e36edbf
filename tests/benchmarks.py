"""Puts what `make benchmarks` measured into BENCHMARKS.md, and the short table into README.md.

    python tests/benchmarks.py build/benchmarks

The folder holds what `sightline bench ... --out FOLDER/NAME` wrote: a measured part has a `bench.json`, an analytic one
an `analytic.json`, that of questions a `questions.json`. Nothing is measured here, and no figure is typed.
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
ASKED = "questions"
ANALYTIC = ("llava-1.5-7b", "instructblip-vicuna-7b", "qwen2.5-vl-7b", "llama-3-8b")


def main(folder: Path, root: Path = ROOT) -> None:
    """Write both files."""
    measured = {name: _read(folder / name / "bench.json") for name in MEASURED}
    analytic = {name: _read(folder / name / "analytic.json") for name in ANALYTIC}
    asked = _read(folder / ASKED / "questions.json")
    parts = ["# Benchmarks", "", *_head(measured)]
    for name, found in measured.items():
        parts += ["", f"## {name}, measured", "", *_said(found), "", (folder / name / "bench.md").read_text().rstrip()]
        once = [f"{each['name']} {_once(each)}" for each in found["contenders"] if each["once_per_image"]]
        parts += ["", f"Once per image, not in the table: {'; '.join(once)}."] if once else []
    parts += ["", "## Questions a second, measured", "", *_questioned(asked), ""]
    parts += [(folder / ASKED / "questions.md").read_text().rstrip()]
    for name, found in analytic.items():
        text = (folder / name / "analytic.md").read_text().rstrip()
        parts += ["", f"## {name}, analytic", "", *_predicted(found), "", text]
    (root / "BENCHMARKS.md").write_text("\n".join(parts) + "\n")
    readme = root / "README.md"
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"README.md has no lines {BEGIN} and {END}; put them where the costs belong.")
    readme.write_text("\n".join([before + BEGIN, *_short(measured, analytic), END + after]))


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        sys.exit(f"{file} is missing; `make benchmarks` measures all parts, then writes them up.")
    return json.loads(file.read_text())


def _head(measured: dict[str, Any]) -> list[str]:
    machine = next(iter(measured.values()))["machine"]
    return [
        f"Written by `make benchmarks` on {date.today()}: {machine['device']}, torch {machine['torch']}, "
        f"transformers {machine['transformers']}. Parts called *measured* are from this machine, parts called "
        "*analytic* are arithmetic.",
        "",
        "Contenders take turns within each round; ratios are taken within rounds. Medians, quartiles in brackets. "
        "*Naive* is the same formula with a pass and a cache of its own for each branch, and eager attention; "
        "*guidance_scale* is transformers' own two-pass guidance, which takes text models. *Forwards* and *rows* are "
        "those of a token, *images* calls of the vision tower, *MB* the most that the process held. Counts are "
        "tested (docs/speed.md); times never are.",
    ]


def _said(found: dict[str, Any]) -> list[str]:
    model, shape, machine = found["model"], found["shape"], found["machine"]
    weights = model["source"] if model["source"] == "random weights" else "trained weights"
    return [
        f"`{_command(found)}`",
        "",
        f"{model['parameters'] / 1e6:,.1f} million parameters ({weights}), {model['dtype']}, "
        f"{machine['threads']} thread(s), batch {shape['batch_size']}, prompt of {shape['prompt_columns']} tokens, "
        f"{shape['new_tokens']} new tokens.",
    ]


def _questioned(asked: dict[str, Any]) -> list[str]:
    return [
        f"`{_command(asked)}`",
        "",
        f"POPE-scenes through the harness, {asked['dtype']}, batches of {asked['batch_size']}, "
        f"{asked['machine']['threads']} thread(s). *None* shares nothing, *image* the encoded image of questions about "
        "it, *auto* the beginning of their prompts as well.",
    ]


def _predicted(found: dict[str, Any]) -> list[str]:
    return [
        f"`{_command(found)}`",
        "",
        f"**Arithmetic, not a measurement**: {found['bandwidth']:g} GB/s and {found['tflops']:g} TFLOP/s, the data "
        "sheet of an H100 SXM. A lower bound of the ratios: kernel launches and the algebra over the vocabulary are "
        "left out. *One word* is a prompt with two tokens, the word and the end.",
    ]


def _command(found: dict[str, Any]) -> str:
    """As it was typed, less where its files went."""
    typed = list(found["command"])
    if "--out" in typed:
        place = typed.index("--out")
        del typed[place : place + 2]
    return " ".join(typed)


def _once(contender: dict[str, Any]) -> str:
    once = contender["once_per_image"]
    return f"{once['forwards']:.0f} forwards, {once['seconds'] * 1e3:.0f} ms"


def _short(measured: dict[str, Any], analytic: dict[str, Any]) -> list[str]:
    """Decoders down, prices across, each as a multiple of greedy decoding's; and text models in a sentence."""
    image, text, half = ({each["name"]: each for each in measured[name]["contenders"]} for name in MEASURED)
    machine, size = measured["tiny-llava"]["machine"], measured["llava-0.5b"]["machine"]
    lines = [
        "",
        "A token's time as a multiple of greedy decoding's; medians with quartiles. *Analytic* columns are arithmetic "
        "for LLaVA-1.5-7B in bfloat16 on an H100, a lower bound and no measurement.",
        "",
        f"| | tiny-llava, float32, {_threads(machine)} | half a billion, bfloat16, {_threads(size)} | 7B, *analytic* | "
        "7B, one word, *analytic* | 7B, memory, *analytic* | forwards | rows |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in analytic["llava-1.5-7b"]["contenders"]:
        name, counts = each["name"], each["counts"]
        cells = [name, _ratio(image.get(name)), _ratio(half.get(name))]
        cells += [f"{each[what]:.2f}" for what in ("token", "word", "memory")]
        cells += [f"{counts[f'{what}_per_token']:g}" for what in ("forwards", "rows")]
        lines.append(f"| {' | '.join(cells)} |")
    beside = ", ".join(f"{name} {_ratio(text[name])}" for name in ("guidance_scale", "naive cad", "cad"))
    device = f"{machine['device']}, {date.today()}"
    lines += [
        "",
        f"Beside transformers' two-pass guidance, on tiny-llama: {beside}. Measured on {device}. [BENCHMARKS.md]"
        "(BENCHMARKS.md) has first tokens, peak memory, questions a second and other models; [docs/speed.md]"
        "(docs/speed.md) says what is behind it.",
        "",
    ]
    return lines


def _threads(machine: dict[str, Any]) -> str:
    return f"{machine['threads']} thread" + "s" * (machine["threads"] > 1)


def _ratio(contender: dict[str, Any] | None) -> str:
    if contender is None:
        return "-"
    found = contender["per_token_to_greedy"]
    return f"{found['median']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
