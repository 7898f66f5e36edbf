"""Small models that plug-ins load once, and texts and images to ask them about."""

import harnesses
import pytest
from sightline.eval.plugins import host
from sightline.eval.tasks import registry as tasks

harnesses.stand_in()


@pytest.fixture(autouse=True)
def _once(monkeypatch):
    """Every plug-in of a session gets the same loaded model."""
    monkeypatch.setattr(host, "load_model", harnesses.load_once)


@pytest.fixture(scope="session")
def facts():
    """Six questions with the passages that answer them."""
    found = tasks.load(tasks.get("nq_swap_facts"), {"contexts": ["substituted"]})
    return found.documents[:6]


@pytest.fixture(scope="session")
def omens():
    """Four questions with given answers."""
    return tasks.load(tasks.get("truthful_qa_facts"), {}).documents[:4]
