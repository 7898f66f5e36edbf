"""Holds a run against the numbers of a paper: measured, reported, and what makes the two incomparable.

A paper's number is taken as it stands: the interval of the difference is that of the measured value alone. Settings are
compared with those of the preset, so that a table cannot be read as a reproduction where it is none. Runs that differ
in their seed alone are one run, measured in the mean, as papers have it; their interval is over seeds and images.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .. import decoders
from .compare_answers import NotComparable, read_answers, refuse_other_samples
from .compare_paired import Arm, interval
from .config import choices, compose_settings
from .errors import ConfigError, IncompleteRun, UsageError
from .folder import is_complete, read_manifest
from .listing import WIDTH, table
from .preparing import settle
from .reported import SECTION, Reported, reported
from .score import SCORERS, scored

SCHEMA = 1
_PARTS = ("splits", "subtasks", "parts", "contexts")
"""Options of tasks that say how much is asked; the tables of what was asked stay comparable."""
_MARGIN = " " * 2


@dataclass(frozen=True)
class Line:
    """One number beside ours, in the paper's unit.

    Attributes:
        table, metric: as `metrics.json` names them.
        reported: the paper's number.
        measured, low, high: ours with its 95 % interval; None where it has none.
        n, n_reported: how many samples each is about, where that is known.
        sd: standard deviation of ours over seeds; None for one run.
    """

    table: str
    metric: str
    reported: float
    measured: float | None
    low: float | None
    high: float | None
    n: int | None
    n_reported: int | None
    sd: float | None = None

    @property
    def difference(self) -> tuple[float | None, float | None, float | None]:
        """Measured minus reported, and the ends of its interval."""
        found = (self.measured, self.low, self.high)
        value, low, high = (None if each is None else round(each - self.reported, 6) for each in found)
        return value, low, high


@dataclass(frozen=True)
class HeldAgainst:
    """A run and a paper.

    Attributes:
        folders: of the run, or of runs that differ in their seed alone.
        decoder: its key.
        parser: the dialect that answers were read in.
        paper: what is reported.
        obstacles: why the numbers are not comparable at all: another model, task or data set.
        settings: other settings that differ from the preset's.
        lines: the numbers of the run's decoder.
    """

    folders: tuple[Path, ...]
    decoder: str
    parser: str
    paper: Reported
    obstacles: tuple[str, ...]
    settings: tuple[str, ...]
    lines: tuple[Line, ...]


def hold(*folders: Path, preset: str | None = None, parser: str | None = None) -> HeldAgainst:
    """Hold a run against a paper. No model is needed, and nothing is written.

    Args:
        folders: of a finished run, or of several that differ in their seed alone.
        preset: the choice of the group `experiment` whose numbers are meant; None = those that the run was made with.
        parser: the dialect that answers are read in; None = that of the paper's script.

    Raises:
        UsageError: the run was made without a preset, or there is none of that name.
        NotComparable: the paper has no number of the run's decoder.
        SightlineError: the run has not finished, or cannot be scored.
    """
    manifest = read_manifest(folders[0])
    paper = _of_preset(preset) if preset else _of_run(folders[0])
    key = str(manifest["decoder"]["key"])
    if paper.rows and key not in paper.decoders:
        raise NotComparable(
            f"{paper.preset} has no number of decoder={key}.", f"It has numbers of {', '.join(paper.decoders)}."
        )
    obstacles, settings = _apart(manifest, paper)
    read_by = SCORERS.get(str(manifest["scorer"]["name"]))
    theirs = paper.parser if read_by is not None and paper.parser in read_by.parsers else None
    metrics = scored(folders[0], parser or theirs)
    if theirs and metrics["parser"] != theirs:
        settings.append(f"answers are read by {metrics['parser']}, the paper's by {theirs}")
    tables = metrics["tables"] if len(folders) == 1 else _over_seeds(folders, metrics)
    lines = tuple(_lines(tables, paper, key))
    settings += [
        f"{line.table} has {line.n} samples, the paper's {line.n_reported}"
        for line in {line.table: line for line in lines}.values()
        if line.n is not None and line.n_reported is not None and line.n != line.n_reported
    ]
    return HeldAgainst(folders, key, str(metrics["parser"]), paper, tuple(obstacles), tuple(settings), lines)


def as_text(held: HeldAgainst) -> str:
    """What `sightline compare --reported` prints of one run."""
    paper, many = held.paper, len(held.folders) > 1
    lines = [f"{folder.as_posix()}\n" for folder in held.folders[:-1]]
    lines += [f"{held.folders[-1].as_posix()} against {paper.preset}\n", _wrapped(f"{paper.paper}: {paper.source}.")]
    lines += _listed("NOT COMPARABLE:", held.obstacles)
    lines += _listed("Other settings than the preset's:", held.settings)
    lines += _listed("Known to be another way in the paper:", paper.differs)
    if paper.missing:
        return "".join([*lines, _wrapped(f"No number to compare with: {paper.missing}.")])
    rows = [_shown(line, many) for line in held.lines]
    heads = ("table", "measure", "measured [95 %]", *(["sd"] if many else []), "reported", "difference [95 %]")
    over = f"the mean of {len(held.folders)} runs" if many else "the measured value"
    note = f"Answers read by {held.parser}. The interval is of {over}; the paper's number is taken as it is."
    return "".join([*lines, "\n", table(heads, rows), _wrapped(note)])


def as_json(held: HeldAgainst) -> dict[str, Any]:
    """The same for `--json`; docs/papers.md describes the fields."""
    paper = held.paper
    return {
        "folders": [folder.as_posix() for folder in held.folders],
        "preset": paper.preset,
        "paper": paper.paper,
        "source": paper.source,
        "missing": paper.missing or None,
        "decoder": held.decoder,
        "parser": held.parser,
        "comparable": not held.obstacles,
        "obstacles": list(held.obstacles),
        "other_settings": list(held.settings),
        "differs": list(paper.differs),
        "rows": [_line_json(line) for line in held.lines],
    }


def _line_json(line: Line) -> dict[str, Any]:
    difference, low, high = line.difference
    own = {name: getattr(line, name) for name in ("table", "metric", "reported", "measured", "low", "high", "sd")}
    return {
        **own,
        "difference": {"value": difference, "low": low, "high": high},
        "n": line.n,
        "n_paper": line.n_reported,
    }


def _of_preset(name: str) -> Reported:
    if name not in choices("experiment"):
        near = get_close_matches(name, choices("experiment"), n=1)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise UsageError(
            f"There is no preset {name!r}.",
            f"{guess}`sightline run --help` lists them; the run comes first: sightline compare RUN --reported PRESET.",
        )
    found = compose_settings([f"experiment={name}"])[0].reported
    if found is None:
        raise UsageError(f"experiment={name} holds no numbers of a paper.", "Those of papers are named paper_....")
    return found


def _of_run(folder: Path) -> Reported:
    """The section of the run's `config.yaml`."""
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
        found = reported(config.get(SECTION) if isinstance(config, Mapping) else None)
    except (OSError, OmegaConfBaseException, YAMLError) as error:
        raise UsageError(f"The config.yaml of {str(folder)!r} cannot be read.", "Name a preset.") from error
    if found is None:
        raise UsageError(
            f"The run in {str(folder)!r} was made without a preset of a paper.",
            "Name one: sightline compare RUN --reported paper_vcd_pope.",
        )
    return found


