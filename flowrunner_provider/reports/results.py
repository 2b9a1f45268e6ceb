"""What reports return: small, and without values of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Delivered", "ReportFormat", "ReportResult"]

ReportFormat = Literal["html_table", "csv", "xlsx"]
"""How the rows are shown."""

Delivered = Literal["inline", "attached", "nothing"]
"""Where the rows are: in the mail, in a file that is attached, or there was no mail."""


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """What became of a report.

    :param sent: False when there were no rows and ``skip_if_empty`` was set.
    :param rows: of the query.
    :param delivered: where they are.
    :param message_id: with its angle brackets, the same in every attempt; None without a mail.
    :param accepted: recipients for whom the server took the mail.
    :param unknown: recipients of whom nobody knows, after ``on_unknown="skip"``.
    """

    sent: bool
    rows: int
    delivered: Delivered
    message_id: str | None
    accepted: int
    unknown: int
