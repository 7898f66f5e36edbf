"""`sightline bench`: from a command line to tables and files."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from ... import decoders
from ...decoders import Strategy
from ..errors import UsageError
from ..listing import table
from ..records import write_atomic, write_json
from . import agreement, analytic, compiled, questions, show
from .configs import SHAPES
from .contenders import Contender, decoder, guidance, naive, plain
from .measure import counts, measure
from .operations import beside, decode_step
from .subject import Shape, Subject, subject

H100 = {"bandwidth": 3350.0, "tflops": 989.0}
"""Data sheet of an H100 SXM: gigabytes a second, and dense bfloat16 operations a second in millions of millions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "model", metavar="MODEL", help="a configuration below, one of `sightline models`, a folder, hub id"
    )
    parser.add_argument("--decoders", nargs="+", metavar="NAME", help="default: every strategy that fits the model")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME.FIELD=VALUE", help="fields of these decoders")
    parser.add_argument("--naive", nargs="*", metavar="NAME", help="decoders to run naively too; default: the first")
    parser.add_argument("--weights", choices=("random", "real"), default="random", help="default: %(default)s")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ...")
    parser.add_argument("--dtype", default="auto", help="float32, bfloat16 ...; auto: bfloat16 for random weights")
    parser.add_argument("--branching", choices=("rows", "sequential", "auto"), default="auto")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: %(default)s")
    for name, what in (
        ("batch_size", "prompts a call"),
        ("prompt_length", "tokens of the instruction"),
        ("new_tokens", "tokens generated"),
        ("description_tokens", "of CODE, once per image"),
    ):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(
            option, type=int, default=getattr(Shape, name), metavar="N", help=f"{what}; default: %(default)s"
        )
    parser.add_argument("--image-size", type=int, metavar="N", help="pixels a side; default: the model's own, or 336")
    parser.add_argument("--threads", type=int, metavar="N", help="of the processor; default: torch's own")
    parser.add_argument("--out", metavar="DIR", help="write bench.json, bench.md and bench.svg there")
    parser.add_argument("--counts", action="store_true", help="forwards, rows and prefilled tokens, no times")
    parser.add_argument("--profile", action="store_true", help="operations and host reads of one decode step, no times")
    parser.add_argument("--agreement", action="store_true", help="how often tokens change with rows, passes, batches")
    parser.add_argument("--prompts", type=int, default=64, metavar="N", help="of --agreement; default: %(default)s")
    parser.add_argument("--questions", action="store_true", help="questions a second of POPE-scenes, by run.share")
    parser.add_argument(
        "--images", type=int, default=32, metavar="N", help="that --questions asks about; default: %(default)s"
    )
    parser.add_argument(
        "--compile", nargs="?", const="inductor", metavar="BACKEND",
        help="each decoder beside itself with its text decoder compiled in place and a static cache; "
        "a backend of torch.compile, default: %(const)s",
    )  # fmt: skip
    parser.add_argument("--analytic", action="store_true", help="predict at full size by arithmetic; nothing is timed")
    parser.add_argument(
        "--bandwidth", type=float, default=H100["bandwidth"], metavar="GB/S", help="default: %(default)s"
    )
    parser.add_argument("--tflops", type=float, default=H100["tflops"], metavar="N", help="default: %(default)s")
    parser.epilog = f"configurations with random weights: {', '.join(SHAPES)}\n"


def run(given: argparse.Namespace, command: Sequence[str]) -> int:
    """Carry it out; returns the exit code.

    Raises:
        UsageError, SightlineError: it cannot be done as asked.
    """
    _check(given)
    if given.threads:
        torch.set_num_threads(given.threads)
    if given.agreement:
        return _agree(given, command)
    if given.questions:
        return _ask(given, command)
    with tempfile.TemporaryDirectory() as folder:
        asked = subject(
            given.model, _shape(given), Path(folder), device="cpu" if given.analytic else given.device,
            dtype="float32" if given.analytic else given.dtype, weights=given.weights, narrow=given.analytic,
        )  # fmt: skip
        with asked.endless():
            if given.compile:
                return _compile(given, asked, command)
            contenders = _contenders(given, asked)
            if given.analytic:
                return _predict(given, asked, contenders, command)
            if given.counts:
                found = [(each.name, counts(each, asked.loaded.adapter)) for each in contenders]
                sys.stdout.write(f"{_title(asked)}\n\n{show.counted(found)}")
                return 0
            if given.profile:
                return _profile(asked, contenders)
            return _measure(given, asked, contenders, command)


def _measure(given: argparse.Namespace, asked: Subject, contenders: Sequence[Contender], command: Sequence[str]) -> int:
    found = measure(contenders, asked.loaded.adapter, given.rounds, _told)
    text, held = show.measured(found), show.as_json(found, asked, command)
    sys.stdout.write(f"{_title(asked)}; {_where(held['machine'])}; {given.rounds} rounds, median [quartiles]\n\n{text}")
    if given.out:
        folder = Path(given.out)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "bench.json", held)
        write_atomic(folder / "bench.md", show.markdown(text))
        write_atomic(folder / "bench.svg", show.drawing(found, _title(asked)))
        sys.stdout.write("".join(f"{folder / f'bench.{kind}'}\n" for kind in ("json", "md", "svg")))
    return 0


