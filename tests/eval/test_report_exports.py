"""What stands beside the leaderboards: gains over tasks, gain against cost, JSON, and the fragment for a model card."""

import json

import pytest
from report_page import Page, rows_of
from scored_runs import three_tasks
from sightline.eval.report import paired, write_report
from sightline.eval.report.board import sections
from sightline.eval.report.runs import find_runs
from sightline.eval.report.text import parameters
from sightline.eval.report.tradeoff import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, tradeoff


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return three_tasks(tmp_path_factory.mktemp("runs"), images=40)


@pytest.fixture(scope="module")
def paths(folder):
    return write_report(folder)


@pytest.fixture(scope="module")
def found(folder):
    return sections(find_runs(folder)[0], paired.Pairs())


def test_json_has_the_figures_of_the_csv(paths):
    content = json.loads(paths.json.read_text(encoding="utf-8"))
    rows = {(row["run"], row["split"], row["metric"]): row for row in rows_of(paths.csv)}
    seen = 0
    for section in content["sections"]:
        key, table = section["measure"]["metric"], section["measure"]["table"]
        for entry in (entry for group in section["groups"] for entry in group["entries"]):
            for split, scores in entry["tables"].items():
                for metric, score in scores.items():
                    row = rows[entry["run"], split, metric]
                    assert score["value"] == (float(row["value"]) if row["value"] else None)
                    seen += 1
            gap = entry["against_greedy"]
            row = rows[entry["run"], table, f"{key}_minus_greedy"]
            assert gap["value"] == (float(row["value"]) if row["value"] else None)
            assert ("verdict" in gap) == bool(row["low"])
            if entry["cost"]:
                assert entry["cost"]["ratio"] == float(rows[entry["run"], "", "time_ratio"]["value"])
            assert entry["manifest"]["command"]
    assert seen > 50
    assert content["headline"] in paths.markdown.read_text(encoding="utf-8").replace("\\", "")


def test_the_card_names_best_strategy_and_controls_of_every_task(paths, found):
    text = paths.card.read_text(encoding="utf-8").replace("\u00a0", " ")
    rows = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| ")][1:]
    rows = [row for row in rows if not row[0].startswith("---")]
    assert len(rows) == len(found)
    assert text.count("## ") == len({section.model for section in found})
    for row, section in zip(rows, found, strict=True):
        assert row[0] == section.task_title
        greedy = section.greedy.score(section.split, section.measure.key)
        assert row[2].startswith(section.measure.show(greedy.value))
        assert row[4].partition(": ")[0] in ("VCD", "VCD (greedy)")
        assert row[5].rpartition(", ")[2] in ("better", "worse", "no clear difference", "not clear after correction")
        assert row[7].endswith("time")
        item = next(line for line in text.splitlines() if line.startswith(f"- {section.task_title}: "))
        item = item.replace("\\", "")
        assert f"{max(run.n for run in section.runs):,} samples on " in item
        told = [parameters(run.params) for run in section.runs if run.key == "vcd"]
        assert any(item.endswith(f". {row[4].partition(': ')[0]}: {each}.") for each in told) == any(told)


def test_the_overview_has_every_decoder_and_task(paths, found):
    page = Page(paths.html.read_text(encoding="utf-8"))
    text = " ".join(" ".join(page.text).split())
    start = text.index("Change from greedy decoding")
    assert page.tags("table")
    shown = text[start : text.index("Gain against cost")]
    for section in found:
        assert section.task_title in shown
        for group in section.groups:
            for entry in group.strategies:
                assert entry.run.title in shown
                gap = entry.against_greedy
                assert section.measure.show(gap.value, signed=True) in shown


def test_panels_place_gain_up_and_cost_to_the_right(found):
    for section in found:
        panel = tradeoff("s1", "x", section)
        greedy = section.greedy
        shown = [entry for entry in section.groups[0].entries if not entry.reference and entry.run is not greedy]
        assert len(panel.points) == len(shown)
        by_gain = sorted(
            range(len(shown)), key=lambda at: section.measure.gain(shown[at].against_greedy.value), reverse=True
        )
        heights = [panel.points[at].y for at in by_gain]
        assert heights == sorted(heights), "up is better, also where lower is"
        by_cost = sorted(range(len(shown)), key=lambda at: shown[at].run.timing["beside_greedy"]["ratio"])
        places = [panel.points[at].x for at in by_cost]
        assert places == sorted(places)
        for point in panel.points:
            assert LEFT <= point.x <= WIDTH - RIGHT
            assert TOP <= point.y <= HEIGHT - BOTTOM
            assert point.top <= point.y <= point.bottom
            assert (point.y < panel.zero) == point.title.split(": ")[1].startswith(
                "\u2212" if section.measure.better == "lower" else "+"
            ) or abs(point.y - panel.zero) < 1


def test_names_in_a_panel_cover_nothing(found):
    for section in found:
        panel = tradeoff("s1", "x", section)
        named = [point for point in panel.points if point.name]
        assert named
        boxes = []
        for point in named:
            wide = 6.4 * len(point.name)
            left = point.name_x - (wide if point.anchor == "end" else 0)
            boxes.append((left, point.name_y - 10, left + wide, point.name_y + 2))
        for at, box in enumerate(boxes):
            for other in boxes[at + 1 :]:
                assert box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]
            for point in panel.points:
                assert not (box[0] < point.x < box[2] and box[1] < point.y < box[3])


def test_the_link_to_the_gallery_stands_only_where_there_is_one(folder, tmp_path):
    assert "gallery.html" not in write_report(folder, tmp_path).html.read_text(encoding="utf-8")
    (tmp_path / "gallery.html").write_text("x")
    assert 'href="gallery.html"' in write_report(folder, tmp_path).html.read_text(encoding="utf-8")
