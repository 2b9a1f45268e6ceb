"""Signatures of outgoing webhooks: Standard Webhooks 1.0.0, and plain HMAC in the spellings that are common.

A signer is made anew from the connection for each run, and asked anew for each try: the id of a message
stays, its timestamp is that of the try.
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

_PLACES = re.compile(r"(\{(?:id|timestamp|body)\})")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_PREFIX = "whsec_"
_ASYMMETRIC = ("whsk_", "whpk_")


class Signer(Protocol):
    """Makes the headers that identify a message and prove where it comes from."""

    @property
    def signs(self) -> bool:
        """False when nothing is proven."""

    @property
    def header_names(self) -> frozenset[str]:
        """The headers it sets, in lower case."""

    def check_id(self, message_id: str) -> None:
        """Refuse an id that this scheme cannot carry."""

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """The headers of one try; ``timestamp`` is its Unix time."""


@dataclass(frozen=True, kw_only=True)
class Unsigned:
    """Only the id, so that the receiver can tell a repetition.

    :param id_header: the header that takes it.
    """

    id_header: str = "webhook-id"
    signs: bool = False

    def __post_init__(self) -> None:
        _check_header("id_header", self.id_header)

    @property
    def header_names(self) -> frozenset[str]:
        return frozenset({self.id_header.lower()})

    def check_id(self, message_id: str) -> None:
        """Any id will do."""

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        del timestamp, body
        return {self.id_header: message_id}


@dataclass(frozen=True, kw_only=True)
class StandardWebhooks:
    """The symmetric scheme ``v1`` of https://www.standardwebhooks.com.

    :param secrets: ``whsec_`` and base64 each; while one is rotated, there is a signature by each.
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
        """Refuse a full stop: it ends the id in the signed text, and would make that ambiguous."""
        if "." in message_id:
            raise ConfigError(
                "Standard Webhooks do not allow a full stop in the id of a message",
                field="event_id",
                remedy="write {{ run_id | replace('.', '-') }}, say",
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
    """One HMAC in one header, as GitHub, Stripe, Slack, Shopify and many others do it.

    :param secret: the key, as text.
    :param header: takes the signature.
    :param prefix: stands before it, e.g. ``sha256=`` (GitHub) or ``t={timestamp},v1=`` (Stripe).
    :param signed: what is signed: text with ``{body}``, and perhaps ``{timestamp}`` and ``{id}``.
    :param timestamp_header: takes the timestamp; none by default.
    :param id_header: takes the id.
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
            raise ConfigError("two values would go into one header", field="header", remedy="name them differently")
        if not (self.prefix.isascii() and self.prefix.isprintable()) and self.prefix:
            raise ConfigError("the prefix must be printable ASCII", field="prefix", remedy="write 'sha256=', say")
        if self.signed.count("{body}") != 1:
            raise ConfigError(
                "the signed text must hold {body} once", field="signed", remedy="write '{timestamp}.{body}', say"
            )
        sent = bool(self.timestamp_header) or "{timestamp}" in self.prefix
        if "{timestamp}" in self.signed and not sent:
            raise ConfigError(
                "the timestamp is signed and not sent, so that nobody can verify it",
                field="timestamp_header",
                remedy="set timestamp_header, or put {timestamp} into the prefix",
            )

    @property
    def header_names(self) -> frozenset[str]:
        return frozenset(name.lower() for name in (self.header, self.id_header, self.timestamp_header) if name)

    def check_id(self, message_id: str) -> None:
        """Any id will do."""

    def headers(self, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
        filled = {"{id}": message_id.encode(), "{timestamp}": str(timestamp).encode(), "{body}": body}
        text = b"".join(filled.get(part, part.encode()) for part in _PLACES.split(self.signed))
        digest = hmac.digest(self.secret.encode(), text, getattr(hashlib, self.algorithm))
        shown = digest.hex() if self.encoding == "hex" else base64.b64encode(digest).decode()
        return {
            self.id_header: message_id,
            **({self.timestamp_header: str(timestamp)} if self.timestamp_header else {}),
            self.header: self.prefix.replace("{timestamp}", str(timestamp)) + shown,
        }


def _standard_key(secret: str) -> bytes:
    text = secret.strip()
    if text.startswith(_ASYMMETRIC):
        raise ConfigError(
            "the secret is an asymmetric key", field="secret", remedy="give the shared secret that begins with whsec_"
        )
    encoded = text.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(
            "the secret is not base64", field="secret", remedy="copy it whole from the receiver: whsec_ and base64"
        ) from None
    if not key:
        raise ConfigError("the secret is empty", field="secret", remedy="copy it whole from the receiver")
    return key


def _check_header(field_name: str, name: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise ConfigError(
            f"{field_name} is not the name of a header", field=field_name, remedy="write X-Signature-256, say"
        )
