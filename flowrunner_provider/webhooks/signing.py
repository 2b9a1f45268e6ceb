"""Signatures of outgoing webhooks: Standard Webhooks 1.0.0, and plain HMAC in its common variants.

Each try is signed anew: the message id stays the same, the timestamp is that of the try.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Literal, Protocol

from flowrunner_provider.core.errors import ConfigError

__all__ = ["Algorithm", "Encoding", "PlainHmac", "Signer", "StandardWebhooks", "Unsigned"]

Algorithm = Literal["sha256", "sha512"]
Encoding = Literal["hex", "base64"]

_PLACEHOLDERS = re.compile(r"(\{(?:id|timestamp|body)\})")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_PREFIX = "whsec_"
_ASYMMETRIC = ("whsk_", "whpk_")


class Signer(Protocol):
    """Creates the headers that identify a message and prove its origin."""

    @property
    def signs(self) -> bool:
        """False if messages are not signed."""

    @property
    def header_names(self) -> frozenset[str]:
        """The headers that the signer sets, in lower case."""

    def check_id(self, message_id: str) -> None:
        """Raise unless the scheme can carry this id."""

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """Return the headers of one try; ``timestamp`` is its Unix time."""


@dataclass(frozen=True, kw_only=True)
class Unsigned:
    """Sends only the id, so that the receiver can deduplicate.

    :param id_header: header that carries the id.
    """

    id_header: str = "webhook-id"
    signs: bool = False

    def __post_init__(self) -> None:
        _check_header("id_header", self.id_header)

    @property
    def header_names(self) -> frozenset[str]:
        return frozenset({self.id_header.lower()})

    def check_id(self, message_id: str) -> None:
        """Accept any id."""

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        del timestamp, body
        return {self.id_header: message_id}


@dataclass(frozen=True, kw_only=True)
class StandardWebhooks:
    """The symmetric scheme ``v1`` of https://www.standardwebhooks.com.

    :param secrets: each ``whsec_`` followed by base64; during a rotation, the message is signed with every secret.
    """

    secrets: tuple[str, ...] = field(repr=False)
    signs: bool = True

    def __post_init__(self) -> None:
        for secret in self.secrets:
            _standard_key(secret)

    @property
    def header_names(self) -> frozenset[str]:
        return frozenset({"webhook-id", "webhook-timestamp", "webhook-signature"})

    def check_id(self, message_id: str) -> None:
        """Reject a full stop: it separates the id in the signed text, so the text would be ambiguous."""
        if "." in message_id:
            raise ConfigError(
                "Standard Webhooks does not allow a full stop in a message id",
                field="event_id",
                remedy="use e.g. {{ run_id | replace('.', '-') }}",
            )

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        signed = f"{message_id}.{timestamp}.".encode() + body
        digests = [hmac.digest(_standard_key(secret), signed, "sha256") for secret in self.secrets]
        return {
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests),
        }


@dataclass(frozen=True, kw_only=True)
class PlainHmac:
    """One HMAC in one header, as used by GitHub, Stripe, Slack, Shopify and others.

    :param secret: the key, as text.
    :param header: header that carries the signature.
    :param prefix: text before the signature, e.g. ``sha256=`` (GitHub) or ``t={timestamp},v1=`` (Stripe).
    :param signed: the signed text: contains ``{body}``, optionally ``{timestamp}`` and ``{id}``.
    :param timestamp_header: header that carries the timestamp; none by default.
    :param id_header: header that carries the id.
    """

    secret: str = field(repr=False)
    header: str = "X-Signature-256"
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"
    prefix: str = ""
    signed: str = "{body}"
    timestamp_header: str = ""
    id_header: str = "webhook-id"
    signs: bool = True

    def __post_init__(self) -> None:
        _check_header("header", self.header)
        _check_header("id_header", self.id_header)
        if self.timestamp_header:
            _check_header("timestamp_header", self.timestamp_header)
        if len(self.header_names) != 2 + bool(self.timestamp_header):
            raise ConfigError("two values use the same header", field="header", remedy="use different headers")
        if not (self.prefix.isascii() and self.prefix.isprintable()) and self.prefix:
            raise ConfigError("the prefix must be printable ASCII", field="prefix", remedy="use e.g. 'sha256='")
        if self.signed.count("{body}") != 1:
            raise ConfigError(
                "the signed text must contain {body} once", field="signed", remedy="use e.g. '{timestamp}.{body}'"
            )
        sent = bool(self.timestamp_header) or "{timestamp}" in self.prefix
        if "{timestamp}" in self.signed and not sent:
            raise ConfigError(
                "the timestamp is signed but not sent, so the receiver cannot verify it",
                field="timestamp_header",
                remedy="set timestamp_header, or put {timestamp} into the prefix",
            )

    @property
    def header_names(self) -> frozenset[str]:
        return frozenset(name.lower() for name in (self.header, self.id_header, self.timestamp_header) if name)

    def check_id(self, message_id: str) -> None:
        """Accept any id."""

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        values = {"{id}": message_id.encode(), "{timestamp}": str(timestamp).encode(), "{body}": body}
        text = b"".join(values.get(part, part.encode()) for part in _PLACEHOLDERS.split(self.signed))
        digest = hmac.digest(self.secret.encode(), text, getattr(hashlib, self.algorithm))
        signature = digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode()
        return {
            self.id_header: message_id,
            **({self.timestamp_header: str(timestamp)} if self.timestamp_header else {}),
            self.header: self.prefix.replace("{timestamp}", str(timestamp)) + signature,
        }


def _standard_key(secret: str) -> bytes:
    text = secret.strip()
    if text.startswith(_ASYMMETRIC):
        raise ConfigError(
            "the secret is an asymmetric key", field="secret", remedy="use the shared secret that begins with whsec_"
        )
    encoded = text.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(
            "the secret is not base64", field="secret", remedy="copy the complete secret: whsec_ and base64"
        ) from None
    if not key:
        raise ConfigError("the secret is empty", field="secret", remedy="copy the complete secret from the receiver")
    return key


def _check_header(field_name: str, name: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise ConfigError(
            f"{field_name} is not a valid header name", field=field_name, remedy="use e.g. X-Signature-256"
        )
