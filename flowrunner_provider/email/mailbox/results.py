"""Results and choices of the mailbox actions; light enough for a DAG to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flowrunner_provider.data.dataset import Dataset

__all__ = [
    "AfterRead",
    "Body",
    "IfExists",
    "Layout",
    "MailEvent",
    "MailOrganizeResult",
    "MailReadResult",
    "MailWaitResult",
    "Organize",
]

AfterRead = Literal["none", "mark_seen", "move", "delete"]
Body = Literal["none", "text", "html", "both"]
IfExists = Literal["overwrite", "skip", "fail"]
Layout = Literal["flat", "folders"]
Organize = Literal["move", "copy", "flag", "unflag", "mark_seen", "mark_unseen", "delete", "archive"]


@dataclass(frozen=True, kw_only=True)
class MailReadResult:
    """What was read, over all attempts.

    :param messages: number of messages in ``rows`` or ``dataset``.
    :param attachments: number of saved attachments.
    :param bytes: total size of the saved attachments.
    :param gone: messages that someone else deleted in the meantime.
    :param unreadable: messages that the server cannot describe; they were not changed.
    :param too_large: messages that were skipped for their size.
    :param more: whether others matched beyond ``limit``.
    :param expunged: False if the server can only flag messages as deleted and not remove single ones.
    :param rows: the messages, oldest first; empty if they are in ``dataset``.
    :param dataset: the file with the messages, with ``save_to``.
    """

    messages: int
    attachments: int
    bytes: int
    gone: int
    unreadable: int
    too_large: int
    more: bool
    expunged: bool
    rows: list[dict[str, Any]]
    dataset: Dataset | None


@dataclass(frozen=True, kw_only=True)
class MailOrganizeResult:
    """What was done, over all attempts.

    :param messages: number of messages that the operation was applied to.
    :param missing: number of given UIDs without a message.
    :param target_folder: the target folder of copies and moves.
    :param more: whether others matched beyond ``limit``.
    :param expunged: False if the server can only flag messages as deleted and not remove single ones.
    """

    messages: int
    missing: int
    target_folder: str
    more: bool
    expunged: bool


@dataclass(frozen=True, kw_only=True)
class MailWaitResult:
    """The messages that the sensor waited for.

    :param count: number of matching messages.
    :param uidvalidity: the UIDVALIDITY of the UIDs.
    :param messages: sender, subject, time and attachment names of the first 50 messages, oldest first.
    """

    count: int
    uidvalidity: int
    messages: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class MailEvent:
    """A message that arrived.

    :param id: the same whenever the same message is reported again.
    :param folder: its folder.
    :param uidvalidity: the UIDVALIDITY of its UID.
    :param message: its sender, subject, time and attachment names.
    """

    id: str
    folder: str
    uidvalidity: int
    message: dict[str, Any]
