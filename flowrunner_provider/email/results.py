"""What the actions that send mail return: small, and cheap to import."""

from __future__ import annotations

from dataclasses import dataclass

from flowrunner_provider.data.dataset import Dataset

__all__ = ["BatchResult", "SendResult", "ValidateResult"]


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """What became of a mail.

    :param message_id: with its angle brackets, the same in every attempt.
    :param accepted: recipients for whom the server took the mail.
    :param refused: recipients that were refused; empty whenever the task succeeds.
    :param unknown: recipients of whom nobody knows, after ``on_unknown="skip"``.
    :param invitation_uid: names the meeting; None for a mail that invites to none.
    """

    message_id: str
    accepted: int
    refused: list[str]
    unknown: int
    subject: str
    invitation_uid: str | None = None


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """A batch of which every row is settled; one with refusals is an error. The counts add up to ``rows``.

    :param rows: how many there were.
    :param sent: whose mail the server took, over all attempts.
    :param refused: 0: refusals make the task fail.
    :param unknown: of whom nobody knows, after ``on_unknown="skip"``.
    :param skipped: 0: rows that were not tried make the task fail.
    :param report: the file with a line per row; None without one.
    :param dead_letter: the file with the rows without a mail; None without one.
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
    """Where the rows are; ``rows`` = rows of ``valid`` + rows of ``invalid``.

    :param valid: the rows whose address is good.
    :param invalid: the others, with the reason.
    """

    rows: int
    valid: Dataset
    invalid: Dataset
