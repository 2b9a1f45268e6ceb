"""When credentials end: certificates of servers and clients, tokens, SSH keys and their certificates.

Everything here is read, nothing is trusted: a token's ``exp`` is read without its signature being checked, and a
server's certificate also when nobody vouches for it (whether somebody does is said separately).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    "certificates_expire",
    "failed",
    "rated",
    "read_certificates",
    "ssh_expires",
    "tls_expires",
    "token_expires",
]

Kind = Literal["tls_cert", "jwt", "ssh_key", "client_cert"]

_DAY = 86400.0
_FOREVER = 2**64 - 1  # an OpenSSH certificate without an end
_LATEST = datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class ExpiryTarget:
    """One thing to look at."""

    kind: Kind = option(label="Kind", help="tls_cert, jwt, ssh_key or client_cert.")
    host: str = option("", label="Host", help="Of tls_cert: host or host:port, 443 by default.")
    ca_file: str = option("", label="CA file", help="Of tls_cert: the authorities to trust instead of the system's.")
    conn_id: str = option("", label="Connection", help="Of the other kinds.")
    field: str = option("password", label="Field", help="Of jwt: password, or a key of the extra or of `flowrunner`.")

    def __post_init__(self) -> None:
        needed = "host" if self.kind == "tls_cert" else "conn_id"
        if not getattr(self, needed):
            raise ConfigError(f"a target {self.kind} needs {needed!r}", field="targets", remedy=f"add {needed!r} to it")
        if needed == "host":
            self.address()

    def address(self) -> tuple[str, int]:
        host, colon, port = self.host.strip().rpartition(":")
        if not colon or self.host.endswith("]"):
            host, port = self.host.strip(), "443"
        if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536 or "/" in host:
            raise ConfigError(f"{self.host!r} is not host:port", field="targets", remedy="write 'api.example.com:443'")
        return host.strip("[]"), int(port)

    @property
    def name(self) -> str:
        return self.host if self.kind == "tls_cert" else self.conn_id


@dataclass(frozen=True, kw_only=True)
class Expiry:
    """One thing that ends.

    :param expires: None when it never does.
    :param verified: whether somebody whom this worker trusts vouches for it; None where nobody was asked.
    """

    kind: str
    expires: datetime | None
    verified: bool | None = None
    note: str = ""


def rated(target: str, found: Expiry, *, now: datetime, warn_days: float, fail_days: float) -> ExpiryRow:
    """The row of what was found."""
    if found.expires is None:
        return ExpiryRow(
            target=target, kind=found.kind, expires=None, days_left=None, state="ok", verified=found.verified,
            note=found.note,
        )  # fmt: skip
    days = (found.expires - now).total_seconds() / _DAY
    state: State = "fail" if days <= 0 or days < fail_days else "warn" if days < warn_days else "ok"
    return ExpiryRow(
        target=target,
        kind=found.kind,
        expires=found.expires.isoformat(),
        days_left=round(days, 2),
        state=state,
        verified=found.verified,
        note=found.note,
    )


async def tls_expires(host: str, port: int, *, ca_file: str, deadline: Deadline) -> list[Expiry]:
    """The certificate that a TLS server shows, and the first to end of those that it sends along.

    Nothing but two handshakes takes place: one that accepts anything, and one that verifies.

    :param ca_file: PEM file with the authorities to trust instead of the system's.
    :raises ConnectionLost: if there is no TLS server.
    """
    anything = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    try:
        trusting = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ConfigError(
            f"ca_file cannot be used ({type(error).__name__})", field="ca_file", remedy="give a PEM file"
        ) from None
    try:
        chain = await _handshake(host, port, anything, deadline)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise ConnectionLost(
            f"{host}:{port}: no TLS handshake ({reason})", remedy="check host and port, and that it speaks TLS at once"
        ) from None
    verified, note = True, ""
    try:
        await _handshake(host, port, trusting, deadline)
    except ssl.SSLCertVerificationError as error:
        verified, note = False, f"not trusted: {error.verify_message}"
    except OSError as error:
        verified, note = False, f"not verified ({type(error).__name__})"
    found = certificates_expire("tls_cert", chain)
    return [Expiry(kind=one.kind, expires=one.expires, verified=verified, note=note or one.note) for one in found]


async def _handshake(host: str, port: int, context: ssl.SSLContext, deadline: Deadline) -> list[Any]:
    from cryptography import x509

    try:
        async with asyncio.timeout(deadline.remaining()):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=host)
    except TimeoutError:
        raise TimedOut(
            f"{host}:{port}: no TLS handshake in time",
            remedy="check host, port and firewall, or raise `target_timeout`",
        ) from None
    try:
        shown = writer.get_extra_info("ssl_object")
        inner: Any = getattr(shown, "_sslobj", shown)  # public as of Python 3.13 only
        sent = inner.get_unverified_chain() or [shown.getpeercert(binary_form=True)]
    finally:
        writer.transport.abort()
    ders = [one if isinstance(one, bytes) else ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in sent]
    return [x509.load_der_x509_certificate(der) for der in ders]


def certificates_expire(kind: str, chain: Sequence[Any]) -> list[Expiry]:
    """The leaf, and the first to end of the others in the file or handshake."""
    leaf, *others = chain
    found = [Expiry(kind=kind, expires=leaf.not_valid_after_utc, note=_not_yet(leaf))]
    if others:
        first = min(others, key=lambda one: one.not_valid_after_utc)
        found.append(
            Expiry(kind=f"{kind}_chain", expires=first.not_valid_after_utc, note=first.subject.rfc4514_string())
        )
    return found


def _not_yet(certificate: Any) -> str:
    return f"valid from {certificate.not_valid_before_utc:%Y-%m-%d}"


def token_expires(token: str) -> Expiry:
    """The ``exp`` claim of a JWT, read without checking who signed it.

    :raises ConfigError: if it is no JWT.
    """
    jws = load("joserfc.jws", extra="oauth", needed_for="reading a JWT")
    errors = load("joserfc.errors", extra="oauth", needed_for="reading a JWT")
    text = token.strip().removeprefix("Bearer ").strip()
    try:
        claims = json.loads(jws.extract_compact(text.encode()).payload)
        end = claims.get("exp")
    except (errors.JoseError, ValueError, AttributeError, RecursionError):
        raise ConfigError(
            "the secret is not a signed JWT (an opaque token does not say when it ends)",
            field="field",
            remedy="name the `field` of the connection that holds a JWT",
        ) from None
    if end is None:
        return Expiry(kind="jwt", expires=None, note="no exp claim: it does not end; signature not checked")
    if isinstance(end, bool) or not isinstance(end, int | float):
        raise ConfigError("the exp claim is not a number", field="field", remedy="have the token made anew")
    return Expiry(kind="jwt", expires=_moment(end), note="signature not checked")


def ssh_expires(keys: Iterable[Path], text: str = "") -> list[Expiry]:
    """The OpenSSH certificates beside private keys (``<key>-cert.pub``); a bare key never ends.

    :param keys: paths of private keys or certificates.
    :param text: a private key, or a certificate, itself.
    :raises ConfigError: if a file cannot be read.
    """
    found: list[Expiry] = []
    for key in (path.expanduser() for path in keys):
        beside = key if key.name.endswith("-cert.pub") else key.with_name(f"{key.name}-cert.pub")
        if beside.exists():
            found.append(_certificate(_read(beside, "key_file")))
        else:
            _read(key, "key_file")
            found.append(Expiry(kind="ssh_key", expires=None, note="a bare key has no end"))
    if text:
        first = text.strip().partition(" ")[0]
        is_cert = "-cert-v01@openssh.com" in first
        bare = Expiry(kind="ssh_key", expires=None, note="a bare key has no end")
        found.append(_certificate(text.strip().encode()) if is_cert else bare)
    return found


def _certificate(data: bytes) -> Expiry:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

    try:
        identity = load_ssh_public_identity(data.strip())
    except (ValueError, UnsupportedAlgorithm):
        identity = None
    if not isinstance(identity, SSHCertificate):
        raise ConfigError(
            "it is no OpenSSH certificate", field="key_file", remedy="have it signed anew by ssh-keygen -s"
        )
    name = identity.key_id.decode("utf-8", "replace")[:60]
    if identity.valid_before == _FOREVER:
        return Expiry(kind="ssh_certificate", expires=None, note=f"{name}: it has no end")
    return Expiry(kind="ssh_certificate", expires=_moment(identity.valid_before), note=name)


def read_certificates(path: Path) -> list[Any]:
    """The certificates of a PEM file.

    :raises ConfigError: if there are none.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(_read(path, "cert_file"))
    except ValueError:
        raise ConfigError(
            f"{path.name} holds no certificate", field="cert_file", remedy="give a PEM file that this worker can read"
        ) from None


def _read(path: Path, field: str) -> bytes:
    try:
        with path.expanduser().open("rb") as file:
            return file.read(1024 * 1024)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", field=field, remedy=f"correct {field} of the connection"
        ) from None


def _moment(seconds: float) -> datetime:
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return _LATEST


def failed(target: str, kind: str, error: FlowRunnerError) -> ExpiryRow:
    """The row of what could not be read: never taken for good."""
    return ExpiryRow(target=target, kind=kind, expires=None, days_left=None, state="fail", note=str(error))
