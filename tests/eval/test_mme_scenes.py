"""MME on scenes and on MME's own folder: questions in pairs, and their scores."""

import json

import pytest
from PIL import Image
from sightline.eval.config import compose_settings
from sightline.eval.errors import ConfigError, DataError
from sightline.eval.runner import run
from sightline.eval.scenes import COLOURS, draw_scene
from sightline.eval.scenes.dataset import build_dataset
from sightline.eval.scenes.language import YES_NO_SUFFIXES
from sightline.eval.score import score_run
from sightline.eval.score_mme import PARSERS, mme_clusters
from sightline.eval.scoring import MME_PARSERS, mme_counts, score_mme
from sightline.eval.statistics import roc_auc
from sightline.eval.tasks import mme, mme_scenes
from sightline.eval.tasks import registry as tasks
from sightline.eval.tasks.mme_builder import SUBTASKS, SUFFIX, as_text, build_mme, partner_share

IMAGES = 5
METRICS = ["acc", "acc_plus", "score", "yes_ratio", "auc", "unparsed_rate", "output_tokens"]
SCENES = {f"scene_{n:06d}.png": draw_scene("test", n, pairs="broken") for n in range(80)}
ROWS = build_mme(SCENES)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of this module's own with few scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(mme_scenes, "SCENES", 1)
        yield


@pytest.fixture
def ask(checkpoint, loaded, tmp_path):
    """Runs of the random model: `ask("decoder=vcd", dir="a")`."""

    def go(*more, dir="run", task=("task=mme_scenes", f"task.images={IMAGES}")):
        model = ["model=local", f"model.path={checkpoint}", "model.dtype=float64", "model.device=cpu"]
        rest = ["generation.max_new_tokens=3", "run.cost_requests=0", f"run.dir={tmp_path / dir}"]
        settings, tree = compose_settings([*model, *task, *rest, *more])
        return run(settings, tree, command=["sightline", "run"], loaded=loaded)

    return go


def samples(folder):
    (file,) = (folder / "samples").glob("*.jsonl")
    return file


def records(folder):
    return [json.loads(line) for line in samples(folder).read_text("utf-8").split("\n") if line]


def say(folder, rule):
    """Replace answers and margins by `rule(record)`; an answer of None makes a failure."""
    lines = []
    for record in records(folder):
        answer, margin = rule(record)
        failed = {"status": "error", "error": "ImageError: torn", "output": "", "margin": None, "finish": None}
        change = failed if answer is None else {"output": answer, "margin": margin}
        lines.append(json.dumps({**record, **change}) + "\n")
    samples(folder).write_text("".join(lines), "utf-8")


def mixed(record):
    """Right, wrong and odd answers, the same at each call."""
    number = int(record["doc_id"])
    answers = {0: record["label"].capitalize(), 1: "Yes", 2: "No, I think", 3: "perhaps"}
    return answers[(number * 7 + len(record["split"])) % 4], (number * 13) % 11 - 5.0


def test_pairs_are_yes_then_no():
    assert tuple(ROWS) == SUBTASKS == ("existence", "count", "position", "color")
    images = [name for name, scene in SCENES.items() if 1 in scene.counts.values()]
    for rows in ROWS.values():
        assert [image for image, _, _ in rows[::2]] == [image for image, _, _ in rows[1::2]] == images
        assert [answer for _, _, answer in rows] == ["Yes", "No"] * len(images)
        assert all(question.endswith(SUFFIX) for _, question, _ in rows)
        assert all(yes[1] != no[1] for yes, no in zip(rows[::2], rows[1::2], strict=True))
    assert SUFFIX in YES_NO_SUFFIXES


def test_questions_are_about_what_is_there():
    for name, question, answer in ROWS["color"]:
        colour, kind = question.removeprefix("Is there a ").split()[:2]
        assert colour in COLOURS
        assert (SCENES[name].colours[kind] == colour) == (answer == "Yes")
    for name, question, _ in ROWS["position"]:
        assert SCENES[name].counts[question.split()[2]] == 1
    starts = {" ".join(question.split()[:3]) for _, question, _ in ROWS["count"]}
    assert starts == {"Is there only", "Are there two", "Are there three"}


