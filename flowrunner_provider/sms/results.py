"""What the SMS actions return."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DeliveryReport", "SmsResult"]


@dataclass(frozen=True, kw_only=True)
class SmsResult:
    """Messages of which each is settled; refusals are an error. ``recipients`` = sent + duplicates + unknown.

    :param vendor: whose API took them.
    :param recipients: how many rows there were.
    :param sent: how many messages the vendor has taken, over all attempts.
    :param duplicates: rows with the number and text of an earlier row, which were left out.
    :param unknown: of whom nobody knows, after ``on_unknown="skip"``.
    :param segments: what the sent messages are billed as.
    :param message_ids: the vendor's ids, in the order of the rows; for ``sms.wait_delivery``.
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
    """What became of messages that the vendor had taken.

    :param messages: how many.
    :param statuses: message id -> the vendor's status, one of the success states.
    """

    messages: int
    statuses: dict[str, str]
