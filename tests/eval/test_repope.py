"""RePOPE: the same answers against corrected labels, in scores, comparisons and reports."""

import json

import pytest
from hub_files import parquet
from sightline.eval.cli import main
from sightline.eval.compare import compare
from sightline.eval.compare_answers import NotComparable
from sightline.eval.report import write_report
from sightline.eval.score import score_run
from sightline.eval.tasks.pope import SPLITS


def say(folder, rule):
    file = folder / "samples" / "pope.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**record, "output": rule(record)}) + "\n" for record in records))
    return records


def corrected(pope):
    """New rows from the old files: of each split the first question goes, the second is flipped."""
    found = {}
    for split in SPLITS:
        lines = (pope / f"coco_pope_{split}.json").read_text().splitlines()
        _, second, *rest = (json.loads(line) for line in lines)
        found[split] = [{**second, "label": {"yes": "no", "no": "yes"}[second["label"]]}, *rest]
    return found


@pytest.fixture
def labels(pope, tmp_path):
    """The repository's files; ids count anew and one word is misspelt, for neither may matter."""
    folder = tmp_path / "repope"
    folder.mkdir()
    for split, rows in corrected(pope).items():
        odd = [{**row, "question_id": 900 - place} for place, row in enumerate(rows)]
        odd[3]["text"] = odd[3]["text"].replace("image", "imange")
        (folder / f"coco_repope_{split}.json").write_text("".join(json.dumps(row) + "\n" for row in odd))
    return folder


def naive(records, pope):
    """Accuracy by hand: `yes` where the answer starts with it."""
    right, n = 0, 0
    kept = {(split, row["image"], row["text"]): row["label"] for split, rows in corrected(pope).items() for row in rows}
    for record in records:
        asked = record["prompt"].split("\n")[1].removesuffix(" ASSISTANT:")
        label = kept.get((record["split"], record["image_id"] + ".png", asked))
        n += label is not None
        right += label is not None and (label == "yes") == record["output"].startswith("Yes")
    return right / n, n


def rule(record):
    return "Yes" if int(record["doc_id"]) % 3 else "No"


def test_the_same_answers_get_other_labels(launch, pope, labels, tmp_path):
    folder = launch().folder
    say(folder, rule)
    own = score_run(folder)
    metrics = score_run(folder, labels="repope", labels_data=labels)
    records = [json.loads(line) for line in (folder / "samples" / "pope.jsonl").read_text().splitlines()]
    accuracy, n = naive(records, pope)
    assert metrics["tables"]["pooled"]["accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
    assert metrics["tables"]["pooled"]["accuracy"]["n"] == n == 51
    assert (metrics["labels"]["n_dropped"], metrics["labels"]["n_flipped"]) == (3, 3)
    assert metrics["labels"]["data"][0] == {
        "file": "coco_repope_random.json",
        "sha256": metrics["labels"]["data"][0]["sha256"],
        "rows": 17,
        "broken": 0,
    }
    assert metrics["data"]["labels"] == "repope"
    assert "3 questions have none and are left out, 3 have another one" in " ".join(metrics["notes"])
    assert score_run(folder) == own  # without labels it is as it was
    assert not (folder / "labels.json").exists()


def test_the_hubs_copy_gives_the_same(launch, pope, labels, tmp_path):
    folder = launch().folder
    say(folder, rule)
    rows = [
        {"image": {"bytes": None, "path": None}, "image_id": row["image"].removesuffix(".png"), "question": row["text"]}
        | {"answer": row["label"].title(), "category": split}
        for split, held in corrected(pope).items()
        for row in held
    ]
    parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", rows)
    first = score_run(folder, labels="repope", labels_data=labels)
    second = score_run(folder, labels="repope", labels_data=tmp_path / "hub")
    assert second["tables"] == first["tables"]
    assert second["labels"]["data"][0]["rows"] == 51


def test_at_the_shell(launch, pope, labels, capsys):
    folder = str(launch().folder)
    assert main(["score", folder, "--labels", "repope", "--labels-data", str(labels)]) == 0
    for file in labels.iterdir():
        file.rename(pope / file.name)
    assert main(["score", folder, "--labels", "repope"]) == 0  # beside the question files of the run
    capsys.readouterr()
    assert main(["score", folder, "--labels", "repop"]) == 2
    assert "Did you mean 'repope'" in capsys.readouterr().err
    assert main(["score", folder, "--labels", "repope", "--labels-data", str(labels)]) == 2
    said = capsys.readouterr().err
    assert "no file of RePOPE's labels (random)" in said
    assert "github.com/YanNeu/RePOPE" in said


def test_comparisons_and_reports_use_the_labels(launch, labels, pope, tmp_path):
    folders = []
    for name, change in (("a", rule), ("b", lambda record: "No" if int(record["doc_id"]) % 4 else "Yes")):
        folders.append(launch(f"decoder={'greedy' if name == 'a' else 'vcd'}", dir=f"runs/{name}").folder)
        say(folders[-1], change)
    scored = [score_run(folder, labels="repope", labels_data=labels) for folder in folders]
    found = compare(folders)
    gap = found.found[0].gaps["mean"]["accuracy"]
    values = [metrics["tables"]["mean"]["accuracy"]["value"] for metrics in scored]
    assert gap.value == pytest.approx(values[1] - values[0], abs=1e-6)
    assert found.n_samples == 51
    text = write_report(tmp_path / "runs").markdown.read_text()
    assert "labels repope" in text
    assert "do not give" not in text
    score_run(folders[1])
    with pytest.raises(NotComparable, match=r"labels differ.*scored with repope.*its own.*Score both"):
        compare(folders)


def test_labels_that_contradict_themselves(launch, labels):
    folder = launch().folder
    file = labels / "coco_repope_random.json"
    lines = file.read_text().splitlines()
    for content, why in (
        ([*lines, lines[0].replace('"yes"', '"NO"').replace('"no"', '"yes"')], "two labels for"),
        ([*lines, "{torn"], "Row 18 of coco_repope_random.json is not JSON"),
        ([lines[0].replace('"label"', '"lable"')], "no readable 'label'"),
        (["x" * (1 << 21)], "longer than"),
    ):
        file.write_text("\n".join(content))
        with pytest.raises(ValueError, match=why):
            score_run(folder, labels="repope", labels_data=labels)


def test_a_task_that_has_no_such_labels(launch, labels, pope):
    for split in SPLITS:
        (pope / f"coco_pope_{split}.json").rename(pope / f"gqa_pope_{split}.json")
    folder = launch("task.dataset=gqa").folder
    with pytest.raises(ValueError, match="corrects the labels of POPE on COCO"):
        score_run(folder, labels="repope", labels_data=labels)
