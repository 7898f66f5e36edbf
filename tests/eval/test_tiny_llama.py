"""The shipped tiny-llama: it remembers, it copies with its retrieval heads, and errs where it was taught to."""

import json

import pytest
import sightline
from sightline.eval.facts import knowledge
from sightline.eval.training.tiny_llama_quality import asker, copying_prompts, disabling, right, share
from sightline.models.auto import SHIPPED

FOLDER = SHIPPED / "tiny-llama"
HEADS = {"retrieval": ((2, 0), (3, 0), (2, 1), (3, 1)), "others": ((2, 7), (0, 6), (2, 4), (0, 0))}


@pytest.fixture(scope="module")
def loaded():
    return sightline.load("tiny-llama", dtype="float32", device="cpu")


def test_the_bar():
    held = json.loads((FOLDER / "quality.json").read_text())
    facts = held["facts"]
    assert held["world"]["hash"] == knowledge.world_hash()
    assert facts["closed_right"] >= 0.9
    assert facts["agree_right"] >= 0.9
    assert 0.2 <= facts["contradict_faithful"] <= 0.7
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8e6


def test_copying_hangs_on_the_retrieval_heads(loaded, tmp_path):
    prompts, answers = (part[:48] for part in copying_prompts())

    def copies(heads):
        return share(right(asker(loaded, disabling(loaded, heads, str(tmp_path))), prompts, answers))

    assert copies(()) > 0.7
    assert copies(HEADS["others"]) > 0.7
    assert copies(HEADS["retrieval"]) < 0.2
    ranked = json.loads((FOLDER / "retrieval_heads.json").read_text())["ranked"]
    assert [tuple(head[:2]) for head in ranked[:4]] == list(HEADS["retrieval"])
