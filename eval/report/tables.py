"""The tables of a report, as text cells that HTML and Markdown share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .board import CUT, Difference, Entry, Group, Section, generation_label
from .headline import better, worse
from .measures import MEASURES, Measure, ordered
from .runs import Run, Score
from .text import DASH, finite, number, parameters

ANSWERS = ("yes_ratio", "output_tokens", "unparsed_rate")
NAMES = {"mean": "mean of splits", "free": "as generated", "cut": "cut to greedy's length", "total": "all subtasks"}
_CAPTION = ("CHAIRs", "CHAIRi", "recall", "length")
_CUT = ("CHAIRs", "CHAIRi", "recall")


@dataclass(frozen=True)
class Cell:
    """One figure: its text, the interval below it, a verdict in words, and why it is missing."""

    text: str
    below: str = ""
    word: str = ""
    tone: str = ""
    reason: str = ""
    order: float | None = None

    @property
    def flat(self) -> str:
        """The cell in one line."""
        if self.text == DASH and self.word:
            return self.word
        return ", ".join(part for part in (f"{self.text} {self.below}".strip(), self.word) if part)


@dataclass(frozen=True)
class Column:
    """A heading, the sentence that explains it, and the heading that spans it."""

    label: str
    title: str = ""
    span: str = ""


@dataclass(frozen=True)
class Row:
    """One decoder."""

    entry: Entry
    cells: tuple[Cell, ...]
    detail: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A caption, columns and rows; what the dashes in it mean."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def own(self) -> list[Row]:
        """Rows of the group."""
        return [row for row in self.rows if not row.entry.reference]

    @property
    def references(self) -> list[Row]:
        """Rows of other generation modes, for reference."""
        return [row for row in self.rows if row.entry.reference]

    @property
    def firsts(self) -> set[int]:
        """Columns that begin a span."""
        return {at for at, column in enumerate(self.columns) if at and column.span != self.columns[at - 1].span}

    @property
    def spans(self) -> list[tuple[str, int]]:
        """Spanning headings with the number of columns below each."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.span:
                found[-1] = (column.span, found[-1][1] + 1)
            else:
                found.append((column.span, 1))
        return found


def split_title(split: str) -> str:
    """`mean` is read as `mean of splits`."""
    return NAMES.get(split, split)


def leaderboard(section: Section, group: Group) -> Table:
    """Scores, paired differences, answers and cost of one generation mode."""
    scores, answers = _chosen(section)
    columns = [_column(item, "Scores") for item in scores] + _difference_columns(section, group)
    columns += [_column(item, "Answers") for item in answers]
    columns += [Column("Errors", "samples that failed; never scored as answers", "Answers"), *_COST]
    rows = []
    for entry in group.entries:
        run = entry.run
        cells = [score_cell(run.score(section.split, item.key), item) for item in scores]
        cells += _difference_cells(section, entry)
        cells += [_answer_cell(run.score(section.split, item.key), item) for item in answers]
        cells += [_errors(run), *_cost(run)]
        rows.append(_row(entry, cells))
    caption = f"{group.label}: {section.task_title}, {split_title(section.split)}"
    return _table(caption, columns, rows)


def _chosen(section: Section) -> tuple[list[Measure], list[Measure]]:
    """The measures of a leaderboard: scores, the deciding one first, and what describes the answers."""
    present = _present(section, section.split)
    if section.captions:
        return [item for item in present if item.key in _CAPTION], [
            item for item in present if item.key in ("share_cut_off", "output_tokens")
        ]
    hidden = (*ANSWERS, "precision", "recall") if section.yes_no else ANSWERS
    scores = [item for item in present if item.key not in hidden]
    scores.sort(key=lambda item: item.key != section.measure.key)
    return scores, [MEASURES[key] for key in ANSWERS if MEASURES[key] in present]


_COST = (
    Column("Time", "seconds of this decoder over plain greedy generate() on the same requests", "Cost"),
    Column("Rows per token", "rows that went through the text decoder, over those of plain decoding", "Cost"),
    Column("Forwards per token", "calls of the text decoder, a batch being one, per position", "Cost"),
)


def by_part(section: Section, group: Group) -> Table | None:
    """The main measure by split or subtask; of captions, cut to the same length; None where there is one table only."""
    if section.captions:
        return _at_greedys_length(section, group) if CUT in section.splits else None
    return _by_split(section, group) if len(section.splits) > 1 else None


def part_title(section: Section) -> str:
    """The heading above these tables."""
    if section.captions:
        return "At the same length"
    return "By subtask" if section.subtasks else "By split"


