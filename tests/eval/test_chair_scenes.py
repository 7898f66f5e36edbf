"""CHAIR on scenes and on COCO's files: data, captions, scores, and captions cut to another run's lengths."""

import json
import shutil

import pytest
import torch
from PIL import Image
from sightline.eval.answering import Answerer
from sightline.eval.cli import main
from sightline.eval.config import compose_settings
from sightline.eval.errors import ConfigError, DataError, IncompleteRun, ScoreError
from sightline.eval.records import read_samples
from sightline.eval.runner import Interrupted, run
from sightline.eval.scenes import KINDS, PLURAL, draw_scene
from sightline.eval.scenes.dataset import build_dataset
from sightline.eval.scenes.language import CAPTION_PROMPTS, caption
from sightline.eval.score import score_run
from sightline.eval.scoring import build_ground_truth, cut_like, score_chair
from sightline.eval.tasks import registry as tasks
from sightline.eval.tasks.chair_scenes import VOCABULARY

IMAGES = 6
METRICS = ["CHAIRs", "CHAIRi", "recall", "precision", "f1", "length", "share_cut_off", "output_tokens"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of this module's own, so that scenes are drawn once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", str(folder))
        yield folder


@pytest.fixture
def ask(checkpoint, loaded, tmp_path):
    """Runs of the random model on a caption task: `ask("decoder=vcd", dir="a")`."""

    def go(*more, dir="run", task="chair_scenes"):
        model = ["model=local", f"model.path={checkpoint}", "model.dtype=float64", "model.device=cpu"]
        size = [f"task.images={IMAGES}"] if task == "chair_scenes" else []
        rest = ["generation.max_new_tokens=6", "run.cost_requests=0", "run.batch_size=4", f"run.dir={tmp_path / dir}"]
        settings, tree = compose_settings([*model, f"task={task}", *size, *rest, *more])
        return run(settings, tree, command=["sightline", "run"], loaded=loaded)

    return go


def samples(folder):
    return folder / "samples" / "chair_scenes.jsonl"


def records(folder):
    return [json.loads(line) for line in samples(folder).read_text("utf-8").split("\n") if line]


def say(folder, rule, **changes):
    """Replace every caption by `rule(record)`, and other fields by `changes`."""
    lines = [json.dumps({**record, "output": rule(record), **changes}) + "\n" for record in records(folder)]
    samples(folder).write_text("".join(lines), "utf-8")


def scene_of(record):
    return draw_scene("test", int(record["doc_id"]), pairs="broken")


def loose(record):
    """A caption that leaves out a kind and invents one, of another length for each image."""
    scene = scene_of(record)
    extra = f" There are two {PLURAL[scene.absent[0]]} too." if int(record["doc_id"]) % 2 else ""
    return f"A {scene.kinds[0]}, a {scene.kinds[1]} and another {scene.kinds[0]}.{extra}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_dataset(tmp_path_factory.mktemp("data") / "scenes", "validation", 12)


def test_files_are_cocos(folder):
    instances, captions = (
        json.loads((folder / f"{kind}_scenes.json").read_text()) for kind in ("instances", "captions")
    )
    assert [image["file_name"] for image in instances["images"]] == [f"scene_{n:06d}.png" for n in range(12)]
    assert [category["name"] for category in instances["categories"]] == list(KINDS)
    assert instances["images"] == captions["images"]
    assert len({row["id"] for row in instances["annotations"]}) == len(instances["annotations"])
    for image in instances["images"]:
        scene = draw_scene("validation", image["id"], pairs="broken")
        rows = [row for row in instances["annotations"] if row["image_id"] == image["id"]]
        names = [instances["categories"][row["category_id"] - 1]["name"] for row in rows]
        assert names == [item.kind for item in scene.objects]
        clean = torch.tensor(scene.pixels(noise=False)).int()
        for row in rows:
            x, y, width, height = row["bbox"]
            drawn = (clean[y : y + height, x : x + width] != scene.background).any(-1)
            assert int(drawn.sum()) == row["area"]
        (said,) = [row["caption"] for row in captions["annotations"] if row["image_id"] == image["id"]]
        assert said == caption(scene)


def test_truth_is_what_the_scenes_hold(folder):
    files = [json.loads((folder / f"{kind}_scenes.json").read_text()) for kind in ("instances", "captions")]
    truth = build_ground_truth(files[:1], files[1:], vocabulary=VOCABULARY)
    for number in range(12):
        assert truth[number] == sorted(draw_scene("validation", number, pairs="broken").kinds)
    assert build_ground_truth(files[:1], vocabulary=VOCABULARY) == truth
    dataset = tasks.load(tasks.get("chair_scenes"), {"split": "validation", "images": 12})
    assert dataset.truth == {f"scene_{number:06d}": classes for number, classes in truth.items()}
    assert [source.rows for source in dataset.sources] == [len(files[0]["annotations"]), 12]


@pytest.mark.parametrize("kind", KINDS)
def test_vocabulary_knows_every_kind_in_both_numbers(kind):
    for said in (f"A red {kind}.", f"There are two {PLURAL[kind]}, and more."):
        assert [mention.cls for mention in VOCABULARY.read(said).mentions] == [kind]
    assert not VOCABULARY.read("A red thing on the left side of the image.").mentions


def test_documents_ask_one_request_of_each_image():
    dataset = tasks.load(tasks.get("chair_scenes"), {"images": 3, "instruction": CAPTION_PROMPTS[0]})
    assert [(d.split, d.doc_id, d.image_id, d.text, d.label) for d in dataset.documents] == [
        ("captions", str(n), f"scene_{n:06d}", CAPTION_PROMPTS[0], None) for n in range(3)
    ]
    assert tasks.get("chair_scenes").options["instruction"] in CAPTION_PROMPTS


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"split": "train"}, r"'train'.*Known: test, validation"),
        ({"images": 0}, "whole number of scenes, 1 or more, got 0"),
        ({"instruction": "Describe image."}, r"'Describe image\.'.*Did you mean"),
        ({"instructions": "x"}, r"Did you mean 'task\.instruction'"),
    ],
)
def test_wrong_options_are_explained(options, why):
    with pytest.raises(ConfigError, match=why):
        tasks.load(tasks.get("chair_scenes"), options)


