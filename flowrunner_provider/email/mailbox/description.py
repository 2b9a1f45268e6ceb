"""Describes messages by their headers, parts and sizes, without downloading their content."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import Message as RawHeaders
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import IntegrityError
from flowrunner_provider.email.mailbox.imap import ImapSession
from flowrunner_provider.email.mailbox.text import addresses, header_text, parameter

__all__ = ["Message", "Part", "describe", "identity_of", "matches"]

_HEADERS = ("From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID")
_MOST_HEADER = 65_536
_DEEPEST = 50


class _AsItCame(policy.Compat32):
    """Headers are given as they stand: what the standard library makes of raw bytes cannot be read any further."""

    def header_fetch_parse(self, name: str, value: str) -> str:
        return value


_POLICY = _AsItCame()
_TYPES = mimetypes.MimeTypes()  # not the files of this machine: every worker must tell the same suffix


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One part of a message.

    :param number: the IMAP section number, e.g. ``1.2``.
    :param name: the sender's name for it, or one derived from its type; never safe as a file name.
    :param size: encoded bytes.
    :param attached: whether it is an attachment and not an image of the text.
    """

    number: str
    content_type: str
    charset: str
    encoding: str
    size: int
    name: str
    attached: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message.

    :param identity: a short digest that is the same in every folder and under every UID.
    :param received: when the server received it.
    """

    uid: int
    identity: str
    message_id: str
    size: int
    received: datetime | None
    seen: bool
    headers: RawHeaders = field(repr=False)
    parts: tuple[Part, ...]

    @property
    def attachments(self) -> tuple[Part, ...]:
        return tuple(part for part in self.parts if part.attached)

    def body(self, kind: str) -> Part | None:
        """Return the first text part of this kind, ``plain`` or ``html``, that is not an attachment."""
        wanted = f"text/{kind}"
        return next((part for part in self.parts if part.content_type == wanted and not part.attached), None)

    def row(self, extra_headers: Sequence[str] = ()) -> dict[str, Any]:
        """Return the message as a row of a result."""
        headers = self.headers
        row: dict[str, Any] = {
            "uid": self.uid,
            "message_id": self.message_id,
            "from": addresses(headers.get_all("From", [])),
            "to": addresses(headers.get_all("To", [])),
            "cc": addresses(headers.get_all("Cc", [])),
            "subject": header_text(headers["Subject"]),
            "date": _date(headers["Date"]),
            "received": self.received.isoformat() if self.received else None,
            "size": self.size,
        }
        if extra_headers:
            row["headers"] = {
                name: [header_text(value) for value in headers.get_all(name, [])] for name in extra_headers
            }
        return row


def matches(name: str, pattern: str | None) -> bool:
    """Return whether a name matches a glob, case-insensitively; without a pattern every name does."""
    return pattern is None or fnmatchcase(name.casefold(), pattern.casefold())


async def describe(session: ImapSession, uids: Sequence[int], headers: Sequence[str] = ()) -> dict[int, Message | None]:
    """Return the messages that still exist, by UID; None for one that the server cannot describe.

    :param headers: additional headers to read.
    """
    names = " ".join(dict.fromkeys(name.upper() for name in (*_HEADERS, *headers)))
    items = [
        "RFC822.SIZE", "INTERNALDATE", "FLAGS", "BODYSTRUCTURE",
        f"BODY.PEEK[HEADER.FIELDS ({names})]<0.{_MOST_HEADER}>",
    ]  # fmt: skip
    try:
        answers = await session.fetch(uids, items)
        return {uid: _message(uid, answer) for uid, answer in answers.items() if b"BODYSTRUCTURE" in answer}
    except IntegrityError:
        if len(uids) == 1:
            return {uids[0]: None}
    described: dict[int, Message | None] = {}
    for uid in uids:
        described |= await describe(session, [uid], headers)
    return described


def identity_of(message_id: str, received: datetime | None, size: int) -> str:
    """Return eight characters that identify a message: by its Message-ID, or by time and size if it has none."""
    known = message_id or f"{received.astimezone(UTC).isoformat() if received else ''} {size}"
    return fingerprint("mail", known)[:8]


def _message(uid: int, answer: Mapping[bytes, Any]) -> Message | None:
    raw = next((value for name, value in answer.items() if name.upper().startswith(b"BODY[HEADER")), b"")
    headers = message_from_bytes(raw if isinstance(raw, bytes) else b"", policy=_POLICY)
    message_id = header_text(headers["Message-ID"])[:998]
    received, size = answer.get(b"INTERNALDATE"), int(answer.get(b"RFC822.SIZE") or 0)
    parts: list[Part] = []
    try:
        _walk(answer[b"BODYSTRUCTURE"], "", parts)
    except (IndexError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    return Message(
        uid=uid, identity=identity_of(message_id, received, size), message_id=message_id, size=size,
        received=received, seen=b"\\Seen" in answer.get(b"FLAGS", ()), headers=headers, parts=tuple(parts),
    )  # fmt: skip


def _walk(body: Any, number: str, parts: list[Part]) -> None:
    """Put the parts of a BODYSTRUCTURE (RFC 3501, section 7.4.2) into ``parts``."""
    if number.count(".") > _DEEPEST:
        raise ValueError("parts within parts without end")
    if body.is_multipart:
        for index, child in enumerate(body[0], 1):
            _walk(child, f"{number}.{index}" if number else str(index), parts)
        return
    main, sub = _lower(body[0]), _lower(body[1])
    parameters, content_id = _pairs(body[2]), body[3]
    disposition, described = _disposition(body)
    name = parameter(described, "filename") or parameter(parameters, "name")
    picture = main == "image" and content_id is not None and disposition != "attachment"
    attached = disposition == "attachment" or (bool(name) and not picture) or main == "message"
    parts.append(
        Part(
            number=number or "1",
            content_type=f"{main}/{sub}",
            charset=parameter(parameters, "charset"),
            encoding=_lower(body[5]),
            size=int(body[6] or 0),
            name=name or f"attachment{_suffix(f'{main}/{sub}')}",
            attached=attached,
        )
    )


def _disposition(body: Any) -> tuple[str, list[tuple[str, str]]]:
    """Found by its shape, as its place differs from type to type: a pair of a word and a list, or NIL."""
    for item in body[7:]:
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], bytes) and _is_list(item[1]):
            word = _lower(item[0])
            if word.isalpha():
                return word, _pairs(item[1])
    return "", []


def _is_list(value: Any) -> bool:
    return value is None or isinstance(value, tuple)


def _pairs(values: Any) -> list[tuple[str, str]]:
    texts = [_text(value) for value in values or ()]
    return list(zip(texts[::2], texts[1::2], strict=False))


def _text(value: Any) -> str:
    """Bytes beyond ASCII stay recognisable, so that :func:`header_text` can tell what they are."""
    return value.decode("ascii", "surrogateescape") if isinstance(value, bytes) else str(value or "")


def _lower(value: Any) -> str:
    return _text(value).lower()


def _suffix(content_type: str) -> str:
    return ".eml" if content_type.startswith("message/") else _TYPES.guess_extension(content_type) or ".bin"


def _date(raw: Any) -> str | None:
    """The Date header in ISO 8601, as far as it is a date."""
    try:
        return parsedate_to_datetime(header_text(raw)).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
