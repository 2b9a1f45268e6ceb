"""Typed search parameters, converted to IMAP search keys (RFC 3501, 6.4.4) that values cannot break out of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import from_mapping

__all__ = ["Criteria", "MailSearch"]

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,76}")
_KEYWORD = re.compile(r"\\?[A-Za-z0-9$_.-]{1,76}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_LONGEST = 1000
_DAY = timedelta(days=1)
_TEXTS = {"from_": "FROM", "to": "TO", "cc": "CC", "subject": "SUBJECT", "body": "BODY", "text": "TEXT"}
_FLAGS = {"unseen": ("UNSEEN", "SEEN"), "flagged": ("FLAGGED", "UNFLAGGED"), "answered": ("ANSWERED", "UNANSWERED")}


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """The search keys for the server.

    :param ascii: one line of search keys with quoted values.
    :param wide: keys whose value has non-ASCII characters; they are sent as UTF-8 literals.
    """

    ascii: bytes
    wide: tuple[tuple[bytes, ...], ...] = ()


@dataclass(frozen=True, kw_only=True)
class MailSearch:
    """Conditions on messages, all of which must hold. Messages flagged as deleted never match.

    The server searches texts anywhere in the field, case-insensitively.

    :param from_: text in the sender's name or address; the key is ``from`` in a mapping.
    :param to: text in the To header.
    :param cc: text in the Cc header.
    :param subject: text in the subject.
    :param body: text in the body.
    :param text: text in the headers or the body.
    :param since: received at this time or later; a date, in the server's time zone, or a datetime with a time zone.
    :param before: received before this time.
    :param unseen: True for unread messages, False for read ones.
    :param flagged: True for flagged messages, False for others.
    :param answered: True for answered messages, False for others.
    :param keyword: has this flag.
    :param unkeyword: does not have this flag.
    :param has_attachment: True for messages with an attachment, False for others.
    :param larger: larger than this many bytes.
    :param smaller: smaller than this many bytes.
    :param header: header name -> text in it; an empty text for any value.
    """

    from_: str | None = None
    to: str | None = None
    cc: str | None = None
    subject: str | None = None
    body: str | None = None
    text: str | None = None
    since: str | date | datetime | None = None
    before: str | date | datetime | None = None
    unseen: bool | None = None
    flagged: bool | None = None
    answered: bool | None = None
    keyword: str | None = None
    unkeyword: str | None = None
    has_attachment: bool | None = None
    larger: int | None = None
    smaller: int | None = None
    header: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: MailSearch | Mapping[str, Any] | None) -> MailSearch:
        """Return the search that a parameter describes.

        :raises ConfigError: naming the invalid key; an empty text is refused because it would match every message.
        """
        if isinstance(value, MailSearch):
            search = value
        elif value is None or isinstance(value, Mapping):
            given = {("from_" if name == "from" else name): what for name, what in (value or {}).items()}
            search = from_mapping(cls, given, where="search")
        else:
            raise ConfigError("search must be a mapping", field="search", remedy="write {'subject': 'Invoice'}")
        search.criteria()
        return search

    def to_json(self) -> dict[str, Any]:
        """As :meth:`of` takes it, in JSON; only what is given."""
        values = {name: value for name, value in asdict(self).items() if value not in (None, {})}
        return {name: value.isoformat() if isinstance(value, date) else value for name, value in values.items()}

    @property
    def needs_structure(self) -> bool:
        """Whether :meth:`accepts` must check each message that the server found."""
        return self.has_attachment is not None or any(isinstance(m, datetime) for m in self.limits)

    @property
    def limits(self) -> tuple[date | datetime | None, date | datetime | None]:
        """``since`` and ``before``, read."""
        return _moment(self.since, "since"), _moment(self.before, "before")

    def accepts(self, received: datetime | None, has_attachment: bool) -> bool:
        """Return whether a message that the server found meets the conditions on exact times and attachments."""
        if self.has_attachment is not None and has_attachment is not self.has_attachment:
            return False
        since, before = self.limits
        if received is None:
            return True
        if isinstance(since, datetime) and received < since:
            return False
        return not (isinstance(before, datetime) and received >= before)

    def criteria(self, *, above: int = 0) -> Criteria:
        """The search keys.

        :param above: only messages with a larger UID.
        :raises ConfigError: naming the key to mend.
        """
        keys: list[str] = [f"UID {above + 1}:*"] if above else []
        keys.append("UNDELETED")
        wide: list[tuple[bytes, ...]] = []
        texts = [(key, "", getattr(self, name), name) for name, key in _TEXTS.items()]
        for name, value in self.header.items():
            if not _HEADER.fullmatch(name):
                raise _wrong(f"header {name!r} is not the name of a header", "header")
            texts.append((f"HEADER {name}", "may be empty", value, "header"))
        for key, empty, value, name in texts:
            if value is None:
                continue
            text = _text(value, name, empty=bool(empty))
            if text.isascii():
                keys.append(f"{key} {_quoted(text)}")
            else:
                wide.append((*key.encode().split(), text.encode()))
        return Criteria(ascii=" ".join(keys + self._plain_keys()).encode(), wide=tuple(wide))

    def _plain_keys(self) -> list[str]:
        keys = [_FLAGS[name][not value] for name in _FLAGS if (value := getattr(self, name)) is not None]
        for name in ("keyword", "unkeyword"):
            if (flag := getattr(self, name)) is not None:
                if not isinstance(flag, str) or not _KEYWORD.fullmatch(flag) or flag.startswith("\\"):
                    raise _wrong(f"{name} {flag!r} is no keyword", name)
                keys.append(f"{name.upper()} {flag}")
        for name in ("larger", "smaller"):
            if (size := getattr(self, name)) is not None:
                if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 1 << 32:
                    raise _wrong(f"{name} is {size!r}, not a number of bytes", name)
                keys.append(f"{name.upper()} {size}")
        since, before = self.limits
        # A server's day is that of its own time zone: a moment is asked for with a day to spare, then compared.
        if since is not None:
            keys.append(f"SINCE {_day(since.astimezone(UTC) - _DAY if isinstance(since, datetime) else since)}")
        if before is not None:
            keys.append(f"BEFORE {_day(before.astimezone(UTC) + 2 * _DAY if isinstance(before, datetime) else before)}")
        return keys


def _text(value: Any, name: str, *, empty: bool) -> str:
    if not isinstance(value, str):
        raise _wrong(f"{name} must be a text, not {type(value).__name__}", name)
    if not value and not empty:
        raise _wrong(f"{name} is empty, which would match every message", name)
    if _CONTROL.search(value) or len(value) > _LONGEST:
        raise _wrong(f"{name} holds a line break or another control character, or is longer than {_LONGEST}", name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(f"{name} is not valid Unicode", name) from None
    return value


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _moment(value: Any, name: str) -> date | datetime | None:
    """A date, or a datetime with a time zone; both also as ISO 8601."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value) if len(value) == len("2026-01-31") else datetime.fromisoformat(value)
        except ValueError:
            raise _wrong(f"{name} {value!r} is no ISO 8601 date or time", name) from None
    if not isinstance(value, date):
        raise _wrong(f"{name} must be a date, not {type(value).__name__}", name)
    if isinstance(value, datetime) and value.tzinfo is None:
        raise _wrong(f"{name} has no time zone", name)
    return value


def _day(value: date) -> str:
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    return f"{value.day}-{months[value.month - 1]}-{value.year:04d}"


def _wrong(message: str, name: str) -> ConfigError:
    known = ", ".join("from" if item.name == "from_" else item.name for item in fields(MailSearch))
    return ConfigError(f"search: {message}", field="search", remedy=f"correct {name.rstrip('_')}; known are {known}")
