"""Sightline: training-free decoding that keeps vision-language and language models truthful to their evidence.

    import sightline
    ids = sightline.generate(model, "vcd", inputs, max_new_tokens=64)

Names are imported when they are first used: `import sightline` alone loads neither torch nor transformers.
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import decoders, eval, models
    from .decoders import (
        AVC,
        CAD,
        CGVLM,
        CODE,
        DAGCD,
        HICD,
        IAVA,
        VCD,
        Approximate,
        Attachment,
        CausalMM,
        CutOnly,
        DeCoRe,
        DoLa,
        Greedy,
        MaskedOnly,
        RandomHeads,
        Sample,
        Shift,
        Strategy,
        Together,
        attach,
        generate,
        score,
        trace,
    )
    from .eval.explain import explain
    from .models import load
    from .models.errors import SightlineError
    from .models.spans import passages

__version__ = _version("sightline")
_HOMES = {"explain": "eval.explain", "load": "models", "SightlineError": "models.errors", "passages": "models.spans"}
__all__ = [
    "AVC",
    "CAD",
    "CGVLM",
    "CODE",
    "DAGCD",
    "HICD",
    "IAVA",
    "VCD",
    "Approximate",
    "Attachment",
    "CausalMM",
    "CutOnly",
    "DeCoRe",
    "DoLa",
    "Greedy",
    "MaskedOnly",
    "RandomHeads",
    "Sample",
    "Shift",
    "SightlineError",
    "Strategy",
    "Together",
    "__version__",
    "attach",
    "decoders",
    "eval",
    "explain",
    "generate",
    "load",
    "models",
    "passages",
    "score",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in ("decoders", "eval", "models"):
        return _import_module(f".{name}", __name__)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f".{_HOMES.get(name, 'decoders')}", __name__), name)


def __dir__() -> list[str]:
    return __all__
