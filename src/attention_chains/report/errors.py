"""What can be wrong with records that are to be reported together."""

from __future__ import annotations


class ReportError(ValueError):
    """Runs cannot stand in one table. The message says which, what differs, and what to do."""
