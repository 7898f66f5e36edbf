"""`sightline explain`: one image and prompt from the shell, answered as `sightline run` would answer them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from ... import decoders
from ...decoders import Strategy
from ...decoders.tracing import TokenTrace
from ...models import Loaded
from ..answering import Answerer, Words, spans
from ..config import compose_settings
from ..errors import UsageError
from ..images import file_digest, open_image
from ..plan import renderer, text_renderer
from ..records import sample_seed
from ..runner import load_model
from ..settings import Settings
from .explanation import FORMATS, Explanation, explanation

OUT = "explain.html"
TOKENS = 64
OWN = ("image", "prompt", "context", "out")
DESCRIPTION = (
    "Decode one prompt, and tell what the decoder did at each token: a table here, a page or picture in a file."
)
EPILOG = f"""\
image=FILE    the picture that is asked about; none for a model that reads texts only
prompt=TEXT   the question, or the whole text
context=TEXT  the part of the text that the answer shall be true to, for decoders that ask for it
out=FILE      {", ".join(FORMATS)}; {OUT} where left out
others        as for `sightline run`: model=, decoder=, decoder.FIELD=, generation=, run.seed=

  sightline explain image=scene.png prompt="Please describe this image in detail." decoder=vcd out=vcd.html
"""


def main(arguments: Sequence[str]) -> int:
    """`sightline explain image=FILE prompt=TEXT decoder=NAME [out=FILE] [OVERRIDE...]`"""
    parser = argparse.ArgumentParser(
        "sightline explain",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="+", metavar="NAME=VALUE", help="see below")
    own, overrides = parted(parser.parse_args(list(arguments)).settings)
    if not own.get("prompt"):
        raise UsageError("There is no prompt.", 'Add one: prompt="Please describe this image in detail."')
    out = Path(own.get("out", OUT))
    if out.suffix.lower() not in FORMATS:
        raise UsageError(f"out={str(out)!r} has no form that is known.", f"End it in one of {', '.join(FORMATS)}.")
    settings, _ = compose_settings(overrides)
    strategy = decoders.build(settings.decoder.name, dict(settings.decoder.params))
    file = _file(own["image"]) if own.get("image") else None
    image = None if file is None else open_image(file)
    seed = "" if file is None else file_digest(file)
    loaded = load_model(settings.model)
    told = explain_one(loaded, settings, strategy, own["prompt"], image, own.get("context"), seed)
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(told.table().encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.write(f"\n{told.save(out)}\n")
    return 0


def parted(given: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What is this command's own, and overrides for the configuration."""
    own, overrides = {}, []
    for each in given:
        name, mark, value = each.partition("=")
        if mark and name in OWN:
            own[name] = value
        else:
            overrides.append(each)
    return own, overrides


def explain_one(
    loaded: Loaded,
    settings: Settings,
    strategy: Strategy,
    question: str,
    image: Image | None,
    context: str | None = None,
    digest: str = "",
) -> Explanation:
    """One question, prompted and decoded as a run with these settings does it.

    Args:
        digest: sha256 of the image's bytes, which enters the seed of what is drawn.
        others: the model, what it is asked, and the part of the question that the answer shall be true to.
    """
    if loaded.adapter.image_inputs and image is None:
        raise UsageError(f"{settings.model.title} asks about an image.", "Add one: image=FILE.")
    if image is not None and not loaded.adapter.image_inputs:
        raise UsageError(
            f"{settings.model.title} reads texts only.", "Leave image= out, or choose an image-text model."
        )
    if context and context not in question:
        raise UsageError("The context is not part of the prompt.", "Give the passage as it stands in prompt=.")
    prompt = (text_renderer if image is None else renderer)(loaded.processor, settings.prompt.suffix)(question)
    generation = settings.generation.settled(strategy.mode, TOKENS)
    seed = sample_seed(settings.run.seed, digest, prompt)
    asked = TracingAnswerer(loaded, strategy, generation, Words())
    inputs, ids, tokens, branches = asked.trace(prompt, image, seed, context)
    plain = None
    if strategy.key != "greedy" or generation.mode != "greedy":
        from_greedy = settings.generation.settled("greedy", TOKENS)
        plain = Answerer(loaded, None, from_greedy, Words()).ask([prompt], [image], [None])[0][0].output
    return explanation(
        loaded.model, strategy, inputs, ids, tokens, loaded.processor, image, plain, settings.model.title, branches
    )


class TracingAnswerer(Answerer):
    """An answerer that also says what the decoder did; for one prompt at a time."""

    @torch.no_grad()
    def trace(
        self, prompt: str, image: Image | None, seed: int | None, context: str | None = None, **more: Any
    ) -> tuple[dict[str, Any], torch.Tensor, list[TokenTrace], tuple[str, ...]]:
        """The inputs, prompt and answer `[length]`, the answer's tokens, and the names of the branches.

        Args:
            prompt: with the chat template applied.
            image: or None for a text.
            seed: of the draw, where tokens are drawn.
            context: the part of the prompt that the answer shall be true to.
            more: for `generate()`, such as a streamer.
        """
        inputs = self._inputs([prompt], [image])
        marked: dict[str, Any] = {"processor": self.loaded.processor, "spans": spans([context])}
        with decoders.attach(self.loaded.model, self.strategy or "greedy", inputs, trace=True, **marked) as attachment:
            new, _ = self._generate(inputs, [seed], attachment, **more)
        ids = torch.cat([inputs["input_ids"][0], new[0]])
        assert attachment.tracer is not None
        names = tuple(branch.name for branch in attachment.plan.branches)
        return inputs, ids, attachment.tracer.traces(ids[None])[0], names


def _file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"There is no image {name!r}.", "Give the path of a picture.")
    return path
