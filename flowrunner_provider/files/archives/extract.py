"""The engine that unpacks an archive: everything is looked at first, then the files come out one by one.

The first look goes over the whole archive and refuses it as a whole: names that lead elsewhere or twice to one
place, links and devices, sizes beyond the limits, damage. A packed TAR is therefore read twice. Each file is checked
against the archive's own checksum before it gets its final name. A retry goes on behind the files that are done.
"""

from __future__ import annotations

import tarfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Json, PermanentError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.archives.members import ArchiveReader, Guard, Limits, Member, Open
from flowrunner_provider.files.archives.tar_reader import SingleReader, TarReader, unpacked
from flowrunner_provider.files.archives.zip_reader import ZipReader
from flowrunner_provider.files.blocking import RangedFile
from flowrunner_provider.files.derived import DerivedFile, ExtractResult
from flowrunner_provider.files.publish import IfExists, Produce, Publisher, Sink, one_of
from flowrunner_provider.files.store import Entry, Store, identity

__all__ = ["ExtractOptions", "extract"]

ACTION = "files.extract"

_SIGNS = {
    b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"\x1f\x8b": "gz", b"\x28\xb5\x2f\xfd": "zst",
    b"7z\xbc\xaf\x27\x1c": "7z", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"Rar!": "rar", b"MSCF": "cab",
}  # fmt: skip
_ENDINGS = (".gz", ".zst", ".tgz", ".tzst", ".gzip", ".zstd")
_HEAD = 64 * 1024

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """How to unpack; the parameters of ``files.extract`` say what each means."""

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
    """Unpack the archive ``source`` into the folder ``dest``; on return every wanted file is whole and checked.

    :param identity_of_work: what must be the same for a retry to go on (JSON).
    :param labels: how the result calls the archive and the folder.
    """
    store, path = source
    what = labels[0] or path
    entry = await store.stat(path)
    if entry.is_dir or entry.is_link:
        raise ConfigError(f"{what} is no file", field="archive", remedy="name an archive")
    kind, reader = await _reader(store, path, entry, options, what)
    work = _Extract(run, dest, options, [identity_of_work, list(map(str, identity(entry)))], what, entry.size)
    try:
        await work.survey(reader)
        await work.unpack(reader, kind)
    finally:
        await reader.aclose()
    if identity(await store.stat(path)) != identity(entry):
        raise IntegrityError(f"{what} changed while it was unpacked", remedy="unpack it when it is finished")
    done = work.publisher
    return ExtractResult(
        archive=what, format=kind, files=done.files, bytes=done.bytes, skipped=done.skipped,
        dest=labels[1] or dest[1],
        entries=[DerivedFile(path=one.path, size=one.size) for one in done.published if not one.skipped],
    )  # fmt: skip


async def _reader(
    store: Store, path: str, entry: Entry, options: ExtractOptions, what: str
) -> tuple[str, ArchiveReader]:
    """What the archive is, by its first bytes."""
    limits = options.limits
    head = await _first(store.read(path, 0, _HEAD), _HEAD)
    packing = next((kind for sign, kind in _SIGNS.items() if head.startswith(sign)), "")
    if packing == "zip":
        if entry.size is None or not store.capabilities.ranged_read:
            raise ConfigError(
                f"{store.where} cannot read a file from anywhere, which zip needs",
                field="archive",
                remedy="copy it to a folder of the worker first",
            )
        return "zip", ZipReader(RangedFile(store, path, entry.size), entry.size, options.password, limits, what)
    if packing not in ("", "gz", "zst"):
        raise PermanentError(f"{what} is a {packing} archive", remedy="ask for zip, tar, tar.gz, tar.zst, gz or zst")
    start = await _first(unpacked(store.read(path), packing, limits, what), tarfile.BLOCKSIZE)

    def read() -> AsyncIterator[bytes]:
        return store.read(path)

    if _is_tar(start):
        return f"tar.{packing}" if packing else "tar", TarReader(read, packing, limits, what)
    if not packing:
        raise PermanentError(f"{what} is no archive", remedy="look at it: zip, tar, gz and zst are known")
    name = path.rpartition("/")[2]
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return packing, SingleReader(read, packing, name[: -len(ending)] if ending else f"{name}.out", limits, what)


async def _first(chunks: AsyncIterator[bytes], count: int) -> bytes:
    head = b""
    async with aclosing(chunks):  # type: ignore[type-var]
        async for chunk in chunks:
            head += chunk
            if len(head) >= count:
                break
    return head[:count]


def _is_tar(start: bytes) -> bool:
    """Whether a block is a TAR header, by its checksum; an empty TAR is one, too."""
    if start and start == bytes(tarfile.BLOCKSIZE):
        return True
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


class _Extract:
    def __init__(
        self, run: Run, dest: tuple[Store, str], options: ExtractOptions, work: Json, what: str, size: int | None
    ) -> None:
        self._run, self._options, self._what = run, options, what
        self._store, self._folder = dest[0], dest[1].rstrip("/") or "/"
        self._guard = Guard(what, size, options.limits, options.members, options.strip_prefix)
        self.publisher = Publisher(run, dest[0], ACTION, work, options.if_exists, announce=False)

    async def survey(self, reader: ArchiveReader) -> None:
        """Look at every entry; nothing is written before this has returned."""
        async for member in reader.members():
            self._guard.admit(member)
        self._guard.settle(self._store)
        await self.publisher.refuse_existing([self._target(name) for name in self._guard.targets])

    def _target(self, name: str) -> str:
        return self._store.join(self._folder, name)

    async def unpack(self, reader: ArchiveReader, kind: str) -> None:
        """Unpack what is wanted, but for the files that an earlier attempt has done."""
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
                    self._guard.judge(sink.digest.size)
            return None

        return produce
