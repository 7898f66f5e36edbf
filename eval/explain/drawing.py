"""Boxes, texts and images at places in pixels, written as SVG or painted as PNG: one picture, two forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from markupsafe import escape
from PIL import Image, ImageDraw, ImageFont

from ..pages import data_uri

Role = Literal["paper", "ink", "soft", "rule", "accent", "control", "good", "bad"]
LIGHT: dict[Role, str] = {
    "paper": "#fcfcfa",
    "ink": "#191a1c",
    "soft": "#565a60",
    "rule": "#dcddd8",
    "accent": "#0a57b0",
    "control": "#8b9199",
    "good": "#14663a",
    "bad": "#a32a1c",
}
DARK: dict[Role, str] = {
    "paper": "#131518",
    "ink": "#ecedee",
    "soft": "#a9aeb5",
    "rule": "#363b42",
    "accent": "#79b4ff",
    "control": "#8b9199",
    "good": "#7fd6a3",
    "bad": "#ff9c8c",
}
FONT = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif'
SCALE = 2
"""Pixels of a PNG for each pixel of the drawing."""


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    role: Role


@dataclass(frozen=True)
class Text:
    """One line of text; `x` is its left end, or its right one; `y` its base line."""

    x: float
    y: float
    text: str
    size: int = 14
    role: Role = "ink"
    bold: bool = False
    right: bool = False


@dataclass(frozen=True)
class Picture:
    """An image in its own size."""

    x: float
    y: float
    width: float
    height: float
    image: Image.Image


@dataclass
class Drawing:
    """A picture as a list of marks.

    Attributes:
        width, height: in pixels.
        title: what it shows, for who cannot see it.
        description: the same at length.
    """

    width: int
    height: int
    title: str
    description: str = ""
    marks: list[Box | Text | Picture] = field(default_factory=list)

    def svg(self) -> str:
        """As SVG; colours follow the reader's screen."""
        held = "".join(map(_element, self.marks))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" font-family="{escape(FONT)}">\n'
            f"<title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>\n<style>{_styles()}</style>\n"
            f'<rect class="sl-paper" width="{self.width}" height="{self.height}"/>\n{held}</svg>\n'
        )

    def png(self, dark: bool = False) -> Image.Image:
        """As pixels, `SCALE` for each of the drawing's."""
        palette = DARK if dark else LIGHT
        made = Image.new("RGB", (self.width * SCALE, self.height * SCALE), palette["paper"])
        pen = ImageDraw.Draw(made)
        for mark in self.marks:
            _paint(made, pen, mark, palette)
        return made


def _styles() -> str:
    def rules(palette: dict[Role, str]) -> str:
        return "".join(f".sl-{role}{{fill:{colour}}}" for role, colour in palette.items())

    return f"{rules(LIGHT)}@media (prefers-color-scheme:dark){{{rules(DARK)}}}"


def _element(mark: Box | Text | Picture) -> str:
    if isinstance(mark, Box):
        size = f'width="{mark.width:.1f}" height="{mark.height:.1f}"'
        return f'<rect class="sl-{mark.role}" x="{mark.x:.1f}" y="{mark.y:.1f}" {size}/>\n'
    if isinstance(mark, Picture):
        size = f'width="{mark.width:.0f}" height="{mark.height:.0f}"'
        return f'<image x="{mark.x:.1f}" y="{mark.y:.1f}" {size} href="{data_uri(mark.image)}"/>\n'
    weight = ' font-weight="600"' if mark.bold else ""
    anchor = ' text-anchor="end"' if mark.right else ""
    return (
        f'<text class="sl-{mark.role}" x="{mark.x:.1f}" y="{mark.y:.1f}" font-size="{mark.size}"{weight}{anchor} '
        f'xml:space="preserve">{escape(mark.text)}</text>\n'
    )


def _paint(made: Image.Image, pen: ImageDraw.ImageDraw, mark: Box | Text | Picture, palette: dict[Role, str]) -> None:
    x, y = mark.x * SCALE, mark.y * SCALE
    if isinstance(mark, Box):
        far = (x + max(1.0, mark.width * SCALE) - 1, y + max(1.0, mark.height * SCALE) - 1)
        pen.rectangle((x, y, *far), fill=palette[mark.role])
    elif isinstance(mark, Picture):
        size = (round(mark.width * SCALE), round(mark.height * SCALE))
        made.paste(mark.image.resize(size, Image.Resampling.NEAREST), (round(x), round(y)))
    else:
        font = ImageFont.load_default(mark.size * SCALE)
        width = 1 if mark.bold else 0
        colour = palette[mark.role]
        text = mark.text.replace("\u00a0", " ")  # the font has none
        pen.text((x, y), text, colour, font, anchor="rs" if mark.right else "ls", stroke_width=width * 0.4)