def _compile(given: argparse.Namespace, asked: Subject, command: Sequence[str]) -> int:
    given.decoders = given.decoders or (["vcd", "code", "decore"] if asked.sees else ["cad", "decore"])
    pairs = [compiled.Pair(plain(asked), plain(asked, **compiled.STATIC))]
    for strategy in _strategies(given, asked):
        eager = decoder(asked, strategy, given.branching)
        pairs.append(compiled.Pair(eager, decoder(asked, strategy, given.branching, **compiled.STATIC)))
    found = compiled.compare(pairs, asked.loaded.adapter, given.compile, given.rounds, _told)
    where, text = show.machine(asked.loaded.model.device), compiled.shown(found)
    sys.stdout.write(
        f"{_title(asked)}; {_where(where)}; torch.compile by {given.compile}; {given.rounds} rounds, "
        f"median [quartiles]\n\n{text}"
    )
    if given.out:
        held = {"schema": 1, "command": list(command), "machine": where, "backend": given.compile}
        write_json(Path(given.out) / "compiled.json", {**held, "found": compiled.as_json(found)})
        write_atomic(Path(given.out) / "compiled.md", show.markdown(text))
        sys.stdout.write("".join(f"{Path(given.out) / f'compiled.{kind}'}\n" for kind in ("json", "md")))
    return 0


def _agree(given: argparse.Namespace, command: Sequence[str]) -> int:
    found: list[agreement.Agreement] = []
    where: dict[str, Any] = {}
    size = given.batch_size if given.batch_size > 1 else agreement.SIZE
    for dtype in agreement.DTYPES if given.dtype == "auto" else (given.dtype,):
        with tempfile.TemporaryDirectory() as folder:
            asked = subject(given.model, _shape(given), Path(folder), device=given.device, dtype=dtype, weights="real")
            where = show.machine(asked.loaded.model.device)
            strategies = _strategies(given, asked)
            prompts = agreement.prompts(asked.loaded, given.prompts)
            for each in agreement.agreements(asked.loaded, strategies, prompts, given.new_tokens, size):
                found.append(each)
                _told(f"{each.dtype} {each.decoder} {each.compared}: {each.changed} in {each.tokens}")
    text = agreement.shown(found)
    sizes = f"{given.prompts} prompts of up to {given.new_tokens} tokens, batches of {size}"
    sys.stdout.write(f"{given.model}, {sizes}; {_where(where)}\n\n{text}")
    if given.out:
        held = {"schema": 1, "command": list(command), "machine": where, "found": agreement.as_json(found)}
        write_json(Path(given.out) / "agreement.json", held)
        write_atomic(Path(given.out) / "agreement.md", show.markdown(text))
        sys.stdout.write("".join(f"{Path(given.out) / f'agreement.{kind}'}\n" for kind in ("json", "md")))
    return 0


