"""Builders of records for the scorers."""

from typing import Any

import pytest


def build_record(doc_id: object, output: str | None = "Yes", **fields: Any) -> dict[str, Any]:
    """A good record; keywords replace or add fields."""
    split = fields.get("split", "random")
    base = {
        "key": f"{split}-{doc_id}",
        "split": split,
        "doc_id": str(doc_id),
        "image_id": f"image-{doc_id}",
        "output": output,
        "label": "yes",
        "status": "ok",
    }
    return base | fields


@pytest.fixture(scope="session")
def record():
    """The builder: `record(1, "Yes", label="no")`."""
    return build_record