def test_captions_have_no_label_and_no_margin(ask):
    outcome = ask("decoder=vcd")
    assert (outcome.n_samples, outcome.n_error) == (IMAGES, 0)
    for record in read_samples(outcome.folder / "samples" / "chair_scenes.jsonl"):
        assert (record.label, record.margin, record.split) == (None, None, "captions")
        assert "Please describe this image in detail." in record.prompt
        assert record.n_output_tokens == 6
    manifest = json.loads((outcome.folder / "manifest.json").read_text())
    assert manifest["scorer"] == {"name": "chair", "parser": "portable"}
    assert manifest["task"]["world"]["split"] == "test"
    metrics = score_run(outcome.folder)
    assert metrics["tables"]["free"]["share_cut_off"]["value"] == 1.0
    assert metrics["notes"] == []


@pytest.mark.parametrize("generation", ["greedy", "sample"])
def test_bytes_do_not_depend_on_batches_or_kills(ask, monkeypatch, generation):
    asked = ("decoder=vcd", f"generation={generation}")
    whole = samples(ask(*asked, dir="whole").folder).read_bytes()
    assert samples(ask(*asked, "run.batch_size=1", dir="one").folder).read_bytes() == whole
    original, calls = Answerer.ask, []

    def stop(self, *given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *given)

    monkeypatch.setattr(Answerer, "ask", stop)
    with pytest.raises(Interrupted):
        ask(*asked, dir="killed")
    resumed = ask(*asked, dir="killed")
    assert (samples(resumed.folder).read_bytes(), resumed.answered_before) == (whole, 4)


