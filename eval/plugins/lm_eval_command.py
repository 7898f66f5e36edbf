"""`sightline-lm-eval`: lm-evaluation-harness's own command line, with `--model sightline` known to it.

The harness looks models up in a registry that imports fill; it reads no entry points. So something has to name our
model to it first. All arguments are the harness's.
"""

from __future__ import annotations

import importlib
import sys

NAME = "sightline"
TARGET = f"{__package__}.lm_eval_model:SightlineLM"


def register() -> None:
    """Put our model into the harness's registry by name; it is imported when it is asked for."""
    importlib.import_module("lm_eval.models")
    registry = importlib.import_module("lm_eval.api.registry").model_registry
    if NAME not in registry:
        registry.register(NAME, target=TARGET)


def main() -> None:
    """Run the harness with the arguments of this process."""
    try:
        register()
        harness = importlib.import_module("lm_eval.__main__")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lm_eval":
            raise
        sys.exit("sightline-lm-eval: lm-evaluation-harness is not installed. Get it: pip install 'sightline[lm-eval]'")
    harness.cli_evaluate()


if __name__ == "__main__":
    main()
