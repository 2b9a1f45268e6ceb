"""What the SMS actions return."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DeliveryReport", "SmsResult"]


@dataclass(frozen=True, kw_only=True)
class SmsResult:
    """The outcome of a complete task. ``recipients`` = sent + duplicates + unknown.

    :param vendor: display name of the vendor.
    :param recipients: number of rows.
    :param sent: number of messages that the vendor accepted, over all attempts.
    :param duplicates: rows that were skipped because an earlier row has the same number and text.
    :param unknown: messages whose outcome is unknown, after ``on_unknown="skip"``.
    :param segments: number of billed segments.
    :param message_ids: the vendor's ids in the order of the rows; for ``sms.wait_delivery``.
    """

    vendor: str
    recipients: int
    sent: int
    duplicates: int
    unknown: int
    segments: int
    message_ids: list[str]


@dataclass(frozen=True, kw_only=True)
class DeliveryReport:
    """The delivery statuses of the messages.

    :param messages: number of messages.
    :param statuses: message id -> the vendor's status, one of the success states.
    """

    messages: int
    statuses: dict[str, str]
