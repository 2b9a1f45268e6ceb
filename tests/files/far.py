"""The far side as this machine sees it, and the table of all far sides that the fault tests run over.

A new store is a line of :data:`FAR_SIDES`: a function that makes a fresh, empty place on its server. What it returns
is pickled and looked at in other processes, so it holds addresses and credentials, no open connection.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest

__all__ = ["FAR_SIDES", "LONG_AGO", "REMOTE", "Disk", "Far", "Side", "connection_of"]

LONG_AGO = 1_600_000_000


class Far(Protocol):
    """A place with files, seen by another way than the store."""

    root: str

    def put(self, relative: str, data: bytes) -> None:
        """Make a file and its folders."""

    def get(self, relative: str) -> bytes:
        """Its bytes."""

    def names(self) -> list[str]:
        """The relative paths of all files: hidden ones, parts and unfinished uploads included."""


class Disk:
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.path = root
        self.root = str(root)

    def put(self, relative: str, data: bytes) -> None:
        path = self.path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def get(self, relative: str) -> bytes:
        return (self.path / relative).read_bytes()

    def names(self) -> list[str]:
        return sorted(
            os.path.relpath(os.path.join(folder, name), self.path)
            for folder, _, files in os.walk(self.path)
            for name in files
        )


@dataclass(frozen=True)
class Side:
    """One end of a copy: a fresh folder in some store.

    :param far: what is really there.
    :param prefix: what comes before ``far.root`` in an address, e.g. ``sftp://partner@``.
    :param environment: the connections that the address needs, as ``AIRFLOW_CONN_...``.
    :param keeps_times: the store gives a file the time of its source.
    """

    far: Far
    prefix: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    keeps_times: bool = True

    def uri(self, relative: str = "") -> str:
        return f"{self.prefix}{self.far.root}/{relative}"

    def put(self, relative: str, data: bytes, when: int = LONG_AGO) -> None:
        """Make a file, of long ago where this machine can say so."""
        self.far.put(relative, data)
        if isinstance(self.far, Disk):
            os.utime(self.far.path / relative, (when, when))

    def all(self) -> dict[str, bytes]:
        """Every file with its bytes."""
        return {name: self.far.get(name) for name in self.far.names()}


def connection_of(server: Any, **more: Any) -> str:
    extra = {"key_file": str(server.key_file), "host_key": server.host_key, **more}
    return json.dumps(
        {"conn_type": "sftp", "host": server.host, "port": server.port, "login": server.user, "extra": extra}
    )


def _local(request: pytest.FixtureRequest, folder: Path) -> Side:
    folder.mkdir(parents=True)
    return Side(Disk(folder.resolve()))


def _sftp(request: pytest.FixtureRequest, folder: Path) -> Side:
    server = request.getfixturevalue("sshd")
    return Side(Disk(server.root()), "sftp://partner@", {"AIRFLOW_CONN_PARTNER": connection_of(server)})


def _ftps(request: pytest.FixtureRequest, folder: Path) -> Side:
    server, tls = request.getfixturevalue("proftpd"), request.getfixturevalue("tls")
    return Side(Disk(server.root()), "ftps://drop@", {"AIRFLOW_CONN_DROP": server.connection(tls)})


FAR_SIDES: dict[str, Callable[[pytest.FixtureRequest, Path], Side]] = {
    "local": _local,
    "sftp": _sftp,
    "ftps": _ftps,
}
"""Store -> a function that makes a fresh side; ``folder`` does not exist yet and is the side's own."""

REMOTE = [name for name in FAR_SIDES if name != "local"]
