"""What can stop a report."""

from __future__ import annotations

from ...models.errors import SightlineError


class ReportError(SightlineError, ValueError):
    """There is nothing to report on, or the report cannot be written."""

    __str__ = Exception.__str__
