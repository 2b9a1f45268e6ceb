"""Builds the mails of a batch, which differ in a few words only.

The shared attachments are encoded once by the standard library; the text of each mail is assembled around them. Equal
input gives equal bytes, because the MIME boundaries are derived from Message-ID and content.
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

__all__ = ["RowMail", "RowMailBuilder", "encode_attachment", "parse_recipient"]

_NOT_7BIT = bytes([*range(9), 11, 12, *range(14, 32), *range(127, 256)])
_LONGEST_LINE = 990
_SHORT_HEADER = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RowMail:
    """The content of one row's mail.

    :param html: None for a mail of plain text only.
    :param headers: the additional headers.
    :param parts: this row's attachments, as :func:`encode_attachment` returns them.
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


def parse_recipient(address: str, name: str, field: str) -> Mailbox:
    """Return the mailbox of a row.

    :param address: may have a display name itself, which ``name`` overrides.
    :param field: the column, for the error message.
    :raises ConfigError: if it is not one valid address.
    """
    found = plain_mailbox(address)
    if found and not name:
        return found
    found = found or mailbox(address, field)
    return Mailbox(name=header_text(name, field) or found.name, local=found.local, domain=found.domain)


def encode_attachment(attachment: Attachment) -> bytes:
    """Return the attachment as a MIME part with its headers."""
    part = MIMEPart(policy=POLICY)
    main, _, sub = attachment.content_type.partition("/")
    part.set_content(attachment.data, maintype=main, subtype=sub, filename=attachment.name, disposition="attachment")
    return part.as_bytes()


class RowMailBuilder:
    """Builds the messages of a batch around their common parts.

    :param parts: the shared attachments, as :func:`encode_attachment` returns them.
    :param date: the Date header of all messages, aware.
    """

    def __init__(self, *, sender: Mailbox, reply_to: Sequence[Mailbox], parts: Sequence[bytes], date: datetime) -> None:
        self._sender_headers = header_lines("From", [sender])
        if reply_to:
            self._sender_headers += header_lines("Reply-To", reply_to)
        self.date = date
        self._date_header = f"Date: {format_datetime(date)}\r\n".encode()
        self._parts = tuple(parts)

    def build(self, mail: RowMail, message_id: str) -> bytes:
        """Return the message with CRLF line ends; it is ASCII unless an address needs SMTPUTF8."""
        body = [_part(mail.text, "plain")]
        if mail.html is not None:
            body.append(_part(mail.html, "html"))
        digest = hashlib.sha256(message_id.encode())
        for part in body:  # no text can contain a digest of itself, so no boundary occurs in a body
            digest.update(part)
        seed = digest.hexdigest()[:40]
        content = body[0] if len(body) == 1 else _multipart("alternative", f"=_a{seed}", body)
        parts = (*self._parts, *mail.parts)
        if parts:
            content = _multipart("mixed", f"=_m{seed}", (content, *parts))
        head = [self._sender_headers, _header("To", mail.to), _header("Subject", mail.subject)]
        head += [_header(name, value) for name, value in mail.headers]
        head.append(self._date_header)
        head.append(f"Message-ID: {message_id}\r\nMIME-Version: 1.0\r\n".encode())
        head.append(content)
        return b"".join(head)


def _header(name: str, value: str | Mailbox) -> bytes:
    if isinstance(value, Mailbox):
        return header_lines(name, [value])
    if len(value) <= _SHORT_HEADER and value.isascii() and value.strip() == value:
        return f"{name}: {value}\r\n".encode()
    return header_lines(name, value)


def _multipart(kind: str, boundary: str, parts: Sequence[bytes]) -> bytes:
    line = f"\r\n--{boundary}\r\n".encode()
    head = f'Content-Type: multipart/{kind}; boundary="{boundary}"\r\n\r\n--{boundary}\r\n'.encode()
    return head + line.join(parts) + f"\r\n--{boundary}--\r\n".encode()


def _part(text: str, subtype: str) -> bytes:
    """Return a text part with its headers, in 7bit if it is ASCII in short lines, else in the shorter encoding."""
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the {subtype} text has lone surrogates, which cannot be encoded", field=subtype) from error
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not data.endswith(b"\n"):
        data += b"\n"
    short = len(data) < _LONGEST_LINE or max(map(len, data.split(b"\n"))) < _LONGEST_LINE
    data, coding = data.replace(b"\n", b"\r\n"), "7bit"
    if not short or len(data.translate(None, _NOT_7BIT)) < len(data):
        quoted, packed = binascii.b2a_qp(data), base64.encodebytes(data).replace(b"\n", b"\r\n")
        data, coding = (quoted, "quoted-printable") if len(quoted) <= len(packed) else (packed, "base64")
    head = f'Content-Type: text/{subtype}; charset="utf-8"\r\nContent-Transfer-Encoding: {coding}\r\n\r\n'
    return head.encode() + data
