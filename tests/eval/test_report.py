"""The report of generated run folders: what it says, and that it says it safely."""

import base64
import csv
import hashlib
import html
import json
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sightline.eval.report import ReportError, ReportPaths, write_report
from sightline.eval.scoring.pope import score_pope
from sightline.models.errors import SightlineError

SPLITS = {"random": 0.6, "popular": 1.0, "adversarial": 1.9}
GREEDY, SAMPLE = {"mode": "greedy", "max_new_tokens": 1}, {"mode": "sample", "temperature": 1.0, "max_new_tokens": 1}
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}


def margins(images: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Yes-no margins `[images, 6]` per split: three positives, three negatives that lean to yes."""
    random = np.random.default_rng(seed)
    truth = np.array([1.0, -1.0] * 3)
    base = random.normal(0.0, 0.5, (images, 1))
    return {
        split: np.where(truth > 0, 2.2, -2.2 + lean) + base + random.normal(0.0, 1.4, (images, 6))
        for split, lean in SPLITS.items()
    }


def records(scores: Mapping[str, np.ndarray], sampled: bool, seed: int) -> list[dict[str, Any]]:
    """Sample lines of one run."""
    random = np.random.default_rng(seed)
    lines = []
    for split, values in scores.items():
        chance = 1 / (1 + np.exp(-1.6 * values))
        says_yes = random.random(values.shape) < chance if sampled else values > 0
        for place in np.ndindex(*values.shape):
            doc = str(place[0] * 6 + place[1])
            lines.append({
                "key": f"{split}-{doc}-{seed}", "task": "pope_scenes", "task_version": 1, "split": split,
                "doc_id": doc, "image_id": f"scene{place[0]:04d}", "prompt": "Is there a star?",
                "label": "no" if place[1] % 2 else "yes", "output": "Yes" if says_yes[place] else "No",
                "n_prompt_tokens": 30, "n_output_tokens": 2, "finish": "eos",
                "margin": round(float(values[place]), 6), "seed": None, "status": "ok", "error": None,
            })  # fmt: skip
    return lines


def table(row: Mapping[str, Any], auc: bool = True) -> dict[str, Any]:
    """One table of `metrics.json` from one row of the scorer."""
    n, found = row.get("n", 0), {}
    for key in ("accuracy", "f1", "precision", "recall", "yes_ratio", "unparsed_rate"):
        value = row[key]
        found[key] = {"value": value, "low": max(0.0, value - 0.012), "high": min(1.0, value + 0.012), "n": n}
    if auc and row["auc"] is not None:
        found["auc"] = {"value": row["auc"], "low": row["auc"] - 0.008, "high": row["auc"] + 0.008, "n": n}
    else:
        found["auc"] = {"value": None, "reason": "no record carries a margin"}
    found["output_tokens"] = {"value": row["mean_output_tokens"], "low": 2.0, "high": 2.0, "n": n}
    return found


def make_run(
    root: Path,
    name: str,
    key: str,
    scores: Mapping[str, np.ndarray],
    *,
    control: bool = False,
    generation: Mapping[str, Any] = GREEDY,
    params: Mapping[str, Any] | None = None,
    seed: int = 1,
    **changes: Any,
) -> Path:
    """A scored run folder; `changes` overwrite fields of its metrics."""
    folder = root / name
    (folder / "samples").mkdir(parents=True)
    (folder / "timings").mkdir()
    lines = records(scores, generation["mode"] == "sample", seed)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "samples" / "pope_scenes.jsonl").write_text(text)
    score, strict = score_pope(lines), score_pope(lines, parser="lmms_eval")
    rows = {**score["splits"], "mean": {**score["mean_of_splits"], "n": len(lines)}, "pooled": score["pooled"]}
    metrics = {
        "schema": 1, "task": "pope_scenes", "task_version": 1, "parser": "pope_official", "model": "tiny-llava",
        "decoder": {"key": key, "kind": "control" if control else "strategy", "params": dict(params or {})},
        "generation": dict(generation), "n": len(lines), "n_ok": len(lines), "n_error": 0,
        "n_images": len(next(iter(scores.values()))), "partial": False,
        "tables": {split: table(row) for split, row in rows.items()},
        "parsers": {"lmms_eval": {"pooled": {k: strict["pooled"][k] for k in ("accuracy", "f1", "yes_ratio")}}},
        "notes": [],
    }  # fmt: skip
    metrics.update(changes)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    manifest = {
        "schema": 1, "status": "complete", "identity": f"{seed:04x}c0ffee", "started": "2026-11-02T10:00:00+00:00",
        "command": ["sightline", "run", f"decoder={key}"], "model": {"name": "tiny-llava", "fingerprint": "9f2c41d7"},
        "task": {"name": "pope_scenes", "data": [{"sha256": "5a1e" * 16}], "world": {"version": 1, "hash": "77aa01"}},
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"}, "sightline": "0.1.0", "seed": seed,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    slow = 1.0 if control else 1.62
    timing = {
        "schema": 1, "samples": len(lines), "forwards_per_token": 1.0, "rows_per_token": 1.0 if control else 2.0,
        "beside_greedy": {"requests": 64, "ratio": slow},
    }  # fmt: skip
    (folder / "timings" / "summary.json").write_text(json.dumps(timing))
    return folder


def moved(scores: Mapping[str, np.ndarray], shift: float = 0.0, sharper: float = 0.0) -> dict[str, np.ndarray]:
    """Margins after a constant shift, and after grounding: pulled towards the truth."""
    truth = np.array([1.0, -1.0] * 3)
    return {split: values + shift + sharper * truth for split, values in scores.items()}


def seven(root: Path, images: int = 60, vcd: Mapping[str, float] | None = None, shift: float = -0.5) -> Path:
    """Greedy, sampling, cut only, two shifts and VCD in two modes."""
    base = margins(images)
    noisy = {split: values + np.random.default_rng(5).normal(0, 0.3, values.shape) for split, values in base.items()}
    altered = moved(noisy, **(vcd or {"shift": 0.2}))
    make_run(root, "greedy", "greedy", base, control=True)
    make_run(root, "sample", "sample", base, control=True, generation=SAMPLE, seed=2)
    cut = {split: values * 1.3 for split, values in base.items()}
    make_run(root, "cut", "cut_only", cut, control=True, generation=SAMPLE, params={"beta": 0.1}, seed=3)
    params = {"delta": shift}
    make_run(root, "shift-greedy", "shift", moved(base, shift), control=True, params=params)
    make_run(root, "shift-sample", "shift", moved(base, shift), control=True, params=params, generation=SAMPLE, seed=4)
    params = {"alpha": 1.0, "beta": 0.1, "noise_step": 500}
    make_run(root, "vcd-greedy", "vcd", altered, params=params)
    make_run(root, "vcd-sample", "vcd", altered, params=params, generation=SAMPLE, seed=6)
    return root


class Page(HTMLParser):
    """Checks nesting while it reads, and keeps what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.seen if tag == name]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def title_of(folder: Path) -> str:
    return write_report(folder).markdown.read_text(encoding="utf-8").splitlines()[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seven(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def paths(runs: Path) -> ReportPaths:
    return write_report(runs)


def test_page_is_well_formed_and_self_contained(paths: ReportPaths) -> None:
    text = paths.html.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.tags("h1")) == 1
    assert not [attrs for _, attrs in page.seen if "src" in attrs or "style" in attrs]
    assert all((attrs.get("href") or "#").startswith("#") for _, attrs in page.seen)
    assert "http://" not in text
    assert "https://" not in text
    ids = [attrs["id"] for _, attrs in page.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = [word for _, attrs in page.seen for word in (attrs.get("aria-labelledby") or "").split()]
    assert set(named) <= set(ids)


def test_tables_are_marked_up(paths: ReportPaths) -> None:
    page = Page(paths.html.read_text(encoding="utf-8"))
    assert len(page.tags("caption")) == len(page.tags("table")) > 0
    assert all("scope" in attrs for attrs in page.tags("th"))
    drawings = [attrs for attrs in page.tags("svg") if attrs.get("role") == "img"]
    assert {attrs["class"] for attrs in drawings} == {"chart wide", "chart narrow"}
    assert len(page.tags("desc")) == len(drawings)


def test_style_and_script_are_the_ones_allowed(paths: ReportPaths) -> None:
    text = paths.html.read_text(encoding="utf-8")
    for tag in ("style", "script"):
        content = text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{html.escape(digest)}'" in text


def test_numbers_agree_in_all_three_files(runs: Path, paths: ReportPaths) -> None:
    page, marks = paths.html.read_text(encoding="utf-8"), paths.markdown.read_text(encoding="utf-8")
    table_of = {
        (row["run"], row["split"], row["metric"]): row for row in rows_of(paths.csv) if row["metric"] != "errors"
    }
    for file in sorted(runs.glob("*/metrics.json")):
        metrics = json.loads(file.read_text())
        for split, scores in metrics["tables"].items():
            for key, score in scores.items():
                row = table_of[file.parent.name, split, key]
                assert float(row["value"]) == score["value"]
                assert (float(row["low"]), float(row["high"])) == (score["low"], score["high"])
                assert int(row["n"]) == score["n"]
            shown = f"{scores['accuracy']['value'] * 100:.1f}"
            ends = f"[{scores['accuracy']['low'] * 100:.1f}, {scores['accuracy']['high'] * 100:.1f}]"
            assert f"{shown} {ends}" in marks
            assert f'<span class="v">{shown}</span> <span class="i">{ends}</span>' in page


def test_differences_are_those_of_the_samples(paths: ReportPaths) -> None:
    table_of = {(row["run"], row["metric"]): row for row in rows_of(paths.csv) if row["split"] in ("", "pooled")}
    value = {run: float(table_of[run, "accuracy"]["value"]) for run in ("greedy", "vcd-greedy", "shift-greedy")}
    gap = table_of["vcd-greedy", "accuracy_minus_greedy"]
    assert float(gap["value"]) == pytest.approx(value["vcd-greedy"] - value["greedy"])
    assert float(gap["low"]) < float(gap["value"]) < float(gap["high"])
    control = table_of["vcd-greedy", "accuracy_minus_best_control"]
    assert float(control["value"]) == pytest.approx(value["vcd-greedy"] - value["shift-greedy"])
    shift = table_of["shift-greedy", "auc_minus_greedy"]
    assert (float(shift["value"]), float(shift["low"]), float(shift["high"])) == (0, 0, 0)
    assert table_of["shift-greedy", "accuracy_minus_best_control"]["value"] == ""


def test_references_stand_in_both_modes(paths: ReportPaths) -> None:
    marks = paths.markdown.read_text(encoding="utf-8")
    greedy, sampled = marks.split("### By split")[0].split("**Sampling, temperature 1.0")
    assert "| Sampling (temperature 1.0) | reference |" in greedy
    assert "| Greedy | reference |" in sampled
    assert greedy.count("| reference |") == sampled.count("| reference |") == 1


def test_same_files_same_bytes(runs: Path, paths: ReportPaths, tmp_path: Path) -> None:
    first = [path.read_bytes() for path in paths]
    second = [path.read_bytes() for path in write_report(runs, tmp_path / "elsewhere")]
    assert first == second


def test_rows_come_best_first(paths: ReportPaths) -> None:
    marks = paths.markdown.read_text(encoding="utf-8")
    group = marks.split("### By split")[0].split("**Sampling, temperature 1.0")[0]
    values = [
        float(line.split("|")[3].split()[0])
        for line in group.splitlines()
        if "| control |" in line or "| strategy |" in line
    ]
    assert values == sorted(values, reverse=True)


def test_headline_when_a_strategy_wins(tmp_path: Path) -> None:
    title = title_of(seven(tmp_path, vcd={"sharper": 1.6}))
    assert "VCD (sampled) and VCD (greedy) beat greedy decoding and the best control on POPE scenes." in title


def test_headline_when_a_strategy_equals_the_shift(tmp_path: Path) -> None:
    base = margins(60)
    make_run(tmp_path, "greedy", "greedy", base, control=True)
    make_run(tmp_path, "shift", "shift", moved(base, -0.5), control=True)
    make_run(tmp_path, "vcd", "vcd", moved(base, -0.52))
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert text.startswith("# On tiny-llava, VCD is not clearly better than a constant yes/no shift on POPE scenes.\n")
    assert "VCD is not clearly different from that" in text


def test_headline_when_the_shift_is_better(tmp_path: Path) -> None:
    base = margins(60)
    make_run(tmp_path, "greedy", "greedy", base, control=True)
    make_run(tmp_path, "shift", "shift", moved(base, -0.6), control=True)
    make_run(tmp_path, "vcd", "vcd", moved(base, 0.6))
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert text.startswith("# On tiny-llava, a constant yes/no shift does better than VCD on POPE scenes.\n")
    assert "VCD changes POPE scenes accuracy by \u2212" in text
    assert "VCD is worse than that by \u2212" in text


def test_headline_needs_greedy_too(tmp_path: Path) -> None:
    base = margins(60)
    make_run(tmp_path, "greedy", "greedy", base, control=True)
    make_run(tmp_path, "sample", "sample", base, control=True, generation=SAMPLE)
    make_run(tmp_path, "vcd", "vcd", moved(base, 0, 0.35), generation=SAMPLE)
    assert "but not greedy decoding" in title_of(tmp_path)


def test_headline_without_samples_claims_nothing(tmp_path: Path) -> None:
    seven(tmp_path, images=12, vcd={"sharper": 2.0})
    for file in tmp_path.glob("*/samples/*.jsonl"):
        file.unlink()
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "nothing can be claimed" in text.splitlines()[0]
    assert "not tested" in text
    assert "there are no sample files with answers" in text


def test_samples_that_contradict_the_scores_are_refused(tmp_path: Path) -> None:
    seven(tmp_path, images=12)
    file = tmp_path / "vcd-greedy" / "samples" / "pope_scenes.jsonl"
    file.write_text(file.read_text().replace('"output": "No"', '"output": "Yes"', 5))
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "score the run again" in text


def test_unfinished_runs_are_read_from_their_parts(tmp_path: Path) -> None:
    seven(tmp_path, images=12)
    file = tmp_path / "vcd-greedy" / "samples" / "pope_scenes.jsonl"
    file.with_name("pope_scenes.part-0001.jsonl").write_text(file.read_text() + '{"key": "torn')
    file.unlink()
    rows = [row for row in rows_of(write_report(tmp_path).csv) if row["run"] == "vcd-greedy"]
    assert [row["low"] != "" for row in rows if row["metric"] == "accuracy_minus_greedy"] == [True]


def test_runs_about_other_data_are_not_compared(tmp_path: Path) -> None:
    make_run(tmp_path, "greedy", "greedy", margins(12), control=True)
    folder = make_run(tmp_path, "vcd", "vcd", margins(12))
    file = folder / "samples" / "pope_scenes.jsonl"
    file.write_text(file.read_text().replace("scene0000", "other0000"))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"limit": 12, "prompt": {"suffix": "!"}}))
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "the two runs were asked about other data" in text


