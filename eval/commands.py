"""What each command of the `sightline` program does; `cli` calls these and turns errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from omegaconf import DictConfig, OmegaConf

from . import config
from .cli import OK, SAMPLES_FAILED
from .errors import UsageError
from .settings import ModelSettings, Settings

if TYPE_CHECKING:
    from ..models import Loaded

_HELD: dict[ModelSettings, Loaded] = {}
"""The model of the last job of a sweep, for the next one."""
_COLUMNS = {
    "accuracy": ("accuracy", "f1", "yes_ratio", "auc", "unparsed_rate"),
    "score": ("score", "acc", "acc_plus", "yes_ratio", "auc"),
    "CHAIRs": ("CHAIRs", "CHAIRi", "recall", "f1", "length", "share_cut_off"),
}
"""The figures that are shown, by the one that decides."""
_PROCESS = uuid4().hex


@dataclass(frozen=True)
class Told:
    """How a run went: an exit code, what was written to either stream, and by which process."""

    code: int
    out: str
    wrong: str
    process: str = _PROCESS

    def say(self) -> None:
        """Write it."""
        sys.stdout.write(self.out)
        if self.wrong:
            sys.stdout.flush()
            sys.stderr.write(self.wrong)


def run(arguments: Sequence[str]) -> int:
    """`sightline run [-m] [--config-dir DIR] [--cfg] OVERRIDE...`"""
    parser = _parser(
        "run", "Ask a model a task under a decoder. Settings are given as group=choice or group.field=value."
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="such as decoder=vcd decoder.alpha=0.5")
    parser.add_argument("-m", "--multirun", action="store_true", help="one run per combination of a=1,2 b=x,y")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with more choices, laid out as conf/")
    parser.add_argument("--cfg", action="store_true", help="show the resolved settings and stop")
    parser.epilog = "choices:\n" + "".join(_choices(group) for group in config.GROUPS)
    given = parser.parse_intermixed_args(list(arguments))
    if given.multirun:
        return _sweep(given.overrides, given.config_dir)
    asked, tree = config.compose_settings(given.overrides, given.config_dir)
    if given.cfg:
        sys.stdout.write(OmegaConf.to_yaml(OmegaConf.create(tree)))
        return OK
    runner = importlib.import_module(".runner", __package__)
    outcome = runner.run(asked, tree, command=["sightline", "run", *arguments])
    return _told(outcome, asked).code


def _choices(group: str) -> str:
    """A group and its choices, in lines of a terminal's width."""
    first, rest = f"  {group:<11} ", " " * 14
    names = ", ".join(config.choices(group))
    return textwrap.fill(names, 100, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) + "\n"


def _sweep(overrides: Sequence[str], config_dir: str | None) -> int:
    done = config.multirun(overrides, job, config_dir)
    for _, told in done:
        if told.process != _PROCESS:  # it was said where the job ran, and not here
            told.say()
    return max((told.code for _, told in done), default=OK)


def job(composed: DictConfig) -> Told:
    """One combination of a sweep; a function of the module, so that Hydra's launchers can send it elsewhere."""
    asked, tree = config.from_config(composed)
    runner = importlib.import_module(".runner", __package__)
    here = asked.run.where == "here"  # workers of a cluster load their own
    if here and asked.model not in _HELD:
        _HELD.clear()
        _HELD[asked.model] = runner.load_model(asked.model)
    changed = importlib.import_module("hydra.core.hydra_config").HydraConfig.get().overrides.task
    command = ["sightline", "run", *changed]
    outcome = runner.run(asked, tree, command=command, parent=True, loaded=_HELD[asked.model] if here else None)
    return _told(outcome, asked)


def _told(outcome: Any, asked: Settings) -> Told:
    """Says how a run went: its scores in a short table, and a line each on a paper's numbers and on what failed."""
    answered = outcome.n_samples - outcome.n_error
    out, wrong = f"{outcome.folder}: {answered} of {outcome.n_samples} samples answered\n", ""
    if asked.run.score and answered:
        scoring = importlib.import_module(".score", __package__)
        out += summary(scoring.score_run(outcome.folder))
        if asked.reported is not None:
            command = shlex.join(["sightline", "compare", str(outcome.folder), "--reported"])
            out += f"beside the numbers of {asked.reported.preset}: {command}\n"
    if outcome.n_error:
        failed = f"{outcome.n_error} of {outcome.n_samples} samples have no answer"
        wrong = f"sightline: {failed}; first: {outcome.first_error}\n"
    told = Told(SAMPLES_FAILED if outcome.n_error else OK, out, wrong)
    told.say()
    return told


