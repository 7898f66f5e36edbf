"""The leaderboard of a folder of runs: one HTML page, Markdown and CSV, made without a model."""

from .choices import ABOUT
from .errors import ReportError
from .write import ReportPaths, write_report

__all__ = ["ABOUT", "ReportError", "ReportPaths", "write_report"]
