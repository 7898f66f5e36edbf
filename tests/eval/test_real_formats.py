"""AMBER, HallusionBench, TextVQA and the hub's MME from files in their own formats: read, asked, scored, reported."""

import json

import pytest
from hub_files import COMMIT, noted, parquet, picture
from sightline.eval.compare import compare
from sightline.eval.config import compose_settings
from sightline.eval.errors import DataError
from sightline.eval.report import write_report
from sightline.eval.runner import run
from sightline.eval.score import score_run
from sightline.eval.tasks import registry


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path / "cache"))


def amber(folder):
    """Two images: a request for a caption and four questions on each, as the authors' folder `data` has them."""
    (folder / "query").mkdir(parents=True)
    (folder / "images").mkdir()
    notes, queries = [], []

    def add(image, query, **note):
        notes.append({"id": len(notes) + 1, **note})
        queries.append({"id": len(notes), "image": image, "query": query})

    for number in (1, 2):
        name = f"AMBER_{number}.jpg"
        (folder / "images" / name).write_bytes(picture(number * 40, "JPEG"))
        add(name, "Describe this image.", type="generative", truth=["sky", "dog"], hallu=["cat"])
        kinds = (
            "discriminative-hallucination",
            "discriminative-attribute-state",
            "discriminative-attribute-number",
            "discriminative-relation",
        )
        for place, kind in enumerate(kinds):
            add(name, f"Is question {place} so?", type=kind, truth=("yes", "no")[(place + number) % 2])
    (folder / "annotations.json").write_text(json.dumps(notes))
    (folder / "query" / "query_all.json").write_text(json.dumps(queries))
    (folder / "relation.json").write_text(json.dumps({"sky": ["cloud"], "dog": ["puppy"], "cat": ["kitten"]}))
    (folder / "safe_words.txt").write_text("image\npicture\n")
    return [f"task.data={folder}", f"task.images={folder / 'images'}"]


def hallusion(folder):
    """One set of two figures and a set without one, in the authors' file."""
    rows = []
    for figure in (1, 2):
        name = f"VD/chart/0_{figure}.png"
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(picture(figure * 30))
        for question in (0, 1):
            rows.append(
                _row("VD", "0", str(figure), str(question), f"./hallusion_bench/{name}", (figure + question) % 2)
            )
    rows.append(_row("VS", "1", "0", "0", None, 1))
    (folder / "HallusionBench.json").write_text(json.dumps(rows))
    return [f"task.data={folder}", f"task.images={folder / 'images'}"]


def _row(category, of, figure, question, file, answer):
    return {
        "category": category, "subcategory": "chart", "visual_input": "1" if file else "0", "set_id": of,
        "figure_id": figure, "sample_note": "", "question_id": question, "question": f"Is {question} larger?",
        "gt_answer_details": "", "gt_answer": str(answer), "filename": file,
    }  # fmt: skip


def hallusion_of_the_hub(folder):
    rows = [
        _row(
            "VD", "0", str(figure), str(question), f"./hallusion_bench/VD/chart/0_{figure}.png", (figure + question) % 2
        )
        | {"image": {"bytes": picture(figure * 30), "path": None}}
        for figure in (1, 2)
        for question in (0, 1)
    ]
    parquet(folder / "data" / "image-00000-of-00001.parquet", rows)
    parquet(folder / "data" / "non_image-00000-of-00001.parquet", [_row("VS", "1", "0", "0", None, 1)])
    noted(folder)
    return [f"task.data={folder}"]


ANSWERS = ["stop", "stop", "stop sign", "go"] + ["stop"] * 6


def text_vqa(folder):
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in (0, 1):
        (folder / "images" / f"sign{number}.jpg").write_bytes(picture(number * 60, "JPEG"))
        rows += [
            {
                "question_id": 2 * number + k,
                "image_id": f"sign{number}",
                "question": "what does it say?",
                "answers": ANSWERS,
            }
            for k in (0, 1)
        ]
    held = {"dataset_type": "val", "dataset_name": "textvqa", "data": rows}
    (folder / "TextVQA_0.5.1_val.json").write_text(json.dumps(held))
    return [f"task.data={folder}", f"task.images={folder / 'images'}"]


def text_vqa_of_the_hub(folder):
    rows = [
        {
            "question_id": 2 * number + k,
            "image_id": f"sign{number}",
            "question": "what does it say?",
            "answers": ANSWERS,
        }
        | {"image": {"bytes": picture(number * 60, "JPEG"), "path": None}}
        for number in (0, 1)
        for k in (0, 1)
    ]
    parquet(folder / "data" / "validation-00000-of-00001.parquet", rows)
    noted(folder)
    return [f"task.data={folder}"]


def mme_of_the_hub(folder):
    rows = [
        {"question_id": f"{subtask}/{number}.jpg", "question": f"Is there thing {k}? Please answer yes or no.",
         "answer": ("Yes", "No")[k], "category": subtask, "image": {"bytes": picture(number * 20), "path": None}}
        for subtask in ("existence", "color") for number in (1, 2) for k in (0, 1)
    ]  # fmt: skip
    parquet(folder / "data" / "test-00000-of-00001.parquet", rows)
    noted(folder)
    return [f"task.data={folder}", "task.subtasks=[existence,color]"]


