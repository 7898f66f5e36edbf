"""What a strategy measures once per model: rankings of attention heads, their files, and how they are made."""

from .errors import CalibrationFailed, CalibrationInvalid, CalibrationMismatch, CalibrationMissing
from .images import rank_image_heads
from .importance import Triple
from .inducing import Importance
from .lists import find, names
from .ranking import HeadRanking, fingerprint, load, rank
from .retrieval import Detection, detect
from .threshold import Threshold

__all__ = [
    "CalibrationFailed", "CalibrationInvalid", "CalibrationMismatch", "CalibrationMissing", "Detection", "HeadRanking",
    "Importance", "Threshold", "Triple", "detect", "find", "fingerprint", "load", "names", "rank", "rank_image_heads",
]  # fmt: skip
