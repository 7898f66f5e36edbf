"""Small models that plug-ins load once, and texts and images to ask them about."""

from functools import cache

import harnesses
import pytest
from sightline.eval.plugins import host
from sightline.eval.preparing import load_model
from sightline.eval.tasks import registry as tasks

harnesses.stand_in()
LLAMA = {"pretrained": "tiny-llama", "dtype": "float64", "device": "cpu"}
LLAVA = {"pretrained": "tiny-llava", "dtype": "float64", "device": "cpu"}
load_once = cache(load_model)


@pytest.fixture(autouse=True)
def _once(monkeypatch):
    """Every plug-in of a session gets the same loaded model."""
    monkeypatch.setattr(host, "load_model", load_once)


@pytest.fixture(scope="session")
def facts():
    """Six questions with the passages that answer them."""
    found = tasks.load(tasks.get("nq_swap_facts"), {"contexts": ["substituted"]})
    return found.documents[:6]


@pytest.fixture(scope="session")
def omens():
    """Four questions with given answers."""
    return tasks.load(tasks.get("truthful_qa_facts"), {}).documents[:4]