def test_sweeps_get_names_that_differ(tmp_path: Path) -> None:
    base = margins(12)
    make_run(tmp_path, "greedy", "greedy", base, control=True)
    for number, (alpha, seed) in enumerate(((0.5, 1), (1.0, 1), (1.0, 2), (1.0, 2))):
        make_run(tmp_path, f"r{number}", "vcd", base, params={"alpha": alpha, "beta": 0.1}, seed=seed)
    lines = write_report(tmp_path).markdown.read_text(encoding="utf-8").splitlines()
    assert {line.split("**")[1] for line in lines if "| strategy |" in line} == {
        "VCD, alpha 0.5", "VCD, alpha 1.0, seed 1", "VCD, alpha 1.0, seed 2 (r2)", "VCD, alpha 1.0, seed 2 (r3)",
    }  # fmt: skip


HOSTILE = '<script>alert("x")</script> | **b** \u202egnp.exe\x07\ud800 "]](javascript:alert(1))'


def test_hostile_strings_are_harmless(tmp_path: Path) -> None:
    base = margins(12)
    make_run(tmp_path, "greedy", "greedy", base, control=True)
    make_run(
        tmp_path,
        "<img src=x onerror=alert(1)>",
        HOSTILE,
        base,
        params={HOSTILE: HOSTILE},
        notes=[HOSTILE],
        model="tiny-llava",
    )
    make_run(tmp_path, "sum", "=1+1", moved(base, 0.3), model="tiny-llava")
    paths = write_report(tmp_path)
    text = paths.html.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.tags("script")) == 1
    assert not page.tags("img")
    assert not [attrs for _, attrs in page.seen if "onerror" in attrs]
    for path in (paths.html, paths.markdown, paths.csv):
        written = path.read_text(encoding="utf-8")
        assert not set(written) & {"\u202e", "\x07", "\ud800"}
    marks = paths.markdown.read_text(encoding="utf-8")
    assert "<script" not in marks
    assert "<img" not in marks
    assert "](" not in marks.replace("\\](", "")
    assert all(
        len(line.replace("\\|", "").split("|")) == 17
        for line in marks.split("### By split")[0].splitlines()
        if line.startswith("|")
    )
    assert "'=1+1" in {row["decoder"] for row in rows_of(paths.csv)}