def _apart(manifest: Mapping[str, Any], paper: Reported) -> tuple[list[str], list[str]]:
    """Obstacles, and other settings that differ."""
    obstacles, name = [], str(manifest["model"]["name"])
    if paper.model is None:
        obstacles.append("the source does not name its model")
    elif name != paper.model:
        obstacles.append(f"the model is {name}, the paper's {paper.model}")
    try:
        wanted = _wanted(paper.preset, str(manifest["decoder"]["key"]))
    except ConfigError:
        return obstacles, [f"{paper.preset} is no preset here, so that only the model was compared"]
    settings = []
    for path, ours, theirs in _differences(manifest, wanted):
        heavy = path[0] == "task" and path[-1] not in _PARTS
        path = ("run", *path) if path[0] == "limit" else path
        (obstacles if heavy else settings).append(f"{'.'.join(path)} is {_said(ours)}, the preset's {_said(theirs)}")
    return obstacles, settings


def _wanted(preset: str, decoder: str) -> dict[str, Any]:
    """What a manifest of the preset's run says, as far as it decides answers; parameters only of its own decoder."""
    asked = compose_settings([f"experiment={preset}"])[0]
    strategy, task, options = settle(asked)
    mode = decoders.get(decoder).mode
    told = {name: value for name, value in options.items() if name not in task.places}
    wanted: dict[str, Any] = {
        "task": {"name": task.name, "options": told},
        "prompt": {"suffix": asked.prompt.suffix},
        "generation": asked.generation.settled(mode, task.max_new_tokens).describe(),
        "limit": asked.run.limit,
    }
    if strategy.key == decoder:
        wanted["decoder"] = {"params": strategy.params()}
    return json.loads(json.dumps(wanted))


