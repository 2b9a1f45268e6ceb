"""The state of one attempt of a copy or sync: its open batches, its checkpoint, and its fencing guard.

Files are processed in batches. Two batches are open while the last files of one and the first files of the next are in
flight. The checkpoint holds the open batches with the state of each file, and the counters of the engine, so it has the
same size for ten files and for a million.
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
from flowrunner_provider.files.guard import FencingGuard
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.store import Store
from flowrunner_provider.files.transfer import transfer
from flowrunner_provider.files.transfer_job import Transfer

__all__ = [
    "BATCH_NAMES", "BATCH_SIZE", "SAVE_EVERY", "SKIPPED", "Batch", "TransferSession", "split_into_batches", "token_of",
]  # fmt: skip

BATCH_SIZE = 128
"""Files per batch; each batch costs one write of the checkpoint."""

BATCH_NAMES = 20_000
"""Characters of names per batch, so that a checkpoint of two batches fits into the state store."""

SAVE_EVERY = 3.0
"""Seconds between two writes of the checkpoint within a batch."""

SKIPPED = -1
"""The choice for a file that is not copied."""

_REMEMBERED_FOLDERS = 10_000


@dataclass(eq=False)
class Batch:
    """Some files of the work and the state of each.

    :param choices: for each file the number in its new name (``name.1.ext``), 0 for its own name, or ``SKIPPED``.
    :param kind: what to do with the files: ``copy`` or ``delete``.
    :param resumed: whether an earlier attempt opened the batch.
    :param done: the sizes of the files that are done, by index.
    :param parts: the offset and digest up to which a file was uploaded, by index.
    :param failed: the files that failed in this attempt; the next attempt tries them again.
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
        """Return a batch of files that keep their names."""
        return cls(items=items, choices=[0] * len(items), kind=kind)

    @property
    def sizes(self) -> dict[int, int | None]:
        """The sizes of the pending files by their index in the batch."""
        return {index: self.items[index].size for index in self.pending}

    @property
    def pending(self) -> list[int]:
        """The files that are neither done nor failed nor skipped, by their index in the batch."""
        settled = self.done.keys() | self.failed
        return [index for index, choice in enumerate(self.choices) if choice != SKIPPED and index not in settled]

    @property
    def planned(self) -> Iterator[tuple[Item, int]]:
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


class TransferSession:
    """The state of one attempt.

    :param action: names the checkpoint and the failpoints, e.g. ``copy``.
    :param identity: JSON that must be unchanged for a retry to resume.
    :param engine_state: returns what the engine adds to the checkpoint.
    """

    def __init__(self, run: Run, action: str, identity: Json, engine_state: Callable[[], dict[str, Json]]) -> None:
        self._run, self._action, self._engine_state = run, action, engine_state
        self._checkpoint = run.checkpoint(action, fingerprint(identity))
        self.token = token_of(run)
        self.state: dict[str, Any] = self._checkpoint.state or {}
        self.open_batches = [Batch.from_json(record) for record in self.state.get("batches", [])]
        self.progress: Progress | None = None
        self._saved_at = run.clock.monotonic()
        self.guard = FencingGuard(run)
        self._existing_folders: set[str] = set()
        self._folder_locks: dict[str, asyncio.Lock] = {}
        self._write_lock = threading.Lock()
        self._latest_snapshot = self._written_snapshot = 0

    async def begin(self, batch: Batch) -> Batch:
        """Open a batch; on return it is in the checkpoint. Files of another batch may be in flight meanwhile."""
        self.open_batches.append(batch)
        await asyncio.to_thread(self._write, *self._snapshot())
        return batch

    def end(self, batch: Batch) -> None:
        """Close a batch that is done and that the engine has counted."""
        self.open_batches.remove(batch)

    def save(self, *, force: bool = False) -> None:
        """Write the checkpoint, every few seconds at most unless ``force`` is set; not before the first batch."""
        now = self._run.clock.monotonic()
        has_begun = self._latest_snapshot or self.state
        if has_begun and (force or now - self._saved_at >= SAVE_EVERY):
            self._write(*self._snapshot())

    def _snapshot(self) -> tuple[int, dict[str, Json]]:
        self._saved_at = self._run.clock.monotonic()
        self._latest_snapshot += 1
        state: dict[str, Json] = {"batches": [batch.to_json() for batch in self.open_batches], **self._engine_state()}
        return self._latest_snapshot, state

    def _write(self, number: int, state: dict[str, Json]) -> None:
        """Write a snapshot unless a later one has been written; blocks."""
        with self._write_lock:
            if number > self._written_snapshot:
                self._checkpoint.save(state, force=True)
                self._written_snapshot = number

    async def make_parent_of(self, store: Store, path: str) -> None:
        """Create the folder that contains ``path``, once per folder."""
        folder = path.rpartition("/")[0]
        if not folder or folder in self._existing_folders:
            return
        async with self._folder_locks.setdefault(folder, asyncio.Lock()):  # other files of the folder wait
            if folder not in self._existing_folders:
                failpoint(f"files.{self._action}.before_mkdir")
                await store.mkdir(folder, parents=True)
                failpoint(f"files.{self._action}.after_mkdir")
                if len(self._existing_folders) >= _REMEMBERED_FOLDERS:
                    self._existing_folders.clear()
                self._existing_folders.add(folder)
        self._folder_locks.pop(folder, None)

    async def copy_file(self, batch: Batch, index: int, **fields: Any) -> Digest:
        """Copy a file of the batch, resuming where an earlier attempt stopped.

        :param fields: further fields of :class:`~flowrunner_provider.files.transfer_job.Transfer`.
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
            advance=self._advance, guard=self.guard, **fields,
        )  # fmt: skip
        return await transfer(job)

    def _advance(self, count: int) -> None:
        if self.progress is not None:
            self.progress.advance(count)


def token_of(run: Run) -> str:
    """Return the token that identifies this task's uploads in every attempt."""
    return fingerprint("files", *run.scope)[:16]


def split_into_batches(items: Iterable[Item], *, size: int = 0, names: int = 0) -> Iterator[list[Item]]:
    """Yield ``items`` in batches whose names fit into the checkpoint.

    :param size: the maximum number of files per batch.
    :param names: the maximum number of characters of names per batch.
    """
    size, names = size or BATCH_SIZE, names or BATCH_NAMES
    batch: list[Item] = []
    used = 0
    for item in items:
        cost = 60 + len(json.dumps(item.relative)) + len(item.version)
        if batch and (len(batch) == size or used + cost > names):
            yield batch
            batch, used = [], 0
        batch.append(item)
        used += cost
    if batch:
        yield batch