def test_absent_partners_take_turns():
    negatives = ROWS["existence"][1::2]
    partner = [
        any(f" {kind} " in question for kind in SCENES[name].missing_partners) for name, question, _ in negatives
    ]
    assert all(partner[::2])
    assert not any(partner[1::2])
    assert partner_share(ROWS["existence"], SCENES) == pytest.approx(sum(partner) / len(partner))
    assert partner_share([], SCENES) == 0


def test_more_scenes_change_no_question():
    fewer = build_mme(dict(list(SCENES.items())[:30]))
    assert all(ROWS[subtask][: len(rows)] == rows for subtask, rows in fewer.items())
    assert build_mme(SCENES) == ROWS


def test_files_round_trip(tmp_path):
    folder = build_dataset(tmp_path / "scenes", "test", 80)
    assert sorted(path.stem for path in (folder / "mme").iterdir()) == sorted(SUBTASKS)
    for subtask, rows in ROWS.items():
        file = folder / "mme" / f"{subtask}.txt"
        assert file.read_bytes() == as_text(rows).encode()
        documents, source = mme.read_template(file, subtask)
        assert [(d.image, d.text, str(d.label).capitalize()) for d in documents] == rows
        assert (source.rows, source.broken, {d.split for d in documents}) == (len(rows), 0, {subtask})
    facts = json.loads((folder / "world.json").read_text())["mme"]
    assert facts["existence_negatives_that_are_absent_partners"] == round(partner_share(ROWS["existence"], SCENES), 4)
    assert facts["images"] == len(ROWS["count"]) // 2


def test_options_choose_images_and_subtasks():
    task = tasks.get("mme_scenes")
    dataset = tasks.load(task, {"images": 3, "subtasks": ["color", "count"]})
    assert [document.split for document in dataset.documents] == ["count"] * 6 + ["color"] * 6
    assert dataset.world is not None
    assert "mme" in dataset.world
    validation = tasks.load(task, {"images": 3, "split": "validation", "subtasks": "count"})
    assert len(validation.documents) == 6
    for options, why in (
        ({"split": "train"}, "'train'"),
        ({"images": True}, "whole number of scenes"),
        ({"subtasks": ["colour"]}, r"subtask \(task\.subtasks\) 'colour'\. Did you mean 'color'"),
        ({"subtasks": []}, "list of subtasks"),
    ):
        with pytest.raises(ConfigError, match=why):
            tasks.load(task, options)


def test_limit_keeps_pairs_whole_in_every_subtask(ask):
    held = records(ask("run.limit=2").folder)
    assert len(held) == 2 * 8
    pairs = {}
    for record in held:
        pairs.setdefault((record["split"], record["image_id"]), []).append(record["label"])
    assert len(pairs) == 8
    assert all(labels == ["yes", "no"] for labels in pairs.values())
    table = score_run(ask("run.limit=2").folder)["tables"]["total"]
    assert table["acc_plus"]["n"] == 8


def test_bytes_do_not_depend_on_the_batch(ask):
    one, many = (ask("decoder=vcd", f"run.batch_size={n}", dir=str(n)).folder for n in (1, 16))
    assert samples(one).read_bytes() == samples(many).read_bytes()
    assert all(record["margin"] is not None for record in records(one))


