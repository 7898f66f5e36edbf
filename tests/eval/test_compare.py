"""Paired comparison of runs: constructed outcomes, golden statistics, symmetry, and what is refused."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_page import rows_of
from scored_runs import (
    MME_TASKS,
    SAMPLE,
    caption_run,
    caption_world,
    manifest,
    mme_answers,
    question,
    record,
    seven,
    write_run,
    yes_no_run,
)
from sightline.eval import cli
from sightline.eval.compare import Comparisons, compare
from sightline.eval.compare_answers import NotComparable
from sightline.eval.compare_paired import Gap
from sightline.eval.compare_text import SHOWN, as_json, as_text, questions
from sightline.eval.errors import IncompleteRun, RunFolderError
from sightline.eval.report import write_report
from sightline.eval.score import score_run
from sightline.eval.scoring.pope import mean_rate, pope_counts
from sightline.eval.statistics import cluster_bootstrap, holm
from sightline.models.errors import SightlineError

FLIPPED = {"yes": "no", "no": "yes"}
Answers = dict[tuple[str, str, str], tuple[str, str]]


def pope_answers(images: int, wrong: set[int] = frozenset(), splits: tuple[str, ...] = ("random",)) -> Answers:
    """Four questions an image and split, shared by all splits; those numbered in `wrong` are answered wrongly."""
    found = {}
    for split in splits:
        for number in range(images * 4):
            label = ("yes", "no")[number % 2]
            said = FLIPPED[label] if number in wrong else label
            found[split, f"scene{number // 4:03d}", f"Is there a thing {number} in the image?"] = (label, said.title())
    return found


def two(root: Path, baseline: Answers, run: Answers, **changes: Any) -> Comparisons:
    """The comparison of two runs of given answers."""
    return compare(
        [
            yes_no_run(root / "a", "greedy", baseline, **changes),
            yes_no_run(root / "b", "vcd", run, control=False, params={"alpha": 1.0}, **changes),
        ]
    )


def gap(found: Comparisons, table: str, measure: str) -> Gap:
    return found.found[0].gaps[table][measure]


def edges(item: Gap) -> tuple[float, float, float]:
    assert item.value is not None
    assert item.low is not None
    assert item.high is not None
    return item.low, item.value, item.high


def test_golden_statistics(golden: Any, tmp_path: Path) -> None:
    data = golden("stats")
    held = data["inputs"]
    names = [("random", image, f"question {at}?") for at, image in enumerate(held["clusters"])]
    runs = [
        {name: ("yes", "Yes" if right else "No") for name, right in zip(names, held[side], strict=True)}
        for side in ("scores_b", "scores_a")
    ]
    item = gap(two(tmp_path, *runs), "random", "accuracy")
    assert item.value == pytest.approx(data["paired_ttest_a_minus_b"]["mean_diff"])
    assert item.first == data["mean_a"]
    test, expected = item.mcnemar, data["mcnemar"]
    assert test is not None
    assert (test.b, test.c) == (expected["b_a_right_b_wrong"], expected["c_a_wrong_b_right"])
    assert test.p_value == pytest.approx(expected["exact_two_sided_p"])
    assert test.mid_p == pytest.approx(expected["mid_p"])


def test_known_outcome(tmp_path: Path) -> None:
    found = two(tmp_path, pope_answers(10, set(range(12))), pope_answers(10, {30, 35}))
    item = gap(found, "mean", "accuracy")
    assert (item.second, item.first) == (28 / 40, 38 / 40)
    pooled = gap(found, "pooled", "accuracy").mcnemar
    assert pooled is not None
    assert (pooled.b, pooled.c) == (12, 2)
    assert pooled.p_value == pytest.approx(2 * sum([1, 14, 91]) / 2**14)
    fixed, broken = found.found[0].pair.flips()
    assert [flip.first.image_id for flip in fixed] == [f"scene{at // 4:03d}" for at in range(12)]
    assert [flip.first.doc_id for flip in broken] == ["30", "35"]


def test_interval_is_the_paired_bootstrap(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    splits = ("random", "popular")
    sides = [pope_answers(30, set(random.choice(120, size, replace=False)), splits) for size in (40, 25)]
    found = two(tmp_path, *sides)
    lines = [
        [record(split, str(at), image, text, label, said) for at, ((split, image, text), (label, said)) in rows]
        for rows in (list(enumerate(side.items())) for side in sides)
    ]
    first, second = (pope_counts(side).counts for side in (lines[1], lines[0]))
    expected = cluster_bootstrap(first, mean_rate("f1"), versus=second)
    assert edges(gap(found, "mean", "f1")) == (expected.low, expected.value, expected.high)


def test_questions_that_splits_share_count_once(tmp_path: Path) -> None:
    found = two(
        tmp_path, pope_answers(8, {0, 1, 2}, ("random", "popular")), pope_answers(8, set(), ("random", "popular"))
    )
    tests = {table: gap(found, table, "accuracy").mcnemar for table in ("random", "popular", "pooled", "mean")}
    assert [test and test.b for test in tests.values()] == [3, 3, 3, None]
    fixed, _ = found.found[0].pair.flips()
    assert [flip.tables for flip in fixed] == [("popular", "random")] * 3


def three(root: Path) -> dict[str, list[Path]]:
    """Two runs of each task, which differ."""
    captions = [caption_world(30, honesty, seed=seed) for honesty, seed in ((0.3, 1), (0.8, 2))]
    skills = [dict.fromkeys(MME_TASKS, chance) for chance in (0.6, 0.8)]
    return {
        "pope": [
            yes_no_run(root / f"pope{at}", "vcd", pope_answers(20, wrong, ("random", "popular")), params={"alpha": at})
            for at, wrong in enumerate(({1, 2, 3, 50, 60}, {2, 70}))
        ],
        "chair": [caption_run(root / f"chair{at}", ("greedy", "vcd")[at], *world) for at, world in enumerate(captions)],
        "mme": [
            yes_no_run(root / f"mme{at}", ("greedy", "vcd")[at], mme_answers(20, skill, at), task="mme_scenes")
            for at, skill in enumerate(skills)
        ],
    }


@pytest.mark.parametrize("task", ["pope", "chair", "mme"])
def test_swapping_the_runs_swaps_the_signs(tmp_path: Path, task: str) -> None:
    runs = three(tmp_path)[task]
    there, back = (compare(order).found[0] for order in (runs, runs[::-1]))
    for table, gaps in there.gaps.items():
        for name, item in gaps.items():
            low, value, high = edges(item)
            assert edges(back.gaps[table][name]) == pytest.approx((-high, -value, -low), abs=1e-12)
            assert back.gaps[table][name].sign_flip == item.sign_flip
            if item.mcnemar is not None:
                other = back.gaps[table][name].mcnemar
                assert other is not None
                assert (other.b, other.c, other.p_value) == (item.mcnemar.c, item.mcnemar.b, item.mcnemar.p_value)
    assert [len(flips) for flips in back.pair.flips()] == [len(flips) for flips in there.pair.flips()][::-1]
    assert sum(len(flips) for flips in there.pair.flips()) > 0


@pytest.mark.parametrize("task", ["pope", "chair", "mme"])
def test_identical_answers_differ_in_nothing(tmp_path: Path, task: str) -> None:
    first, second = three(tmp_path)[task]
    for file in (first / "samples").iterdir():
        (second / "samples" / file.name).write_bytes(file.read_bytes())
    found = compare([first, second])
    for gaps in found.found[0].gaps.values():
        for item in gaps.values():
            assert edges(item) == (0, 0, 0)
            assert item.sign_flip in (None, 1.0)
            assert item.mcnemar is None or item.mcnemar.p_value == 1.0
    assert as_json(found)["comparisons"][0]["verdict"] == "identical"
    assert found.found[0].pair.flips() == ([], [])


def test_captions_are_compared_as_they_are_and_at_the_same_length(tmp_path: Path) -> None:
    truth = [["star", "moon"]] * 12
    long = ["A star and a moon and a kite"] * 9 + ["A star and a moon"] * 3
    short = ["A star and a moon"] * 12
    found = compare(
        [caption_run(tmp_path / "a", "greedy", long, truth), caption_run(tmp_path / "b", "vcd", short, truth)]
    )
    free, same = (gap(found, table, "CHAIRs") for table in ("free", "same_length"))
    assert (free.second, free.first) == (0.75, 0.0)
    assert free.mcnemar is not None
    assert (free.mcnemar.b, free.mcnemar.c, free.mcnemar.p_value) == (9, 0, 2 / 2**9)
    assert edges(same) == (0, 0, 0)
    assert edges(gap(found, "free", "recall")) == (0, 0, 0)
    length = gap(found, "free", "length")
    assert length.value == pytest.approx(-3 * 9 / 12)
    told = as_json(found)["comparisons"][0]
    assert told["verdict"] == "better"
    assert [flip["note"] for flip in told["fixed"]] == ["absent: kite"] * 9
    assert "  scene0000  absent: kite\n    A star and a moon and a kite\n    A star and a moon\n" in as_text(found)


def test_mme_agrees_with_the_scores(tmp_path: Path) -> None:
    runs = three(tmp_path)["mme"]
    scores = [score_run(run)["tables"] for run in runs]
    found = compare(runs)
    for table in (*MME_TASKS, "total"):
        for measure in ("score", "acc", "acc_plus", "yes_ratio"):
            item = gap(found, table, measure)
            assert (item.second, item.first) == pytest.approx(
                [side[table][measure]["value"] for side in scores], abs=1e-6
            )
    pairs = gap(found, "count", "acc_plus").mcnemar
    assert pairs is not None
    assert pairs.b - pairs.c == round(
        20 * (scores[1]["count"]["acc_plus"]["value"] - scores[0]["count"]["acc_plus"]["value"])
    )
    assert list(found.found[0].gaps) == [*MME_TASKS, "total"]


def test_holm_goes_over_all_comparisons(tmp_path: Path) -> None:
    wrongs = (set(range(16)), set(range(12, 20)), {3})
    runs = [
        yes_no_run(tmp_path / str(at), "vcd", pope_answers(20, wrong), params={"alpha": at})
        for at, wrong in enumerate(wrongs)
    ]
    found = compare(runs)
    plain = [item.sign_flip for one in found.found for gaps in one.gaps.values() for item in gaps.values()]
    adjusted = [p for one in found.found for (test, *_), p in one.holm.items() if test == "sign_flip"]
    assert adjusted == holm([p for p in plain if p is not None])
    assert found.family == {"sign_flip": 6, "mcnemar": 4}


def seeded(root: Path, key: str, chance: float, seeds: int) -> list[Path]:
    runs = []
    for seed in range(seeds):
        random = np.random.default_rng([seed, int(chance * 100)])
        answers = pope_answers(25, set(np.flatnonzero(random.random(100) > chance)))
        runs.append(yes_no_run(root / f"{key}{seed}", key, answers, generation=SAMPLE, seed=seed))
    return runs


def test_seeds_of_one_configuration_go_together(tmp_path: Path) -> None:
    base, other = seeded(tmp_path, "sample", 0.6, 3), seeded(tmp_path, "vcd", 0.8, 3)
    found = compare([*base, *other])
    assert [found.baseline.seeds, found.found[0].run.seeds] == [[0, 1, 2], [0, 1, 2]]
    item = gap(found, "mean", "accuracy")
    single = [compare([a, b]).found[0].gaps["mean"]["accuracy"] for a, b in zip(base, other, strict=True)]
    values = [one.first for one in single]
    assert item.first == pytest.approx(np.mean(values))
    assert item.spread[0] == pytest.approx(np.std(values, ddof=1))
    low, value, high = edges(item)
    assert low < value < high
    assert item.mcnemar is None
    assert "SD run" in as_text(found)
    assert "3 seeds" in as_text(found)
    sd = as_json(found)["comparisons"][0]["tables"]["mean"]["accuracy"]["sd_over_seeds"]
    assert sd["run"] == item.spread[0]


def test_runs_that_differ_in_nothing_but_the_seed_stand_for_themselves(tmp_path: Path) -> None:
    found = compare(seeded(tmp_path, "vcd", 0.7, 2))
    assert len(found.found) == 1
    assert found.baseline.label != found.found[0].run.label


def test_seeds_widen_the_interval(tmp_path: Path) -> None:
    """Runs whose answers agree within a seed and differ between seeds: the images alone would show no spread."""
    base = yes_no_run(tmp_path / "base", "greedy", pope_answers(25, set(range(50))))
    runs = [
        yes_no_run(tmp_path / f"vcd{seed}", "vcd", pope_answers(25, set(wrong)), generation=SAMPLE, seed=seed)
        for seed, wrong in enumerate((range(0, 100, 4), range(0, 100, 2)))
    ]
    low, _, high = edges(gap(compare([base, *runs]), "mean", "accuracy"))
    alone = [edges(gap(compare([base, run]), "mean", "accuracy")) for run in runs]
    assert high - low > max(one[2] - one[0] for one in alone)


def change(folder: Path, **changes: Any) -> None:
    told = json.loads((folder / "manifest.json").read_text())
    for name, value in changes.items():
        place: dict[str, Any] = told
        *path, last = name.split("__")
        for key in path:
            place = place[key]
        place[last] = value
    (folder / "manifest.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task__version": 2}, "task.version is 1 in the first and 2 in the second"),
        ({"task__name": "pope"}, "task.name is pope_scenes in the first and pope in the second"),
        ({"task__options": {"split": "validation", "images": 500}}, "task.options.split is test in the first"),
        ({"task__data": [{"file": "a.json", "sha256": "00"}]}, "task.data"),
        ({"task__world": None}, "task.world"),
        ({"prompt__suffix": "One word."}, "prompt.suffix"),
        ({"model__name": "other", "model__fingerprint": "00"}, "model.fingerprint"),
        ({"limit": 5}, "limit is null in the first and 5 in the second"),
    ],
)
def test_runs_that_were_not_asked_the_same_are_refused(tmp_path: Path, changes: Mapping[str, Any], named: str) -> None:
    runs = [yes_no_run(tmp_path / key, key, pope_answers(4)) for key in ("greedy", "vcd")]
    change(runs[1], **changes)
    with pytest.raises(NotComparable, match="cannot be compared") as caught:
        compare(runs)
    assert named in str(caught.value)
    assert "may differ" in caught.value.hint


def test_other_refusals(tmp_path: Path) -> None:
    first, second = (yes_no_run(tmp_path / key, key, pope_answers(4)) for key in ("greedy", "vcd"))
    fewer = yes_no_run(tmp_path / "fewer", "vcd", pope_answers(3), params={"alpha": 2})
    cases: list[tuple[list[Path], dict[str, Any], type[SightlineError], str]] = [
        ([first], {}, NotComparable, "two different runs"),
        ([first, tmp_path / "greedy" / ".." / "greedy"], {}, NotComparable, "two different runs"),
        ([first, fewer], {}, NotComparable, "4 are only in the first and 0 only in the second"),
        ([first, second], {"parser": "pope_oficial"}, NotComparable, "Did you mean 'pope_official'"),
        ([first, tmp_path], {}, RunFolderError, "manifest.json"),
    ]
    for runs, more, kind, words in cases:
        with pytest.raises(kind, match=words):
            compare(runs, **more)
    change(second, status="running")
    with pytest.raises(IncompleteRun, match="has not finished"):
        compare([first, second])


def test_other_labels_are_refused(tmp_path: Path) -> None:
    answers = pope_answers(4)
    first = yes_no_run(tmp_path / "a", "greedy", answers)
    key = next(iter(answers))
    second = yes_no_run(tmp_path / "b", "vcd", answers | {key: ("no", "No")})
    with pytest.raises(NotComparable, match="the label of sample"):
        compare([first, second])


def test_samples_that_failed_count_in_no_run(tmp_path: Path) -> None:
    lines = [record("random", str(at), f"scene{at}", question(f"{at}?"), "yes", "Yes") for at in range(6)]
    failed = {"status": "error", "error": "ImageError: torn", "output": "", "finish": None}
    write_run(tmp_path / "a", manifest("greedy", True, SAMPLE, {}), lines)
    write_run(tmp_path / "b", manifest("vcd", False, SAMPLE, {}), [lines[0] | failed, *lines[1:]])
    found = compare([tmp_path / "a", tmp_path / "b"])
    assert (found.n_samples, found.n_images, found.n_left_out) == (5, 5, 1)
    assert "1 sample left out: not every run answered" in as_text(found)


def test_a_baseline_may_be_named(tmp_path: Path) -> None:
    runs = three(tmp_path)["pope"]
    found = compare(runs, baseline=runs[1])
    assert found.baseline.folders == (runs[1],)
    assert [item.run.folders for item in found.found] == [(runs[0],)]


def test_questions_lose_their_template() -> None:
    prompts = [question("Is there a star in the image?"), question("Is there an arrow in the image?")]
    asked = questions(prompts)
    assert [asked(prompt) for prompt in prompts] == ["Is there a star in the image?", "Is there an arrow in the image?"]
    assert questions(prompts[:1])(prompts[0]) == "USER: <image> Is there a star in the image? ASSISTANT:"


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = yes_no_run(tmp_path / "a", "greedy", pope_answers(20, set(range(30))))
    second = yes_no_run(tmp_path / "b", "vcd", pope_answers(20), control=False, params={"alpha": 1.0})
    assert cli.main(["compare", str(first), f"run.dir={second}", "--json", str(tmp_path / "out.json")]) == cli.OK
    shown = capsys.readouterr().out
    assert "vcd against greedy: better" in shown
    assert f"Fixed: only the run is right (30; the first {SHOWN})" in shown
    assert shown.count("  Yes -> No") + shown.count("  No -> Yes") == SHOWN
    held = json.loads((tmp_path / "out.json").read_text())
    assert len(held["comparisons"][0]["fixed"]) == 30
    assert held["comparisons"][0]["fixed"][0] == {
        "image": "scene000", "question": "Is there a thing 0 in the image?", "label": "yes", "tables": ["random"],
        "baseline": "No", "run": "Yes",
    }  # fmt: skip
    assert held["primary"] == {"table": "mean", "metric": "accuracy", "higher_is_better": True}
    change(second, limit=3)
    assert cli.main(["compare", str(first), str(second)]) == cli.REFUSED
    assert "limit is null" in capsys.readouterr().err


def test_the_report_says_the_same(tmp_path: Path) -> None:
    seven(tmp_path, images=20)
    rows = rows_of(write_report(tmp_path).csv)
    told = next(row for row in rows if (row["run"], row["metric"]) == ("vcd-greedy", "accuracy_minus_greedy"))
    item = gap(compare([tmp_path / "greedy", tmp_path / "vcd-greedy"]), "mean", "accuracy")
    assert tuple(float(told[name]) for name in ("low", "value", "high")) == edges(item)
