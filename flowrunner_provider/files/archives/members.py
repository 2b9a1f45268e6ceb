"""The entries of an archive, and the checks that refuse an archive before anything is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from flowrunner_provider.core.errors import (
    BombDetected,
    ConfigError,
    IntegrityError,
    NotFound,
    PathEscape,
    SecurityError,
)
from flowrunner_provider.core.names import collisions, join_inside
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.tree import path_filter

__all__ = ["ArchiveReader", "Limits", "Member", "MemberGuard", "Open", "damaged"]

_RATIO_FROM = 1024 * 1024  # short and very regular data compresses well without being a bomb


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One entry of an archive.

    :param name: the name as stored in the archive.
    :param size: the unpacked size; None if only unpacking reveals it.
    :param kind: ``file``, ``folder``, or another kind in words.
    """

    name: str
    size: int | None
    modified: datetime | None
    kind: str = "file"


Open = Callable[[], AsyncIterator[bytes]]
"""Yields the unpacked and verified bytes of the current member; valid until the next member is requested."""


class ArchiveReader(Protocol):
    """An archive of some format."""

    def members(self) -> AsyncIterator[Member]:
        """Yield all entries in the order of :meth:`contents`; raise if the archive is damaged or a bomb."""

    def contents(self) -> AsyncIterator[tuple[Member, Open]]:
        """Yield all entries again, each with its content."""

    async def aclose(self) -> None:
        """Release resources."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits beyond which an archive counts as a bomb."""

    max_ratio: float = 100.0
    max_size: int = 10 * 1024**3
    max_entries: int = 100_000

    def __post_init__(self) -> None:
        for name in ("max_ratio", "max_size", "max_entries"):
            value = getattr(self, name)
            whole = name != "max_ratio"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not value >= 1:
                raise ConfigError(f"{name} is {value!r}", field=name, remedy="write a number from 1")


def damaged(what: str, why: object) -> IntegrityError:
    """Return the error for a damaged archive."""
    return IntegrityError(f"{what} is damaged: {why}", remedy="fetch it again; if that does not help, ask the sender")


class MemberGuard:
    """Checks the entries of an archive one by one, and determines the target names of the selected ones.

    :param what: the archive, for messages.
    :param size: the size of the archive; None if unknown.
    :param members: globs of the selected files; empty: all.
    :param strip_prefix: the folder of the archive to remove from the names.
    """

    def __init__(self, what: str, size: int | None, limits: Limits, members: Sequence[str], strip_prefix: str) -> None:
        self._what, self._size, self._limits = what, size, limits
        self._choose = path_filter(list(members), [])
        self._prefix = strip_prefix.strip("/") + "/" if strip_prefix.strip("/") else ""
        self._count = self._total = 0
        self.targets: dict[str, str] = {}
        self.folders: set[str] = set()

    def name_of(self, member: Member) -> str | None:
        """Return the target name of a member; None if it is not selected or is a folder."""
        name = member.name.rstrip("/") if member.kind == "folder" else member.name
        while name.startswith("./"):
            name = name[2:].lstrip("/") if name[2:3] == "/" else name[2:]
        if name in ("", ".") and member.kind == "folder":
            return None
        if member.kind == "folder" or not self._choose(name):
            return None
        if self._prefix:
            if not name.startswith(self._prefix):
                raise ConfigError(
                    f"{self._what}: the member {name!a} is not below {self._prefix}",
                    field="strip_prefix",
                    remedy="correct it, or choose with members",
                )
            name = name[len(self._prefix) :]
        return name

    def admit(self, member: Member) -> None:
        """Check and count an entry.

        :raises SecurityError: if it must not be unpacked.
        """
        self._count += 1
        if self._count > self._limits.max_entries:
            raise BombDetected(
                f"{self._what} has more than {self._limits.max_entries} entries",
                remedy="raise max_entries if that is expected",
            )
        name = self.name_of(member)
        if name is None:
            return
        if member.kind != "file":
            raise SecurityError(
                f"{self._what}: the member {member.name!a} is a {member.kind}, not a file",
                remedy="exclude it with members; links and devices are never created",
            )
        try:
            join_inside("", name)
        except PathEscape as error:
            raise PathEscape(
                f"{self._what}: the member {member.name[:200]!a}: {error.message}",
                remedy="do not unpack it, or exclude it with members",
            ) from error
        if name in self.targets:
            raise SecurityError(
                f"{self._what}: two members have the name {name!a}",
                remedy="ask the sender for an archive with unique names",
            )
        self.targets[name] = member.name
        self.folders.update(name[:index] for index, letter in enumerate(name) if letter == "/")
        self._total += member.size or 0
        self.check_size(self._total)

    def check_size(self, unpacked: int) -> None:
        """Raise ``BombDetected`` if the unpacked size exceeds a limit."""
        if unpacked > self._limits.max_size:
            raise BombDetected(
                f"{self._what} unpacks to more than {self._limits.max_size} bytes",
                remedy="raise max_size if this size is expected",
            )
        most = self._limits.max_ratio * (self._size or unpacked)
        if unpacked > _RATIO_FROM and unpacked > most:
            raise BombDetected(
                f"{self._what} unpacks to more than {self._limits.max_ratio:g} times its size",
                remedy="raise max_ratio if the data is known to be this regular",
            )

    def settle(self, store: Store) -> None:
        """After all entries: refuse names that would become one file, and an archive without selected files."""
        if not self.targets:
            raise NotFound(
                f"{self._what} contains none of the selected files", remedy="correct members, or ask the sender"
            )
        both = sorted(self.folders & self.targets.keys())
        if both:
            raise SecurityError(
                f"{self._what}: {both[0]!a} is both a file and a folder", remedy="ask the sender for another archive"
            )
        groups = [] if store.capabilities.case_sensitive else collisions(self.targets)
        if groups:
            raise SecurityError(
                f"{self._what}: {', '.join(map(ascii, groups[0]))} would become one file in {store.where}",
                remedy="unpack it to a case-sensitive store",
            )
