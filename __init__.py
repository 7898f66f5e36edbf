"""Sightline: training-free decoding that keeps vision-language and language models truthful to their evidence.

import sightline
ids = sightline.generate(model, "vcd", inputs, max_new_tokens=64)
"""

from importlib.metadata import version as _version

from .decoders import VCD, Attachment, CutOnly, Greedy, Sample, Shift, Strategy, attach, generate
from .models import load
from .models.errors import SightlineError

__version__ = _version("sightline")
__all__ = [
    "VCD", "Attachment", "CutOnly", "Greedy", "Sample", "Shift", "SightlineError", "Strategy", "__version__", "attach",
    "generate", "load",
]  # fmt: skip
