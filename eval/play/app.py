"""The page, made of Gradio's parts: choices on the left, answers below; nothing is sent anywhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gradio  # pyright: ignore[reportMissingImports]
from gradio.themes import Base  # pyright: ignore[reportMissingImports]
from PIL import Image

from ... import decoders
from ...models import Loaded
from ...models.errors import SightlineError
from ..runner import load_model
from ..scenes import draw_scene
from ..settings import ModelSettings
from . import view
from .stage import LONGEST, Asked, chosen, fitting, perform

QUESTION = "Please describe this image in detail."
DECODERS = ("greedy", "vcd")
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif")
ACCENT = "#0a57b0"
_PAGE = "gradio-app { overflow-wrap: anywhere; } footer { display: none !important; }"


class House:
    """The models of the page; one is held at a time, and one answer is made at a time.

    Args:
        models: title -> settings.
    """

    def __init__(self, models: Mapping[str, ModelSettings]):
        self.models = dict(models)
        self._lock = threading.Lock()
        self._held: dict[str, Loaded] = {}

    def loaded(self, title: str) -> Loaded:
        """A model by its title; loading it lets go of the one before."""
        if title not in self._held:
            self._held.clear()
            self._held[title] = load_model(self.models[title])
        return self._held[title]

    def fitting(self, title: str) -> tuple[list[str], bool]:
        """The decoders that can serve a model, and whether it reads images."""
        with self._lock:
            loaded = self.loaded(title)
            return fitting(loaded), bool(loaded.adapter.image_inputs)

    def ask(
        self,
        title: str,
        keys: Sequence[str],
        parameters: str,
        image: Image.Image | None,
        question: str,
        passage: str,
        mode: str,
        temperature: float,
        tokens: float,
        seed: float,
    ) -> Iterator[str]:
        """The answers as HTML, again and again while they grow; a problem where there can be none."""
        try:
            asked = Asked(question, image, passage, mode, float(temperature), int(tokens or 0), int(seed or 0))
            strategies = chosen(keys, parameters)
            with self._lock:
                for said in perform(self.loaded(title), strategies, asked):
                    yield view.answers(said)
        except SightlineError as error:
            yield view.problem(str(error))


def page(house: House, first: str) -> gradio.Blocks:
    """The page.

    Args:
        house: the models.
        first: the title of the one that is chosen at first.
    """
    names, images = house.fitting(first)
    with gradio.Blocks(title="Sightline playground", analytics_enabled=False) as blocks:
        gradio.Markdown(
            "# Sightline playground\nOne question, several decoders: see what each makes of the same model."
        )
        with gradio.Row():
            with gradio.Column(scale=1, min_width=260):
                image = gradio.Image(
                    draw_scene("test", 3).image().resize((256, 256), Image.Resampling.NEAREST),
                    type="pil", label="Image", sources=["upload", "clipboard"], height=280, format="png",
                    visible=images, buttons=[], alt_text="The image that is asked about",
                )  # fmt: skip
            with gradio.Column(scale=2, min_width=300):
                model = gradio.Dropdown(list(house.models), value=first, label="Model")
                question = gradio.Textbox(QUESTION if images else "", label="Question", lines=2)
                passage = gradio.Textbox("", label="Passage the answer shall be true to", lines=4, visible=not images)
                picked = gradio.CheckboxGroup(_named(names), value=_usual(names), label="Decoders")
                with gradio.Accordion("More choices", open=False):
                    parameters = gradio.Textbox(
                        "", label="Parameters, one in each line", placeholder="vcd.alpha=2", lines=3
                    )
                    mode = gradio.Radio(["greedy", "sample"], value="greedy", label="Tokens are chosen")
                    temperature = gradio.Number(1.0, label="Temperature of sampling", minimum=0.01)
                    tokens = gradio.Number(64, label="Tokens at most", minimum=1, maximum=LONGEST, precision=0)
                    seed = gradio.Number(0, label="Seed", precision=0)
                with gradio.Row():
                    ask = gradio.Button("Answer", variant="primary")
                    stop = gradio.Button("Stop")
        shown = gradio.HTML(elem_id="answers")
        given: list[Any] = [model, picked, parameters, image, question, passage, mode, temperature, tokens, seed]
        events: list[Any] = [
            each(house.ask, given, shown, show_progress="hidden", api_visibility="private")
            for each in (ask.click, question.submit)
        ]
        stop.click(None, cancels=events, api_visibility="private")
        model.change(
            lambda title: _fitted(house, title), [model], [picked, image, passage, shown], show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
    return blocks


def _named(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Titles with keys, as a group of boxes takes them."""
    return [(decoders.get(key).title, key) for key in keys]


def _usual(names: Sequence[str]) -> list[str]:
    return [name for name in (DECODERS if "vcd" in names else ("greedy", "cad")) if name in names]


def _fitted(house: House, title: str) -> list[Any]:
    """What changes with the model: decoders, image or passage; a problem where it cannot be loaded."""
    try:
        names, images = house.fitting(title)
    except SightlineError as error:
        return [gradio.skip(), gradio.skip(), gradio.skip(), view.problem(str(error))]
    boxes = gradio.CheckboxGroup(choices=_named(names), value=_usual(names))
    return [boxes, gradio.Image(visible=images), gradio.Textbox(visible=not images), ""]


def launch(house: House, first: str, host: str, port: int | None) -> tuple[str, gradio.Blocks]:
    """Serve the page: its address, and the page, whose `close()` ends it.

    Args:
        house, first: as for `page`.
        host: the address that is listened on.
        port: None = the first free one from 7860 on.
    """
    theme = Base(font=list(FONTS), font_mono=["ui-monospace", "monospace"])
    theme.set(
        button_primary_background_fill=ACCENT,
        button_primary_background_fill_hover=ACCENT,
        button_primary_background_fill_dark=ACCENT,
        button_primary_text_color="#ffffff",
    )
    blocks = page(house, first).queue(default_concurrency_limit=1)
    _, address, _ = blocks.launch(
        server_name=host, server_port=port, share=False, quiet=True, prevent_thread_lock=True, theme=theme,
        css=view.styles() + _PAGE, footer_links=[], ssr_mode=False, enable_monitoring=False,
    )  # fmt: skip
    return address, blocks
