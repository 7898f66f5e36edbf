"""What lmms-eval reads of us: the entry point `sightline` of the group `lmms_eval.models`."""

from __future__ import annotations

import importlib
from typing import Any

NAME = "sightline"


def manifest() -> Any:
    """Our model as lmms-eval lists it: with messages of a chat, and with plain texts (`--force_simple`).

    Loads neither torch nor a model: lmms-eval imports the classes by their paths when they are asked for.
    """
    registry = importlib.import_module("lmms_eval.models.registry_v2")
    home = f"{__package__}.lmms_eval_models"
    return registry.ModelManifest(
        model_id=NAME,
        simple_class_path=f"{home}.SightlineSimple",
        chat_class_path=f"{home}.SightlineChat",
    )
