"""The books of an attempt that copies files: its open batches, what the next attempt is told, and its right to go on.

Work is done in batches, of which two are open while the last files of one and the first of the next are under way.
The record for the next attempt holds them with what became of each of their files, and what the engine counts: it has
the same size for ten files and for a million.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import Json
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.progress import Progress
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.guard import Guard
from flowrunner_provider.files.job import Transfer
from flowrunner_provider.files.plan import Item
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.transfer import transfer

__all__ = ["BATCH", "NAMES", "SAVE_EVERY", "SKIPPED", "Batch", "Books", "batches", "token_of"]

BATCH = 128
"""Files per batch; one write of the record each."""

NAMES = 20_000
"""Characters of names per batch, so that the record of two stays below what the state store takes."""

SAVE_EVERY = 3.0
"""Seconds between two writes of the record within a batch."""

SKIPPED = -1
"""The choice for a file that is left alone."""

_FOLDERS = 10_000


@dataclass(eq=False)
class Batch:
    """Some files, what each is to become (0: its own name), which are done, how far each of the others came.

    :param kind: what is done with them.
    :param resumed: an earlier attempt has opened it.
    :param failed: in this attempt; the next one tries them again.
    """

    items: list[Item]
    choices: list[int]
    kind: str = "copy"
    resumed: bool = False
    done: dict[int, int] = field(default_factory=dict)
    parts: dict[int, tuple[int, str]] = field(default_factory=dict)
    failed: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, items: list[Item], kind: str = "copy") -> Batch:
        """A batch of files that keep their names."""
        return cls(items=items, choices=[0] * len(items), kind=kind)

    @property
    def sizes(self) -> dict[int, int | None]:
        """The sizes of the files that are still to be done, by their place in the batch."""
        return {index: self.items[index].size for index in self.open}

    @property
    def open(self) -> list[int]:
        """The files that are still to be done, by their place in the batch."""
        settled = self.done.keys() | self.failed
        return [index for index, choice in enumerate(self.choices) if choice != SKIPPED and index not in settled]

    @property
    def intended(self) -> Iterator[tuple[Item, int]]:
        """Each file with its choice."""
        return zip(self.items, self.choices, strict=True)

    def to_json(self) -> dict[str, Json]:
        return {
            "items": [item.to_json() for item in self.items],
            "choices": list(self.choices),
            "kind": self.kind,
            "done": [[index, size] for index, size in self.done.items()],
            "parts": [[index, *part] for index, part in self.parts.items() if index not in self.done],
        }

    @classmethod
    def from_json(cls, record: Any) -> Batch:
        return cls(
            items=[Item.from_json(row) for row in record["items"]],
            choices=list(record["choices"]),
            kind=record["kind"],
            resumed=True,
            done=dict(record["done"]),
            parts={index: (offset, digest) for index, offset, digest in record["parts"]},
        )


class Books:
    """What one attempt keeps.

    :param action: names the record and the failpoints, e.g. ``copy``.
    :param identity: what must be the same for a retry to go on (JSON).
    :param own: what the engine adds to the record.
    """

    def __init__(self, run: Run, action: str, identity: Json, own: Callable[[], dict[str, Json]]) -> None:
        self._run, self._action, self._own = run, action, own
        self._checkpoint = run.checkpoint(action, fingerprint(identity))
        self.token = token_of(run)
        self.state: dict[str, Any] = self._checkpoint.state or {}
        self.batches = [Batch.from_json(record) for record in self.state.get("batches", [])]
        self.progress: Progress | None = None
        self._saved_at = run.clock.monotonic()
        self.guard = Guard(run)
        self._folders: set[str] = set()
        self._making: dict[str, asyncio.Lock] = {}
        self._writing = threading.Lock()
        self._asked = self._written = 0

    async def open(self, batch: Batch) -> Batch:
        """Begin a batch: on return the next attempt knows of it. Files of another one go on meanwhile."""
        self.batches.append(batch)
        await asyncio.to_thread(self._write, *self._record())
        return batch

    def close(self, batch: Batch) -> None:
        """All of it is done, and counted in what the engine adds to the record."""
        self.batches.remove(batch)

    def save(self, *, force: bool = False) -> None:
        """Write the record, at most every few seconds unless it must be; none as long as nothing was begun."""
        now = self._run.clock.monotonic()
        begun = self._asked or self.state
        if begun and (force or now - self._saved_at >= SAVE_EVERY):
            self._write(*self._record())

    def _record(self) -> tuple[int, dict[str, Json]]:
        self._saved_at = self._run.clock.monotonic()
        self._asked += 1
        return self._asked, {"batches": [batch.to_json() for batch in self.batches], **self._own()}

    def _write(self, number: int, record: dict[str, Json]) -> None:
        """Blocking; never over a record that was asked for later."""
        with self._writing:
            if number > self._written:
                self._checkpoint.save(record, force=True)
                self._written = number

    async def folder_of(self, store: Store, path: str) -> None:
        """Make the folder that ``path`` lies in."""
        folder = path.rpartition("/")[0]
        if not folder or folder in self._folders:
            return
        async with self._making.setdefault(folder, asyncio.Lock()):  # its other files wait for the first one
            if folder not in self._folders:
                failpoint(f"files.{self._action}.before_mkdir")
                await store.mkdir(folder, parents=True)
                failpoint(f"files.{self._action}.after_mkdir")
                if len(self._folders) >= _FOLDERS:
                    self._folders.clear()
                self._folders.add(folder)
        self._making.pop(folder, None)

    async def send(self, batch: Batch, index: int, **what: Any) -> Digest:
        """Copy a file of the batch, from where an earlier attempt was.

        :param what: as :class:`~flowrunner_provider.files.transfer.Transfer` calls it.
        """
        clock, due_at = self._run.clock, self._run.clock.monotonic() + SAVE_EVERY

        def due() -> bool:
            return clock.monotonic() >= due_at

        def remember(offset: int, digest: str) -> None:
            nonlocal due_at
            due_at = clock.monotonic() + SAVE_EVERY
            batch.parts[index] = (offset, digest)
            self.save()

        job = Transfer(
            item=batch.items[index], token=self.token, resume=batch.parts.get(index), due=due, remember=remember,
            advance=self._advance, guard=self.guard, **what,
        )  # fmt: skip
        return await transfer(job)

    def _advance(self, count: int) -> None:
        if self.progress is not None:
            self.progress.advance(count)


def token_of(run: Run) -> str:
    """What names this task's uploads in every attempt."""
    return fingerprint("files", *run.scope)[:16]


def batches(items: Iterable[Item], *, most: int = 0, room: int = 0) -> Iterator[list[Item]]:
    """Cut ``items`` into batches whose names fit into the record."""
    most, room = most or BATCH, room or NAMES
    batch: list[Item] = []
    used = 0
    for item in items:
        cost = 60 + len(json.dumps(item.relative)) + len(item.version)
        if batch and (len(batch) == most or used + cost > room):
            yield batch
            batch, used = [], 0
        batch.append(item)
        used += cost
    if batch:
        yield batch
