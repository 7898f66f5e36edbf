"""metrics.json: what it holds, and what is not scored."""

import json

import pytest
from sightline.eval.errors import ConfigError, IncompleteRun, RunFolderError, ScoreError
from sightline.eval.records import read_samples
from sightline.eval.score import score_run
from sightline.eval.scoring import PARSERS

METRICS = {"accuracy", "f1", "precision", "recall", "yes_ratio", "auc", "unparsed_rate", "output_tokens"}


def rewrite(folder, change):
    file = folder / "samples" / "pope.jsonl"
    file.write_text("".join(change(json.loads(line)) for line in file.read_text("utf-8").split("\n") if line), "utf-8")


def answered(folder, rule):
    """Replace every answer by `rule(record)`."""

    def change(record):
        record["output"], record["margin"] = rule(record)
        return json.dumps(record) + "\n"

    rewrite(folder, change)


def test_perfect_and_useless_answers(launch):
    folder = launch().folder
    answered(folder, lambda r: (r["label"].capitalize(), 1.0 if r["label"] == "yes" else -1.0))
    metrics = score_run(folder)
    for table in metrics["tables"].values():
        assert set(table) == METRICS
        assert table["accuracy"]["value"] == table["auc"]["value"] == table["f1"]["value"] == 1.0
        assert table["output_tokens"] == {
            "value": 4.0,
            "n": table["output_tokens"].get("n"),
            "low": 4.0,
            "high": 4.0,
        } or (table["output_tokens"]["value"] == 4.0)
    assert list(metrics["tables"]) == ["random", "popular", "adversarial", "mean", "pooled"]
    assert metrics["primary"] == {"table": "mean", "metric": "accuracy", "higher_is_better": True}
    assert metrics["decoder"] == {"key": "greedy", "kind": "control", "title": "Greedy", "params": {}}
    assert set(metrics["parsers"]) == set(PARSERS) - {"pope_official"}
    answered(folder, lambda r: ("Yes", 0.0))
    yes = score_run(folder)["tables"]["random"]
    assert yes["accuracy"]["value"] == pytest.approx(2 / 3, abs=1e-6)
    assert (yes["yes_ratio"]["value"], yes["auc"]["value"], yes["recall"]["value"]) == (1.0, 0.5, 1.0)
    answered(folder, lambda r: ("No", 0.0))
    no = score_run(folder)["tables"]["random"]
    assert no["precision"]["value"] is None
    assert "read as yes" in no["precision"]["reason"]


def test_intervals_hold_their_value(launch):
    folder = launch().folder
    answered(folder, lambda r: ("Yes" if int(r["doc_id"]) % 4 else "No", int(r["doc_id"]) % 5 - 2.0))
    metrics = score_run(folder)
    for name, table in metrics["tables"].items():
        for metric, entry in table.items():
            if entry["value"] is not None and not (name == "mean" and metric == "auc"):
                assert entry["low"] <= entry["value"] <= entry["high"], (name, metric)
    pooled = metrics["tables"]["pooled"]["accuracy"]
    assert (pooled["n"], metrics["n"], metrics["n_images"]) == (54, 54, 6)
    assert (folder / "metrics.json").read_text() == json.dumps(metrics, indent=2) + "\n"
    assert score_run(folder) == metrics


def test_unparsed_is_that_of_the_strict_parser(launch):
    folder = launch().folder
    answered(folder, lambda r: ("a picture" if r["doc_id"] == "1" else "No", None))
    metrics = score_run(folder)
    assert metrics["tables"]["random"]["unparsed_rate"]["value"] == pytest.approx(1 / 18, abs=1e-6)
    assert metrics["tables"]["random"]["auc"]["value"] is None
    strict = score_run(folder, parser="strict")
    assert strict["parser"] == "strict"
    assert "pope_official" in strict["parsers"]


def test_failures_are_counted_and_not_scored(launch, pope):
    (pope / "images" / "image_00.png").unlink()
    file = pope / "coco_pope_random.json"
    file.write_text(file.read_text() + "{broken\n")
    metrics = score_run(launch().folder)
    assert (metrics["n"], metrics["n_ok"], metrics["n_error"]) == (55, 45, 10)
    assert metrics["tables"]["random"]["accuracy"]["n"] == 15
    assert any("10 of 55 samples failed" in note for note in metrics["notes"])


def test_nothing_answered(launch, pope):
    for image in (pope / "images").iterdir():
        image.write_bytes(b"")
    metrics = score_run(launch().folder)
    assert metrics["n_ok"] == 0
    assert metrics["tables"]["pooled"]["accuracy"]["value"] is None


def test_unfinished_runs_are_refused(launch):
    folder = launch().folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    samples = folder / "samples" / "pope.jsonl"
    records = read_samples(samples)
    samples.rename(samples.with_name("pope.part-0001.jsonl"))
    with pytest.raises(IncompleteRun, match="--allow-partial"):
        score_run(folder)
    part = samples.with_name("pope.part-0001.jsonl")
    part.write_text("".join(record.line() for record in records[:20]) + '{"key', encoding="utf-8")
    metrics = score_run(folder, allow_partial=True)
    assert (metrics["partial"], metrics["n"]) == (True, 20)
    assert any(note.startswith("Partial: 20 of 54") for note in metrics["notes"])
    part.unlink()
    with pytest.raises(IncompleteRun, match="no answer yet"):
        score_run(folder, allow_partial=True)


def test_folders_that_hold_no_run(tmp_path, launch):
    with pytest.raises(RunFolderError, match=r"no manifest\.json"):
        score_run(tmp_path)
    folder = launch().folder
    with pytest.raises(ConfigError, match=r"'strikt'.*'strict'"):
        score_run(folder, parser="strikt")
    samples = folder / "samples" / "pope.jsonl"
    lines = samples.read_text("utf-8").split("\n")
    samples.write_text("\n".join(lines[:-2]) + "\n", "utf-8")
    with pytest.raises(ScoreError, match="holds 53 samples, and the run had 54"):
        score_run(folder)
    samples.write_text("\n".join([*lines[:-2], lines[0]]) + "\n", "utf-8")
    with pytest.raises(ScoreError, match="twice"):
        score_run(folder)
    (folder / "manifest.json").write_text("[1]")
    with pytest.raises(RunFolderError, match="JSON object"):
        score_run(folder)


def test_decoders_of_other_places_go_by_their_key(launch):
    folder = launch().folder
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["decoder"]["key"] = "theirs"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert score_run(folder)["decoder"]["title"] == "theirs"


def test_limited_runs_say_so(launch):
    metrics = score_run(launch("run.limit=2").folder)
    assert metrics["n_images"] == 2
    assert any("Limited to 2 images" in note for note in metrics["notes"])
