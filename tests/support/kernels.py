"""optimum-quanto without a compiler: a Python kernel in place of the one that it would build at first use.

On a fresh machine that build takes minutes, and it fails where there is no C++ compiler. Both give the same integers.
"""

from functools import cache
from importlib.util import find_spec
from types import SimpleNamespace

import torch


@cache
def python_unpack() -> None:
    """Let quanto unpack integers of two and four bits in Python, in this process; nothing where it is missing."""
    if find_spec("optimum") is None or find_spec("optimum.quanto") is None:
        return
    from optimum.quanto.library.extensions.extension import get_extension  # noqa: PLC0415 (an optional package)

    get_extension("quanto_cpp")._lib = SimpleNamespace(unpack=_unpack)


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """`[n, ...]` bytes -> `[n * 8 / bits, ...]` integers; the lowest bits of all come first."""
    assert packed.dtype == torch.uint8
    return torch.cat([(packed >> place) & (2**bits - 1) for place in range(0, 8, bits)])
