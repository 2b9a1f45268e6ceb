"""The engine of ``files.extract``: it checks the whole archive first and then unpacks the files one by one.

The check refuses the archive as a whole: names that lead outside or occur twice, links and devices, sizes beyond the
limits, damage. A compressed TAR is therefore read twice. Each file is verified against the checksum in the archive
before it gets its final name. A retry continues after the last finished file.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Json, PermanentError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.archives.members import ArchiveReader, Limits, Member, MemberGuard, Open
from flowrunner_provider.files.archives.tar_reader import SingleReader, TarReader, unpacked
from flowrunner_provider.files.archives.zip_reader import ZipReader
from flowrunner_provider.files.blocking import RangedFile
from flowrunner_provider.files.derived_results import DerivedFile, ExtractResult
from flowrunner_provider.files.publish import IfExists, Produce, Publisher, Sink, one_of
from flowrunner_provider.files.store import Entry, Store, identity

__all__ = ["ExtractOptions", "extract"]

ACTION = "files.extract"

_MAGIC_NUMBERS = {
    b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst",
    b"7z\xbc\xaf\x27\x1c": "7z", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"Rar!": "rar", b"MSCF": "cab",
}  # fmt: skip
_ENDINGS = (".gz", ".zst", ".tgz", ".tzst", ".gzip", ".zstd")
_HEAD_SIZE = 64 * 1024

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """The options of ``files.extract``; see its parameters."""

    members: Sequence[str] = ()
    strip_prefix: str = ""
    password: str = ""
    if_exists: IfExists = "overwrite"
    preserve_times: bool = True
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        one_of("if_exists", self.if_exists, ("overwrite", "skip", "fail"))


async def extract(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: ExtractOptions,
    *,
    identity_of_work: Json = None,
    labels: tuple[str, str] = ("", ""),
) -> ExtractResult:
    """Unpack the selected files of the archive ``source`` into the folder ``dest`` and verify each.

    :param identity_of_work: JSON that identifies the work; a retry resumes only if it is equal.
    :param labels: the paths of the archive and the folder in the result.
    """
    store, path = source
    what = labels[0] or path
    entry = await store.stat(path)
    if entry.is_dir or entry.is_link:
        raise ConfigError(f"{what} is not a file", field="archive", remedy="name an archive")
    kind, reader = await _open_reader(store, path, entry, options, what)
    work = _Extraction(run, dest, options, [identity_of_work, list(map(str, identity(entry)))], what, entry.size)
    try:
        await work.check(reader)
        await work.unpack(reader, kind)
    finally:
        await reader.aclose()
    if identity(await store.stat(path)) != identity(entry):
        raise IntegrityError(f"{what} changed while it was unpacked", remedy="unpack it when it is finished")
    done = work.publisher
    return ExtractResult(
        archive=what, format=kind, files=done.files, bytes=done.bytes, skipped=done.skipped,
        dest=labels[1] or dest[1],
        entries=[DerivedFile(path=file.path, size=file.size) for file in done.published if not file.skipped],
    )  # fmt: skip


async def _open_reader(
    store: Store, path: str, entry: Entry, options: ExtractOptions, what: str
) -> tuple[str, ArchiveReader]:
    """Detect the format from the first bytes; return it with a reader."""
    limits = options.limits
    head = await _read_start(store.read(path, 0, _HEAD_SIZE), _HEAD_SIZE)
    packing = next((kind for magic, kind in _MAGIC_NUMBERS.items() if head.startswith(magic)), "")
    if packing == "zip":
        if entry.size is None or not store.capabilities.ranged_read:
            raise ConfigError(
                f"{store.where} does not support ranged reads, which zip needs",
                field="archive",
                remedy="copy the archive to a local folder first",
            )
        return "zip", ZipReader(RangedFile(store, path, entry.size), entry.size, options.password, limits, what)
    if packing not in ("", "gz", "zst"):
        raise PermanentError(f"{what} is a {packing} archive", remedy="ask for zip, tar, tar.gz, tar.zst, gz or zst")
    start = await _read_start(unpacked(store.read(path), packing, limits, what), tarfile.BLOCKSIZE)

    def read() -> AsyncIterator[bytes]:
        return store.read(path)

    if _is_tar(start):
        return f"tar.{packing}" if packing else "tar", TarReader(read, packing, limits, what)
    if not packing:
        raise PermanentError(f"{what} is not an archive", remedy="check the file; zip, tar, gz and zst are supported")
    name = path.rpartition("/")[2]
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return packing, SingleReader(read, packing, name[: -len(ending)] if ending else f"{name}.out", limits, what)


async def _read_start(chunks: AsyncIterator[bytes], count: int) -> bytes:
    head = b""
    async with aclosing(chunks):  # type: ignore[type-var]
        async for chunk in chunks:
            head += chunk
            if len(head) >= count:
                break
    return head[:count]


def _is_tar(start: bytes) -> bool:
    """Return whether a block is a TAR header with a valid checksum, or the start of an empty TAR."""
    if start and start == bytes(tarfile.BLOCKSIZE):
        return True
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


class _Extraction:
    """The unpacking of one archive."""

    def __init__(
        self, run: Run, dest: tuple[Store, str], options: ExtractOptions, work: Json, what: str, size: int | None
    ) -> None:
        self._run, self._options, self._what = run, options, what
        self._store, self._folder = dest[0], dest[1].rstrip("/") or "/"
        self._guard = MemberGuard(what, size, options.limits, options.members, options.strip_prefix)
        self.publisher = Publisher(run, dest[0], ACTION, work, options.if_exists, announce=False)

    async def check(self, reader: ArchiveReader) -> None:
        """Check every entry before anything is written."""
        async for member in reader.members():
            self._guard.admit(member)
        self._guard.settle(self._store)
        await self.publisher.refuse_existing([self._target(name) for name in self._guard.targets])

    def _target(self, name: str) -> str:
        return self._store.join(self._folder, name)

    async def unpack(self, reader: ArchiveReader, kind: str) -> None:
        """Unpack the selected files that no earlier attempt has finished."""
        publisher, number = self.publisher, 0
        first = publisher.next
        progress = self._run.progress("extract", unit="files", total=len(self._guard.targets), start=first)
        async for member, read in reader.contents():
            name = self._guard.name_of(member)
            if name is None:
                continue
            if number >= first:
                when = member.modified if self._options.preserve_times else None
                await publisher.publish(self._target(name), self._producer(member, read), modified=when)
                progress.advance()
            number += 1
        if number != len(self._guard.targets):
            raise IntegrityError(f"{self._what} changed while it was unpacked", remedy="unpack it when it is finished")
        progress.finish()

    def _producer(self, member: Member, read: Open) -> Produce:
        async def produce(sink: Sink) -> Json:
            async for chunk in read():
                await sink.write(chunk)
                if member.size is None:
                    self._guard.check_size(sink.digest.size)
            return None

        return produce
