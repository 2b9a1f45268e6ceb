"""Network policy: where a connection may go, and which credentials may travel there.

A server can choose the next address: in a redirect, a next-page link, an upload session. It must not be able to direct
us into the private network (SSRF), nor to collect our credentials for another server.

An address is checked twice. :func:`check_url` checks it as written, before each request and each hop.
:func:`check_address` checks the resolved IP address just before connecting, because each resolution may differ (DNS
rebinding). The connection's own host, configured by the user, is always allowed.

A host is identified by the machine it refers to, not by its spelling: ``2130706433``, ``0x7f.1``, ``127.0.0.1.``,
``１２７.0.0.1`` and ``[::ffff:7f00:1]`` are all the loopback address.
"""

from __future__ import annotations

import re
import socket
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, TypeAlias
from urllib.parse import unquote_plus, urlsplit

from flowrunner_provider.core.errors import ConfigError, TargetForbidden
from flowrunner_provider.core.secrets import is_sensitive_key

__all__ = [
    "NetPolicy",
    "check_address",
    "check_redirect",
    "check_url",
    "same_origin",
    "strip_credentials",
    "strip_query_credentials",
]

_IP: TypeAlias = IPv4Address | IPv6Address

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ODD_AUTHORITY = re.compile(r"[\s\\%]|@.*@")  # parsers disagree on which part is the host
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]{0,251}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PRIVATE_ENDINGS = (".localhost", ".localdomain", ".local", ".internal", ".intranet", ".lan", ".home.arpa")

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_ISATAP = (0x00005EFE, 0x02005EFE)
# Not reachable over the Internet, but unknown to some supported Python versions.
_SPECIAL = (
    ip_network("168.63.129.16"),  # Azure's host agent: a public number that never leaves the machine
    ip_network("192.0.0.0/24"),  # protocol assignments, among them a cloud's metadata service
    ip_network("192.88.99.0/24"),  # 6to4 relays, withdrawn
    ip_network("3fff::/20"),  # documentation
)
# The upper 96 bits of an IPv6 address that stands for the IPv4 address in its lower 32.
_V4_IN_V6 = {
    0,  # ::a.b.c.d, compatible (RFC 4291); takes in :: and ::1
    0xFFFF,  # ::ffff:a.b.c.d, mapped (RFC 4291)
    0xFFFF0000,  # ::ffff:0:a.b.c.d, translated (RFC 2765)
    0x0064FF9B << 64,  # 64:ff9b::a.b.c.d, NAT64 (RFC 6052)
}


@dataclass(frozen=True, kw_only=True)
class NetPolicy:
    """The addresses that one connection may access.

    :param home: ``scheme://host:port`` of the connection: always allowed, even if private.
    :param allow_hosts: additional host names, ``*.suffix``, addresses or CIDRs, allowed even if private.
    :param allow_public: whether any other public host may be accessed.
    :param schemes: allowed schemes.
    """

    home: str
    allow_hosts: tuple[str, ...] = ()
    allow_public: bool = True
    schemes: tuple[str, ...] = ("https", "http")

    def __post_init__(self) -> None:
        try:
            _parse(self.home)
        except ValueError as error:
            raise ConfigError(f"the connection's address is invalid: {error}", field="host") from None
        _allow_list(self.allow_hosts)


class _Target(NamedTuple):
    scheme: str
    host: str | _IP
    port: int | None
    user_info: bool

    def shown(self) -> str:
        return f"{self.scheme}://{self.host}"


class _AllowList(NamedTuple):
    names: frozenset[str]
    suffixes: tuple[str, ...]
    networks: tuple[IPv6Network, ...]  # IPv4 in its mapped form, so that one look-up serves both


def check_url(url: str, policy: NetPolicy) -> None:
    """Raise ``TargetForbidden`` unless ``url``, as written, may be requested.

    A name that passes may still resolve to a private address: see :func:`check_address`.

    :param url: an absolute URL.
    :param policy: the connection's policy.
    """
    target, home = _target(url), _parse(policy.home)
    if target.scheme not in policy.schemes:
        raise TargetForbidden(
            f"the scheme {target.scheme!r} is not allowed", remedy=f"use one of {', '.join(policy.schemes)}"
        )
    if target[:3] == home[:3]:
        return
    if target.user_info:
        raise TargetForbidden(
            f"the address of {target.shown()} contains a user name",
            remedy="put credentials in a connection",
        )
    if isinstance(target.host, str):
        _check_name(target, target.host, home, policy)
    else:
        _check_ip(target.host, target.shown(), policy)


