"""Upload an export to a store, after all its rows are complete in local files."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections import Counter
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

__all__ = ["temporary_folder", "upload"]

_BLOCK_BYTES = 1024 * 1024


@contextmanager
def temporary_folder(run: Run) -> Iterator[Path]:
    """Yield a local folder for the files of an export, and delete what a killed attempt left behind."""
    token = hashlib.sha256("\0".join(run.scope).encode()).hexdigest()[:16]
    prefix = f"flowrunner-export-{token}-"
    with disk_errors(tempfile.gettempdir()):
        for leftover in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            if not leftover.is_symlink() and leftover.stat().st_uid == os.getuid():
                shutil.rmtree(leftover, ignore_errors=True)  # a zombie attempt may still be writing to it
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    failpoint("sql.export.after_scratch")
    try:
        yield folder
    finally:
        with disk_errors(str(folder)):
            if folder.exists():  # a newer attempt deletes it when it takes over
                shutil.rmtree(folder)


async def upload(exported: ExportResult, local: Path, store: Store, path: str, dest: str, run: Run) -> ExportResult:
    """Upload the files, each complete under its final name, and delete surplus files of an earlier run.

    :param local: the local folder that holds the files.
    :param path: the requested file; other files go beside it or into subfolders.
    :param dest: its URI, for the result.
    """
    folder, _, last = path.rpartition("/")
    names = [str(Path(file.path).relative_to(local)) for file in exported.files]
    # concatenated, not joined: the escapes in our own folder names would be rejected as path escapes
    targets = [f"{folder}/{name}" if folder or path.startswith("/") else name for name in names]
    sizes: Json = [file.bytes for file in exported.files]
    publisher = Publisher(run, store, "sql.export", sizes, "overwrite", announce=False)
    for target, file in zip(targets, exported.files, strict=True):
        await publisher.publish(target, _FileUpload(file))
    counts = Counter(target.rpartition("/")[0] for target in targets)
    if names and (name := names[0].rpartition("/")[2]) != last:
        for place, count in counts.items():
            await _remove_surplus(store, place, name, count, run)
    failpoint("sql.export.after_upload")
    base = dest.rpartition("/")[0]
    done = [replace(file, path=f"{base}/{name}") for name, file in zip(names, exported.files, strict=True)]
    return replace(exported, path=done[0].path if done else dest, files=done)


class _FileUpload:
    """Writes one local file to the store."""

    def __init__(self, file: Dataset) -> None:
        self._file = file

    async def __call__(self, sink: Sink) -> Json:
        async for block in _blocks(Path(self._file.path)):
            await sink.write(block)
        return None


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with disk_errors(str(path)), path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            yield block


async def _remove_surplus(store: Store, folder: str, name: str, count: int, run: Run) -> None:
    """Delete files of an earlier run that wrote more of them.

    :param name: the name of one current file.
    :param count: the number of current files.
    """
    found = re.fullmatch(r"(.*)-\d{5,}(\.[^/]*)", name)
    if found is None:
        return
    numbered = re.compile(re.escape(found[1]) + r"-(\d{5,})" + re.escape(found[2]))
    surplus = [
        entry.path
        async for entry in store.list(folder or ".")
        if not entry.is_dir and (other := numbered.fullmatch(entry.name)) and int(other[1]) > count
    ]
    for path in surplus:
        failpoint("sql.export.before_delete")
        run.lease.check()
        try:
            await store.delete(path)
        except NotFound:
            continue  # a killed attempt deleted it already