def test_limit_draws_images(ask):
    assert len(records(ask("run.limit=2").folder)) == 2


def test_scores_are_those_of_the_pure_functions(ask):
    folder = ask("decoder=vcd").folder
    say(folder, loose, finish="eos")
    metrics = score_run(folder)
    truth = {record["image_id"]: scene_of(record).kinds for record in records(folder)}
    expected = score_chair(records(folder), truth, vocabulary=VOCABULARY)
    table = metrics["tables"]["free"]
    assert list(table) == METRICS
    for name, figure in table.items():
        pure = expected[{"length": "mean_length", "output_tokens": "mean_output_tokens"}.get(name, name)]
        assert figure["value"] == pytest.approx(pure, abs=1e-6), name
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["n"] == IMAGES
    assert (table["CHAIRs"]["value"], table["share_cut_off"]["value"]) == (0.5, 0.0)
    assert metrics["primary"] == {"table": "free", "metric": "CHAIRs", "higher_is_better": False}
    assert (metrics["parser"], metrics["parsers"], metrics["like"]) == ("portable", {}, None)
    assert metrics["decoder"]["title"] == "VCD"
    assert list(metrics["tables"]) == ["free"]
    assert score_run(folder) == metrics


def test_right_captions_hallucinate_nothing(ask):
    folder = ask().folder
    say(folder, lambda record: caption(scene_of(record)))
    table = score_run(folder)["tables"]["free"]
    assert [table[name]["value"] for name in ("CHAIRs", "CHAIRi", "recall", "precision", "f1")] == [0, 0, 1, 1, 1]
    say(folder, lambda record: "Nothing to be seen.")
    table = score_run(folder)["tables"]["free"]
    assert table["CHAIRi"] == {"value": None, "reason": "no caption names an object"}
    assert table["recall"]["value"] == 0


def test_captions_are_cut_to_the_reference(ask):
    greedy, long = ask(dir="greedy").folder, ask("decoder=vcd", dir="vcd").folder
    say(greedy, lambda record: " ".join(caption(scene_of(record)).split()[: 4 + int(record["doc_id"]) % 3]))
    say(long, loose)
    metrics = score_run(long, like=greedy)
    truth = {record["image_id"]: scene_of(record).kinds for record in records(long)}
    cut = score_chair(cut_like(records(long), records(greedy)), truth, vocabulary=VOCABULARY)
    back = score_chair(cut_like(records(greedy), records(long)), truth, vocabulary=VOCABULARY)
    assert list(metrics["tables"]) == ["free", "cut"]
    for table, pure in ((metrics["tables"]["cut"], cut), (metrics["like"]["table"], back)):
        for name in ("CHAIRs", "CHAIRi", "recall", "precision", "f1"):
            assert table[name].get("value") == (None if pure[name] is None else pytest.approx(pure[name], abs=1e-6))
        assert table["length"]["value"] == pytest.approx(pure["mean_length"], abs=1e-6)
        assert table["output_tokens"]["value"] is None
        assert "cut to words" in table["output_tokens"]["reason"]
    assert metrics["tables"]["cut"]["CHAIRs"]["value"] == 0 < metrics["tables"]["free"]["CHAIRs"]["value"]
    assert (metrics["like"]["decoder"]["key"], metrics["like"]["shortened"]) == ("greedy", IMAGES)
    assert any("6 of 6 captions are longer than greedy's" in note for note in metrics["notes"])
    alone = score_run(greedy, like=greedy)
    assert {name: figure["value"] for name, figure in alone["tables"]["cut"].items()} == {
        name: None if name in ("share_cut_off", "output_tokens") else figure["value"]
        for name, figure in alone["tables"]["free"].items()
    }