def check_redirect(from_url: str, to_url: str, policy: NetPolicy) -> None:
    """Raise ``TargetForbidden`` unless the redirect may be followed: as :func:`check_url`, and never from https to
    http.

    :param from_url: the URL that answered.
    :param to_url: the absolute URL that it points to.
    :param policy: the connection's policy.
    """
    check_url(to_url, policy)
    if _target(from_url).scheme in ("https", "wss") and _target(to_url).scheme not in ("https", "wss"):
        raise TargetForbidden(
            f"the redirect to {_target(to_url).shown()} drops encryption",
            remedy="ask the server's owner to correct the redirect",
        )


def check_address(host: str, ip: str, policy: NetPolicy) -> None:
    """Raise ``TargetForbidden`` unless ``ip``, which ``host`` resolved to, may be connected to.

    :param host: the host of a URL that passed :func:`check_url`.
    :param ip: one of its addresses, about to be used; check each, and connect to that address.
    :param policy: the connection's policy.
    """
    try:
        name, address = _host(host), ip_address(ip)
    except ValueError:
        raise TargetForbidden(f"{host!r} did not resolve to an address") from None
    if name == _parse(policy.home).host or (isinstance(name, str) and _is_listed(name, policy)):
        return
    _check_ip(address, f"{name} ({address})", policy)


def same_origin(a: str, b: str) -> bool:
    """Return whether two URLs have the same scheme, host and effective port; False if either is malformed.

    :param a: an absolute URL.
    :param b: an absolute URL.
    """
    try:
        return _parse(a)[:3] == _parse(b)[:3]
    except ValueError:
        return False


def strip_credentials(
    headers: Mapping[str, str], from_url: str, to_url: str, secret_headers: Collection[str] = ()
) -> dict[str, str]:
    """Return the headers for the next request: all of them within one origin, otherwise those without credentials.

    :param headers: the headers of the request to ``from_url``.
    :param from_url: the URL they were meant for.
    :param to_url: the URL of the next request.
    :param secret_headers: additional names that carry credentials, such as the connection's own headers.
    """
    if same_origin(from_url, to_url):
        return dict(headers)
    secret = {name.lower() for name in secret_headers}
    return {name: value for name, value in headers.items() if name.lower() not in secret and not is_sensitive_key(name)}


def strip_query_credentials(url: str, names: Collection[str]) -> str:
    """Return ``url`` without the query parameters in ``names``; the rest is unchanged, byte for byte.

    Only the connection's own parameters are removed: a presigned URL needs its signature.

    :param url: a URL of another origin.
    :param names: the parameters that carry the connection's credentials, in any case.
    """
    secret = {name.lower() for name in names}
    before, mark, fragment = url.partition("#")
    path, asked, query = before.partition("?")
    items = query.split("&")
    kept = [item for item in items if unquote_plus(item.partition("=")[0]).lower() not in secret]
    if len(kept) == len(items):
        return url
    return path + (asked + "&".join(kept) if kept else "") + mark + fragment


def _check_name(target: _Target, name: str, home: _Target, policy: NetPolicy) -> None:
    if _is_listed(name, policy):
        return
    if name == home.host:
        # Its resolved address is not checked later, and another port may be another service of a private machine.
        if (target.scheme, target.port) != ("https", 443):
            raise _forbidden(f"{target.shown()}:{target.port} is another port of the connection's host", name)
    elif "." not in name or f".{name}".endswith(_PRIVATE_ENDINGS):
        raise _forbidden(f"{target.shown()} is a name of the private network", name)
    elif not policy.allow_public and not _allow_list(policy.allow_hosts).networks:
        raise _forbidden(f"{target.shown()} is not a host of this connection", name)


def _check_ip(ip: _IP, shown: str, policy: NetPolicy) -> None:
    ip = _plain(ip)
    inner = _inner(ip)
    listed = _allow_list(policy.allow_hosts).networks
    if any(_mapped(face) in network for face in (ip, inner) if face for network in listed):
        return
    if not _is_public(ip):
        raise _forbidden(f"{shown} is an address of the private network", str(ip))
    if not policy.allow_public:
        raise _forbidden(f"{shown} is not a host of this connection", str(ip))


