"""Composes and validates mails, and builds their bytes (RFC 5322) with the standard library.

The same mail, Message-ID and date give the same bytes, because MIME boundaries are derived from the content and the
Message-ID. Bcc belongs to the envelope and never becomes a header.
"""

from __future__ import annotations

import email.policy
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from email.message import EmailMessage
from functools import cached_property
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.email.addresses import Mailbox, header_lines, header_text, mailbox, mailboxes
from flowrunner_provider.email.attachments import Attachment
from flowrunner_provider.email.calendar import Invitation, invitation
from flowrunner_provider.email.plain_text import html_to_text

__all__ = ["MAX_RECIPIENTS", "MAX_TOTAL_SIZE", "POLICY", "Mail", "build", "compose", "header_name"]

MAX_TOTAL_SIZE = 20 * 1024 * 1024
"""Encoded bytes: what the large mail services take at least."""

MAX_RECIPIENTS = 1000
"""What the ledger can keep an outcome of for each, and what large mail services allow."""

POLICY = email.policy.SMTP.clone(cte_type="7bit")
_HEADER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,75}")
_OURS = {
    "from": "from_email",
    "sender": "from_email",
    "to": "to",
    "cc": "cc",
    "bcc": "bcc",
    "reply-to": "reply_to",
    "subject": "subject",
}
_NOBODYS = frozenset({"date", "message-id", "mime-version", "received", "return-path"})
_CID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Mail:
    """A validated message: every instance that :func:`compose` returns can be built.

    :param html: None for a plain-text mail.
    :param text: the plain text, which every mail has.
    :param inline: pairs of content id and image, for ``<img src="cid:...">``.
    """

    sender: Mailbox
    to: tuple[Mailbox, ...]
    cc: tuple[Mailbox, ...]
    bcc: tuple[Mailbox, ...]
    reply_to: tuple[Mailbox, ...]
    subject: str
    text: str
    html: str | None
    attachments: tuple[Attachment, ...]
    inline: tuple[tuple[str, Attachment], ...]
    headers: tuple[tuple[str, str], ...]
    invitation: Invitation | None = None

    @cached_property
    def recipients(self) -> tuple[str, ...]:
        """The distinct addresses of To, Cc and Bcc."""
        return tuple(dict.fromkeys(box.address for box in (*self.to, *self.cc, *self.bcc)))

    @property
    def needs_utf8(self) -> bool:
        """Whether an address has non-ASCII characters before its @, so that the server must support SMTPUTF8."""
        boxes = (self.sender, *self.to, *self.cc, *self.bcc, *self.reply_to)
        return any(box.needs_utf8 for box in boxes)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that is sent except the date; attachments count by the SHA-256 of their bytes."""
        return fingerprint(
            [(box.name, box.address) for box in (self.sender, *self.reply_to)],
            *([(box.name, box.address) for box in boxes] for boxes in (self.to, self.cc, self.bcc)),
            [self.subject, self.text, self.html, self.headers],
            [(part.name, part.content_type, part.sha256) for part in self.attachments],
            [(cid, part.name, part.content_type, part.sha256) for cid, part in self.inline],
            *([self.invitation.identity] if self.invitation else []),
        )


def compose(
    *,
    sender: str,
    to: str | Sequence[str] = (),
    cc: str | Sequence[str] = (),
    bcc: str | Sequence[str] = (),
    reply_to: str | Sequence[str] = (),
    subject: str,
    text: str | None = None,
    html: str | None = None,
    attachments: Sequence[Attachment] = (),
    inline: Mapping[str, Attachment] | None = None,
    headers: Mapping[str, str] | None = None,
    meeting: Mapping[str, Any] | None = None,
) -> Mail:
    """Validate the parameters and return the mail.

    :raises ConfigError: naming the parameter to correct.
    """
    if text is None and html is None:
        raise ConfigError("the mail has no content", field="html", remedy="give html, text or template")
    if inline and html is None:
        raise ConfigError("inline_images need an HTML body", field="inline_images", remedy="give html")
    mail = Mail(
        sender=mailbox(sender, "from_email"),
        to=mailboxes(to, "to"),
        cc=mailboxes(cc, "cc"),
        bcc=mailboxes(bcc, "bcc"),
        reply_to=mailboxes(reply_to, "reply_to"),
        subject=header_text(subject, "subject"),
        text=_body(html_to_text(html or "") if text is None else text, "text"),
        html=None if html is None else _body(html, "html"),
        attachments=tuple(attachments),
        inline=tuple((_cid(cid), part) for cid, part in (inline or {}).items()),
        headers=tuple((header_name(name), header_text(value, "headers")) for name, value in (headers or {}).items()),
    )
    if meeting is not None:
        people = (*mail.to, *mail.cc)
        invited = invitation(meeting, subject=mail.subject, sender=mail.sender, people=people)
        mail = replace(mail, invitation=invited)
    if not mail.recipients:
        raise ConfigError("the mail has no recipient", field="to", remedy="give to, cc or bcc")
    if len(mail.recipients) > MAX_RECIPIENTS:
        raise ConfigError(
            f"{len(mail.recipients)} recipients are too many for one mail",
            field="to",
            remedy=f"send to {MAX_RECIPIENTS} at most, e.g. with dynamic task mapping, or to a mailing list",
        )
    return mail


def _body(value: str, field: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{field} must be text, not {type(value).__name__}", field=field)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{field} holds bytes that are not text", field=field) from error
    return value


def header_name(name: str) -> str:
    """Return ``name`` if users may set this header.

    :raises ConfigError: naming ``headers``.
    """
    lower = str(name).lower()
    if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
        raise ConfigError(f"{str(name)[:80]!r} is not a header name", field="headers", remedy="write 'X-Topic'")
    if lower in _OURS:
        raise ConfigError(
            f"the header {name!r} has a parameter of its own", field="headers", remedy=f"use {_OURS[lower]}"
        )
    if lower in _NOBODYS or lower.startswith(("content-", "resent-")):
        raise ConfigError(f"the header {name!r} is set when the mail is built", field="headers", remedy="leave it out")
    return name


def _cid(cid: str) -> str:
    if not isinstance(cid, str) or not _CID.fullmatch(cid):
        raise ConfigError(
            f"{str(cid)[:80]!r} is not a content id",
            field="inline_images",
            remedy="""use letters and digits, e.g. "logo" for <img src="cid:logo">""",
        )
    return cid


def build(mail: Mail, message_id: str, date: datetime) -> bytes:
    """Return the bytes of ``mail`` with CRLF line ends; they are ASCII unless an address needs SMTPUTF8.

    :param message_id: with its angle brackets.
    :param date: the Date header, aware.
    """
    lines = [header_lines("From", [mail.sender])]
    for name, boxes in (("To", mail.to), ("Cc", mail.cc), ("Reply-To", mail.reply_to)):
        if boxes:
            lines.append(header_lines(name, boxes))
    lines.append(header_lines("Subject", mail.subject))
    lines += [header_lines(name, value) for name, value in mail.headers]
    message = EmailMessage(policy=POLICY)
    message["Date"] = date
    message["Message-ID"] = message_id
    message.set_content(mail.text)
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html")
        _add_pictures(message, mail.inline)
    if mail.invitation is not None:  # the last alternative is the one that a reader who knows all prefers
        text, method = mail.invitation.text(message_id, date), mail.invitation.method
        message.add_alternative(text, subtype="calendar", params={"method": method})
    for part in mail.attachments:
        main, _, sub = part.content_type.partition("/")
        message.add_attachment(part.data, maintype=main, subtype=sub, filename=part.name)
    seed = f"{message_id}\0{mail.fingerprint}"
    for number, each in enumerate(message.walk()):
        if each.is_multipart():
            digest = hashlib.sha256(f"{seed}\0{number}".encode()).hexdigest()
            each.set_boundary(f"=_{digest[:40]}")
    return b"".join(lines) + message.as_bytes()


def _add_pictures(message: EmailMessage, inline: Sequence[tuple[str, Attachment]]) -> None:
    html = message.get_body(("html",))
    if html is None:
        return
    for cid, part in inline:
        main, _, sub = part.content_type.partition("/")
        html.add_related(
            part.data, maintype=main, subtype=sub, filename=part.name, cid=f"<{cid}>", disposition="inline"
        )