def score(arguments: Sequence[str]) -> int:
    """`sightline score [--parser NAME] [--allow-partial] [--like RUN] [--labels repope [--labels-data DIR]] RUN...`"""
    parser = _parser("score", "Score run folders without a model; writes RUN/metrics.json.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder, or run.dir=FOLDER")
    parser.add_argument("--parser", metavar="NAME", help="dialect that answers are read in; default: the task's")
    parser.add_argument("--allow-partial", action="store_true", help="score runs that have not finished; marks them")
    parser.add_argument("--like", metavar="RUN", help="also score captions cut to the lengths of this (greedy) run's")
    parser.add_argument("--labels", metavar="NAME", help="other gold labels for the same answers: repope")
    parser.add_argument("--labels-data", metavar="DIR", help="folder with their files; default: the run's task.data")
    given = parser.parse_intermixed_args(list(arguments))
    like = None if given.like is None else _folder(given.like)
    scoring = importlib.import_module(".score", __package__)
    labels = {"labels": given.labels, "labels_data": None if given.labels_data is None else Path(given.labels_data)}
    for folder in map(_folder, given.runs):
        metrics = scoring.score_run(folder, parser=given.parser, allow_partial=given.allow_partial, like=like, **labels)
        sys.stdout.write(f"{folder}\n{summary(metrics)}")
    return OK


def report(arguments: Sequence[str]) -> int:
    """`sightline report DIR`"""
    parser = _parser("report", "Write report.html, .md, .csv, .json and model_card.md into DIR, from the runs in it.")
    parser.add_argument("dir", metavar="DIR", help="a run folder or a folder of runs, or run.dir=FOLDER")
    folder = _folder(parser.parse_args(list(arguments)).dir)
    written = importlib.import_module(".report", __package__).write_report(folder)
    paths = written if isinstance(written, list | tuple) else [written or folder]
    sys.stdout.write("".join(f"{path}\n" for path in paths))
    return OK


def compare(arguments: Sequence[str]) -> int:
    """`sightline compare RUN_A RUN_B [RUN...] [--baseline RUN] [--parser NAME] [--json FILE]`, or `RUN --reported`"""
    parser = _parser("compare", "Hold runs against a baseline on the same samples, with paired intervals and tests.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run folder; seeds of one configuration go together")
    parser.add_argument("--baseline", metavar="RUN", help="what the others are held against; default: the first run")
    parser.add_argument("--parser", metavar="NAME", help="dialect that answers are read in; default: the task's")
    parser.add_argument("--json", metavar="FILE", help="write everything, with all flipped samples")
    parser.add_argument(
        "--reported",
        metavar="PRESET",
        nargs="?",
        const="",
        help="hold each run against the numbers of the paper whose preset it was made with, or of PRESET",
    )
    given = parser.parse_intermixed_args(list(arguments))
    if given.reported is not None:
        against = importlib.import_module(".compare_reported", __package__)
        text, held = against.show([_folder(run) for run in given.runs], given.reported, given.parser)
        return _compared(text, held, given.json)
    comparing = importlib.import_module(".compare", __package__)
    shown = importlib.import_module(".compare_text", __package__)
    baseline = None if given.baseline is None else _folder(given.baseline)
    found = comparing.compare([_folder(run) for run in given.runs], baseline=baseline, parser=given.parser)
    return _compared(shown.as_text(found), shown.as_json(found), given.json)


