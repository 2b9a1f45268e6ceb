"""Addresses of files: ``scheme://conn_id@host/path``, as Airflow's object storage writes them.

Nothing in a path is decoded: ``%20`` is three characters. ``/~/`` at the start of a remote path is the login's home.
"""

from __future__ import annotations

from dataclasses import dataclass

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.registry import STORES

__all__ = ["SCHEMES", "Location", "parse", "split_glob"]

SCHEMES = ("file", *STORES)
"""The stores that there are."""

_MAGIC = frozenset("*?[")


@dataclass(frozen=True, kw_only=True)
class Location:
    """An address, taken apart.

    :param conn_id: the Airflow connection; empty for this machine.
    :param host: the host or bucket; mostly empty, as the connection knows it.
    :param path: as the store takes it; a final ``/`` means a folder and is kept.
    """

    scheme: str
    conn_id: str = ""
    host: str = ""
    path: str

    @property
    def root(self) -> str:
        """The address without its path; two locations with the same root are in one store."""
        return "" if self.scheme == "file" else f"{self.scheme}://{self.conn_id}@{self.host}"


def parse(uri: str, *, field: str = "path") -> Location:
    """Take an address apart.

    :param field: the parameter it was given as, for the message.
    :raises ConfigError: if it is none, or its scheme is unknown.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, rest = "file", uri
    if scheme not in SCHEMES:
        raise ConfigError(
            f"{uri!r}: there is no store {scheme!r}",
            field=field,
            remedy=f"use one of {', '.join(f'{known}://' for known in SCHEMES)} or a path such as /data/in",
        )
    authority, slash, path = rest.partition("/")
    path = slash + path
    if "\0" in path or not path:
        raise _bad(uri, field, "has no path" if not path else "holds a NUL")
    if ".." in path.split("/"):
        raise _bad(uri, field, "steps up with '..'")
    if scheme == "file":
        if authority not in ("", "localhost"):
            raise _bad(uri, field, "is not absolute, and a worker has no folder of its own")
        return Location(scheme=scheme, path=path)
    conn_id, at, host = authority.rpartition("@")
    if not at or not conn_id:
        raise ConfigError(
            f"{uri!r} does not name a connection",
            field=field,
            remedy=f"write {scheme}://<connection id>@/path",
        )
    if path.startswith("/~/"):
        path = path[3:] or "."
    return Location(scheme=scheme, conn_id=conn_id, host=host, path=path)


def _bad(uri: str, field: str, why: str) -> ConfigError:
    return ConfigError(f"the path {uri!r} {why}", field=field, remedy="write an absolute path such as /data/in/*.csv")


def split_glob(path: str) -> tuple[str, str]:
    """Split a path into the folder without wildcards and the pattern below it; no pattern: an empty one."""
    components = path.split("/")
    for number, component in enumerate(components):
        if _MAGIC & set(component):
            folder = "/".join(components[:number])
            return folder or ("/" if path.startswith("/") else "."), "/".join(components[number:])
    return path, ""
