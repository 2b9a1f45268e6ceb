"""The ledger of ``only_new``: the files that earlier runs have copied, one line per file.

It consists of two files in a store with atomic replacement: the *book* with the copied files, and the *daybook* with
the files that were copied since, and those of the open batches. A batch is announced in the daybook before its first
byte is written. Whoever finds an announcement, be it the next attempt or another run, compares the announced target
with the source byte by byte; if they are equal, the file was copied.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress

from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import lines
from flowrunner_provider.files.guard import FencingGuard
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.session import token_of
from flowrunner_provider.files.spool import Rows
from flowrunner_provider.files.store import Store

__all__ = ["Ledger"]

MOST = 100_000
"""With more files in the book, those that the source no longer lists are dropped."""

FOLD = 4_096
"""The number of copied files in the daybook before they are moved to the book."""

Announced = tuple[Item, int]


class Ledger:
    """The ledger of one copy.

    :param store: an open store.
    :param path: the path of the book.
    """

    def __init__(self, store: Store, path: str, run: Run) -> None:
        self._store, self._book, self._daybook, self._run = store, path, f"{path}.open", run
        self._new: list[Item] = []
        if not store.capabilities.atomic_replace:
            raise ConfigError(
                f"{store.where} cannot replace a file atomically, so a killed task could lose the ledger there",
                field="only_new",
                remedy="name a file in another store, e.g. only_new='/data/state/partner.jsonl'",
            )

    async def read(self, known: Rows) -> list[Announced]:
        """Add the copied files to ``known``, and return those that were announced but perhaps not copied."""
        self._known = known
        announced: list[Announced] = []
        async for item, _ in self._rows(self._book):
            known.add(item)
        async for item, choice in self._rows(self._daybook):
            if choice is None:
                self.settle(item)
            else:
                announced.append((item, choice))
        return announced

    def prune(self, listed: Rows) -> None:
        """Drop files that are no longer listed, if there are too many."""
        if self._known.count > MOST:
            self._known.keep(listed)

    def settle(self, item: Item) -> None:
        """Add a copied file; it is written with the next announcement, or at the end."""
        self._known.add(item)
        self._new.append(item)

    async def announce(self, items: Iterable[Announced]) -> None:
        """Write the files that are about to be copied, each with its choice."""
        if len(self._new) >= FOLD:
            await self._fold()
        rows = [item.to_json() for item in self._new] + [[*item.to_json(), choice] for item, choice in items]
        await self._write(self._daybook, (json.dumps(row) for row in rows))

    async def close(self) -> None:
        """Write the book and delete the daybook, now that all files are copied."""
        if self._new:
            await self._fold()
        with suppress(NotFound):
            await self._store.delete(self._daybook)
        for path in (self._book, self._daybook):
            await self._store.forget(path, token_of(self._run))

    async def _fold(self) -> None:
        await self._write(self._book, (json.dumps(item.to_json()) for item in self._known.sorted()))
        self._new.clear()

    async def _write(self, path: str, rows: Iterable[str]) -> None:
        folder = path.rpartition("/")[0]
        if folder:
            await self._store.mkdir(folder, parents=True)
        guard = FencingGuard(self._run)
        upload = await self._store.begin(path, token_of(self._run))
        try:
            block = bytearray()
            for row in rows:
                block += row.encode() + b"\n"
                if len(block) >= 1 << 18:
                    await upload.write(bytes(block))
                    block.clear()
            await upload.write(bytes(block))
            guard.check_now()
            failpoint("files.copy.before_ledger")
            await upload.commit(replace=True, durable=True)
            failpoint("files.copy.after_ledger")
        except BaseException as error:
            await guard.clean_up(upload, error)
            raise
        finally:
            await upload.close()

    async def _rows(self, path: str) -> AsyncIterator[tuple[Item, int | None]]:
        """Yield each file with the choice that was announced for it; None for a copied file."""
        try:
            async for line in lines(self._store.read(path), what=path):
                row = json.loads(line)
                if not isinstance(row, list) or len(row) not in (5, 6):
                    raise ValueError("no row")
                yield Item.from_json(row[:5]), int(str(row[5])) if len(row) == 6 else None
        except NotFound:
            return
        except ValueError as error:
            raise ConfigError(
                f"the ledger {self._store.where}{path} is damaged",
                field="only_new",
                remedy="restore or delete it; without it every file counts as new",
            ) from error