def _compared(text: str, held: dict[str, Any], file: str | None) -> int:
    """Show a comparison, and write it where that was asked."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    if file:
        try:
            importlib.import_module(".records", __package__).write_json(Path(file), held)
        except OSError as error:
            raise UsageError(f"{file!r} cannot be written: {error.strerror}.", "Name another file.") from error
        sys.stdout.write(f"{file}\n")
    return OK


def leaderboard(arguments: Sequence[str]) -> int:
    """`sightline leaderboard NAME [OVERRIDE...]`"""
    boards = importlib.import_module(".boards", __package__)
    parser = _parser("leaderboard", "Make every run of a list, with the model loaded once, and report over all.")
    parser.add_argument("name", metavar="NAME", help=f"{', '.join(boards.boards())}, or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="for every run, such as run.limit=50")
    given = parser.parse_intermixed_args(list(arguments))
    command = ["sightline", "leaderboard", *arguments]
    board = boards.read_board(given.name)
    making = importlib.import_module(".leaderboard", __package__)
    report, failed = making.run_board(board, given.overrides, command)
    sys.stdout.write(f"{report}\n")
    if failed:
        sys.stderr.write(f"sightline: {failed} samples have no answer; the report counts them\n")
    return SAMPLES_FAILED if failed else OK


def tune(arguments: Sequence[str]) -> int:
    """`sightline tune [--metric NAME] [--table NAME] [--lowest] [--out DIR] DIR`"""
    tuning = importlib.import_module(".tune", __package__)
    parser = _parser("tune", "Choose each decoder's best setting from a sweep on validation data.")
    parser.add_argument("dir", metavar="DIR", help="the folder of the sweep, or run.dir=FOLDER")
    parser.add_argument("--metric", default=tuning.METRIC, help="default: %(default)s")
    parser.add_argument("--table", default=tuning.TABLE, help="a split, mean or pooled; default: %(default)s")
    parser.add_argument("--lowest", action="store_true", help="the lowest value is the best")
    parser.add_argument("--out", metavar="DIR", help="where decoder/KEY_tuned.yaml goes; default: DIR")
    given = parser.parse_args(list(arguments))
    folder = _folder(given.dir)
    found = tuning.candidates(folder, given.metric, given.table)
    best = tuning.choose(found, given.lowest)
    sys.stdout.write(importlib.import_module(".listing", __package__).settings_tried(found, best, given.metric))
    for candidate in best.values():
        path = tuning.write(candidate, Path(given.out or folder), given.metric, given.table)
        sys.stdout.write(f"{path}: sightline run --config-dir {path.parent.parent} decoder={path.stem}\n")
    return OK


def bench(arguments: Sequence[str]) -> int:
    """`sightline bench MODEL [--decoders NAME...] [--analytic] [--out DIR] [OPTION...]`"""
    benching = importlib.import_module(".bench.command", __package__)
    parser = _parser("bench", "Time decoders beside plain greedy decoding in turn, and count what they run.")
    benching.add_arguments(parser)
    return benching.run(parser.parse_args(list(arguments)), ["sightline", "bench", *arguments])


def calibrate(arguments: Sequence[str]) -> int:
    """`sightline calibrate model=NAME what=retrieval|image|threshold|inducing|detector out=FILE [OPTION=VALUE...]`"""
    parser = _parser("calibrate", "Measure once what decoders need to know of a model, and write it to a file.")
    parser.add_argument("settings", nargs="+", metavar="NAME=VALUE", help="model=, what=, out= and options")
    parser.epilog = (
        "what=image      images=50 batch_size=16: heads that look at the image, over validation scenes\n"
        "what=retrieval  lengths=1000,2000,4000 depths=0,25,50,75,100 max_new_tokens=50 mode=generated|forced:\n"
        "                heads that copy from the context\n"
        "what=threshold  images=20 folder=FOLDER prompt=TEXT percentile=70 max_new_tokens=64 absent_image=noise\n"
        "                top_k_tokens=50 batch_size=8: cgvlm's k, over captions of validation scenes or a folder\n"
        "what=inducing   data=passages|facts|scenes|FILE triples=128 norm=uniform|reference: heads that matter for\n"
        "                right answers, which hicd disperses; FILE: JSON lines of context, correct, wrong\n"
        "what=detector   data=passages|facts|FILE items=300 heads=10 max_new_tokens=16 prompt=TEXT: heads that show\n"
        "                which tokens of a passage dagcd shall raise; FILE: JSON lines of context, question, answers\n"
    )
    given = parser.parse_args(list(arguments))
    sys.stdout.write(importlib.import_module(".calibrate", __package__).calibrate(given.settings))
    return OK


def gallery(arguments: Sequence[str]) -> int:
    """`sightline gallery DIR [DIR...] [--trace N] [--out FILE]`"""
    return importlib.import_module(".gallery.command", __package__).main(arguments)


def explain(arguments: Sequence[str]) -> int:
    """`sightline explain image=FILE prompt=TEXT decoder=NAME [out=FILE] [OVERRIDE...]`"""
    return importlib.import_module(".explain.command", __package__).main(arguments)


def build_pope(arguments: Sequence[str]) -> int:
    """`sightline build-pope SOURCE --out DIR [--name NAME] [--captions FILE...] [--images N] [--seed N]`"""
    building = importlib.import_module(".build_pope", __package__)
    parser = _parser("build-pope", "Make POPE's three question files for images whose objects are known.")
    parser.add_argument("source", metavar="SOURCE", help="JSON Lines of image and objects, or a COCO instance file")
    parser.add_argument("--out", metavar="DIR", required=True, help="where the files go")
    parser.add_argument("--name", default="own", help="of the data set, for task.dataset; default: %(default)s")
    parser.add_argument("--captions", metavar="FILE", nargs="+", default=[], help="COCO caption files of the images")
    parser.add_argument("--images", type=int, default=building.IMAGES, help="how many to draw; default: %(default)s")
    parser.add_argument("--negatives", type=int, default=building.NEGATIVES, help="per image; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    given = parser.parse_intermixed_args(list(arguments))
    captions = list(map(Path, given.captions))
    sizes = {"images": given.images, "k": given.negatives, "seed": given.seed}
    written = building.build(Path(given.source), Path(given.out), given.name, captions=captions, **sizes)
    sys.stdout.write("".join(f"{path}\n" for path in written))
    sys.stdout.write(f"sightline run task=pope task.dataset={given.name} task.data={given.out} task.images=FOLDER\n")
    return OK


def play(arguments: Sequence[str]) -> int:
    """`sightline play [--host ADDRESS] [--port N] [OVERRIDE...]`"""
    return importlib.import_module(".play", __package__).main(arguments)


def models(arguments: Sequence[str]) -> int:
    """`sightline models`"""
    return _list("models", "models", arguments)


def decoders(arguments: Sequence[str]) -> int:
    """`sightline decoders [--markdown] [--into FILE]`"""
    listing = importlib.import_module(".listing", __package__)
    parser = _parser("decoders", "List the decoders, what they need, and their parameters.")
    parser.add_argument("--markdown", action="store_true", help="the capabilities as a Markdown table")
    parser.add_argument("--into", metavar="FILE", help="write that table into a Markdown file, between its marks")
    given = parser.parse_args(list(arguments))
    if given.into:
        listing.put_matrix(Path(given.into))
        sys.stdout.write(f"{given.into}\n")
    else:
        sys.stdout.write(listing.matrix() if given.markdown else listing.strategies())
    return OK


def tasks(arguments: Sequence[str]) -> int:
    """`sightline tasks`"""
    return _list("tasks", "benchmarks", arguments)


def presets(arguments: Sequence[str]) -> int:
    """`sightline presets [--into FILE]`"""
    parser = _parser("presets", "List the settings of papers (experiment=NAME) with the numbers they report.")
    parser.add_argument("--into", metavar="FILE", help="write the table into a Markdown file, between its marks")
    given = parser.parse_args(list(arguments))
    papers = importlib.import_module(".papers", __package__)
    if given.into:
        papers.put(Path(given.into))
    sys.stdout.write(f"{given.into}\n" if given.into else papers.as_text())
    return OK


def matrix(arguments: Sequence[str]) -> int:
    """`sightline matrix [--decoder NAME...] [--family NAME...] [--mode NAME...] [--into FILE]`"""
    parser = _parser("matrix", "Show how every decoder fared in every mode of generate() when the matrix was last run.")
    for what in ("decoder", "family", "mode"):
        parser.add_argument(f"--{what}", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--into", metavar="FILE", help="write the whole of it as a Markdown page")
    given = parser.parse_args(list(arguments))
    tables = importlib.import_module(".matrix", __package__)
    listing = importlib.import_module(".listing", __package__)
    held = tables.load()
    if given.into:
        listing.put_page(Path(given.into), tables.markdown(held))
        sys.stdout.write(f"{given.into}\n")
    else:
        sys.stdout.write(listing.cells(held, given.decoder, given.family, given.mode))
    return OK


def summary(metrics: dict[str, Any]) -> str:
    """The main figures of `metrics.json` as a small table."""
    listing = importlib.import_module(".listing", __package__)
    tables = metrics["tables"]
    asked = _COLUMNS.get(metrics["primary"]["metric"], (metrics["primary"]["metric"],))
    columns = [name for name in asked if any(name in table for table in tables.values())]
    rows = [(name, *(_figure(table.get(column, {})) for column in columns)) for name, table in tables.items()]
    return listing.table(("", *columns), rows)


def _list(command: str, what: str, arguments: Sequence[str]) -> int:
    _parser(command, f"List the {command}.").parse_args(list(arguments))
    sys.stdout.write(getattr(importlib.import_module(".listing", __package__), what)())
    return OK


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"sightline {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _folder(argument: str) -> Path:
    """A folder given as such, or as `run.dir=FOLDER`."""
    folder = Path(argument.removeprefix("run.dir="))
    if not folder.is_dir():
        raise UsageError(
            f"{str(folder)!r} is not a folder.",
            "Give a run folder, as `sightline run` names it; a pattern that ends in */ leaves files out.",
        )
    return folder


def _figure(entry: dict[str, Any]) -> str:
    value = entry.get("value")
    if value is None:
        return "-"
    low, high = entry.get("low"), entry.get("high")
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"
