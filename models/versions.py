"""What differs between the versions of transformers that are served."""

from __future__ import annotations

import transformers

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
CACHE = "cache" if VERSION >= (5, 24) else "past_key_values"
"""What models call the cache, among the arguments of their forwards and in their outputs."""
PIECES = VERSION >= (5, 23)
"""Whether a prompt with images may be prefilled in pieces; older versions lose the images."""