def test_nulls_show_a_dash_and_the_reason(tmp_path: Path) -> None:
    base = margins(12)
    folder = make_run(tmp_path, "greedy", "greedy", base, control=True)
    data = json.loads((folder / "metrics.json").read_text())
    data["tables"]["pooled"]["auc"] = {"value": None, "reason": "no record carries a margin"}
    data["tables"]["pooled"]["f1"] = {"value": float("nan")}
    (folder / "metrics.json").write_text(json.dumps(data))
    (folder / "timings" / "summary.json").unlink()
    make_run(tmp_path, "vcd", "vcd", base)
    paths = write_report(tmp_path)
    text = paths.html.read_text(encoding="utf-8")
    assert 'title="no record carries a margin"><span class="v">\u2013</span>' in text
    assert "AUC (Greedy): no record carries a margin." in text
    assert "the run was not timed" in text
    empty = [
        row
        for row in rows_of(paths.csv)
        if row["run"] == "greedy" and row["metric"] == "auc" and row["split"] == "pooled"
    ]
    assert (empty[0]["value"], empty[0]["reason"]) == ("", "no record carries a margin")


def test_partial_and_failing_runs_are_loud(tmp_path: Path) -> None:
    base = margins(12)
    make_run(tmp_path, "greedy", "greedy", base, control=True)
    make_run(tmp_path, "vcd", "vcd", base, partial=True, n_error=3)
    paths = write_report(tmp_path)
    assert "**PARTIAL: 216 ANSWERS** **3 FAILED**" in paths.markdown.read_text(encoding="utf-8")
    text = paths.html.read_text(encoding="utf-8")
    assert '<strong class="flag">partial: 216 answers</strong><strong class="flag">3 failed</strong>' in text
    assert "Read this first" in text
    assert "This rests on a partial run" in text