CASES = {
    "amber": ("amber", amber, 8, ("all", "accuracy")),
    "amber_captions": ("amber_captions", amber, 2, ("captions", "CHAIR")),
    "hallusion_bench": ("hallusion_bench", hallusion, 4, ("all", "aAcc")),
    "hallusion_bench, hub": ("hallusion_bench", hallusion_of_the_hub, 4, ("all", "aAcc")),
    "text_vqa": ("text_vqa", text_vqa, 4, ("validation", "accuracy")),
    "text_vqa, hub": ("text_vqa", text_vqa_of_the_hub, 4, ("validation", "accuracy")),
    "mme, hub": ("mme", mme_of_the_hub, 8, ("total", "score")),
}


def asked(checkpoint, task, places, folder, *more):
    fixed = ["model=local", f"model.path={checkpoint}", "model.dtype=float64", "model.device=cpu", f"task={task}"]
    small = ["generation.max_new_tokens=4", "run.cost_requests=0", "run.batch_size=4", f"run.dir={folder}"]
    return compose_settings([*fixed, *places, *small, *more])


@pytest.mark.parametrize("case", CASES)
def test_a_run_from_the_files_to_the_report(case, checkpoint, loaded, tmp_path):
    task, make, n, (table, metric) = CASES[case]
    places = make(tmp_path / "data")
    for decoder in ("greedy", "vcd"):
        settings, tree = asked(checkpoint, task, places, tmp_path / "runs" / decoder, f"decoder={decoder}")
        outcome = run(settings, tree, command=["sightline"], loaded=loaded)
        assert (outcome.n_samples, outcome.n_error) == (n, 0)
        score_run(tmp_path / "runs" / decoder)
    manifest = json.loads((tmp_path / "runs" / "vcd" / "manifest.json").read_text())
    files = manifest["task"]["data"]
    assert all(len(file["sha256"]) == 64 and file["rows"] for file in files)
    assert ("hub" in case) == (manifest["task"].get("revision") == COMMIT)
    metrics = json.loads((tmp_path / "runs" / "vcd" / "metrics.json").read_text())
    found = metrics["tables"][table][metric]
    assert found["value"] is not None or found["reason"]
    report = write_report(tmp_path / "runs").markdown.read_text()
    assert registry.get(task).name.split("_")[0].lower() in report.lower()
    assert "left out" not in report
    held = compare([tmp_path / "runs" / "greedy", tmp_path / "runs" / "vcd"])
    assert held


@pytest.mark.parametrize("task", ["hallusion_bench", "text_vqa"])
def test_both_layouts_ask_the_same(task, tmp_path):
    def load(make, folder):
        options = dict(each.removeprefix("task.").split("=", 1) for each in make(folder))
        return registry.load(registry.get(task), options).documents

    first, second = (make for name, make, *_ in CASES.values() if name == task)
    one, other = load(first, tmp_path / "files"), load(second, tmp_path / "hub")
    assert [(d.doc_id, d.text, d.label, d.gold, d.split) for d in one] == [
        (d.doc_id, d.text, d.label, d.gold, d.split) for d in other
    ]


def edited(folder, name, change):
    held = json.loads((folder / name).read_text())
    change(held)
    (folder / name).write_text(json.dumps(held))


HOSTILE = {
    "an image outside the folder": lambda rows: rows[1].update(image="../../etc/passwd"),
    "an id that nobody knows": lambda rows: rows[1].update(id=999),
    "a query that is a number": lambda rows: rows[1].update(query=5),
    "no query": lambda rows: rows[1].pop("query"),
    "a row that is a list": lambda rows: rows.__setitem__(1, [1, 2]),
    "a blank query": lambda rows: rows[1].update(query=" "),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_bad_row_costs_one_sample(what, checkpoint, loaded, tmp_path):
    places = amber(tmp_path / "data")
    edited(tmp_path / "data", "query/query_all.json", HOSTILE[what])
    settings, tree = asked(checkpoint, "amber", places, tmp_path / "run")
    outcome = run(settings, tree, command=["sightline"], loaded=loaded)
    assert (outcome.n_samples, outcome.n_error) == (8, 1)
    assert outcome.first_error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "annotations.json").write_text("[{"), "annotations.json is not JSON"),
        (lambda folder: (folder / "annotations.json").write_text('{"a": 1}'), "is no list of objects with an id"),
        (
            lambda folder: edited(folder, "annotations.json", lambda notes: notes.append(notes[0])),
            "holds the id 1 twice",
        ),
        (lambda folder: edited(folder, "query/query_all.json", lambda rows: rows.append(rows[1])), "twice"),
        (lambda folder: (folder / "annotations.json").unlink(), "There is no annotations.json"),
        (lambda folder: (folder / "query" / "query_all.json").unlink(), "There is no query_discriminative.json"),
        (lambda folder: (folder / "annotations.json").write_text("[" * 100_000), "is not JSON"),
    ],
)
def test_files_that_contradict_themselves_are_refused(change, message, tmp_path):
    places = amber(tmp_path / "data")
    change(tmp_path / "data")
    options = dict(each.removeprefix("task.").split("=", 1) for each in places)
    with pytest.raises(DataError, match=message):
        registry.load(registry.get("amber"), options)


@pytest.mark.parametrize("task", ["amber", "amber_captions", "hallusion_bench", "text_vqa", "mme", "pope", "chair"])
def test_missing_data_say_how_to_get_them(task):
    with pytest.raises(DataError, match=r"[Gg]et|[Dd]ownload|hub") as caught:
        registry.load(registry.get(task), {})
    assert "task.data=" in str(caught.value)
