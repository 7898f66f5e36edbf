"""Readers of real text benchmarks: the hub's and the authors' layouts, and rows that cannot be read."""

import hashlib
import json

import datasets
import pytest
from hub_files import COMMIT, cached, noted, parquet
from huggingface_hub import constants
from sightline.eval.errors import ConfigError, DataError
from sightline.eval.tasks import registry, rows

SWAP = {
    "question": "who wrote it",
    "org_context": "Ann wrote it .",
    "org_answer": ["Ann", "Ann B."],
    "sub_context": "Bo wrote it .",
    "sub_answer": ["Bo"],
}
CSV = (
    "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    'x,y,What is it?,A stone,A stone; It is a stone.,Bread; Bread.; "Cheese",here\n'
)
HUB = {
    "question": "What is it?",
    "mc1_targets": {"choices": ["A stone.", "Bread."], "labels": [1, 0]},
    "mc2_targets": {"choices": ["A stone.", "It is a stone.", "Bread."], "labels": [1, 1, 0]},
}


def load(name, folder, **options):
    return registry.load(registry.get(name), {"data": str(folder), **options})


def test_nq_swap_from_json_lines(tmp_path):
    lines = [json.dumps(SWAP), "{torn", json.dumps({**SWAP, "sub_answer": []}), json.dumps({**SWAP, "question": " "})]
    (tmp_path / "nq-swap.jsonl").write_text("\n".join(lines) + "\n")
    data = load("nq_swap", tmp_path, contexts=["closed", "substituted"])
    assert [document.split for document in data.documents] == ["substituted"] * 4 + ["closed"] * 4
    first, torn, empty, blank = data.documents[:4]
    assert first.text.endswith("\n\nContext: Bo wrote it .\nQuestion: who wrote it\nAnswer:")
    assert (first.label, first.gold) == ("Bo", {"answers": ["Bo"], "others": ["Ann", "Ann B."]})
    assert torn.error == "DataError: row 2 is not JSON"
    assert "no list 'sub_answer'" in empty.error
    assert "no readable 'question'" in blank.error
    assert data.documents[4].text == "Answer the question with a few words.\n\nQuestion: who wrote it\nAnswer:"
    assert data.documents[4].gold["answers"] == ["Ann", "Ann B."]
    assert (data.sources[0].rows, data.sources[0].broken) == (4, 3)


def test_nq_swap_from_the_hubs_parquet(tmp_path):
    """All files of the split, and what the manifest has of them."""
    names = [f"data/dev-0000{at}-of-00002.parquet" for at in (0, 1)]
    for at, name in enumerate(names):
        parquet(tmp_path / name, [{**SWAP, "question": f"who wrote it {at}"}, {**SWAP, "question": " "}])
    data = load("nq_swap", noted(tmp_path), revision=COMMIT, contexts=["substituted", "original"])
    assert [document.doc_id for document in data.documents if document.error is None] == ["1", "3"] * 2
    assert [document.text.splitlines()[-2][-1] for document in data.documents if document.error is None] == list("0101")
    assert data.documents[0].gold == {"answers": ["Bo"], "others": ["Ann", "Ann B."]}
    digests = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in names]
    told = [(source.file, source.sha256, source.rows, source.broken) for source in data.sources]
    assert told == [(name, digest, 2, 1) for name, digest in zip(names, digests, strict=True)]
    assert data.revision == COMMIT
    with pytest.raises(DataError, match="is of commit aaaa"):
        load("nq_swap", tmp_path, revision="b" * 40)


def test_memo_trap_from_its_files(tmp_path):
    head = "prompt,classes,answer_index\n"
    lines = [
        '"Say ""a"": b","["" x."", "" y.""]",1',
        'c,"[1, 2]",0',
        'd,"["" x."", "" y.""]",2',
        "e,__import__('os'),0",
    ]
    (tmp_path / "1-proverb-ending.csv").write_text(head + "\n".join(lines) + "\n")
    data = load("memo_trap", tmp_path, subtasks=["proverb_ending"])
    first, *rest = data.documents
    assert (first.text, first.candidates, first.label) == ('Say "a": b', (" x.", " y."), "y.")
    assert first.gold == {"true": [1], "best": 1}
    assert [document.error is None for document in rest] == [False] * 3
    with pytest.raises(DataError, match="no file of proverb translation"):
        load("memo_trap", tmp_path)
    with pytest.raises(ConfigError, match="no subtask"):
        load("memo_trap", tmp_path, subtasks=["proverbs"])


