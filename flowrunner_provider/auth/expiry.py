"""Expiry dates of credentials: server and client certificates, tokens, SSH keys and their certificates.

Nothing is verified while reading: a token's ``exp`` is read without checking its signature, and a server certificate is
read even if it is not trusted (``Expiry.verified`` reports that separately).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from flowrunner_provider.auth.results import ExpiryRow, State
from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError, ConnectionLost, FlowRunnerError, TimedOut
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.spec import option

__all__ = [
    "Expiry",
    "ExpiryTarget",
    "Kind",
    "certificate_expiries",
    "rate",
    "read_certificates",
    "ssh_expiries",
    "tls_expiries",
    "token_expiry",
    "unreadable",
]

Kind = Literal["tls_cert", "jwt", "ssh_key", "client_cert"]

_DAY = 86400.0
_FOREVER = 2**64 - 1  # an OpenSSH certificate that never expires
_EARLIEST, _LATEST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class ExpiryTarget:
    """One credential to check."""

    kind: Kind = option(label="Kind", help="tls_cert, jwt, ssh_key or client_cert.")
    host: str = option("", label="Host", help="For tls_cert: host or host:port; port 443 by default.")
    ca_file: str = option(
        "", label="CA file", help="For tls_cert: certificate authorities to trust instead of the system's."
    )
    conn_id: str = option("", label="Connection", help="Connection id, for all other kinds.")
    field: str = option("password", label="Field", help="For jwt: password, or a key of the extra or of `flowrunner`.")

    def __post_init__(self) -> None:
        needed = "host" if self.kind == "tls_cert" else "conn_id"
        if not getattr(self, needed):
            raise ConfigError(
                f"a target of kind {self.kind} needs {needed!r}", field="targets", remedy=f"add {needed!r} to it"
            )
        if needed == "host":
            self.address()

    def address(self) -> tuple[str, int]:
        host, colon, port = self.host.strip().rpartition(":")
        if not colon or self.host.endswith("]"):
            host, port = self.host.strip(), "443"
        if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536 or "/" in host:
            raise ConfigError(
                f"{self.host!r} is not host:port", field="targets", remedy="use e.g. 'api.example.com:443'"
            )
        return host.strip("[]"), int(port)

    @property
    def name(self) -> str:
        return self.host if self.kind == "tls_cert" else self.conn_id


@dataclass(frozen=True, kw_only=True)
class Expiry:
    """When one credential expires.

    :param expires: None if it never does.
    :param verified: whether this worker trusts its issuer; None if that was not checked.
    """

    kind: str
    expires: datetime | None
    verified: bool | None = None
    note: str = ""


def rate(target: str, expiry: Expiry, *, now: datetime, warn_days: float, fail_days: float) -> ExpiryRow:
    """Return the report row of an expiry date, rated against the limits in days."""
    if expiry.expires is None:
        return ExpiryRow(
            target=target, kind=expiry.kind, expires=None, days_left=None, state="ok", verified=expiry.verified,
            note=expiry.note,
        )  # fmt: skip
    days = (expiry.expires - now).total_seconds() / _DAY
    state: State = "fail" if days <= 0 or days < fail_days else "warn" if days < warn_days else "ok"
    return ExpiryRow(
        target=target,
        kind=expiry.kind,
        expires=expiry.expires.isoformat(),
        days_left=round(days, 2),
        state=state,
        verified=expiry.verified,
        note=expiry.note,
    )


async def tls_expiries(host: str, port: int, *, ca_file: str, deadline: Deadline) -> list[Expiry]:
    """Return the expiry of a TLS server's certificate, and of the first to expire in the chain it sends.

    Makes two handshakes, one that accepts any certificate and one that verifies; sends no request.

    :param ca_file: PEM file with the authorities to trust instead of the system's.
    :raises ConnectionLost: if no TLS server answers.
    """
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        verified_context = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ConfigError(
            f"ca_file cannot be loaded ({type(error).__name__})", field="ca_file", remedy="use a PEM file"
        ) from None
    try:
        chain = await _handshake(host, port, unverified, deadline)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise ConnectionLost(
            f"{host}:{port}: no TLS handshake ({reason})",
            remedy="check host and port, and that the server speaks TLS without STARTTLS",
        ) from None
    verified, note = True, ""
    try:
        await _handshake(host, port, verified_context, deadline)
    except ssl.SSLCertVerificationError as error:
        verified, note = False, f"not trusted: {error.verify_message}"
    except OSError as error:
        verified, note = False, f"not verified ({type(error).__name__})"
    found = certificate_expiries("tls_cert", chain)
    return [replace(expiry, verified=verified, note=note or expiry.note) for expiry in found]


async def _handshake(host: str, port: int, context: ssl.SSLContext, deadline: Deadline) -> list[Any]:
    from cryptography import x509

    try:
        async with asyncio.timeout(deadline.remaining()):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except TimeoutError:
        raise TimedOut(
            f"{host}:{port}: the TLS handshake timed out",
            remedy="check host, port and firewall, or raise `target_timeout`",
        ) from None
    try:
        ssl_object = writer.get_extra_info("ssl_object")
        inner: Any = getattr(ssl_object, "_sslobj", ssl_object)  # public since Python 3.13
        sent = inner.get_unverified_chain() or [ssl_object.getpeercert(binary_form=True)]
    finally:
        writer.transport.abort()
    ders = [cert if isinstance(cert, bytes) else ssl.PEM_cert_to_DER_cert(cert.public_bytes()) for cert in sent]
    return [x509.load_der_x509_certificate(der) for der in ders]


def certificate_expiries(kind: str, chain: Sequence[Any]) -> list[Expiry]:
    """Return the expiry of the leaf certificate, and of the first to expire among the others."""
    leaf, *others = chain
    found = [Expiry(kind=kind, expires=leaf.not_valid_after_utc, note=_valid_from(leaf))]
    if others:
        first = min(others, key=lambda cert: cert.not_valid_after_utc)
        found.append(
            Expiry(kind=f"{kind}_chain", expires=first.not_valid_after_utc, note=first.subject.rfc4514_string())
        )
    return found


def _valid_from(certificate: Any) -> str:
    return f"valid from {certificate.not_valid_before_utc:%Y-%m-%d}"


def token_expiry(token: str) -> Expiry:
    """Return the ``exp`` claim of a JWT, without checking its signature.

    :raises ConfigError: if the token is not a JWT.
    """
    jws = load("joserfc.jws", extra="oauth", needed_for="reading a JWT")
    errors = load("joserfc.errors", extra="oauth", needed_for="reading a JWT")
    text = token.strip().removeprefix("Bearer ").strip()
    try:
        claims = json.loads(jws.extract_compact(text.encode()).payload)
        end = claims.get("exp")
    except (errors.JoseError, ValueError, AttributeError, RecursionError):
        raise ConfigError(
            "the secret is not a signed JWT (an opaque token has no readable expiry)",
            field="field",
            remedy="set `field` to the connection field that holds a JWT",
        ) from None
    if end is None:
        return Expiry(kind="jwt", expires=None, note="no exp claim: it never expires; signature not checked")
    if isinstance(end, bool) or not isinstance(end, int | float) or end != end:  # NaN
        raise ConfigError("the exp claim is not a number", field="field", remedy="have a new token issued")
    return Expiry(kind="jwt", expires=_to_datetime(end), note="signature not checked")


def ssh_expiries(keys: Iterable[Path], text: str = "") -> list[Expiry]:
    """Return the expiries of OpenSSH certificates (``<key>-cert.pub`` beside a private key); a bare key never expires.

    :param keys: paths of private keys or certificates.
    :param text: a private key or certificate itself.
    :raises ConfigError: if a file cannot be read.
    """
    found: list[Expiry] = []
    for key in (path.expanduser() for path in keys):
        cert_file = key if key.name.endswith("-cert.pub") else key.with_name(f"{key.name}-cert.pub")
        if cert_file.exists():
            found.append(_ssh_certificate_expiry(_read(cert_file, "key_file")))
        else:
            _read(key, "key_file")
            found.append(Expiry(kind="ssh_key", expires=None, note="a bare key never expires"))
    if text:
        first = text.strip().partition(" ")[0]
        is_cert = "-cert-v01@openssh.com" in first
        bare = Expiry(kind="ssh_key", expires=None, note="a bare key never expires")
        found.append(_ssh_certificate_expiry(text.strip().encode()) if is_cert else bare)
    return found


def _ssh_certificate_expiry(data: bytes) -> Expiry:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

    try:
        identity = load_ssh_public_identity(data.strip())
    except (ValueError, UnsupportedAlgorithm):
        identity = None
    if not isinstance(identity, SSHCertificate):
        raise ConfigError(
            "not an OpenSSH certificate", field="key_file", remedy="sign the key again with ssh-keygen -s"
        )
    name = identity.key_id.decode("utf-8", "replace")[:60]
    if identity.valid_before == _FOREVER:
        return Expiry(kind="ssh_certificate", expires=None, note=f"{name}: never expires")
    return Expiry(kind="ssh_certificate", expires=_to_datetime(identity.valid_before), note=name)


def read_certificates(path: Path) -> list[Any]:
    """Return the certificates of a PEM file.

    :raises ConfigError: if it contains none.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(_read(path, "cert_file"))
    except ValueError:
        raise ConfigError(f"{path.name} contains no certificate", field="cert_file", remedy="use a PEM file") from None


def _read(path: Path, field: str) -> bytes:
    try:
        with path.expanduser().open("rb") as file:
            return file.read(1024 * 1024)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", field=field, remedy=f"correct {field} of the connection"
        ) from None


def _to_datetime(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return _LATEST if seconds > 0 else _EARLIEST


def unreadable(target: str, kind: str, error: FlowRunnerError) -> ExpiryRow:
    """Return the row of a credential that could not be read; it always counts as failed."""
    return ExpiryRow(target=target, kind=kind, expires=None, days_left=None, state="fail", note=str(error))
