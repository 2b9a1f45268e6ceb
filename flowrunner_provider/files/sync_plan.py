"""What a sync is going to do: found by comparing two complete listings, judged, and refused before any effect."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.each import each
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.results import SyncResult
from flowrunner_provider.files.transfer import digest_of
from flowrunner_provider.files.tree import Runs, Tree, side_by_side

__all__ = ["Plan", "SyncOptions"]

_CHUNK, _SHOWN, _CHARACTERS = 256, 20, 6_000


@dataclass(frozen=True, kw_only=True)
class SyncOptions:
    """How to sync; the parameters of ``files.sync`` say what each means. ``backup_dir`` is a path in the store."""

    compare: Literal["size_mtime", "checksum", "name"] = "size_mtime"
    delete_extra: bool = False
    max_deletes: int = 1000
    backup_dir: str = ""
    include: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    concurrency: int = 4
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.compare not in ("size_mtime", "checksum", "name"):
            raise ConfigError(
                f"compare is {self.compare!r}", field="compare", remedy="write size_mtime, checksum or name"
            )
        for name, least, most in (("concurrency", 1, 64), ("max_deletes", 0, 10_000_000)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ConfigError(
                    f"{name} is {value!r}", field=name, remedy=f"write a whole number from {least} to {most}"
                )


class Plan:
    """The plan; its rows are in temporary files.

    :param source: not listed yet.
    :param dest: not listed yet.
    """

    def __init__(self, source: Tree, dest: Tree, run: Run, options: SyncOptions) -> None:
        self._source, self._dest, self._run, self._options = source, dest, run, options
        self._copy, self._delete = Runs(), Runs()
        self.bytes = self._unchanged = self._extra = 0
        self._shown: dict[str, list[str]] = {"copy": [], "delete": []}
        one, other = source.store.capabilities, dest.store.capabilities
        self._precision = max(one.modified_precision, other.modified_precision, 0.002)

    @property
    def copies(self) -> int:
        return self._copy.count

    @property
    def deletes(self) -> int:
        return self._delete.count

    def close(self) -> None:
        """Remove the temporary files."""
        for runs in (self._copy, self._delete, self._source.runs, self._dest.runs):
            runs.close()

    def to_copy(self) -> Iterator[Item]:
        """By name."""
        return (Item.from_json(row[1:]) for row in self._copy)

    def to_delete(self) -> Iterator[Item]:
        """By name."""
        return (Item.from_json(row[1:]) for row in self._delete)

    def result(self, copied: int, size: int, deleted: int) -> SyncResult:
        """What is told; what earlier attempts have copied is unchanged in this attempt's listing."""
        listed = self._unchanged + self._copy.count
        return SyncResult(
            listed=listed,
            copied=copied,
            unchanged=max(0, listed - copied),
            bytes=size,
            deleted=deleted,
            extra=self._extra,
            dry_run=self._options.dry_run,
            copies=self._shown["copy"],
            deletes=self._shown["delete"],
        )

    def alike(self, here: Item, there: Item) -> bool:
        """Whether two files look the same without being read."""
        if self._options.compare == "name":
            return True
        if here.size is None or here.size != there.size:
            return False
        if self._options.compare == "checksum":
            return True
        if here.modified is None or there.modified is None:
            return False
        return abs((here.modified - there.modified).total_seconds()) < self._precision

    async def same(self, here: Item, there: Item) -> bool:
        """Whether two files are the same; with checksums they are read."""
        if not self.alike(here, there) or self._options.compare != "checksum":
            return self.alike(here, there)
        mine = await digest_of(self._source.store.read(self._source.path_of(here.relative)))
        theirs = await digest_of(self._dest.store.read(self._dest.path_of(here.relative)))
        return mine.hexdigest() == theirs.hexdigest()

    async def make(self, *, deleted_before: int) -> None:
        """List both, compare, and refuse what must not be done.

        :param deleted_before: what earlier attempts have deleted counts, too.
        """
        capabilities = self._dest.store.capabilities
        if self._options.compare == "size_mtime" and not capabilities.sets_modified:
            raise ConfigError(
                f"{self._dest.store.where} cannot keep the times of files",
                field="compare",
                remedy="set compare='checksum'",
            )
        await self._source.read(missing_ok=False)
        await self._dest.read(missing_ok=True)
        if self._source.links or self._dest.links:
            links = self._source.links, self._dest.links
            self._run.log.warning("Symbolic links were left alone: %d in the source, %d in dest.", *links)
        if not capabilities.case_sensitive:
            self._refuse_collisions()
        await self._compare()
        if deleted_before + self._delete.count > self._options.max_deletes:
            raise ConfigError(
                f"{deleted_before + self._delete.count} files would be deleted and max_deletes is "
                f"{self._options.max_deletes}; nothing was done in this attempt",
                field="max_deletes",
                remedy="look at the plan with dry_run=True; then raise max_deletes, or exclude them",
            )

    async def _compare(self) -> None:
        """Merge the two listings; with checksums, several files at a time are read."""
        doubtful: list[tuple[Item, Item]] = []
        for here, there in side_by_side(self._source.items(), self._dest.items()):
            if here is None:
                if there is not None:
                    self._add_extra(there)
                continue
            self._dest.store.join(self._dest.folder, here.relative)  # a name that leads elsewhere is refused now
            if there is None or not self.alike(here, there):
                self._add_copy(here)
            elif self._options.compare == "checksum":
                doubtful.append((here, there))
                if len(doubtful) >= _CHUNK:
                    await self._read(doubtful)
            else:
                self._unchanged += 1
        await self._read(doubtful)

    async def _read(self, doubtful: list[tuple[Item, Item]]) -> None:
        async def one(pair: tuple[Item, Item]) -> None:
            if await self.same(*pair):
                self._unchanged += 1
            else:
                self._add_copy(pair[0])

        await each(self._options.concurrency, one, doubtful)
        doubtful.clear()

    def _add_copy(self, item: Item) -> None:
        self._copy.add([item.relative, *item.to_json()])
        self.bytes += item.size or 0
        self._show("copy", item)

    def _add_extra(self, item: Item) -> None:
        if not self._options.delete_extra:
            self._extra += 1
            return
        self._delete.add([item.relative, *item.to_json()])
        self._show("delete", item)

    def _show(self, kind: str, item: Item) -> None:
        shown = self._shown[kind]
        if len(shown) < _SHOWN and sum(map(len, shown)) < _CHARACTERS:
            shown.append(item.relative)

    def _refuse_collisions(self) -> None:
        """Two spellings that the destination takes for one file: in the source, or one on either side."""
        spellings = Runs()
        try:
            for tree in (self._source, self._dest):
                for item in tree.items():
                    spellings.add([_caseless(item.relative), item.relative])
            before: list[object] = ["", ""]
            for row in spellings:
                if row[0] == before[0] and row[1] != before[1]:
                    raise ConfigError(
                        f"{before[1]}, {row[1]} would be one file in {self._dest.store.where}",
                        field="source",
                        remedy="rename one of them",
                    )
                before = [*row]
        finally:
            spellings.close()


def _caseless(name: str) -> str:
    """Canonical caseless matching, Unicode section 3.13, definition D145."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
