"""Exports into a store: the rows are complete in files on this disk before the first one appears in the store."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from flowrunner_provider.core.errors import Json, NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.part_file import disk_errors
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.database.results import ExportResult
from flowrunner_provider.files.publish import Publisher, Sink
from flowrunner_provider.files.store import Store

__all__ = ["scratch", "upload"]

_BLOCK = 1024 * 1024


@contextmanager
def scratch(run: Run) -> Iterator[Path]:
    """A folder on this disk for the files until they are in the store; what a killed attempt has left goes first."""
    token = hashlib.sha256("\0".join(run.scope).encode()).hexdigest()[:16]
    prefix = f"flowrunner-export-{token}-"
    with disk_errors(tempfile.gettempdir()):
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            if not left.is_symlink() and left.stat().st_uid == os.getuid():
                shutil.rmtree(left)
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    failpoint("sql.export.after_scratch")
    try:
        yield folder
    finally:
        with disk_errors(str(folder)):
            shutil.rmtree(folder)


async def upload(exported: ExportResult, store: Store, path: str, dest: str, run: Run) -> ExportResult:
    """The files are in the store, each whole under its final name, and an earlier run's surplus ones are gone.

    :param path: the file asked for; numbered ones are put beside it.
    :param dest: its address, for the result.
    """
    folder = path.rpartition("/")[0]
    publisher = Publisher(
        run, store, "sql.export", [file.bytes for file in exported.files], "overwrite", announce=False
    )
    done = []
    for file in exported.files:
        name = Path(file.path).name
        target = store.join(folder, name) if folder else name
        await publisher.publish(target, _Sender(file))
        done.append(replace(file, path=f"{dest.rpartition('/')[0]}/{name}"))
    await _remove_surplus(store, folder, path.rpartition("/")[2], exported)
    failpoint("sql.export.after_upload")
    return replace(exported, path=done[0].path if done else dest, files=done)


class _Sender:
    """Writes one file of this disk into the store."""

    def __init__(self, file: Dataset) -> None:
        self._file = file

    async def __call__(self, sink: Sink) -> Json:
        async for block in _blocks(Path(self._file.path)):
            await sink.write(block)
        return None


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with disk_errors(str(path)), path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block


async def _remove_surplus(store: Store, folder: str, name: str, exported: ExportResult) -> None:
    """Files of an earlier run that had more of them."""
    stems = [re.fullmatch(r"(.*)-\d{5,}(\.[^/]*)", Path(file.path).name) for file in exported.files]
    if not stems or stems[0] is None or Path(exported.files[0].path).name == name:
        return
    numbered = re.compile(re.escape(stems[0][1]) + r"-(\d{5,})" + re.escape(stems[0][2]))
    surplus = [
        entry.path
        async for entry in store.list(folder or ".")
        if not entry.is_dir and (found := numbered.fullmatch(entry.name)) and int(found[1]) > len(exported.files)
    ]
    for path in surplus:
        failpoint("sql.export.before_delete")
        try:
            await store.delete(path)
        except NotFound:
            continue  # by an attempt that was killed afterwards
