"""The report of folders that `run` and `score` really wrote."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

from sightline.eval.report import write_report
from sightline.eval.runner import Outcome
from sightline.eval.score import score_run


def test_report_of_what_the_harness_wrote(launch: Callable[..., Outcome], tmp_path: Path) -> None:
    for name in ("greedy", "shift", "vcd"):
        launch(f"decoder={name}", dir=f"runs/{name}")
        score_run(tmp_path / "runs" / name)
    paths = write_report(tmp_path / "runs")
    html, markdown, table = paths.html, paths.markdown, paths.csv
    with table.open(newline="", encoding="utf-8") as file:
        figures = {(row["run"], row["split"], row["metric"]): row for row in csv.DictReader(file)}
    metrics = json.loads((tmp_path / "runs" / "vcd" / "metrics.json").read_text())
    accuracy = metrics["tables"]["pooled"]["accuracy"]["value"]
    assert float(figures["vcd", "pooled", "accuracy"]["value"]) == accuracy
    gap = figures["vcd", "mean", "accuracy_minus_greedy"]
    assert gap["low"] != ""
    assert figures["shift", "pooled", "auc_minus_greedy"]["reason"] == ""
    assert "left out" not in markdown.read_text(encoding="utf-8")
    page = html.read_text(encoding="utf-8")
    manifest = json.loads((tmp_path / "runs" / "vcd" / "manifest.json").read_text())
    assert manifest["model"]["fingerprint"] in page
    assert manifest["identity"] in page
    assert manifest["task"]["data"][0]["sha256"] in page
