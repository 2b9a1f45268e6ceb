"""Nothing leaves this machine: a connection to any other address fails the test."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

__all__ = ["ConnectionOutside", "install", "outside"]

outside: list[str] = []
"""Addresses that somebody tried to connect to, even if the error was swallowed."""


class ConnectionOutside(AssertionError):
    """A test, or the code that it tests, tried to reach another machine."""


def _allowed(family: int, address: Any) -> bool:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = address[0]
    if host == "localhost":
        return True
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False  # a name: looking it up would already leave the machine
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)


def _check(connection: socket.socket, address: Any) -> None:
    if not _allowed(connection.family, address):
        outside.append(str(address))
        raise ConnectionOutside(f"a connection to {address} would leave this machine")


def install() -> None:
    """Guard ``connect`` and ``connect_ex`` of every Python socket of this process; once is enough."""
    if getattr(socket.socket, "_guarded", False):
        return
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def guarded(self: socket.socket, address: Any) -> None:
        _check(self, address)
        return connect(self, address)

    def guarded_ex(self: socket.socket, address: Any) -> int:
        _check(self, address)
        return connect_ex(self, address)

    socket.socket.connect = guarded  # type: ignore[method-assign, assignment]
    socket.socket.connect_ex = guarded_ex  # type: ignore[method-assign, assignment]
    socket.socket._guarded = True  # type: ignore[attr-defined]