def test_a_reference_on_other_data_is_refused(ask):
    run_folder = ask("decoder=vcd", dir="vcd").folder
    for number, other in enumerate(
        ("task.split=validation", "task.instruction=Describe the image.", "prompt=one_word")
    ):
        wrong = ask(other, dir=f"wrong-{number}").folder
        with pytest.raises(
            ScoreError, match=r"cannot say how long.*there and .* here\. .*Give a greedy run of the same"
        ):
            score_run(run_folder, like=wrong)
    with pytest.raises(ScoreError, match="no caption to be cut like"):
        score_run(run_folder, like=ask("run.limit=2", dir="few").folder)
    few = ask("decoder=vcd", "run.limit=2", dir="few-vcd").folder
    assert score_run(few, like=ask(dir="all").folder)["tables"]["cut"]["length"]["n"] == 2
    manifest = run_folder / "manifest.json"
    unfinished = shutil.copytree(run_folder, run_folder.parent / "unfinished")
    (unfinished / "manifest.json").write_text(manifest.read_text().replace('"complete"', '"running"'))
    with pytest.raises(IncompleteRun, match="has not finished"):
        score_run(run_folder, like=unfinished)


def test_failed_references_leave_captions_whole(ask):
    greedy, other = ask(dir="greedy").folder, ask("decoder=vcd", dir="vcd").folder
    say(other, loose)
    lines = records(greedy)
    lines[0] |= {"status": "error", "output": "", "error": "ImageError: torn", "finish": None}
    samples(greedy).write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = score_run(other, like=greedy)
    assert any("1 captions stay whole" in note for note in metrics["notes"])


def test_truth_stays_with_the_run(ask, cache, monkeypatch, tmp_path):
    folder = ask().folder
    say(folder, loose)
    metrics = score_run(folder)
    held = json.loads((folder / "truth.json").read_text())
    assert (held["vocabulary"], held["variant"], len(held["truth"])) == ("scenes", "portable", IMAGES)
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "file"))
    assert score_run(folder) == metrics
    (folder / "truth.json").write_text("{")
    with pytest.raises(DataError, match="SIGHTLINE_CACHE"):
        score_run(folder)
    monkeypatch.setenv("SIGHTLINE_CACHE", str(cache))
    assert score_run(folder) == metrics
    for spoilt in ({**held, "data": []}, {**held, "truth": None}, {**held, "variant": "opera"}):
        (folder / "truth.json").write_text(json.dumps(spoilt))
        assert score_run(folder) == metrics
    assert json.loads((folder / "truth.json").read_text()) == held


def test_parsers_of_yes_and_no_are_refused(ask):
    with pytest.raises(ConfigError, match=r"parser for chair_scenes 'strict'\. Known: opera, portable"):
        score_run(ask().folder, parser="strict")


def test_score_at_the_shell(ask, capsys):
    greedy, other = ask(dir="greedy").folder, ask("decoder=vcd", dir="vcd").folder
    assert main(["score", str(other), "--like", str(greedy)]) == 0
    shown = capsys.readouterr().out
    assert "CHAIRs" in shown
    assert [line.split()[0] for line in shown.splitlines()[2:]] == ["free", "cut"]
    assert main(["score", str(other), "--like", "nowhere"]) == 2


@pytest.fixture
def coco(tmp_path):
    """COCO's annotation files for five noise images: 10 and 12 show dogs, 11 a cat, 13 and 14 nothing."""
    folder = tmp_path / "coco"
    folder.mkdir()
    images = [{"id": number, "file_name": f"COCO_val2014_{number:012d}.png"} for number in range(10, 15)]
    for image in images:
        Image.new("RGB", (20, 20)).save(folder / image["file_name"])
    instances = {
        "images": images,
        "annotations": [{"image_id": 10, "category_id": 18}, {"image_id": 12, "category_id": 18}],
        "categories": [{"id": 18, "name": "dog"}],
    }
    captions = {"images": images, "annotations": [{"image_id": 11, "caption": "Two kittens."}]}
    for name, content in (("instances", instances), ("captions", captions)):
        (folder / f"{name}_val2014.json").write_text(json.dumps(content))
    return folder


