"""`sightline play`: the playground, served on this machine."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ...models.errors import SightlineError
from ..config import choices, compose_settings
from ..errors import UsageError
from ..settings import ModelSettings

HOST, PORT = "127.0.0.1", 7860
HERE = ("127.0.0.1", "localhost", "::1")


class MissingGradio(SightlineError, ImportError):
    """The playground's own package is not installed."""

    __str__ = Exception.__str__


def main(arguments: Sequence[str]) -> int:
    """`sightline play [--host ADDRESS] [--port N] [OVERRIDE...]`"""
    parser = argparse.ArgumentParser(
        "sightline play", description="A page to try decoders on an image and a question, side by side."
    )
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="such as model=local model.path=FOLDER")
    parser.add_argument("--host", default=HOST, metavar="ADDRESS", help="listened on; default: %(default)s")
    parser.add_argument("--port", type=int, metavar="N", help=f"default: the first free one from {PORT} on")
    given = parser.parse_intermixed_args(list(arguments))
    strange = [each for each in given.overrides if not each.startswith(("model=", "model."))]
    if strange:
        raise UsageError(f"{strange[0]!r} is not about the model.", "The rest is chosen in the page.")
    wanted = compose_settings(given.overrides)[0].model
    app = _app()
    house = app.House(models(wanted))
    address, page = app.launch(house, wanted.title, given.host, given.port)
    if given.host not in HERE:
        sys.stderr.write("sightline: everyone who reaches this address can use the page; it asks for no password\n")
    sys.stdout.write(f"{address}\nStop with Ctrl+C.\n")
    sys.stdout.flush()
    page.block_thread()
    return 0


def models(wanted: ModelSettings) -> Mapping[str, ModelSettings]:
    """The model that is asked for, then the packaged ones, by their titles."""
    packaged = [compose_settings([f"model={name}"])[0].model for name in choices("model") if name != "local"]
    return {wanted.title: wanted} | {each.title: each for each in packaged if each.title != wanted.title}


def _app() -> Any:
    """The page's module, with whatever of Gradio would call elsewhere switched off."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        return importlib.import_module(".app", __package__)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "gradio":
            raise
        raise MissingGradio(
            "The playground needs the package gradio, which is not installed.",
            'Install it: pip install "sightline[play]".',
        ) from error
