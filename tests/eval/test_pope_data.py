"""POPE's files: both formats, broken rows, and what is refused."""

import json

import pytest
from sightline.eval.errors import ConfigError, DataError, UnknownTask
from sightline.eval.plan import limited
from sightline.eval.tasks import pope, registry

GOOD = {"question_id": 1, "image": "a.jpg", "text": "Is there a cat in the imange?", "label": "no"}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def row(**changes):
    return {**GOOD, **changes}


@pytest.mark.parametrize("head", ["", "\ufeff", "\n  \n"])
def test_json_lines_and_array_give_the_same(tmp_path, head):
    rows = [row(), row(question_id=2, label="yes")]
    lines = tmp_path / "lines.json"
    lines.write_text(head + "".join(json.dumps(r) + "\n" for r in rows))
    array = tmp_path / "array.json"
    array.write_text(head + json.dumps(rows, indent=2))
    first, source = pope.read_file(lines, "random")
    second, _ = pope.read_file(array, "random")
    assert first == second
    assert (source.rows, source.broken) == (2, 0)
    assert [d.label for d in first] == ["no", "yes"]
    assert first[0].text == "Is there a cat in the imange?"
    assert (first[0].doc_id, first[0].image_id) == ("1", "a")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("{not json", "is not JSON"),
        ("[1, 2]", "is not an object"),
        ({"question_id": 2, "image": "a.jpg", "label": "no"}, "has no 'text'"),
        (row(question_id=2, label="maybe"), "label 'maybe'"),
        (row(question_id=2, label="No"), "label 'No'"),
        (row(question_id=None), "question_id"),
        (row(question_id=2, image=7), "no readable 'image'"),
        (row(question_id=2, text="  "), "no readable 'text'"),
        ('{"question_id": 2, "image": "a.jpg", "text": "\\ud800", "label": "no"}', "no readable 'text'"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_broken_row_costs_one_sample(tmp_path, bad, why):
    documents, source = pope.read_file(write(tmp_path / "f.json", row(), "", bad, row(question_id=3)), "random")
    assert (source.rows, source.broken) == (3, 1)
    assert [d.error is None for d in documents] == [True, False, True]
    assert documents[1].doc_id == "line-3"
    assert documents[1].error is not None
    assert documents[1].error.startswith("DataError: line 3")
    assert why in documents[1].error


def test_broken_rows_of_an_array(tmp_path):
    file = tmp_path / "f.json"
    file.write_text(json.dumps([row(), "text", row(question_id=2)]))
    documents, source = pope.read_file(file, "random")
    assert (source.broken, documents[1].doc_id) == (1, "row-2")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "holds no questions"),
        (" \n\n", "holds no questions"),
        ("[]", "holds no questions"),
        ("[{]", "JSON array but is none"),
        ("<html>", "No row of"),
        (json.dumps(row()) + "\n" + json.dumps(row(label="yes")), "question_id 1 twice"),
    ],
)
def test_files_that_are_refused(tmp_path, content, why):
    file = tmp_path / "f.json"
    file.write_text(content)
    with pytest.raises(DataError, match=why):
        pope.read_file(file, "random")


def options(folder, **changes):
    task = registry.get("pope")
    return task, {"data": str(folder), "images": str(folder / "images"), **changes}


def test_missing_data_say_how_to_get_them(tmp_path):
    task, given = options(tmp_path)
    with pytest.raises(DataError, match=r"task\.data=FOLDER and task\.images=FOLDER"):
        registry.load(task, {})
    with pytest.raises(DataError, match=r"task\.images.*is not a folder"):
        registry.load(task, given)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match=r"no coco_pope_random\.json.*github"):
        registry.load(task, given)


def test_options_are_checked(pope):
    task, given = options(pope)
    with pytest.raises(ConfigError, match=r"'task\.datasset'.*'task\.dataset'"):
        registry.load(task, {**given, "datasset": "coco"})
    with pytest.raises(ConfigError, match=r"'coc'.*'coco'"):
        registry.load(task, {**given, "dataset": "coc"})
    with pytest.raises(ConfigError, match=r"'randon'.*'random'"):
        registry.load(task, {**given, "splits": ["randon"]})
    with pytest.raises(ConfigError, match="list of splits"):
        registry.load(task, {**given, "splits": []})
    with pytest.raises(UnknownTask, match="Did you mean 'pope'"):
        registry.get("pop")


def test_names_of_the_repositorys_other_files(pope):
    for split in ("random", "popular", "adversarial"):
        (pope / f"coco_pope_{split}.json").rename(pope / f"gqa_pope_seem_{split}.json")
    task, given = options(pope, dataset="gqa", splits="adversarial")
    dataset = registry.load(task, given)
    assert [source.file for source in dataset.sources] == ["gqa_pope_seem_adversarial.json"]
    assert len(dataset.documents) == 18


def test_limit_draws_images(pope):
    task, given = options(pope)
    documents = registry.load(task, given).documents
    chosen = limited(documents, 2, 0)
    images = {document.image for document in chosen}
    assert len(images) == 2
    assert chosen == [document for document in documents if document.image in images]
    assert limited(documents, None, 0) == list(documents)
    assert len(limited(documents, 99, 0)) == len(documents)


def test_scenes_are_a_task_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGHTLINE_CACHE", str(tmp_path))
    task = registry.get("pope_scenes")
    dataset = registry.load(task, {"split": "validation", "images": 3})
    assert len({document.image for document in dataset.documents}) == 3
    assert dataset.world is not None
    assert dataset.world["split"] == "validation"
    assert "sha256" not in dataset.world
    with pytest.raises(ConfigError, match="'train'"):
        registry.load(task, {"split": "train"})
    with pytest.raises(ConfigError, match="scenes"):
        registry.load(task, {"images": 0})
