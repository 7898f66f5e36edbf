"""Readers of real text benchmarks: the hub's and the authors' layouts, and rows that cannot be read."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
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
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist([SWAP] * 2), tmp_path / "data" / "dev-00000-of-00001.parquet")
    data = load("nq_swap", tmp_path)
    assert [document.doc_id for document in data.documents] == ["1", "2"]
    assert data.documents[0].gold == {"answers": ["Bo"], "others": ["Ann", "Ann B."]}


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
