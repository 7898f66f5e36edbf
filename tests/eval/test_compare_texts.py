"""Text tasks in paired comparisons: the same figures as the scores, shares that add up, right and wrong."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from sightline.eval.compare_answers import Answers
from sightline.eval.compare_paired import Arm, Pair
from sightline.eval.compare_texts import MEMO_TRAP, SHORT_ANSWERS, TRUTHFUL_QA
from sightline.eval.records import SampleRecord
from sightline.eval.score_tables import Given
from sightline.eval.score_texts import score_memo_trap, score_short_answers, score_truthful_qa


def record(split, number, group, output="", logprobs=None, gold=None):
    return SampleRecord(
        key=f"{split}-{number}", task="t", task_version=1, split=split, doc_id=str(number), image_id=group, prompt="p",
        label="l", output=output, n_prompt_tokens=3, n_output_tokens=2, finish="eos", margin=None, seed=None,
        status="ok", error=None, candidates=None if logprobs is None else [str(n) for n, _ in enumerate(logprobs)],
        logprobs=logprobs, gold=gold,
    )  # fmt: skip


def short(outputs):
    gold = {"answers": ["Rome", "in Rome"], "others": ["Oslo"]}
    return [
        record(split, number, f"s{number // 2}", output, gold=gold)
        for number, output in enumerate(outputs)
        for split in ("substituted", "original")
    ]


def chosen(splits, scores, gold):
    return [
        record(split, n, f"g{n}", logprobs=row, gold=gold)
        for n, (split, row) in enumerate(zip(splits, scores, strict=True))
    ]


ANSWERS = (["Rome.", "Oslo", "the Rome", "no", "In Rome", "Rome and Oslo"], ["Oslo", "Oslo", "Rome", "Rome", "no", ""])
PLAIN = {"true": [1], "best": 1}
TRAPS = (
    [[-3.0, -1.0], [-1.0, -2.0], [-2.0, -1.5], [None, -1.0]],
    [[-3.0, -4.0], [-1.0, -0.5], [-2.0, -2.5], [-1.0, -2.0]],
)
SPLITS = ("a", "a", "b", "b")
TRUE = {"true": [0, 2], "best": 2}
TRUTHS = ([[-1.0, -2.0, -3.0], [-4.0, -2.0, -0.5]], [[-1.0, -2.0, -0.5], [-1.0, -2.0, -3.0]])
CASES = {
    "short": (SHORT_ANSWERS, score_short_answers, [short(outputs) for outputs in ANSWERS]),
    "trap": (MEMO_TRAP, score_memo_trap, [chosen(SPLITS, rows, PLAIN) for rows in TRAPS]),
    "truth": (TRUTHFUL_QA, score_truthful_qa, [chosen(["multiple_choice"] * 2, rows, TRUE) for rows in TRUTHS]),
}


def answers(scale, records):
    named = {(record.split, record.doc_id): record for record in records}
    return Answers("run", scale, next(iter(scale.parsers)), 0, named, frozenset())


@pytest.mark.parametrize("case", CASES)
def test_figures_are_those_of_the_scores_and_shares_add_up(case):
    scale, score, runs = CASES[case]
    for records in runs:
        found = answers(scale, records)
        figures = scale.figures(found.tally.parts, found.tally.counts.sum(axis=0))
        shares = scale.shares(found.tally)
        scored = score(Given(Path(), {}, [vars(record) for record in records], next(iter(scale.parsers)))).tables
        assert set(figures) == set(scored)
        for table, measures in scored.items():
            assert set(figures[table]) | {"output_tokens"} == set(measures) | {"output_tokens"}
            for name, entry in measures.items():
                value = math.nan if entry["value"] is None else entry["value"]
                assert float(figures[table][name]) == pytest.approx(value, abs=1e-6, nan_ok=True)
                if entry["value"] is not None:
                    assert float(np.nansum(shares[table][name])) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("case", "measure", "right"), [("short", "em", (2, 1)), ("trap", "accuracy", (3, 1))])
def test_mcnemar_counts_what_only_one_run_got_right(case, measure, right):
    scale, _, runs = CASES[case]
    pair = Pair(*(Arm([answers(scale, records)]) for records in runs))
    gap = pair.gap(scale.table, measure)
    assert (gap.mcnemar.b, gap.mcnemar.c) == right
    assert gap.low <= gap.value <= gap.high
    fixed, broken = pair.flips()
    assert {flip.first.split for flip in (*fixed, *broken)} <= {record.split for record in runs[0]}


def test_subjects_are_drawn_and_flipped_as_one():
    """Six samples of three subjects: eight ways to flip signs, not sixty-four."""
    first, second = (answers(SHORT_ANSWERS, records) for records in CASES["short"][2])
    assert first.tally.images == ("s0", "s1", "s2")
    shares = [SHORT_ANSWERS.shares(run.tally)["substituted"]["em"] * 6 for run in (first, second)]
    assert [list(values) for values in shares] == [[1, 1, 1], [0, 2, 0]]
    gap = Pair(*(Arm([run]) for run in (first, second))).gap("substituted", "em")
    moved = [1, -1, 1]
    every = [abs(sum(sign * move for sign, move in zip(signs, moved, strict=True)))
             for signs in product((1, -1), repeat=3)]  # fmt: skip
    exact = sum(total >= abs(sum(moved)) for total in every) / len(every)
    assert gap.value == pytest.approx(1 / 6)
    assert gap.sign_flip == pytest.approx(exact, abs=0.02)
