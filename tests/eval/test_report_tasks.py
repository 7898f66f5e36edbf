"""The report over several tasks: captions, pairs of questions, and what never shares a leaderboard."""

import json
from pathlib import Path

import pytest
from report_page import Page, rows_of, title_of
from scored_runs import caption_run, caption_world, make_run, margins, moved, three_tasks
from sightline.eval.report import ReportPaths, write_report
from sightline.eval.score import score_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return three_tasks(tmp_path_factory.mktemp("runs"), images=50)


@pytest.fixture(scope="module")
def paths(runs: Path) -> ReportPaths:
    return write_report(runs)


def marks_of(paths: ReportPaths) -> str:
    """The Markdown with plain blanks."""
    return paths.markdown.read_text(encoding="utf-8").replace("\u00a0", " ")


def figures(paths: ReportPaths, task: str) -> dict[tuple[str, str, str], dict[str, str]]:
    """(run, split, metric) -> CSV row of one task."""
    rows = [row for row in rows_of(paths.csv) if row["task"] == task]
    return {(Path(row["run"]).name, row["split"], row["metric"]): row for row in rows}


def test_every_task_has_a_finding(paths: ReportPaths) -> None:
    text = paths.html.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.tags("h1")) == 1
    links = [attrs["href"] for attrs in page.tags("a") if (attrs.get("href") or "").startswith("#s")]
    assert links == ["#s1", "#s2", "#s3"] * 2, "the findings, then gain against cost"
    marks = marks_of(paths)
    assert marks.startswith(
        "# On tiny-llava, VCD beats its controls on POPE scenes and CHAIR scenes, and nothing clear"
    )
    overview = marks.split("## POPE scenes on tiny-llava")[0]
    assert "| **CHAIR scenes on tiny-llava** | VCD | CHAIRs, %, lower is better |" in overview
    assert "- **MME scenes on tiny-llava**: VCD is not clearly better" in overview


def test_captions_show_what_shortness_does(paths: ReportPaths) -> None:
    marks = marks_of(paths).split("## MME scenes")[0]
    board = next(line for line in marks.splitlines() if line.startswith("| Decoder |  | CHAIRs, % | CHAIRi"))
    assert (
        "| Recall, % | Length | CHAIRs to greedy | CHAIRs to best control | CHAIRs at same length to greedy |" in board
    )
    assert "### At the same length" in marks
    assert "Cut to the same length, CHAIRs changes by" in marks
    held = figures(paths, "chair_scenes")
    assert held["vcd", "cut", "CHAIRs"]["low"] != ""
    assert held["vcd", "greedy_cut_to_this", "CHAIRs"]["value"] != ""
    gap = held["vcd", "free", "CHAIRs_minus_greedy"]
    assert float(gap["high"]) < 0
    assert held["vcd", "same_length", "CHAIRs_same_length_minus_greedy"]["low"] != ""


def test_lower_is_better_for_captions(paths: ReportPaths) -> None:
    text = paths.html.read_text(encoding="utf-8")
    assert "with 95 % intervals. Lower is better. The axis" in text
    marks = marks_of(paths).split("## CHAIR scenes")[1].split("### At the same length")[0]
    rows = [line for line in marks.splitlines() if "| strategy | " in line or "| control | " in line]
    values = [float(line.split("|")[3].split()[0]) for line in rows]
    assert values == sorted(values)


def test_captions_that_only_end_early_do_not_win(tmp_path: Path) -> None:
    truth = [["star"]] * 60
    whole = ["A star beside a moon"] * 60
    score_run(caption_run(tmp_path / "greedy", "greedy", whole, truth))
    score_run(caption_run(tmp_path / "vcd", "vcd", ["A star"] * 60, truth, control=False))
    assert title_of(tmp_path) == (
        "# On tiny-llava, VCD beats its controls on CHAIR scenes, but not clearly at the same length."
    )


def test_subtasks_show_score_acc_and_acc_plus(runs: Path, paths: ReportPaths) -> None:
    marks = marks_of(paths).split("## MME scenes")[1].split("## POPE scenes")[0]
    assert "### By subtask" in marks
    assert "| Decoder |  | existence | count | position | color | all subtasks |" in marks
    table = json.loads((runs / "mme" / "vcd" / "metrics.json").read_text())["tables"]["count"]
    shown = [f"{table[key]['value'] * scale:.1f}" for key, scale in (("score", 1), ("acc", 100), ("acc_plus", 100))]
    assert f"{shown[0]} acc {shown[1]}, acc+ {shown[2]}" in marks.replace("\\", "")
    gap = figures(paths, "mme_scenes")["vcd", "total", "score_minus_greedy"]
    assert float(gap["low"]) < float(gap["value"]) < float(gap["high"])


def test_unlike_data_never_share_a_leaderboard(tmp_path: Path) -> None:
    base = margins(12)
    for split in ("test", "validation"):
        data = {"split": split, "images": 500}
        make_run(tmp_path, f"{split}/greedy", "greedy", base, control=True, data=data)
        make_run(tmp_path, f"{split}/vcd", "vcd", moved(base, 0.1), data=data)
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "## POPE scenes (test) on tiny-llava" in text
    assert "## POPE scenes (validation) on tiny-llava" in text
    assert "The runs differ" not in text
    boards = [part.split("### By split")[0] for part in text.split("### Leaderboard")[1:]]
    assert [board.count("| strategy |") for board in boards] == [1, 1]


def test_decoders_are_called_as_the_scores_call_them(tmp_path: Path) -> None:
    decoder = {"key": "new", "kind": "strategy", "title": "New & shiny", "params": {}}
    make_run(tmp_path, "greedy", "greedy", margins(12), control=True)
    make_run(tmp_path, "new", "new", margins(12), decoder=decoder)
    assert "New &amp; shiny" in write_report(tmp_path).html.read_text(encoding="utf-8")


def test_the_primary_figure_decides(tmp_path: Path) -> None:
    primary = {"table": "adversarial", "metric": "f1", "higher_is_better": True}
    for name in ("greedy", "vcd"):
        make_run(tmp_path, name, name, margins(12), control=name == "greedy", primary=primary)
    rows = rows_of(write_report(tmp_path).csv)
    gap = next(row for row in rows if (row["run"], row["metric"]) == ("vcd", "f1_minus_greedy"))
    assert (gap["split"], gap["value"], gap["low"]) == ("adversarial", "0", "0")


def test_tasks_and_models_have_their_sections(tmp_path: Path) -> None:
    base = margins(12)
    make_run(tmp_path, "a/greedy", "greedy", base, control=True)
    make_run(tmp_path, "a/vcd", "vcd", base)
    make_run(tmp_path, "b/greedy", "greedy", base, control=True, model="tiny-qwen-vl")
    captions, truth = caption_world(12, 0.5)
    score_run(caption_run(tmp_path / "c" / "greedy", "greedy", captions, truth))
    page = Page(write_report(tmp_path).html.read_text(encoding="utf-8"))
    headings = " ".join(page.text)
    assert all(
        title in headings
        for title in ("CHAIR scenes on tiny-llava", "POPE scenes on tiny-llava", "POPE scenes on tiny-qwen-vl")
    )
    assert "No strategy clearly beats its controls on POPE scenes with tiny-llava." in headings
    assert "No strategy was measured on CHAIR scenes." in headings
