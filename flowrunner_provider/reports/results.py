"""Results of reports: small, and without values of rows."""

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
    """The outcome of a report.

    :param sent: False if there were no rows and ``skip_if_empty`` was set.
    :param rows: number of rows of the query.
    :param delivered: where the rows are.
    :param message_id: with its angle brackets, the same in every attempt; None without a mail.
    :param accepted: number of recipients for whom the server accepted the mail.
    :param unknown: number of recipients whose outcome is unknown, after ``on_unknown="skip"``.
    """

    sent: bool
    rows: int
    delivered: Delivered
    message_id: str | None
    accepted: int
    unknown: int