def _at_greedys_length(section: Section, group: Group) -> Table:
    """Captions as they are, cut to the words of greedy's, and greedy's cut to the words of theirs."""
    main, span = section.measure, "Cut to greedy's length"
    why = "scored without greedy's captions; `score --like GREEDY` cuts to them"
    columns = [_column(main, "As generated"), *(_column(MEASURES[key], span) for key in _CUT)]
    columns.append(
        Column(main.heading, "greedy's captions, cut to the words of this run's", "Greedy, cut to this length")
    )
    rows = []
    for entry in group.entries:
        run = entry.run
        cells = [score_cell(run.score(section.split, main.key), main)]
        if run is section.greedy:
            cells += [Cell(DASH, word="greedy itself")] * (len(_CUT) + 1)
        else:
            held = [run.tables.get(CUT, {}).get(key) or Score(None, reason=why) for key in _CUT]
            cells += [score_cell(score, MEASURES[key]) for score, key in zip(held, _CUT, strict=True)]
            cells.append(score_cell(run.like.get(main.key) or Score(None, reason=why), main))
        rows.append(_row(entry, cells))
    return _table(f"Captions cut to the same length: {group.label}", columns, rows)


def _by_split(section: Section, group: Group) -> Table:
    """The main measure in every split; of MME's subtasks also acc and acc+."""
    main, splits = section.measure, section.splits
    columns = [Column(split_title(split)) for split in splits]
    rows = [_row(entry, [_split_cell(section, entry.run, split) for split in splits]) for entry in group.entries]
    what = "subtask, acc and acc+ below" if section.subtasks else "split"
    return _table(f"{main.heading} by {what}: {group.label}", columns, rows)


def _split_cell(section: Section, run: Run, split: str) -> Cell:
    cell = score_cell(run.score(split, section.measure.key), section.measure)
    if not section.subtasks or cell.order is None:
        return cell
    parts = [(MEASURES[key], run.score(split, key).value) for key in ("acc", "acc_plus")]
    return replace(cell, below=", ".join(f"{item.label} {item.show(v)}" for item, v in parts if v is not None))


def one_split(section: Section, split: str, several: bool) -> list[Table]:
    """Every measure of one split, a table for each generation mode."""
    present = _present(section, split)
    tables = []
    for group in section.groups:
        rows = [
            _row(entry, [score_cell(entry.run.score(split, item.key), item) for item in present])
            for entry in group.entries
            if not entry.reference
        ]
        caption = f"{split_title(split).capitalize()}" + (f": {group.label}" if several else "")
        tables.append(_table(caption, [_column(item) for item in present], rows))
    return tables


def parser_table(section: Section, group: Group) -> Table | None:
    """The main measure under every parser: how much of a score is the parser's."""
    own = [entry for entry in group.entries if not entry.reference]
    names = sorted({name for entry in own for name in entry.run.parsers} | {entry.run.parser for entry in own} - {""})
    if len(names) < 2:
        return None
    split = _parser_split(section, own)
    used = {entry.run.parser for entry in own}
    names.sort(key=lambda name: (name not in used, name))
    columns = [Column(f"{name} (used)" if name in used else name) for name in names]
    columns.append(Column("Spread", "largest minus smallest"))
    rows = [_row(entry, _parser_cells(section, entry.run, split, names)) for entry in own]
    caption = f"{section.measure.heading} by parser, yes-ratio below: {group.label}, {split_title(split)}"
    return _table(caption, columns, rows)


def _parser_split(section: Section, entries: Sequence[Entry]) -> str:
    found = {split for entry in entries for tables in entry.run.parsers.values() for split in tables}
    wanted = (section.split, "pooled", "mean", *section.splits)
    return next((split for split in wanted if split in found), section.split)


def _parser_cells(section: Section, run: Run, split: str, names: Sequence[str]) -> list[Cell]:
    main, yes = section.measure, MEASURES["yes_ratio"]
    cells, values = [], []
    for name in names:
        table = run.tables.get(split, {}) if name == run.parser else run.parsers.get(name, {}).get(split, {})
        score = table.get(main.key) or Score(None, reason=f"not scored with this parser in {split_title(split)}")
        ratio = table.get("yes_ratio")
        if score.value is None:
            cells.append(score_cell(score, main))
            continue
        values.append(score.value)
        below = f"yes {yes.show(ratio.value)}" if ratio and ratio.value is not None else ""
        cells.append(Cell(main.show(score.value), below, order=score.value))
    spread = max(values) - min(values) if len(values) > 1 else None
    cells.append(Cell(DASH) if spread is None else Cell(main.show(spread), order=spread))
    return cells


def _answer_cell(score: Score, item: Measure) -> Cell:
    """Only the yes-ratio with its interval, which keeps the table narrow; all of them stand in the tables by split."""
    cell = score_cell(score, item)
    return cell if item.key == "yes_ratio" else replace(cell, below="")


def _present(section: Section, split: str) -> list[Measure]:
    return ordered({key for run in section.runs for key in run.tables.get(split, {})})


def _column(item: Measure, span: str = "") -> Column:
    return Column(item.heading, item.meaning, span)


def score_cell(score: Score, item: Measure) -> Cell:
    """Value and interval, or a dash with the reason."""
    if score.value is None:
        return Cell(DASH, reason=score.reason)
    below = ""
    if score.low is not None and score.high is not None and score.low < score.high:
        below = item.show_interval(score.low, score.high)
    return Cell(item.show(score.value), below, order=score.value)


