"""What is in an archive, and what of it is refused before anything is written."""

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
from flowrunner_provider.files.tree import chooser

__all__ = ["ArchiveReader", "Guard", "Limits", "Member", "Open", "damaged"]

_RATIO_FROM = 1024 * 1024  # short and very regular data compresses well without being a bomb


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One entry of an archive.

    :param name: as the archive spells it.
    :param size: unpacked; None where only unpacking tells.
    :param kind: ``file``, ``folder``, or what else it is.
    """

    name: str
    size: int | None
    modified: datetime | None
    kind: str = "file"


Open = Callable[[], AsyncIterator[bytes]]
"""The bytes of the present member, unpacked and checked; only until the next one is asked for."""


class ArchiveReader(Protocol):
    """An archive of some format."""

    def members(self) -> AsyncIterator[Member]:
        """All entries, in the order of :meth:`contents`; raises for an archive that is damaged or a bomb."""

    def contents(self) -> AsyncIterator[tuple[Member, Open]]:
        """All entries once more, each with its bytes."""

    async def aclose(self) -> None:
        """Let go."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Beyond these it is a bomb."""

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
    """The error for an archive that is not what it says."""
    return IntegrityError(f"{what} is damaged: {why}", remedy="fetch it again; if it fails again, ask its sender")


class Guard:
    """Judges the entries of an archive one by one and says where the chosen ones go.

    :param what: the archive, for messages.
    :param size: of the archive; None if unknown.
    :param members: globs of what is wanted; none: everything.
    :param strip_prefix: the folder in the archive that is left out of the names.
    """

    def __init__(self, what: str, size: int | None, limits: Limits, members: Sequence[str], strip_prefix: str) -> None:
        self._what, self._size, self._limits = what, size, limits
        self._choose = chooser(list(members), [])
        self._prefix = strip_prefix.strip("/") + "/" if strip_prefix.strip("/") else ""
        self._count = self._total = 0
        self.targets: dict[str, str] = {}
        self.folders: set[str] = set()

    def name_of(self, member: Member) -> str | None:
        """Where the member goes, below the destination; None for one that is not wanted, or a folder."""
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
        """Count an entry.

        :raises SecurityError: for what must not be unpacked.
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
                f"{self._what}: the member {member.name!a} is a {member.kind}, no file",
                remedy="choose others with members; links and devices are never made",
            )
        try:
            join_inside("", name)
        except PathEscape as error:
            raise PathEscape(
                f"{self._what}: the member {member.name[:200]!a}: {error.message}",
                remedy="do not unpack it; or choose other members",
            ) from error
        if name in self.targets:
            raise SecurityError(
                f"{self._what}: two members are called {name!a}", remedy="ask its sender for one of each name"
            )
        self.targets[name] = member.name
        self.folders.update(name[:index] for index, letter in enumerate(name) if letter == "/")
        self._total += member.size or 0
        self.judge(self._total)

    def judge(self, unpacked: int) -> None:
        """Stop at more bytes than are allowed."""
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
        """All entries were seen: refuse names that would become one file, and an archive with nothing wanted."""
        if not self.targets:
            raise NotFound(f"{self._what} holds none of the wanted files", remedy="correct members, or ask its sender")
        both = sorted(self.folders & self.targets.keys())
        if both:
            raise SecurityError(
                f"{self._what}: {both[0]!a} is a file and a folder", remedy="ask its sender for another one"
            )
        groups = [] if store.capabilities.case_sensitive else collisions(self.targets)
        if groups:
            raise SecurityError(
                f"{self._what}: {', '.join(map(ascii, groups[0]))} would become one file in {store.where}",
                remedy="unpack it where capitals count",
            )
