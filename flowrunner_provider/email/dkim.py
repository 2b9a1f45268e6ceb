"""DKIM signatures (RFC 6376) through dkimpy; the same message and date give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesHeaderParser
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load

__all__ = ["DkimSigner"]

_SIGNED = (
    "from", "reply-to", "subject", "date", "message-id", "to", "cc", "mime-version", "content-type",
    "content-transfer-encoding", "in-reply-to", "references", "list-unsubscribe", "list-unsubscribe-post",
)  # fmt: skip
"""What a reader sees or acts upon (RFC 6376, 5.4.1; RFC 8058, 4)."""

_ONCE_MORE = ("from", "subject", "to")
"""Signed once more than they are there, so that nobody can add another one."""

_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*")


@dataclass(frozen=True, kw_only=True)
class DkimSigner:
    """Signs messages for a domain.

    :param domain: the domain whose DNS has the public key at ``<selector>._domainkey.<domain>``.
    :param private_key: an RSA key in PEM.
    :param rewrites: headers that the transport replaces, which are therefore not signed.
    :raises ConfigError: naming the option of the connection to correct.
    """

    domain: str
    selector: str
    private_key: str = field(repr=False)
    rewrites: Collection[str] = ()

    def __post_init__(self) -> None:
        for name in ("domain", "selector"):
            if not _NAME.fullmatch(getattr(self, name)):
                raise ConfigError(
                    f"dkim_{name} {getattr(self, name)!r} is none", field=f"dkim_{name}", remedy="write 'example.com'"
                )
        self(b"From: a@example.com\r\n\r\n.\r\n", datetime(2000, 1, 1, tzinfo=UTC))

    def __call__(self, message: bytes, date: datetime) -> bytes:
        """Return the message with its signature prepended.

        :param date: the message's date, which is also the time of the signature.
        """
        dkim = load("dkim", extra="dkim", needed_for="signing mail with DKIM")
        names = [name.lower() for name in BytesHeaderParser().parsebytes(message).keys()]  # noqa: SIM118 - with repeats
        signed = [name for name in _SIGNED if name in names and name not in self.rewrites]
        signed += [name for name in _ONCE_MORE if name not in self.rewrites]
        signature = self._dated(dkim.DKIM, date)(message)
        try:
            line: bytes = signature.sign(
                self.selector.encode(), self.domain.encode(), self._pem(), include_headers=[n.encode() for n in signed]
            )
        except dkim.DKIMException as error:
            raise ConfigError(
                f"the mail cannot be signed: {type(error).__name__}",
                field="dkim_private_key",
                remedy="put an RSA key of 1024 bits or more into the connection, as PEM",
            ) from error
        return line + message

    def _pem(self) -> bytes:
        text = self.private_key.replace("\r\n", "\n")
        return (text if "\n" in text else text.replace("\\n", "\n")).strip().encode()

    def _dated(self, signature: Any, date: datetime) -> Any:
        """Make dkimpy use the message's date instead of the clock: a message that is sent again must have the same
        bytes."""
        moment = str(int(date.timestamp())).encode()

        class Dated(signature):  # type: ignore[misc]
            def gen_header(self, fields: Any, *rest: Any, **more: Any) -> Any:
                fields[:] = [(name, moment if name == b"t" else value) for name, value in fields]
                return super().gen_header(fields, *rest, **more)

        return Dated