def _difference_columns(section: Section, group: Group) -> list[Column]:
    main = section.measure
    span = "Paired difference"
    best = group.best_control.label if group.best_control else "none was run"
    columns = [
        Column(f"{main.label} to greedy", "this run minus greedy decoding, same samples", span),
        Column(f"{main.label} to best control", f"this run minus the best control of its mode: {best}", span),
    ]
    if section.scale.check is not None:
        columns.append(Column(f"{section.scale.check_label} to greedy", _check_meaning(section), span))
    return columns


def _check_meaning(section: Section) -> str:
    if section.captions:
        return "both captions of each image cut to the words of the shorter"
    table = "" if section.scale.check_table == section.split else f", {split_title(section.scale.check_table)}"
    return f"change of the area under the ROC curve{table}"


def _difference_cells(section: Section, entry: Entry) -> list[Cell]:
    judged, main = entry.role == "strategy", section.measure
    itself = "greedy itself" if entry.run is section.greedy else ""
    best = "best control" if entry.is_best_control else ""
    cells = [
        difference_cell(entry.against_greedy, main, itself, judged),
        difference_cell(entry.against_control, main, best, judged),
    ]
    if section.scale.check is not None:
        cells.append(difference_cell(entry.second_look, section.scale.check, itself, judged))
    return cells


def difference_cell(gap: Difference, item: Measure, itself: str = "", judged: bool = False) -> Cell:
    """Difference, interval, and what may be said of it; only what is `judged` gets a tone."""
    if itself:
        return Cell(DASH, word=itself)
    if gap.value is None:
        return Cell(DASH, reason=gap.reason)
    text = item.show(gap.value, signed=True)
    if gap.low is None or gap.high is None:
        return Cell(text, word="not tested", reason=gap.reason, order=gap.value)
    word, tone = verdict(gap, item)
    tone = tone if judged else ""
    return Cell(text, item.show_interval(gap.low, gap.high, signed=True), word, tone, order=gap.value)


def verdict(gap: Difference, item: Measure) -> tuple[str, str]:
    """The words for a difference, and their tone."""
    if gap.value == gap.low == gap.high == 0:
        return "identical", ""
    if better(gap, item):
        return "better", "good"
    if worse(gap, item):
        return "worse", "bad"
    if gap.corrected_away:
        return "not clear after correction", ""
    return "no clear difference", ""


def _errors(run: Run) -> Cell:
    tone = "loud" if run.n_error else ""
    return Cell(f"{run.n_error:,}", f"of {run.n:,}" if run.n_error else "", tone=tone, order=run.n_error)


def _cost(run: Run) -> list[Cell]:
    beside = run.timing.get("beside_greedy")
    ratio = finite(beside.get("ratio")) if isinstance(beside, dict) else None
    rows, forwards = (finite(run.timing.get(f"{key}_per_token")) for key in ("rows", "forwards"))
    why = "the run was not timed" if not run.timing else "not timed beside greedy"
    return [_figure(ratio, 2, why, "\u00d7"), _figure(rows, 2, why), _figure(forwards, 2, why)]


def _figure(value: float | None, digits: int, reason: str, unit: str = "") -> Cell:
    return Cell(DASH, reason=reason) if value is None else Cell(number(value, digits) + unit, order=value)


def _row(entry: Entry, cells: Sequence[Cell]) -> Row:
    return Row(entry, tuple(cells), _detail(entry), flags(entry.run))


def _detail(entry: Entry) -> str:
    shown = parameters(entry.run.params)
    focus = finite(entry.run.timing.get("focus"))
    if focus is not None:
        shown = f"{shown}; gate open at {number(100 * focus, 0)} % of tokens"
    contrasted = finite(entry.run.timing.get("contrasted"))
    if contrasted is not None:
        shown = f"{shown}; contrasted at {number(100 * contrasted, 0)} % of steps"
    return ", ".join(part for part in (shown, _settings(entry.run)) if part) if entry.reference else shown


def _settings(run: Run) -> str:
    """`temperature 1.0` of a reference from another mode."""
    return generation_label(run.generation).partition(", ")[2]


def flags(run: Run) -> tuple[str, ...]:
    """What must not be overlooked about a run."""
    found: list[Any] = []
    if run.partial:
        found.append(f"partial: {run.n:,} answers")
    if run.n_error:
        found.append(f"{run.n_error:,} failed")
    return tuple(found)


def _table(caption: str, columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    return Table(caption, tuple(columns), tuple(rows), _notes(columns, rows))


def _notes(columns: Sequence[Column], rows: Sequence[Row]) -> tuple[str, ...]:
    """For every reason of a missing figure, where it holds: `AUC of VCD: no record carries a margin`."""
    places: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for column, cell in zip(columns, row.cells, strict=True):
            if cell.reason:
                places.setdefault(cell.reason, {}).setdefault(column.label, []).append(row.entry.label)
    notes = []
    for reason, by_column in places.items():
        names = sorted({name for labels in by_column.values() for name in labels})
        notes.append(f"{', '.join(by_column)} ({', '.join(names)}): {reason}.")
    return tuple(notes)
