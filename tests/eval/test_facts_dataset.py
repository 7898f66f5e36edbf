"""The folder of facts: the benchmarks' own file formats, the same bytes each time, read by the readers of real data."""

import json

import pytest
from sightline.eval.errors import ConfigError
from sightline.eval.facts import dataset, knowledge
from sightline.eval.tasks import registry

TASKS = ("nq_swap_facts", "memo_trap_facts", "truthful_qa_facts")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def documents(name, **options):
    return registry.load(registry.get(name), options).documents


def test_contexts_differ_in_one_value_only():
    for row in dataset.swaps("validation"):
        original, swapped = row["org_context"].split(". "), row["sub_context"].split(". ")
        changed = [(a, b) for a, b in zip(original, swapped, strict=True) if a != b]
        assert len(changed) == 1
        before, after = (side.removesuffix(".") for side in changed[0])
        assert before.removesuffix(row["org_answer"][0]) == after.removesuffix(row["sub_answer"][0])


def test_splits_ask_about_different_things():
    for make, name in ((dataset.swaps, "group"), (dataset.traps, "group"), (dataset.truths, "question")):
        ours, theirs = ({row[name] for row in make(split)} for split in knowledge.EVALUATED)
        assert ours
        assert theirs
        assert not ours & theirs


def test_folder_is_made_once_and_mended():
    folder = dataset.ensure_dataset("test")
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / dataset.NQ_SWAP).write_text("torn")
    again = dataset.ensure_dataset("test")
    assert again == folder
    assert {path.name: path.read_bytes() for path in again.rglob("*") if path.is_file()} == before
    assert json.loads(before[dataset.MANIFEST])["rows"][dataset.NQ_SWAP] == len(dataset.swaps("test"))


def test_bytes_are_frozen():
    """Other bytes are another data set: figures on the old one are stale."""
    held = json.loads((dataset.ensure_dataset("validation") / dataset.MANIFEST).read_text())
    assert {name: digest[:12] for name, digest in held["sha256"].items()} == {
        "nq_swap.jsonl": "1d958b19348d",
        "memo_trap/1-proverb-ending.csv": "858db62648c3",
        "truthful_qa_multiple_choice.jsonl": "8f932a15543f",
    }


def test_nq_swap_facts():
    found = documents("nq_swap_facts", split="validation")
    assert [document.error for document in found if document.error] == []
    swapped = [document for document in found if document.split == "substituted"]
    assert len(found) == 3 * len(swapped)
    for document in swapped:
        passage, _, asked = document.text.partition("\nQuestion: ")
        assert document.gold["answers"][0] in passage
        assert document.gold["others"][0] not in passage
        assert asked.endswith("\nAnswer:")
        assert document.image_id == document.unit == document.group
    assert all("Context" not in document.text for document in found if document.split == "closed")


def test_memo_trap_facts():
    for document in documents("memo_trap_facts"):
        right = document.candidates[document.gold["best"]]
        assert f"the word{right[:-1]}:" in document.text
        assert len(set(document.candidates)) == 2


def test_truthful_qa_facts():
    signs = {f"a {sign.colour} {sign.animal}": sign for sign in knowledge.signs()}
    for document in documents("truthful_qa_facts"):
        sign = next(sign for name, sign in signs.items() if name in document.text)
        true = [document.candidates[place] for place in document.gold["true"]]
        assert all(sign.truth in answer for answer in true)
        assert sum(sign.belief in answer for answer in document.candidates) == 2
        assert document.text.startswith("Answer with the truth.\nQuestion: ")


@pytest.mark.parametrize("name", TASKS)
def test_an_unknown_split_is_refused(name):
    with pytest.raises(ConfigError, match=r"no task\.split 'train'"):
        documents(name, split="train")