def options(coco, **more):
    return {"data": str(coco), "images": str(coco), **more}


def test_coco_files(coco):
    task = tasks.get("chair")
    dataset = tasks.load(task, options(coco))
    assert dataset.truth == {
        f"COCO_val2014_{number:012d}": classes
        for number, classes in ((10, ["dog"]), (11, ["cat"]), (12, ["dog"]), (13, []), (14, []))
    }
    three, four = ([d.doc_id for d in tasks.load(task, options(coco, number=n)).documents] for n in (3, 4))
    assert (len(three), four[:3]) == (3, three)
    drawn = [[d.doc_id for d in tasks.load(task, options(coco, number=3, seed=seed)).documents] for seed in range(9)]
    assert drawn[0] == three
    assert len({tuple(sorted(each)) for each in drawn}) > 3
    assert drawn[5] == [d.doc_id for d in tasks.load(task, options(coco, number=4, seed=5)).documents][:3]
    with pytest.raises(ConfigError, match=r"task\.seed must be a whole number, got 'x'"):
        tasks.load(task, options(coco, seed="x"))
    (coco / "list.txt").write_text("COCO_val2014_000000000014.png\n11\n14\n")
    listed = tasks.load(task, options(coco, list=str(coco / "list.txt")))
    assert [document.doc_id for document in listed.documents] == ["14", "11"]
    assert listed.sources[0].file == "list.txt"
    (coco / "list.json").write_text("[11, 10]")
    listed = tasks.load(task, options(coco, list=str(coco / "list.json")))
    assert [document.doc_id for document in listed.documents] == ["11", "10"]


def test_runs_on_coco_files(ask, coco):
    folder = ask(f"task.data={coco}", f"task.images={coco}", "task.number=4", task="chair").folder
    metrics = score_run(folder)
    assert (metrics["n"], metrics["data"]["number"]) == (4, 4)
    assert "data" not in metrics["data"]
    (folder / "truth.json").unlink()
    file = coco / "captions_val2014.json"
    file.write_text(file.read_text().replace("kittens", "dogs"))
    with pytest.raises(ScoreError, match=r"not those of the run: captions_val2014\.json"):
        score_run(folder)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: (folder / "captions_val2014.json").unlink(), r"no captions_val2014\.json.*cocodataset"),
        (lambda folder: (folder / "instances_val2014.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "instances_val2014.json").write_text("[]"), "has no list 'images'"),
        (lambda folder: (folder / "captions_val2014.json").write_text('{"images": [{}]}'), "COCO file of captions"),
        (
            lambda folder: (folder / "instances_val2014.json").write_text(
                (folder / "instances_val2014.json").read_text().replace('"dog"', '"dragon"')
            ),
            "'dragon'.* is no word of 'coco'",
        ),
    ],
)
def test_broken_coco_files_are_explained(coco, change, why):
    change(coco)
    with pytest.raises(DataError, match=why):
        tasks.load(tasks.get("chair"), options(coco))


def test_missing_coco_folders_and_lists_are_explained(coco):
    task = tasks.get("chair")
    with pytest.raises(DataError, match=r"task=chair needs task\.data.*task=chair_scenes needs no download"):
        tasks.load(task, {})
    with pytest.raises(DataError, match=r"task\.list 'nowhere' cannot be read.*one image id or name a line"):
        tasks.load(task, options(coco, list="nowhere"))
    (coco / "list.txt").write_text("99")
    with pytest.raises(DataError, match="lists '99', which the annotations do not name"):
        tasks.load(task, options(coco, list=str(coco / "list.txt")))
    with pytest.raises(ConfigError, match=r"task\.number"):
        tasks.load(task, options(coco, number=0))
    with pytest.raises(ConfigError, match=r"task\.instruction must be text"):
        tasks.load(task, options(coco, instruction=" "))
