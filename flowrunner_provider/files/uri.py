"""Addresses of files: ``scheme://conn_id@host/path``, as in Airflow's object storage.

Nothing in a path is decoded: ``%20`` is three characters. ``/~/`` at the start of a remote path is the home directory.

``fsspec+PROTOCOL://`` is whatever fsspec opens for that protocol. It has to be written out and is never a fallback:
otherwise a mistyped scheme would reach another place, perhaps without the credentials of the connection. Only with
fsspec the connection may be omitted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.registry import STORES

__all__ = ["SCHEMES", "Location", "apart", "escape", "no_pattern", "one_file", "parse", "several", "split_glob"]

SCHEMES = ("file", *STORES)
"""The schemes of all stores."""

_MAGIC = frozenset("*?[")
_ESCAPED = re.compile(r"\[([*?[])\]")
_FSSPEC = re.compile(r"fsspec\+[a-z][a-z0-9_.-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Location:
    """A parsed address.

    :param conn_id: the Airflow connection; empty for this machine.
    :param host: the host or bucket; usually empty, because the connection has it.
    :param path: the path in the store; a final ``/`` means a folder and is kept.
    """

    scheme: str
    conn_id: str = ""
    host: str = ""
    path: str

    @property
    def root(self) -> str:
        """The address without its path; locations with equal roots are in the same store."""
        return "" if self.scheme == "file" else f"{self.scheme}://{self.conn_id}@{self.host}"


def parse(uri: str, *, field: str = "path") -> Location:
    """Parse an address.

    :param field: the parameter that it was passed as.
    :raises ConfigError: if it is not an address, or its scheme is unknown.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        scheme, rest = "file", uri
    generic = _FSSPEC.fullmatch(scheme) is not None
    if not generic and (scheme not in SCHEMES or scheme == "fsspec"):
        known = ", ".join(f"{known}://" for known in SCHEMES if known != "fsspec")
        raise ConfigError(
            f"{uri!r}: there is no store {scheme!r}",
            field=field,
            remedy=f"use one of {known}, fsspec+PROTOCOL:// for what fsspec opens, or a path such as /data/in",
        )
    authority, slash, path = rest.partition("/")
    path = slash + path
    if "\0" in path or not path:
        raise _bad(uri, field, "has no path" if not path else "contains a NUL")
    if ".." in path.split("/"):
        raise _bad(uri, field, "steps up with '..'")
    if scheme == "file":
        if authority not in ("", "localhost"):
            raise _bad(uri, field, "is not absolute, and tasks have no working directory")
        return Location(scheme=scheme, path=path)
    conn_id, at, host = authority.rpartition("@")
    if not (at and conn_id) and not generic:
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
    """Split a path into the folder without wildcards and the pattern below it; the pattern may be empty.

    ``[*]``, ``[?]`` and ``[[]`` stand for these characters and are not wildcards; :func:`escape` writes them.
    """
    components = path.split("/")
    for number, component in enumerate(components):
        if _MAGIC & set(_ESCAPED.sub("", component)):
            folder = _ESCAPED.sub(r"\1", "/".join(components[:number]))
            return folder or ("/" if path.startswith("/") else "."), "/".join(components[number:])
    return _ESCAPED.sub(r"\1", path), ""


def escape(path: str) -> str:
    """Return ``path`` with its wildcards escaped."""
    return re.sub(r"[*?[]", r"[\g<0>]", path)


def several(uris: Sequence[str], field: str) -> list[Location]:
    """Parse several addresses.

    :raises ConfigError: if there are none.
    """
    if not uris:
        raise ConfigError(f"{field} is empty", field=field, remedy="name at least one file or glob")
    return [parse(uri, field=field) for uri in uris]


def no_pattern(uri: str, field: str) -> Location:
    """Parse an address that must not contain wildcards."""
    location = parse(uri, field=field)
    path, pattern = split_glob(location.path)
    if pattern:
        raise ConfigError(
            f"{field} {uri!r} is a pattern",
            field=field,
            remedy="name a folder or a file; write [*], [?] and [[] for the characters themselves",
        )
    return replace(location, path=path)


def one_file(uri: str, field: str) -> Location:
    """Parse the address of a single file."""
    location = no_pattern(uri, field)
    if location.path.endswith("/"):
        raise ConfigError(f"{field} {uri!r} is a folder", field=field, remedy="name a file")
    return location


def apart(one: Location, other: Location, field: str) -> None:
    """Raise ``ConfigError`` if one of two folders contains the other, or if they are the same folder."""
    if one.root == other.root and (_contains(one.path, other.path) or _contains(other.path, one.path)):
        raise ConfigError(
            f"one of the folders {one.path} and {other.path} contains the other",
            field=field,
            remedy="name folders that do not overlap",
        )


def _contains(folder: str, path: str) -> bool:
    if folder == ".":  # the home directory, below which all relative paths lie
        return not path.startswith("/")
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")
