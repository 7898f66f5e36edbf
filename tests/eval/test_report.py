"""The report of generated run folders: what it says, and that it says it safely."""

import base64
import hashlib
import html
import json
from pathlib import Path

import pytest
from report_page import Page, rows_of, title_of
from scored_runs import SAMPLE, make_run, margins, moved, seven
from sightline.eval.report import ReportPaths, write_report


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
    assert {attrs["class"] for attrs in drawings} == {"chart wide", "chart narrow", "scatter"}
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
    rows = rows_of(paths.csv)
    table_of = {(row["run"], row["metric"]): row for row in rows if row["split"] in ("", "mean")}
    value = {run: float(table_of[run, "accuracy"]["value"]) for run in ("greedy", "vcd-greedy", "shift-greedy")}
    gap = table_of["vcd-greedy", "accuracy_minus_greedy"]
    assert float(gap["value"]) == pytest.approx(value["vcd-greedy"] - value["greedy"])
    assert float(gap["low"]) < float(gap["value"]) < float(gap["high"])
    control = table_of["vcd-greedy", "accuracy_minus_best_control"]
    assert float(control["value"]) == pytest.approx(value["vcd-greedy"] - value["shift-greedy"])
    areas = {row["run"]: row for row in rows if (row["split"], row["metric"]) == ("pooled", "auc_minus_greedy")}
    shift = areas["shift-greedy"]
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


def test_sweeps_get_names_that_differ(tmp_path: Path) -> None:
    base = margins(12)
    make_run(tmp_path, "greedy", "greedy", base, control=True)
    for number, (alpha, seed) in enumerate(((0.5, 1), (1.0, 1), (1.0, 2), (1.0, 2))):
        make_run(tmp_path, f"r{number}", "vcd", base, params={"alpha": alpha, "beta": 0.1}, seed=seed)
    lines = write_report(tmp_path).markdown.read_text(encoding="utf-8").splitlines()
    assert {line.split("**")[1] for line in lines if "| strategy |" in line} == {
        "VCD, alpha 0.5", "VCD, alpha 1.0, seed 1", "VCD, alpha 1.0, seed 2 (r2)", "VCD, alpha 1.0, seed 2 (r3)",
    }  # fmt: skip


def test_groups_with_one_label_name_all_settings(tmp_path: Path) -> None:
    for tokens in (1, 8):
        generation = {"mode": "greedy", "max_new_tokens": tokens}
        make_run(tmp_path, f"g{tokens}", "greedy", margins(6), control=True, generation=generation)
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "**Greedy decoding, max new tokens 1: POPE scenes, mean of splits**" in text
    assert "**Greedy decoding, max new tokens 8: POPE scenes, mean of splits**" in text