def _ask(given: argparse.Namespace, command: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        made = subject(
            given.model, _shape(given), Path(folder), device=given.device, dtype=given.dtype, weights="real"
        )  # fmt: skip
        given.decoders = given.decoders or list(questions.DECODERS)
        strategies = _strategies(given, made)
        asked, size = questions.questions(made.loaded, given.images), max(given.batch_size, 1)
        size = size if size > 1 else questions.SIZE
        found = questions.rates(made.loaded, strategies, asked, size, given.rounds, _told)
    where, text = show.machine(made.loaded.model.device), questions.shown(found)
    dtype = str(made.loaded.model.dtype).removeprefix("torch.")
    sys.stdout.write(
        f"{given.model} ({dtype}), {len(asked.requests)} questions ({asked.samples} samples) about {given.images} "
        f"images, batches of {size}; {_where(where)}; {given.rounds} rounds, median [quartiles]\n\n{text}"
    )
    if given.out:
        held = {"schema": 1, "command": list(command), "machine": where, "batch_size": size, "dtype": dtype}
        write_json(Path(given.out) / "questions.json", {**held, "found": questions.as_json(found)})
        write_atomic(Path(given.out) / "questions.md", show.markdown(text))
        sys.stdout.write("".join(f"{Path(given.out) / f'questions.{kind}'}\n" for kind in ("json", "md")))
    return 0


def _profile(asked: Subject, contenders: Sequence[Contender]) -> int:
    for contender in contenders:  # checks of the model and descriptions are made once
        decode_step(contender)
    found = [(contender.name, decode_step(contender)) for contender in contenders]
    layers = asked.loaded.adapter.layers
    sys.stdout.write(
        f"{_title(asked)}, {layers} layers: operations of one decode step, and what is more than greedy's\n\n"
        + table(("", "operations", "more", "more waits", "which"), beside(found))
    )
    return 0


def _predict(given: argparse.Namespace, asked: Subject, contenders: Sequence[Contender], command: Sequence[str]) -> int:
    machine = analytic.Machine(given.bandwidth * 1e9, given.tflops * 1e12)
    found = analytic.predict(contenders, asked, machine)
    text = show.predicted(found)
    sys.stdout.write(
        f"ANALYTIC, not measured: {_title(asked)}, bfloat16, at {given.bandwidth:g} GB/s and {given.tflops:g} TFLOP/s\n"
        f"\n{text}"
    )
    if given.out:
        Path(given.out).mkdir(parents=True, exist_ok=True)
        told = {"bandwidth": given.bandwidth, "tflops": given.tflops, "contenders": show.ratios_of(found)}
        write_json(Path(given.out) / "analytic.json", {"schema": 1, "command": list(command), **told})
        write_atomic(Path(given.out) / "analytic.md", show.markdown(text))
        sys.stdout.write("".join(f"{Path(given.out) / f'analytic.{kind}'}\n" for kind in ("json", "md")))
    return 0


def _contenders(given: argparse.Namespace, asked: Subject) -> list[Contender]:
    strategies = {strategy.key: strategy for strategy in _strategies(given, asked)}
    names = list(strategies)
    branched = [name for name in names if decoders.get(name).max_branches]
    wanted = branched[:1] if given.naive is None else given.naive
    unknown = [name for name in wanted if name not in strategies]
    if unknown:
        raise UsageError(f"--naive names {unknown[0]!r}, which is not benched.", f"Benched: {', '.join(names)}.")
    return [
        plain(asked),
        *([] if asked.sees or given.naive == [] else [guidance(asked)]),
        *(naive(asked, strategies[name]) for name in wanted),
        *(decoder(asked, strategy, given.branching) for strategy in strategies.values()),
    ]


def _strategies(given: argparse.Namespace, asked: Subject) -> list[Strategy]:
    fields = _fields(given.set)
    names = given.decoders or asked.usual()
    for name in fields:
        if name not in names:
            raise UsageError(f"--set names {name!r}, which is not benched.", f"Benched: {', '.join(names)}.")
    return [asked.strategy(name, fields.get(name)) for name in names]


def _fields(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`["vcd.alpha=0.5"]` as `{"vcd": {"alpha": 0.5}}`; values are read as YAML."""
    found: dict[str, dict[str, Any]] = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        name, dot, field = path.partition(".")
        if not (equals and dot):
            raise UsageError(f"Cannot read --set {setting!r}.", "Write NAME.FIELD=VALUE, such as vcd.alpha=0.5.")
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
        found.setdefault(name, {})[field] = parsed["value"] if isinstance(parsed, dict) else parsed
    return found


def _shape(given: argparse.Namespace) -> Shape:
    return Shape(
        given.batch_size, given.prompt_length, given.new_tokens, given.image_size, given.description_tokens
    )  # fmt: skip


def _check(given: argparse.Namespace) -> None:
    for name in (
        "rounds",
        "batch_size",
        "prompt_length",
        "new_tokens",
        "description_tokens",
        "image_size",
        "threads",
        "prompts",
        "images",
    ):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be 1 or more, got {value}.")
    if given.compile:
        compiled.check_backend(given.compile)
    if given.profile and given.new_tokens < 3:
        raise UsageError("--profile looks at the third token and later ones.", "Give --new-tokens 3 or more.")
    if given.questions and given.model in SHAPES and given.weights == "random":
        raise UsageError(
            "--questions needs a model with its processor.",
            "Name one of `sightline models`, a folder or a hub id; or give --weights real.",
        )
    if given.agreement and given.model in SHAPES and given.weights == "random":
        raise UsageError(
            "--agreement needs a trained model: the scores of random weights lie near each other everywhere.",
            "Name one of `sightline models`, a folder or a hub id; or give --weights real.",
        )
    if given.bandwidth <= 0 or given.tflops <= 0:
        raise UsageError("--bandwidth and --tflops must be above 0.", "See the data sheet of the device.")
    if given.analytic and given.model not in SHAPES:
        raise UsageError(
            f"--analytic knows the sizes of {', '.join(SHAPES)}, and not of {given.model!r}.", "Name one of these."
        )


def _title(asked: Subject) -> str:
    shape, dtype = asked.shape, str(asked.loaded.model.dtype).removeprefix("torch.")
    columns = asked.inputs["input_ids"].shape[1]
    kind = f" ({dtype})" if asked.loaded.source != "narrow twin" else ""
    return f"{asked.loaded.name}{kind}, batch {shape.batch_size}, prompt {columns}, {shape.new_tokens} new tokens"


def _where(machine: dict[str, Any]) -> str:
    return f"{machine['device']}, {machine['threads']} thread(s)"


def _told(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"{line}\n")
