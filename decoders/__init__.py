"""Decoding strategies, their controls, and the engine that runs them."""

from .attachment import Attachment
from .controls import CutOnly, Greedy, Sample, Shift
from .generate import attach, generate
from .registry import build, get, names, register
from .strategy import Branch, HeadEdit, Plan, Request, Step, Strategy
from .vcd import VCD

__all__ = [
    "VCD", "Attachment", "Branch", "CutOnly", "Greedy", "HeadEdit", "Plan", "Request", "Sample", "Shift", "Step",
    "Strategy", "attach", "build", "generate", "get", "names", "register",
]  # fmt: skip
