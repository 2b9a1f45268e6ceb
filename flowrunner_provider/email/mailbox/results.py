"""What the actions on mailboxes return; light enough for a DAG to import."""

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

    :param messages: how many messages are in ``rows`` or ``dataset``.
    :param attachments: how many of their attachments were saved.
    :param bytes: of these attachments.
    :param gone: messages that somebody else removed meanwhile.
    :param unreadable: messages that the server cannot describe; they were left alone.
    :param too_large: messages that were left alone for their size.
    :param more: others matched beyond ``limit``.
    :param expunged: False when the server can only flag messages as deleted, and not remove single ones.
    :param rows: the messages, oldest first; empty when they are in ``dataset``.
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

    :param messages: how many messages it was done to.
    :param missing: how many of the given UIDs are no messages.
    :param target_folder: where they are, for copies and moves.
    :param more: others matched beyond ``limit``.
    :param expunged: False when the server can only flag messages as deleted, and not remove single ones.
    """

    messages: int
    missing: int
    target_folder: str
    more: bool
    expunged: bool


@dataclass(frozen=True, kw_only=True)
class MailWaitResult:
    """What was waited for.

    :param count: how many messages match.
    :param uidvalidity: the UIDs are good together with it.
    :param messages: those messages, oldest first, or the first 50 of them: who, what, when, and the names of the
        attachments.
    """

    count: int
    uidvalidity: int
    messages: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class MailEvent:
    """A message that came.

    :param id: the same whenever the same message is told again.
    :param folder: where it is.
    :param message: who, what, when, and the names of the attachments.
    """

    id: str
    folder: str
    uidvalidity: int
    message: dict[str, Any]