def _is_listed(name: str, policy: NetPolicy) -> bool:
    allowed = _allow_list(policy.allow_hosts)
    return name in allowed.names or name.endswith(allowed.suffixes)


def _is_public(ip: _IP) -> bool:
    """Return whether ``ip`` is an ordinary unicast address of the Internet in each of its interpretations."""
    inner = _inner(ip)
    if inner is not None:
        return _is_public(inner)
    if not ip.is_global or ip.is_multicast or ip.is_reserved or any(ip in network for network in _SPECIAL):
        return False
    if isinstance(ip, IPv4Address):
        return True
    tunnel = ip.teredo is not None or (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP
    return ip in _GLOBAL_UNICAST and not tunnel


def _inner(ip: _IP) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for, if any."""
    if isinstance(ip, IPv4Address):
        return None
    return IPv4Address(int(ip) & 0xFFFFFFFF) if int(ip) >> 32 in _V4_IN_V6 else ip.sixtofour


def _plain(ip: _IP) -> _IP:
    """Drop the zone of ``fe80::1%eth0``, which prevents comparisons."""
    return IPv6Address(int(ip)) if isinstance(ip, IPv6Address) else ip


def _mapped(ip: _IP) -> IPv6Address:
    return ip if isinstance(ip, IPv6Address) else IPv6Address(0xFFFF << 32 | int(ip))


@lru_cache(maxsize=256)
def _allow_list(entries: tuple[str, ...]) -> _AllowList:
    names, suffixes, networks = set[str](), [], []
    for entry in entries:
        try:
            host = entry if "/" in entry else _host(entry.removeprefix("*."))
            if isinstance(host, str) and "/" not in entry:
                suffixes += [f".{host}"] * entry.startswith("*.")
                names |= set() if entry.startswith("*.") else {host}
            else:
                network = ip_network(host, strict=False)
                bits = network.prefixlen + (96 if network.version == 4 else 0)
                networks.append(IPv6Network((int(_mapped(network.network_address)), bits)))
        except ValueError:
            raise ConfigError(
                f"invalid entry {entry!r} in `allow_hosts`",
                field="allow_hosts",
                remedy="use a host name, `*.example.com`, an address or a network such as `10.1.0.0/16`",
            ) from None
    return _AllowList(frozenset(names), tuple(suffixes), tuple(networks))


def _target(url: str) -> _Target:
    try:
        return _parse(url)
    except ValueError as error:
        raise TargetForbidden(
            f"an address is ambiguous or malformed: {error}", remedy="check where it comes from"
        ) from None


def _parse(url: str) -> _Target:
    """Parse a URL strictly; raise ``ValueError`` if two parsers could interpret it differently."""
    if _CONTROL.search(url) or url != url.strip():
        raise ValueError("it contains control characters or surrounding spaces")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("its host or port is malformed") from None
    if not host or _ODD_AUTHORITY.search(parts.netloc) or ("[" in parts.netloc and ":" not in host):
        raise ValueError("it has no host, or an ambiguous one")
    port = _DEFAULT_PORTS.get(parts.scheme) if port is None else port
    return _Target(parts.scheme, _host(host), port, "@" in parts.netloc)


def _host(text: str) -> str | _IP:
    """Return the canonical host: an address, or a lower-case ASCII name without final dot."""
    if len(text) > 253 + 1:
        raise ValueError("its host is too long")
    text = unicodedata.normalize("NFKC", text).replace("\u3002", ".").lower()
    if ":" in text:
        return _plain(ip_address(text.strip("[]")))
    text = text.removesuffix(".")
    if not text.isascii():
        text = text.encode("idna").decode()
    if not _HOST.fullmatch(text) or ".." in text:
        raise ValueError("its host is malformed")
    try:
        return IPv4Address(socket.inet_aton(text))  # every numeric spelling that the resolver accepts
    except OSError:
        if _NUMBER.fullmatch(text.rpartition(".")[2]):
            raise ValueError("its host is neither a name nor an address") from None
        return text


def _forbidden(why: str, host: str) -> TargetForbidden:
    return TargetForbidden(
        why,
        remedy=f"if it is yours, add {host!r} to `allow_hosts` under `flowrunner` in the connection's extra",
    )
