"""Decoding strategies, their controls, and the engine that runs them."""

from .approximate import Approximate, approximated
from .attachment import Attachment
from .avc import AVC
from .cad import CAD
from .causalmm import CausalMM
from .cgvlm import CGVLM
from .code import CODE
from .controls import CutOnly, Greedy, Sample, Shift
from .dagcd import DAGCD
from .decore import DeCoRe
from .dola import DoLa
from .generate import attach, generate, trace
from .head_controls import MaskedOnly, RandomHeads
from .hicd import HICD
from .iava import IAVA
from .plan import Branch, HeadEdit, MapEdit, Plan, Request, Step
from .registry import build, get, names, register
from .scoring import score
from .strategy import Strategy
from .together import Together
from .vcd import VCD

__all__ = [
    "AVC", "CAD", "CGVLM", "CODE", "DAGCD", "HICD", "IAVA", "VCD", "Approximate", "Attachment", "Branch", "CausalMM",
    "CutOnly", "DeCoRe", "DoLa", "Greedy", "HeadEdit", "MapEdit", "MaskedOnly", "Plan", "RandomHeads", "Request",
    "Sample", "Shift", "Step", "Strategy", "Together", "approximated", "attach", "build", "generate", "get", "names",
    "register", "score", "trace",
]  # fmt: skip
