"""Letters: many mails that differ in a few words.

What all of them have in common, above all their attachments, is encoded once by the standard library; each
letter is put around it. The same letter gives the same bytes: the boundaries derive from Message-ID and content.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import MIMEPart
from email.utils import format_datetime

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.email.addresses import Mailbox, header_lines, header_text, mailbox, plain_mailbox
from flowrunner_provider.email.attachments import Attachment
from flowrunner_provider.email.message import POLICY

__all__ = ["Letter", "LetterForm", "encoded", "recipient"]

_ODD = bytes([*range(9), 11, 12, *range(14, 32), *range(127, 256)])
_LONGEST_LINE = 990
_ONE_LINE = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """The words of one mail.

    :param html: None for a mail of plain text only.
    :param headers: those that differ from mail to mail.
    :param parts: its own attachments, as :func:`encoded` gives them.
    """

    sender: Mailbox
    to: Mailbox
    subject: str
    text: str
    html: str | None
    headers: Sequence[tuple[str, str]] = ()
    parts: Sequence[bytes] = ()

    @property
    def needs_utf8(self) -> bool:
        return self.to.needs_utf8 or self.sender.needs_utf8


def recipient(address: str, name: str, field: str) -> Mailbox:
    """The one mailbox of a row: its address, which may bring a name of its own, and the name beside it.

    :param field: the column, for the message.
    :raises ConfigError: if it is no address.
    """
    found = plain_mailbox(address)
    if found and not name:
        return found
    found = found or mailbox(address, field)
    return Mailbox(name=header_text(name, field) or found.name, local=found.local, domain=found.domain)


def encoded(attachment: Attachment) -> bytes:
    """The attachment as a part of a message, with its headers."""
    part = MIMEPart(policy=POLICY)
    main, _, sub = attachment.content_type.partition("/")
    part.set_content(attachment.data, maintype=main, subtype=sub, filename=attachment.name, disposition="attachment")
    return part.as_bytes()


class LetterForm:
    """What all letters of a batch have in common.

    :param parts: the attachments, as :func:`encoded` gives them.
    :param date: the Date of all of them, aware.
    """

    def __init__(self, *, sender: Mailbox, reply_to: Sequence[Mailbox], parts: Sequence[bytes], date: datetime) -> None:
        self._first = header_lines("From", [sender])
        if reply_to:
            self._first += header_lines("Reply-To", reply_to)
        self.date = date
        self._second = f"Date: {format_datetime(date)}\r\n".encode()
        self._parts = tuple(parts)

    def build(self, letter: Letter, message_id: str) -> bytes:
        """The bytes of ``letter``: lines that end in CRLF, and ASCII but for addresses that need SMTPUTF8."""
        body = [_part(letter.text, "plain")]
        if letter.html is not None:
            body.append(_part(letter.html, "html"))
        digest = hashlib.sha256(message_id.encode())
        for part in body:  # nobody can write a text that holds the digest of itself
            digest.update(part)
        seed = digest.hexdigest()[:40]
        content = body[0] if len(body) == 1 else _multipart("alternative", f"=_a{seed}", body)
        parts = (*self._parts, *letter.parts)
        if parts:
            content = _multipart("mixed", f"=_m{seed}", (content, *parts))
        head = [self._first, _header("To", letter.to), _header("Subject", letter.subject)]
        head += [_header(name, value) for name, value in letter.headers]
        head.append(self._second)
        head.append(f"Message-ID: {message_id}\r\nMIME-Version: 1.0\r\n".encode())
        head.append(content)
        return b"".join(head)


def _header(name: str, value: str | Mailbox) -> bytes:
    if isinstance(value, Mailbox):
        return header_lines(name, [value])
    if len(value) <= _ONE_LINE and value.isascii() and value.strip() == value:
        return f"{name}: {value}\r\n".encode()
    return header_lines(name, value)


def _multipart(kind: str, boundary: str, parts: Sequence[bytes]) -> bytes:
    line = f"\r\n--{boundary}\r\n".encode()
    head = f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n--{boundary}\r\n'.encode()
    return head + line.join(parts) + f"\r\n--{boundary}--\r\n".encode()


def _part(text: str, subtype: str) -> bytes:
    """A text with its headers; as it is where it is short lines of ASCII."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the {subtype} text holds bytes that are not text", field=subtype) from error
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not data.endswith(b"\n"):
        data += b"\n"
    short = len(data) < _LONGEST_LINE or max(map(len, data.split(b"\n"))) < _LONGEST_LINE
    data, coding = data.replace(b"\n", b"\r\n"), "7bit"
    if not short or len(data.translate(None, _ODD)) < len(data):
        quoted, packed = binascii.b2a_qp(data), base64.encodebytes(data).replace(b"\n", b"\r\n")
        data, coding = (quoted, "quoted-printable") if len(quoted) <= len(packed) else (packed, "base64")
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {coding}\r\n\r\n'
    return head.encode() + data