def test_memo_trap_from_the_hubs_copy(tmp_path):
    """One file, with whole numbers in Parquet; asked only where it is named."""
    rows_ = [
        {"prompt": "Write: a", "classes": "[' x.', ' y.']", "answer_index": at % 2, "part": "x"} for at in range(3)
    ]
    parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", rows_)
    (tmp_path / "csv").mkdir()
    lines = [f'{row["prompt"]},"{row["classes"]}",{row["answer_index"]}' for row in rows_]
    (tmp_path / "csv" / "memo-trap_classification.csv").write_text("\n".join(["prompt,classes,answer_index", *lines]))
    one, other = (load("memo_trap", tmp_path / name, subtasks=["inverse_scaling"]) for name in ("hub", "csv"))
    assert one.documents == other.documents
    assert [document.label for document in one.documents] == ["x.", "y.", "x."]
    assert {document.split for document in one.documents} == {"inverse_scaling"}
    with pytest.raises(DataError, match=r"no file of proverb ending.*task\.subtasks=\[inverse_scaling\]"):
        load("memo_trap", tmp_path / "hub")


def test_truthful_qa_from_the_csv(tmp_path):
    (tmp_path / "TruthfulQA.csv").write_text(CSV)
    (document,) = load("truthful_qa", tmp_path).documents
    assert document.text.startswith("Interpret each question literally")
    assert document.text.endswith("in Barcelona, Spain.\n\nQ: What is it?\nA:")
    assert document.candidates == (" A stone.", " It is a stone.", " Bread.", ' "Cheese".')
    assert document.gold == {"true": [0, 1], "best": 0}


def test_truthful_qa_from_the_hub(tmp_path):
    two_best = {**HUB, "mc1_targets": {"choices": ["A stone.", "Bread."], "labels": [1, 1]}}
    no_false = {**HUB, "mc2_targets": {"choices": ["A stone."], "labels": [1]}}
    found = [HUB, two_best, no_false, {"question": "?"}]
    (tmp_path / "multiple_choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    first, *rest = load("truthful_qa", tmp_path).documents
    assert first.candidates == (" A stone.", " It is a stone.", " Bread.")
    for document, words in zip(rest, ("2 right answers", "no false answer", "no readable mc1_targets"), strict=True):
        assert words in document.error


def test_truthful_qa_in_every_layout_of_the_hub(tmp_path, monkeypatch):
    """The repository holds another configuration, whose split has the same name."""
    other = {"question": "What is it?", "best_answer": "A stone", "correct_answers": ["A stone"]}
    whole, alone, saved, cache = (tmp_path / name for name in ("whole", "alone", "saved", "cache"))
    parquet(whole / "generation" / "validation-00000-of-00001.parquet", [other])
    file = parquet(whole / "multiple_choice" / "validation-00000-of-00001.parquet", [HUB, HUB])
    parquet(alone / "data" / "validation-00000-of-00001.parquet", [HUB, HUB])
    held = datasets.Dataset.from_list([HUB, HUB])
    datasets.DatasetDict({"validation": held}).save_to_disk(str(saved))
    held.save_to_disk(str(cache))
    found = [load("truthful_qa", folder) for folder in (whole, alone, saved, cache)]
    assert all(each.documents == found[0].documents for each in found)
    assert [document.doc_id for document in found[0].documents] == ["1", "2"]
    assert found[0].documents[0].candidates == (" A stone.", " It is a stone.", " Bread.")
    assert found[0].sources[0].file == "multiple_choice/validation-00000-of-00001.parquet"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(DataError, match=r"truthful_qa cannot be had from the hub.*task\.data=FOLDER"):
        load("truthful_qa", "hub")
    cached(tmp_path, "truthfulqa/truthful_qa", {str(file.relative_to(whole)): file.read_bytes()})
    fetched = load("truthful_qa", "hub")
    assert (fetched.documents, fetched.revision) == (found[0].documents, COMMIT)


def test_files_that_cannot_be_read(tmp_path):
    for name, content, words in (
        ("nq_swap.jsonl", "\n", "holds no rows"),
        ("nq_swap.jsonl", "[1, 2", "cannot be read"),
        ("nq_swap.jsonl", "[1]", "No row of nq_swap.jsonl"),
        ("nq_swap.parquet", "text", "cannot be read"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=words):
            load("nq_swap", tmp_path)
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match=r"needs task\.data"):
        registry.load(registry.get("truthful_qa"), {})


def test_names_of_files_are_found_in_any_spelling(tmp_path):
    (tmp_path / "3_Hate-Speech-Ending.csv").write_text("prompt\nx\n")
    assert rows.find(tmp_path, ("hate_speech_ending",), "x", "").name == "3_Hate-Speech-Ending.csv"
