"""Results of the actions that send mail: small, and cheap to import."""

from __future__ import annotations

from dataclasses import dataclass

from flowrunner_provider.data.dataset import Dataset

__all__ = ["BatchResult", "SendResult", "ValidateResult"]


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """The outcome of a mail.

    :param message_id: with its angle brackets, the same in every attempt.
    :param accepted: number of recipients for whom the server accepted the mail.
    :param refused: the refused recipients; empty whenever the task succeeds.
    :param unknown: number of recipients whose outcome is unknown, after ``on_unknown="skip"``.
    :param subject: the subject of the mail.
    :param invitation_uid: identifies the meeting; None for a mail without an invitation.
    """

    message_id: str
    accepted: int
    refused: list[str]
    unknown: int
    subject: str
    invitation_uid: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """The outcome of a complete batch; the counts add up to ``rows``.

    :param rows: number of rows.
    :param sent: rows whose mail the server accepted, over all attempts.
    :param refused: always 0, because refusals make the task fail.
    :param unknown: rows whose outcome is unknown, after ``on_unknown="skip"``.
    :param skipped: always 0, because rows that were not tried make the task fail.
    :param report: the file with one line per row; None without one.
    :param dead_letter: the file with the rows without a confirmed mail; None without one.
    """

    rows: int
    sent: int
    refused: int
    unknown: int
    skipped: int
    report: str | None
    dead_letter: str | None


@dataclass(frozen=True, kw_only=True)
class ValidateResult:
    """The two files; ``rows`` = rows of ``valid`` + rows of ``invalid``.

    :param rows: number of rows.
    :param valid: the rows with a valid address.
    :param invalid: the other rows, with the reason.
    """

    rows: int
    valid: Dataset
    invalid: Dataset
