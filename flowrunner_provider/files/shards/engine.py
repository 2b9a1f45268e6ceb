"""A sync that is spread over several tasks: its plan, cut into shards, in a folder of some store.

``shard-0000.jsonl`` and so on hold the files to copy, one per line; ``plan.json`` says what each of them must be, and
is written last: without it there is no plan.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, cast

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Json, NotFound, PathEscape
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.retry import apause
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.content import read_whole
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.store import FolderStore, Store
from flowrunner_provider.files.sync.plan import Plan

__all__ = ["MOST_SHARDS", "Folder", "Shard", "ShardPlan", "Summary", "line_of"]

MOST_SHARDS = 256

_SUMMARY_BYTES = 1 << 20
_LOOKS = 3


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One shard of a plan.

    :param size: of its file in the plan, with the checksum ``sha256``.
    """

    files: int
    bytes: int
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What ``plan.json`` says.

    :param work: the fingerprint of what was planned.
    :param listed: how many files the source had.
    """

    work: str
    listed: int
    shards: list[Shard] = field(default_factory=list)

    @property
    def files(self) -> int:
        return sum(shard.files for shard in self.shards)

    @property
    def size(self) -> int:
        """The size of the files to copy together."""
        return sum(shard.bytes for shard in self.shards)

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Summary:
        """Read it.

        :raises IntegrityError: if it is none.
        """
        try:
            record = json.loads(data)
            return cls(
                work=str(record["work"]),
                listed=int(record["listed"]),
                shards=[Shard(**shard) for shard in record["shards"]],
            )
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(f"{where} is no plan of ours", remedy="run files.sync_plan again") from error


class Folder:
    """The folder that one plan lies in.

    :param path: of the folder, which is the plan's own.
    """

    def __init__(self, store: Store, path: str) -> None:
        self.store, self.path = store, path.rstrip("/")

    @property
    def summary_path(self) -> str:
        return self.store.join(self.path, "plan.json")

    def shard_path(self, number: int) -> str:
        return self.store.join(self.path, f"shard-{number:04}.jsonl")

    async def summary(self, work: str) -> Summary:
        """What was planned.

        :param work: the fingerprint of what the caller is about to do.
        :raises NotFound: if there is no plan.
        :raises ConfigError: if it is the plan of other work.
        """
        try:
            data = await read_whole(self.store, self.summary_path, _SUMMARY_BYTES)
        except NotFound as error:
            raise NotFound(
                f"there is no plan in {self.store.where}{self.path}",
                remedy="run files.sync_plan first, with the same plan_path, in the same DAG run",
            ) from error
        summary = Summary.from_bytes(data, self.store.where + self.summary_path)
        if summary.work != work:
            raise ConfigError(
                "the plan was made for another source, destination or choice of files",
                field="plan_name",
                remedy="give the tasks of one sync the same parameters, and two syncs of a DAG two plan_names",
            )
        return summary

    async def remove(self, parent: str) -> None:
        """Remove the plan, and the folders that are empty then.

        An attempt that was killed may have been anywhere in this, and what it had asked of the server may be done
        while this one looks: that something is gone already is no reason to stop before the end.

        :param parent: the folder of the plans.
        """
        for _ in range(_LOOKS):
            for path in await self._files():
                with suppress(NotFound):
                    await self.store.delete(path)
            if not self.store.capabilities.removes_folders:
                return
            store = cast("FolderStore", self.store)
            if await store.rmdir(self.path):
                failpoint("files.sync_finish.between_rmdirs")
                await store.rmdir(parent.rstrip("/"))
                return

    async def _files(self) -> list[str]:
        """What lies in the plan's folder, what says that there is a plan last."""
        try:
            paths = [entry.path async for entry in self.store.list(self.path) if not entry.is_dir]
        except NotFound:
            return []
        return sorted(paths, key=self.summary_path.__eq__)


def line_of(item: Item, doubtful: bool) -> bytes:
    """A file of the plan as a line of its shard."""
    return json.dumps([*item.to_json(), int(doubtful)]).encode() + b"\n"


class ShardPlan(Plan):
    """What one shard has to copy: nothing is listed, nothing is deleted.

    :param more: as for :class:`~flowrunner_provider.files.sync.plan.Plan`, which is asked for by ``sync``.
    """

    fixed: ClassVar[bool] = True

    def __init__(self, *arguments: Any, folder: Folder, number: int, shard: Shard, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._folder, self._number, self._shard = folder, number, shard

    async def _make(self) -> None:
        path, digest, rest, count = self._folder.shard_path(self._number), Digest(), b"", 0
        async for chunk in self._folder.store.read(path):
            digest.update(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            count += self._take(lines, path)
            await apause(0)
        if rest or digest.hexdigest() != self._shard.sha256 or count != self._shard.files:
            raise IntegrityError(
                f"{self._folder.store.where}{path} is not as it was planned", remedy="run files.sync_plan again"
            )
        self.listed = count  # not before: nothing is copied that a damaged plan names

    def _take(self, lines: Sequence[bytes], path: str) -> int:
        for row in _rows(lines, self._folder.store.where + path):
            item = Item.from_json(row[:-1])
            if {"", ".", ".."} & set(item.relative.split("/")):
                raise PathEscape(f"the plan holds the name {item.relative!r}", remedy="run files.sync_plan again")
            self._dest.store.join(self._dest.folder, item.relative)
            self._add(item, doubtful=bool(row[-1]))
        return len(lines)


def _rows(lines: Sequence[bytes], where: str) -> Iterator[list[Json]]:
    try:
        yield from map(json.loads, lines)
    except ValueError as error:
        raise IntegrityError(f"{where} is damaged", remedy="run files.sync_plan again") from error
