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

_MOST = 3
"""Tasks that a headline names one by one."""
_RULE = (
    "To beat its controls, a strategy needs paired 95\u00a0% intervals on the better side of both greedy decoding and "
    "the best control of its generation mode, after correction for many comparisons"
)
_RULE_FOR_CAPTIONS = "; captions must also be better at the same length"
_MODE_WORDS = {"greedy": "greedy", "sample": "sampled", "beam": "beam search"}


@dataclass(frozen=True)
class Finding:
    """What the runs of one section show.

    Attributes:
        title: one sentence.
        detail: the sentences that prove it.
        claim: the title without the model.
        entry: the strategy that it is about; None where there is none.
        group: the strategy's generation mode.
        name: how the text calls the strategy.
        won: whether it beats its controls.
    """

    title: str
    detail: str
    claim: str = ""
    entry: Entry | None = None
    group: Group | None = None
    name: str = ""
    won: bool = False


@dataclass(frozen=True)
class _Candidate:
    entry: Entry
    group: Group
    name: str


def finding(section: Section) -> Finding:
    """What the runs of one section show."""
    candidates = _candidates(section)
    if not candidates:
        claim = f"no strategy was measured on {section.task_title}."
        detail = f"There are {count(len(section.runs), 'run')}; add a strategy, such as decoder=vcd."
        return Finding(f"On {section.model}, {claim}", detail, f"{claim[0].upper()}{claim[1:]}")
    winners = [item for item in candidates if beats(item.entry, section)]
    chosen = min(winners or candidates, key=lambda item: _closeness(item, section.measure))
    claim = _claim(section, winners, candidates, chosen)
    return Finding(
        f"On {section.model}, {claim}.",
        _detail(section, chosen, len(candidates), bool(winners)),
        f"{claim[0].upper()}{claim[1:]}.",
        chosen.entry,
        chosen.group,
        chosen.name,
        bool(winners),
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
    """Whether the row is clearly better than the best control of its mode and than greedy decoding.

    Captions must also be better than greedy decoding's at the same length.
    """
    return _beats_as_generated(entry, section) and not (section.captions and _only_shorter(entry, section))


def _beats_as_generated(entry: Entry, section: Section) -> bool:
    gaps = [entry.against_control, entry.against_greedy]
    return section.greedy is not None and all(better(gap, section.measure) for gap in gaps)


def _only_shorter(entry: Entry, section: Section) -> bool:
    return not better(entry.second_look, section.measure)


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
    if section.captions and _beats_as_generated(chosen.entry, section):
        return f"{name} beats its controls on {task}, but not clearly at the same length"
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
    lower = " (lower is better)" if main.better == "lower" else ""
    return f"{subject} changes {section.task_title} {main.noun}{lower} by {amount(gap, main)} against greedy decoding."


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
    """The second look at a gain, and how the answers changed: what tells grounding from a cheap gain."""
    greedy, scale = section.greedy, section.scale
    if greedy is None:
        return ""
    look = ""
    if section.captions and scale.check is not None and entry.second_look.value is not None:
        look = f"Cut to the same length, {scale.check.noun} changes by {amount(entry.second_look, scale.check)}."
    named = [("yes_ratio", "the yes-ratio"), ("auc", "the AUC of the margin")]
    if section.captions:
        named = [("recall", "recall"), ("length", "the length of a caption")]
    moves = []
    for key, words in named:
        before, after = (run.score(section.split, key).value for run in (greedy, entry.run))
        if before is not None and after is not None:
            item = measure(key)
            moves.append(f"{words} goes from {item.show(before)} to {item.show(after)}{item.suffix}")
    text = ", ".join(moves)
    return " ".join(part for part in (look, f"{text[0].upper()}{text[1:]}." if text else "") if part)


def amount(gap: Difference, main: Measure) -> str:
    """`+0.4 points [−0.2, +1.0]`, or `+0.4 points (not tested)`."""
    if gap.value is None:
        return f"an unknown amount ({gap.reason})"
    text = main.show(gap.value, signed=True) + main.points
    if gap.low is None or gap.high is None:
        return f"{text} (not tested)"
    return f"{text} {main.show_interval(gap.low, gap.high, signed=True)}"


def overall(found: Sequence[Section]) -> Finding:
    """The headline of the page: the finding of the only section, or what holds over all of them."""
    if len(found) == 1:
        return finding(found[0])
    findings = [(section, finding(section)) for section in found]
    judged = [(section, item) for section, item in findings if item.entry is not None]
    if not judged:
        return Finding("Only controls were run: there is no strategy to judge yet.", "Each section has its table.")
    models = {section.model for section in found}
    where = f"On {found[0].model}, " if len(models) == 1 else ""

    def place(section: Section) -> str:
        return section.task_title if where else f"{section.task_title} with {section.model}"

    winners: dict[str, list[str]] = {}
    for section, item in judged:
        if item.won and item.entry is not None:
            winners.setdefault(item.entry.label, []).append(place(section))
    won = [f"{name} beats its controls on {listed(tasks, 'and')}" for name, tasks in winners.items()]
    lost = [place(section) for section, item in judged if not item.won]
    if sum(map(len, winners.values())) > _MOST:
        won = [f"a strategy beats its controls on {len(judged) - len(lost)} of {len(judged)} tasks"]
    elif lost:
        nothing = "nothing clearly does on" if won else "no strategy clearly beats its controls on"
        many = f"the other {len(lost)} tasks" if winners else f"any of {len(lost)} tasks"
        won.append(f"{nothing} {listed(lost) if len(lost) <= _MOST else many}")
    title = where + ", and ".join(["; ".join(won[:-1]), won[-1]] if len(won) > 1 else won)
    return Finding(
        f"{title[0].upper()}{title[1:]}.",
        f"{_RULE}{_RULE_FOR_CAPTIONS if any(section.captions for section in found) else ''}.",
    )


def listed(names: Sequence[str], last: str = "or") -> str:
    """`a, b or c`."""
    return f" {last} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