def test_scores_are_those_of_the_pure_function(ask):
    folder = ask("decoder=vcd").folder
    say(folder, mixed)
    metrics = score_run(folder)
    held = records(folder)
    pure = score_mme(held)
    assert list(metrics["tables"]) == [*SUBTASKS, "total"]
    for subtask, row in pure["subtasks"].items():
        table = metrics["tables"][subtask]
        assert list(table) == METRICS
        for metric in ("acc", "acc_plus", "score"):
            assert table[metric]["value"] == pytest.approx(row[metric], abs=1e-6)
        assert table["yes_ratio"]["value"] == pytest.approx((row["TP"] + row["FP"]) / row["n"], abs=1e-6)
        assert table["unparsed_rate"]["value"] == pytest.approx(row["n_other"] / row["n"], abs=1e-6)
        asked = [record for record in held if record["split"] == subtask]
        area = roc_auc([r["margin"] for r in asked], [r["label"] == "yes" for r in asked])
        assert table["auc"]["value"] == pytest.approx(area, abs=1e-6)
        assert (table["acc"]["n"], table["score"]["n"]) == (2 * IMAGES, IMAGES)
    total = metrics["tables"]["total"]
    assert total["score"]["value"] == pytest.approx(pure["totals"]["hallucination"]["score"], abs=1e-5)
    assert total["acc"]["value"] == pytest.approx(sum(row["acc"] for row in pure["subtasks"].values()) / 4, abs=1e-6)
    assert metrics["primary"] == {"table": "total", "metric": "score", "higher_is_better": True}
    assert score_run(folder) == metrics


def test_intervals_hold_their_value(ask):
    folder = ask().folder
    say(folder, mixed)
    for name, table in score_run(folder)["tables"].items():
        for metric, figure in table.items():
            assert figure["low"] <= figure["value"] <= figure["high"], (name, metric)


def test_images_of_several_subtasks_are_drawn_together():
    base = {"output": "Yes", "status": "ok", "n_output_tokens": 2}
    held = [
        {**base, "key": f"{split}{image}{label}", "split": split, "doc_id": f"{image}{label}", "image_id": image}
        | {"label": label}
        for split, image in (("count", "a"), ("color", "a"), ("color", "b"))
        for label in ("yes", "no")
    ]
    clusters = mme_clusters(held, PARSERS["official"])
    assert (clusters.images, clusters.subtasks) == (("a", "b"), ("count", "color"))
    assert len(set(clusters.strata)) == 2
    assert clusters.counts[:, :, :4].sum(axis=0).tolist() == mme_counts(held).counts.sum(axis=0).tolist()
    assert clusters.counts[0, 1].tolist() == [1, 2, 0, 1, 2, 0, 4]


def test_parsers_stand_side_by_side(ask):
    folder = ask().folder
    say(folder, lambda r: ("  Yes" if r["label"] == "yes" else "  No", 0.0))
    metrics = score_run(folder)
    assert metrics["parser"] == "official"
    assert metrics["tables"]["total"]["unparsed_rate"]["value"] == 0.5
    assert set(metrics["parsers"]) == {*MME_PARSERS, "strict"} - {"official"}
    assert metrics["parsers"]["strict"]["total"]["score"] == 800
    strict = score_run(folder, parser="strict")
    assert strict["tables"]["total"]["score"]["value"] == 800
    assert strict["parsers"]["official"]["total"]["unparsed_rate"] == 0.5
    with pytest.raises(ConfigError, match="parser for mme_scenes 'opera'"):
        score_run(folder, parser="opera")


def test_same_answers_are_pointed_out(ask):
    folder = ask().folder
    say(folder, lambda r: ("Yes", 1.0) if r["split"] == "count" else mixed(r))
    metrics = score_run(folder)
    assert metrics["tables"]["count"]["score"]["value"] == 50
    assert any("the same in count; that alone gives a subtask a score of 50" in note for note in metrics["notes"])


def test_half_a_pair_has_no_acc_plus(ask):
    folder = ask().folder
    say(folder, lambda r: (None, None) if (r["split"], r["doc_id"]) == ("color", "1") else mixed(r))
    tables = score_run(folder)["tables"]
    for name in ("color", "total"):
        assert tables[name]["score"] == {"value": None, "reason": "an image lacks one of its two answers"}
        assert tables[name]["acc"]["low"] <= tables[name]["acc"]["value"]
    assert tables["count"]["score"]["value"] is not None
    say(folder, lambda r: (None, None))
    assert score_run(folder)["tables"]["total"]["acc"] == {"value": None, "reason": "no answer was scored"}


def test_cutting_to_lengths_is_left_out_with_a_note(ask):
    folder = ask().folder
    metrics = score_run(folder, like=folder)
    assert any("no meaning for these answers" in note for note in metrics["notes"])
    assert metrics["tables"] == score_run(folder)["tables"]