def test_runs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    make_run(tmp_path, "greedy", "greedy", margins(12), control=True)
    for name, content in (("torn", "{"), ("list", "[]"), ("empty", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("{}")
        (tmp_path / name / "metrics.json").write_text(content)
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "3 run folders left out:" in text
    assert "- list: metrics.json is not a JSON object." in text


def test_tasks_and_models_have_their_sections(tmp_path: Path) -> None:
    base = margins(12)
    make_run(tmp_path, "a/greedy", "greedy", base, control=True)
    make_run(tmp_path, "a/vcd", "vcd", base)
    make_run(tmp_path, "b/greedy", "greedy", base, control=True, model="tiny-qwen-vl")
    caption = {"pooled": {"chair_i": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9}, "recall": {"value": 0.5}}}
    make_run(
        tmp_path, "c/greedy", "greedy", base, control=True, task="chair_scenes", tables=caption, parsers={}, parser=None
    )
    page = Page(write_report(tmp_path).html.read_text(encoding="utf-8"))
    headings = " ".join(page.text)
    assert all(
        title in headings
        for title in ("CHAIR scenes on tiny-llava", "POPE scenes on tiny-llava", "POPE scenes on tiny-qwen-vl")
    )
    assert "0 of 1 strategy run" not in headings
    assert "None of 1 strategy run beats greedy decoding" in headings


def test_groups_with_one_label_name_all_settings(tmp_path: Path) -> None:
    for tokens in (1, 8):
        generation = {"mode": "greedy", "max_new_tokens": tokens}
        make_run(tmp_path, f"g{tokens}", "greedy", margins(6), control=True, generation=generation)
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "**Greedy decoding, max new tokens 1: POPE scenes, pooled**" in text
    assert "**Greedy decoding, max new tokens 8: POPE scenes, pooled**" in text


def test_one_run_folder_alone(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "only", "greedy", margins(12), control=True)
    assert "no strategy was measured" in title_of(folder)


@pytest.mark.parametrize("case", ["absent", "empty", "unscored"])
def test_nothing_to_report(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "runs"
    if case != "absent":
        folder.mkdir()
    if case == "unscored":
        (folder / "manifest.json").write_text("{}")
    with pytest.raises(ReportError, match="sightline score" if case == "unscored" else "sightline run") as caught:
        write_report(folder)
    assert isinstance(caught.value, SightlineError)
    assert not list(tmp_path.rglob("report.*"))


def test_report_that_cannot_be_written(tmp_path: Path) -> None:
    make_run(tmp_path, "greedy", "greedy", margins(6), control=True)
    (tmp_path / "taken").write_text("")
    with pytest.raises(ReportError, match="cannot be written"):
        write_report(tmp_path, tmp_path / "taken")
