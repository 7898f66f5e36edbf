"""Self-contained pages: templates beside their styles and scripts, hashes that let nothing else run, safe data."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def environment() -> Environment:
    """Templates below this package; what is put into them is escaped, and a name that is missing is an error."""
    return Environment(
        loader=PackageLoader(__package__ or "", "."),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )


def render(made: Environment, template: str, styles: Sequence[str], scripts: Sequence[str], **values: Any) -> str:
    """One page with its styles and scripts in it, and their hashes for its content security policy.

    Args:
        made: of `environment`, with the filters that the template needs.
        template, styles, scripts: files below this package; ours, and nothing of a run in them.
        values: what the template shows.
    """
    style, script = ("".join(map(_asset(made), names)) for names in (styles, scripts))
    return made.get_template(template).render(
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
        version=metadata.version("sightline"),
        **values,
    )


def data(value: Any) -> Markup:
    """JSON for a script element of data: no character in it can end the element, whatever a model said."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.translate(_ESCAPES))


def data_uri(image: Image.Image, form: str = "PNG", **options: Any) -> str:
    """An image as the address of itself."""
    held = io.BytesIO()
    image.save(held, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(held.getvalue()).decode()}"


def _asset(made: Environment) -> Any:
    def read(name: str) -> str:
        assert made.loader is not None
        return made.loader.get_source(made, name)[0]

    return read


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()