def test_absent_subtasks_are_named(ask):
    folder = ask("task.subtasks=[count,color]").folder
    assert not any("No question" in note for note in score_run(folder)["notes"])
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["task"]["options"]["subtasks"] = list(SUBTASKS)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    notes = score_run(folder)["notes"]
    assert "No question of existence, position was asked; the total is that of count, color." in notes


@pytest.fixture
def release(tmp_path):
    """MME's folder: `count` with a file for each image, `color` with a table and images in a folder of their own."""
    root = tmp_path / "MME"
    (root / "count").mkdir(parents=True)
    (root / "color" / "images").mkdir(parents=True)
    for name in ("count/0001.jpg", "count/0002.png", "color/images/0003.jpg"):
        Image.new("RGB", (20, 20)).save(root / name)
    for stem in ("0001", "0002"):
        text = "Are there two? Please answer yes or no.\tYes\nIs there one? Please answer yes or no.\tNo\n"
        (root / "count" / f"{stem}.txt").write_text(text)
    (root / "color.txt").write_bytes(b"0003.jpg\tIs it red?\tYes\r\n0003.jpg\tIs it blue?\tNo\tmodel said\r\n")
    return root


def test_the_release_is_read_in_both_layouts(release, ask):
    dataset = tasks.load(tasks.get("mme"), {"data": str(release), "subtasks": ["count", "color"]})
    assert [(d.split, d.doc_id, d.image, d.label) for d in dataset.documents] == [
        ("count", "0001-1", "count/0001.jpg", "yes"),
        ("count", "0001-2", "count/0001.jpg", "no"),
        ("count", "0002-1", "count/0002.png", "yes"),
        ("count", "0002-2", "count/0002.png", "no"),
        ("color", "1", "color/images/0003.jpg", "yes"),
        ("color", "2", "color/images/0003.jpg", "no"),
    ]
    assert [(source.file, source.rows) for source in dataset.sources] == [("count/*.txt", 4), ("color.txt", 2)]
    outcome = ask(task=("task=mme", f"task.data={release}", "task.subtasks=[count,color]"))
    assert (outcome.n_samples, outcome.n_error) == (6, 0)
    assert list(score_run(outcome.folder)["tables"]) == ["count", "color", "total"]


def test_broken_rows_cost_their_samples(release, ask):
    (release / "color.txt").write_bytes(b"0003.jpg\tIs it red?\tYes\n0003.jpg\tIs it blue?\tmaybe\nonly\n\xff\tx\tNo\n")
    outcome = ask(task=("task=mme", f"task.data={release}", "task.subtasks=color"))
    assert (outcome.n_samples, outcome.n_error) == (4, 3)
    errors = [record["error"] for record in records(outcome.folder) if record["status"] == "error"]
    assert [error.split(": ")[1].split(",")[0] for error in errors] == [
        "line 2 has the answer 'maybe'",
        "line 3 has 1 fields",
        "line 4 has no readable image or question",
    ]
    table = score_run(outcome.folder)["tables"]["color"]
    assert (table["acc"]["n"], table["score"]["value"]) == (1, None)


def test_folders_that_are_no_release_are_explained(release):
    task = tasks.get("mme")
    with pytest.raises(DataError, match=r"task=mme needs task\.data.*task=mme_scenes needs no download"):
        tasks.load(task, {})
    with pytest.raises(DataError, match="no folder 'OCR'"):
        tasks.load(task, {"data": str(release), "subtasks": ["OCR"]})
    (release / "color.txt").write_text("0003.jpg\tIs it red?\tYes\n" * 3)
    with pytest.raises(DataError, match=r"asks about '0003\.jpg' 3 times"):
        tasks.load(task, {"data": str(release), "subtasks": ["color"]})
    for text, why in (("", "holds no questions"), ("a\n", "No row of color.txt can be read")):
        (release / "color.txt").write_text(text)
        with pytest.raises(DataError, match=why):
            tasks.load(task, {"data": str(release), "subtasks": ["color"]})