def _differences(
    ours: Mapping[str, Any], wanted: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Path, value and wanted value, for all that is wanted."""
    for name, value in wanted.items():
        held = ours.get(name)
        if isinstance(value, Mapping) and isinstance(held, Mapping):
            yield from _differences(held, value, (*path, name))
        elif held != value:
            yield (*path, name), held, value


def _lines(tables: Mapping[str, Any], paper: Reported, decoder: str) -> Iterator[Line]:
    for row in paper.rows:
        if row.decoder != decoder:
            continue
        for metric, number in row.values.items():
            figure = tables.get(row.table, {}).get(metric, {})
            ours, low, high, sd = (_scaled(figure.get(kind), paper.scale) for kind in ("value", "low", "high", "sd"))
            yield Line(row.table, metric, float(number), ours, low, high, figure.get("n"), row.n, sd)


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else round(value * scale, 6)


def _over_seeds(folders: Sequence[Path], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of the first run with the means over all in their place, resampled over seeds and images."""
    read = []
    for folder in folders:
        manifest = read_manifest(folder)
        if not is_complete(manifest):
            raise IncompleteRun(f"The run in {str(folder)!r} has not finished.", "Run it again to go on.")
        scorer = str(manifest["scorer"]["name"])
        read.append(read_answers(folder, manifest, str(folder), scorer, str(metrics["parser"])))
    refuse_other_samples(read)
    if read[0].labels:
        raise NotComparable(
            f"The runs were last scored with the labels of {read[0].labels}, and the paper's numbers are of others.",
            "Score them again without --labels.",
        )
    shared = set(read[0].records).intersection(*(run.records for run in read))
    whole = len(shared) == len(read[0].records)
    arm = Arm([run.only(shared) for run in read])
    tables = {name: dict(table) for name, table in metrics["tables"].items()}
    for name, measures in arm.figures.items():
        for measure, draws in measures.items():
            if name in tables and measure in tables[name]:
                low, high = interval(draws[1:])
                known = float(draws[0]) if math.isfinite(draws[0]) else None
                tables[name][measure] = {"value": known, "low": low, "high": high, "sd": arm.spread(name, measure)}
                tables[name][measure] |= {"n": metrics["tables"][name][measure].get("n") if whole else None}
    return tables


def _by_seed(folders: Sequence[Path]) -> list[list[Path]]:
    """Runs that differ in their seed alone, together, in the order given."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        held = read_manifest(folder)
        same = [held["model"]["name"], held["model"]["fingerprint"], held["decoder"]["key"], held["decoder"]["params"]]
        same += [held["task"][name] for name in ("name", "version", "options", "data")]
        same += [held["prompt"], held["generation"], held["limit"]]
        found.setdefault(json.dumps(same, sort_keys=True), []).append(folder)
    return list(found.values())


def _shown(line: Line, many: bool) -> tuple[str, ...]:
    ours = _figure("{:.2f}", line.measured, line.low, line.high)
    sd = [_figure("{:.2f}", line.sd, None, None)] if many else []
    return line.table, line.metric, ours, *sd, f"{line.reported:g}", _figure("{:+.2f}", *line.difference)


def _figure(form: str, value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    ends = "" if low is None or high is None else f" [{form.format(low)}, {form.format(high)}]"
    return form.format(value) + ends


def _said(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(heading: str, points: Sequence[str]) -> list[str]:
    """A heading with its points; nothing where there are none."""
    return [_wrapped(heading), *(_wrapped(point, "- ") for point in points)] if points else []


def _wrapped(text: str, mark: str = "") -> str:
    first, rest = _MARGIN + mark, _MARGIN + " " * len(mark)
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) + "\n"


def show(folders: Sequence[Path], preset: str, parser: str | None) -> tuple[str, dict[str, Any]]:
    """Text and JSON of several runs; raises as `hold`."""
    held = [hold(*group, preset=preset or None, parser=parser) for group in _by_seed(folders)]
    return "\n".join(map(as_text, held)), {"schema": SCHEMA, "runs": [as_json(each) for each in held]}
