"""Validates addresses and header values; anything unsafe is a ConfigError that names the parameter."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.errors import MessageError, NonASCIILocalPartDefect
from email.header import Header
from email.headerregistry import Address, HeaderRegistry
from email.utils import quote
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load

__all__ = ["Mailbox", "header_lines", "header_text", "mailbox", "mailboxes", "plain_mailbox"]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ENCODED_WORD = re.compile(r"=\?[^?\s]{1,80}\?[BbQq]\?")
_LONGEST_QUOTED = 200  # with its address a line of RFC 5322 has room for it
_LONGEST_WORD = 60
_FOLD = "\r\n "
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[a-z0-9](?:[a-z0-9]|-(?!-)){0,61}(?<!-)"
_PLAIN = re.compile(rf"({_ATOM}(?:\.{_ATOM})*)@({_LABEL}(?:\.{_LABEL})*\.[a-z]{{2,63}})", re.ASCII)
_registry = HeaderRegistry()


@dataclass(frozen=True, kw_only=True)
class Mailbox:
    """One address: ``name <local@domain>``.

    :param name: the display name in plain Unicode; may be empty.
    :param local: the part before the @, quoted if it needs to be.
    :param domain: the part after the @, in ASCII (internationalised names as ``xn--``).
    """

    name: str
    local: str
    domain: str

    @property
    def address(self) -> str:
        """The address as the mail server gets it."""
        return f"{self.local}@{self.domain}"

    @property
    def needs_utf8(self) -> bool:
        """Whether the server must support SMTPUTF8 (RFC 6531)."""
        return not self.local.isascii()

    def header(self) -> str:
        """Return the folded form for a message header; a name is quoted or encoded where necessary."""
        if not self.name:
            return self.address
        if self.name.isascii() and len(self.name) <= _LONGEST_QUOTED:
            return f'"{quote(self.name)}" <{self.address}>'
        name = Header(self.name, "utf-8", maxlinelen=70).encode(linesep="\r\n")
        return f"{name}\r\n <{self.address}>"


def header_text(value: str, field: str) -> str:
    """Return ``value`` unchanged if it is safe as a header's text.

    :param field: the name of the parameter, for the error message.
    :raises ConfigError: for control characters, line breaks of any kind, lone surrogates, and encoded words
        (``=?utf-8?q?...?=``), which mail clients would decode.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{field} must be text, not {type(value).__name__}", field=field)
    if found := _CONTROL.search(value):
        raise ConfigError(
            f"{field} holds the character {found[0]!a}: {value[:80]!a}",
            field=field,
            remedy="a header is one line of text: take line breaks and control characters out of the value",
        )
    if _ENCODED_WORD.search(value):
        raise ConfigError(
            f"{field} holds an encoded word: {value[:80]!a}",
            field=field,
            remedy="write the text itself; it is encoded when the mail is built",
        )
    return value


def header_lines(name: str, value: str | Sequence[Mailbox]) -> bytes:
    """Return a header of the message with its CRLF, from validated text or addresses.

    The folding of ``email.message`` is not used: Python 3.11 and 3.12 lose the quotes of a name that they fold
    (gh-121284), which turns ``"Doe, John"`` into two addresses.
    """
    if not isinstance(value, str):
        return f"{name}: {f',{_FOLD}'.join(box.header() for box in value)}\r\n".encode()
    plain = value.isascii() and all(len(word) <= _LONGEST_WORD for word in value.split(" "))
    header = Header(value, "us-ascii" if plain else "utf-8", header_name=name, maxlinelen=76)
    return f"{name}: {header.encode(linesep=_FOLD[:2])}\r\n".encode()


def mailboxes(value: str | Sequence[str], field: str) -> tuple[Mailbox, ...]:
    """Return the addresses of ``value`` in their order.

    :param value: a list, or comma-separated text as in a mail header; ``"Doe, John" <j@x.org>`` counts as one.
    :raises ConfigError: naming the first invalid address.
    """
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise ConfigError(f"{field} must be a text or a list, not {type(value).__name__}", field=field)
    return tuple(box for text in texts for box in _parsed(text, field) if text != "")


def mailbox(value: str, field: str) -> Mailbox:
    """Return the one address of ``value``.

    :raises ConfigError: if there is none or more than one.
    """
    found = mailboxes(value, field)
    if len(found) != 1:
        raise ConfigError(
            f"{field} must be one address, not {len(found)}",
            field=field,
            remedy="write it as 'reports@example.com' or 'Reports <reports@example.com>'",
        )
    return found[0]


def plain_mailbox(address: str) -> Mailbox | None:
    """Return the mailbox of a plainly valid address, or None if the address needs a full check."""
    found = _PLAIN.fullmatch(address)
    if found and len(found[1]) <= 64 and len(address) <= 254:
        return Mailbox(name="", local=found[1], domain=found[2])
    return None


def _parsed(text: str, field: str) -> list[Mailbox]:
    if not header_text(text, field).strip():
        return []
    if plain := plain_mailbox(text):
        return [plain]
    try:
        header: Any = _registry("To", text)
    except (MessageError, ValueError, IndexError, TypeError, AttributeError) as error:  # its parser breaks, too
        raise _no_address(text, field) from error
    defects = [defect for defect in header.defects if not isinstance(defect, NonASCIILocalPartDefect)]
    if defects or any(group.display_name is not None for group in header.groups):
        raise _no_address(text, field)
    return [_checked(address, text, field) for address in header.addresses]


def _checked(address: Address, text: str, field: str) -> Mailbox:
    validator = load("email_validator", extra="email", needed_for="sending mail")
    try:
        checked = validator.validate_email(
            address.addr_spec,
            check_deliverability=False,
            globally_deliverable=False,
            allow_quoted_local=True,
            allow_domain_literal=True,
        )
    except validator.EmailNotValidError as error:
        raise _no_address(text, field, f" ({error})") from error
    return Mailbox(name=address.display_name, local=checked.local_part, domain=checked.ascii_domain)


def _no_address(text: str, field: str, why: str = "") -> ConfigError:
    return ConfigError(
        f"{field}: {text[:200]!r} is not an address{why}",
        field=field,
        remedy="write a@x.org, or Name <a@x.org>; separate several by commas, and quote a name that has one",
    )
