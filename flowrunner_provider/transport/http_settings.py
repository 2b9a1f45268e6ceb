"""Settings of one HTTP connection: credentials, TLS, limits, and the resolver that checks addresses."""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from flowrunner_provider import __version__
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.net_guard import NetPolicy, check_address

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver

    from flowrunner_provider.transport.http_body import Body

__all__ = [
    "Anonymous",
    "Credentials",
    "HttpSettings",
    "Outgoing",
    "Refused",
    "StaticCredentials",
    "TlsOptions",
    "basic_credentials",
    "check_headers",
]

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # what aiohttp refuses in a header, as a bare ValueError


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request about to be sent, for credentials that sign it.

    :param url: as it is sent.
    :param headers: all headers except the signature's.
    :param body: a stream must not be read by the signer.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: Body | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that was answered with 401.

    :param sent: the headers that the credentials returned for it, the same object.
    :param challenges: the ``WWW-Authenticate`` headers of the answer.
    """

    sent: Mapping[str, str]
    challenges: tuple[str, ...] = ()


class Credentials(Protocol):
    """Authenticates requests; only ever added to requests to the connection's own origin."""

    @property
    def configured(self) -> bool:
        """False if there are no credentials."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The connection fields to check if the server refuses the credentials."""

    @property
    def fixed(self) -> Mapping[str, str] | None:
        """Headers that never change; None if :meth:`headers` must be called before each request."""

    @property
    def query(self) -> Mapping[str, str]:
        """Query parameters that are credentials."""

    @property
    def signs(self) -> bool:
        """Whether :meth:`sign` must be called for each request."""

    def secrets(self) -> Iterable[str]:
        """Return the values that must not appear in errors."""

    async def headers(self) -> Mapping[str, str]:
        """Return the headers for the next request; may fetch a token first."""

    async def sign(self, request: Outgoing) -> Mapping[str, str]:
        """Return headers for this request, which override all others."""

    async def renew(self, refused: Refused) -> bool:
        """After a 401, return whether newer credentials make another try worthwhile."""


@dataclass(frozen=True, kw_only=True)
class StaticCredentials:
    """Credentials that never change: Basic, a fixed bearer token, an API key.

    :param fixed: headers.
    :param query: query parameters.
    :param hidden: the secret values behind them.
    """

    fixed: Mapping[str, str] = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    hidden: tuple[str, ...] = field(default=(), repr=False)
    configured: bool = True
    fields: tuple[str, ...] = ()
    signs: bool = field(default=False, init=False)

    def secrets(self) -> Iterable[str]:
        return self.hidden

    async def headers(self) -> Mapping[str, str]:
        return self.fixed

    async def sign(self, request: Outgoing) -> Mapping[str, str]:
        return {}

    async def renew(self, refused: Refused) -> bool:
        return False


class Anonymous(StaticCredentials):
    """No credentials."""

    def __init__(self) -> None:
        super().__init__(configured=False)


def basic_credentials(login: str, password: str) -> StaticCredentials:
    """Return credentials for Basic authentication (RFC 7617), in UTF-8."""
    pair = f"{login}:{password}"
    header = "Basic " + base64.b64encode(pair.encode()).decode()
    return StaticCredentials(fixed={"Authorization": header}, hidden=(password, pair), fields=("login", "password"))


@dataclass(frozen=True, kw_only=True)
class TlsOptions:
    """TLS verification and client certificate, for the connection's own origin only.

    :param verify: False accepts any certificate.
    :param ca_file: PEM file with the authorities to trust instead of the system's.
    :param cert_file: PEM file with the client certificate.
    :param key_file: PEM file with its key, if ``cert_file`` does not contain it.
    :param key_password: password of an encrypted key.
    """

    verify: bool = True
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    key_password: str = field(default="", repr=False)

    def context(self) -> ssl.SSLContext | bool:
        """Return aiohttp's ``ssl`` argument: True for the system's trust store, False for no verification."""
        if not self.cert_file and not (self.verify and self.ca_file):
            return self.verify
        try:
            context = ssl.create_default_context(cafile=self.ca_file or None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.cert_file:
                context.load_cert_chain(self.cert_file, self.key_file or None, password=lambda: self.key_password)
        except OSError as error:
            raise ConfigError(
                f"the TLS files of the connection cannot be loaded: {error.strerror or type(error).__name__}",
                field="ca_file" if not self.cert_file else "cert_file",
                remedy="use PEM files that this worker can read, and set `key_password` if the key is encrypted",
            ) from error
        return context


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """The settings of a connection that do not change between requests.

    :param base_url: scheme, host, port and optional path; endpoints are appended to it.
    :param policy: where requests and redirects may lead.
    :param credentials: for the origin of ``base_url`` only.
    :param headers: for the origin of ``base_url`` only.
    :param secret_headers: additional header names that never leave their origin.
    :param secrets: values that must not appear in errors.
    :param connect_timeout: seconds for TCP and TLS.
    :param read_timeout: longest pause in a streamed answer, in seconds.
    :param timeout: seconds for one complete exchange of :meth:`HttpTransport.request`.
    :param max_connections: maximum number of open connections.
    :param proxies: maps scheme to proxy URL; trusted, because it comes from the connection.
    :param follow_redirects: False returns a redirect as the answer.
    """

    base_url: str
    policy: NetPolicy
    credentials: Credentials = field(default_factory=Anonymous)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret_headers: frozenset[str] = frozenset()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    timeout: float = 120.0
    tls: TlsOptions = field(default_factory=TlsOptions)
    max_connections: int = 32
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    follow_redirects: bool = True
    max_redirects: int = 10
    user_agent: str = f"FlowRunner/{__version__}"

    def __post_init__(self) -> None:
        check_headers({**self.headers, "User-Agent": self.user_agent})


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ``ConfigError`` if a header contains a line break or another control character."""
    for name, value in headers.items():
        if _CONTROL.search(f"{name}{value}"):
            raise ConfigError(
                f"the header {name!r} contains a line break or another control character",
                field="headers",
                remedy="remove it, e.g. the line break at the end of a pasted token",
            )


def guarded_resolver(policy: NetPolicy, trusted: frozenset[str]) -> AbstractResolver:
    """Return a resolver that passes every address to :func:`check_address`, so that names cannot resolve to private
    hosts.

    :param trusted: hosts that are not checked: the connection's proxies.
    """
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Guarded(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> list[ResolveResult]:
            infos: Any = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG
            )
            found = []
            for kind, _, proto, _, address in infos:
                ip = f"{address[0]}%{address[3]}" if len(address) > 3 and address[3] else address[0]
                if host not in trusted:
                    check_address(host, ip, policy)
                found.append(
                    ResolveResult(
                        hostname=host, host=ip, port=address[1], family=kind, proto=proto, flags=socket.AI_NUMERICHOST
                    )
                )
            return found

        async def close(self) -> None:
            """Nothing is held."""

    return Guarded()
