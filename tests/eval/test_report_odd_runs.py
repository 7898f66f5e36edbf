"""The report of folders in which something is odd: hostile names, missing samples, partial runs, nothing at all."""

import json
from pathlib import Path

import pytest
from report_page import Page, rows_of, title_of
from scored_runs import make_run, margins, moved, seven
from sightline.eval.report import ReportError, write_report
from sightline.models.errors import SightlineError


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
    assert "The runs were asked about other data" in text


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
