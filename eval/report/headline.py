"""The finding, in words that the numbers allow.

A strategy is said to beat its controls only if its paired difference to the best control of its own generation
mode, and its difference to greedy decoding, are both clearly positive after correction for many comparisons. Partial
runs make no headline where complete ones exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .board import Difference, Entry, Group, Section
from .measures import Measure, measure
from .text import count

_MODE_WORDS = {"greedy": "greedy", "sample": "sampled", "beam": "beam search"}


@dataclass(frozen=True)
class Finding:
    """One sentence, and the sentences that prove it."""

    title: str
    detail: str


@dataclass(frozen=True)
class _Candidate:
    entry: Entry
    group: Group
    name: str


def finding(section: Section) -> Finding:
    """What the runs of one section show."""
    candidates = _candidates(section)
    if not candidates:
        title = f"On {section.model}, no strategy was measured on {section.task_title}."
        return Finding(title, f"There are {count(len(section.runs), 'run')}; add a strategy, such as decoder=vcd.")
    winners = [item for item in candidates if beats(item.entry, section)]
    chosen = min(winners or candidates, key=lambda item: _closeness(item, section.measure))
    return Finding(
        f"On {section.model}, {_claim(section, winners, candidates, chosen)}.",
        _detail(section, chosen, len(candidates), bool(winners)),
    )


def _candidates(section: Section) -> list[_Candidate]:
    """The strategies that have a value, whole runs only where there are any."""
    several_modes = sum(bool(group.strategies) for group in section.groups) > 1
    found = []
    for group in section.groups:
        mode = f" ({_MODE_WORDS.get(group.mode, group.mode)})" if several_modes else ""
        found += [_Candidate(entry, group, entry.label + mode) for entry in group.strategies]
    found = [item for item in found if item.entry.run.score(section.split, section.measure.key).value is not None]
    return [item for item in found if not item.entry.run.partial] or found


def beats(entry: Entry, section: Section) -> bool:
    """Whether the row is clearly better than the best control of its mode and than greedy decoding."""
    gaps = [entry.against_control, entry.against_greedy]
    if section.greedy is None:
        return False
    return all(better(gap, section.measure) for gap in gaps)


def better(gap: Difference, main: Measure) -> bool:
    """Whether the difference is clearly an improvement."""
    return gap.clear and main.gain(gap.value or 0.0) > 0


def worse(gap: Difference, main: Measure) -> bool:
    """Whether the difference is clearly a loss."""
    return gap.clear and main.gain(gap.value or 0.0) < 0


def _closeness(item: _Candidate, main: Measure) -> tuple[float, float, str]:
    gaps = (item.entry.against_control, item.entry.against_greedy)
    gains = [-9.0 if gap.value is None else main.gain(gap.value) for gap in gaps]
    return (-min(gains), -sum(gains), item.name)


def _claim(section: Section, winners: Sequence[_Candidate], all_of: Sequence[_Candidate], chosen: _Candidate) -> str:
    task, name, main = section.task_title, chosen.name, section.measure
    if winners:
        return f"{_winners(winners, chosen, len(all_of))} greedy decoding and the best control on {task}"
    if not any(item.entry.against_control.tested for item in all_of):
        return f"nothing can be claimed on {task} yet: no strategy was compared with a control sample by sample"
    if len(all_of) > 1:
        return f"none of {len(all_of)} strategy runs clearly beats its controls on {task}"
    gap, control = chosen.entry.against_control, control_name(chosen.group)
    if worse(gap, main):
        return f"{control} does better than {name} on {task}"
    if better(gap, main):
        return f"{name} beats the controls of its mode on {task}, but not greedy decoding"
    return f"{name} is not clearly better than {control} on {task}"


def _winners(winners: Sequence[_Candidate], chosen: _Candidate, compared: int) -> str:
    others = [item.name for item in winners if item is not chosen]
    if not others:
        return f"{chosen.name} beats"
    if len(others) == 1:
        return f"{chosen.name} and {others[0]} beat"
    return f"{len(winners)} of {compared} strategy runs, {chosen.name} first, beat"


def control_name(group: Group) -> str:
    """The best control within a sentence."""
    best = group.best_control
    if best is None:
        return "a control"
    words = {"shift": "a constant yes/no shift", "greedy": "greedy decoding", "sample": "plain sampling"}
    return words.get(best.run.key, best.label)


def _detail(section: Section, chosen: _Candidate, compared: int, won: bool) -> str:
    entry = chosen.entry
    subject = chosen.name if won or compared == 1 else f"The closest, {chosen.name},"
    parts = [_against_greedy(section, entry, subject), _against_control(section, chosen), _answers(section, entry)]
    if entry.run.partial:
        parts.insert(0, "This rests on a partial run and will change.")
    return " ".join(part for part in parts if part)


def _against_greedy(section: Section, entry: Entry, subject: str) -> str:
    gap, main = entry.against_greedy, section.measure
    if gap.value is None:
        return f"{subject} cannot be held against greedy decoding: {gap.reason}."
    noun = "accuracy" if main.key == "accuracy" else main.label
    return f"{subject} changes {section.task_title} {noun} by {amount(gap, main)} against greedy decoding."


def _against_control(section: Section, chosen: _Candidate) -> str:
    gap, best, main = chosen.entry.against_control, chosen.group.best_control, section.measure
    if best is None:
        return "No control was run in its generation mode, so a gain proves nothing yet."
    if best.run is section.greedy:
        return "No other control of its mode does better than greedy decoding."
    control = control_name(chosen.group)
    control = control[0].upper() + control[1:]
    if gap.value is None:
        return f"{control}, the best control of its mode, cannot be held against it: {gap.reason}."
    own = best.against_greedy
    by_itself = "" if own.value is None else f" changes it by {amount(own, main)};"
    return f"{control}, the best control of its mode,{by_itself} {chosen.name} {_relation(gap, main)}."


def _relation(gap: Difference, main: Measure) -> str:
    if not gap.tested:
        return f"differs from that by {amount(gap, main)}"
    if better(gap, main):
        return f"is better than that by {amount(gap, main)}"
    if worse(gap, main):
        return f"is worse than that by {amount(gap, main)}"
    return f"is not clearly different from that: {amount(gap, main)}"


def _answers(section: Section, entry: Entry) -> str:
    """How yes-ratio and area move from greedy decoding: whether answers shifted or were ranked better."""
    greedy = section.greedy
    if greedy is None:
        return ""
    moves = []
    for key, words in (("yes_ratio", "The yes-ratio"), ("auc", "the AUC of the margin")):
        before, after = (run.score(section.split, key).value for run in (greedy, entry.run))
        if before is not None and after is not None:
            item = measure(key)
            moves.append(f"{words} goes from {item.show(before)} to {item.show(after)}{item.suffix}")
    text = ", ".join(moves)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def amount(gap: Difference, main: Measure) -> str:
    """`+0.4 points [−0.2, +1.0]`, or `+0.4 points (not tested)`."""
    if gap.value is None:
        return f"an unknown amount ({gap.reason})"
    text = main.show(gap.value, signed=True) + main.points
    if gap.low is None or gap.high is None:
        return f"{text} (not tested)"
    return f"{text} {main.show_interval(gap.low, gap.high, signed=True)}"


def overall(found: Sequence[Section]) -> Finding:
    """The headline of the page: the finding of the only section, or the count over all of them."""
    if len(found) == 1:
        return finding(found[0])
    rows = [(entry, section) for section in found for group in section.groups for entry in group.strategies]
    if not rows:
        return Finding("Only controls were run: there is no strategy to judge yet.", "Each section has its table.")
    winners = sum(beats(entry, section) for entry, section in rows)
    verb = "beat" if winners > 1 else "beats"
    return Finding(
        f"{winners or 'None'} of {count(len(rows), 'strategy run')} {verb} greedy decoding and the best control, "
        f"over {len(found)} pairs of model and task.",
        "A win needs paired 95 % intervals on the better side against both, after correction for many comparisons.",
    )
