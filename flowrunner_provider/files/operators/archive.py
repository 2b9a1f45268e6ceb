"""The operators that create and unpack archives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.run import Run
from flowrunner_provider.files.derived_results import ArchiveResult, ExtractResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FileArchiveOperator", "FileExtractOperator"]


class FileArchiveOperator(FlowRunnerOperator):
    """On success, the archive is complete under its final name and contains every file that ``source`` matched, as it
    was when it was listed.

    A killed or retried task writes the archive again from the start, unless an earlier attempt already published it.
    Readers never see a partial archive, and no temporary file is left behind.

    The archive is streamed to its store: it is not stored on the worker, and memory does not grow with its size, only
    by about 1 KB per file. Symbolic links and empty folders are left out; owners and permissions are not stored.

    :param source: a file, a folder, a glob such as ``sftp://partner@/out/*.csv``, or a list of them.
    :param dest: the archive to write, e.g. ``/data/out/orders.zip``. It must not be one of the sources.
    :param format: the archive format. ``auto`` takes it from the end of ``dest``: ``.zip``, ``.tar``, ``.tar.gz``,
        ``.tgz``, ``.tar.zst``, ``.tzst``, ``.gz`` or ``.zst``. The last two hold a single file.
    :param arcname: the name of each file in the archive. ``{path}`` is the path below the source folder, ``{name}`` is
        the last component. Duplicate names, and names that lead outside the archive, are refused.
    :param keys_conn_id: a ``generic`` connection whose password encrypts the files of a zip with AES-256. File names
        stay readable. Prefer ``files.crypt`` if the recipient supports it.
    :param level: compression level, 0 to 9, for zst 0 to 19. Default: 6, for zst 3.
    :param reproducible: store 1980-01-01 as the time of every file, so that equal files give equal archives. Has no
        such effect with a password.
    :param recursive: include subfolders.
    :param if_exists: if ``dest`` exists, ``overwrite`` it, ``skip`` the task's work, or ``fail``.
    :param max_files: fail before anything is written if more files match.
    """

    action: ClassVar[str] = "files.archive"
    template_fields: Sequence[str] = ("source", "dest", "arcname", "keys_conn_id")

    def __init__(
        self,
        *,
        source: str | list[str],
        dest: str,
        format: Literal["auto", "zip", "tar", "tar.gz", "tar.zst", "gz", "zst"] = "auto",  # noqa: A002
        arcname: str = "{path}",
        keys_conn_id: str = "",
        level: int | None = None,
        reproducible: bool = False,
        recursive: bool = True,
        if_exists: Literal["overwrite", "skip", "fail"] = "overwrite",
        max_files: int = 100_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.dest = dest
        self.format = format
        self.arcname = arcname
        self.keys_conn_id = keys_conn_id
        self.level = level
        self.reproducible = reproducible
        self.recursive = recursive
        self.if_exists = if_exists
        self.max_files = max_files

    async def perform(self, run: Run) -> ArchiveResult:
        from flowrunner_provider.files.archives.archive import ArchiveOptions, archive
        from flowrunner_provider.files.hook import open_locations
        from flowrunner_provider.files.hooks.keys import zip_password
        from flowrunner_provider.files.uri import one_file, several

        uris = [self.source] if isinstance(self.source, str) else list(self.source)
        sources, dest = several(uris, "source"), one_file(self.dest, "dest")
        options = ArchiveOptions(
            format=self.format,
            arcname=self.arcname,
            password=zip_password(self.keys_conn_id),
            level=self.level,
            reproducible=self.reproducible,
            recursive=self.recursive,
            if_exists=self.if_exists,
            max_files=self.max_files,
        )
        async with open_locations(run, source=sources, dest=[dest]) as found:
            return await archive(
                found["source"],
                found["dest"][0],
                run,
                options,
                identity_of_work=[*uris, self.dest, self.format, self.arcname, self.if_exists],
                label=self.dest,
            )


class FileExtractOperator(FlowRunnerOperator):
    """On success, every selected file of the archive is complete in ``dest`` and verified against the checksums of the
    archive.

    A killed or retried task continues after the last finished file; readers never see a partial file.

    The whole archive is checked before the first file is written. It is refused if it is damaged, if a selected name
    is duplicated or leads outside ``dest``, if a selected entry is a link or a device, or if a limit is exceeded. A
    compressed TAR is therefore read twice. The format is detected from the content, not from the name: zip (stored or
    deflated; AES or ZipCrypto encryption), tar, tar.gz, tar.zst, gz, zst. Nested archives are not unpacked. Memory
    does not grow with the size of the files. Owners, permissions and empty folders are not restored.

    :param archive: the archive, e.g. ``sftp://partner@/out/orders.zip``.
    :param dest: the target folder; created if it does not exist.
    :param members: a glob or a list of globs of the files to unpack. A glob without ``/`` matches the file name in any
        folder. None: all files.
    :param strip_prefix: a folder of the archive to remove from the names, e.g. ``export/2026``.
    :param keys_conn_id: a ``generic`` connection whose password decrypts the archive.
    :param if_exists: if a target exists, ``overwrite`` it, ``skip`` it, or ``fail`` before anything is written.
    :param preserve_times: set the modification times that the archive records. ZIP has no time zone; UTC is assumed.
    :param max_ratio: refuse archives with a higher compression ratio; applies from 1 MiB of unpacked data on.
    :param max_size: the most unpacked bytes; default 10 GiB.
    :param max_entries: the most entries in the archive, selected or not.
    """

    action: ClassVar[str] = "files.extract"
    template_fields: Sequence[str] = ("archive", "dest", "members", "strip_prefix", "keys_conn_id")

    def __init__(
        self,
        *,
        archive: str,
        dest: str,
        members: str | list[str] | None = None,
        strip_prefix: str = "",
        keys_conn_id: str = "",
        if_exists: Literal["overwrite", "skip", "fail"] = "overwrite",
        preserve_times: bool = True,
        max_ratio: float = 100.0,
        max_size: int = 10 * 1024**3,
        max_entries: int = 100_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.archive = archive
        self.dest = dest
        self.members = members
        self.strip_prefix = strip_prefix
        self.keys_conn_id = keys_conn_id
        self.if_exists = if_exists
        self.preserve_times = preserve_times
        self.max_ratio = max_ratio
        self.max_size = max_size
        self.max_entries = max_entries

    async def perform(self, run: Run) -> ExtractResult:
        from flowrunner_provider.files.archives.extract import ExtractOptions, extract
        from flowrunner_provider.files.archives.members import Limits
        from flowrunner_provider.files.hook import open_locations
        from flowrunner_provider.files.hooks.keys import zip_password
        from flowrunner_provider.files.uri import no_pattern, one_file

        source, dest = one_file(self.archive, "archive"), no_pattern(self.dest, "dest")
        members = [self.members] if isinstance(self.members, str) else list(self.members or [])
        options = ExtractOptions(
            members=members,
            strip_prefix=self.strip_prefix,
            password=zip_password(self.keys_conn_id),
            if_exists=self.if_exists,
            preserve_times=self.preserve_times,
            limits=Limits(max_ratio=self.max_ratio, max_size=self.max_size, max_entries=self.max_entries),
        )
        async with open_locations(run, archive=[source], dest=[dest]) as found:
            return await extract(
                found["archive"][0],
                found["dest"][0],
                run,
                options,
                identity_of_work=[self.archive, self.dest, list(members), self.strip_prefix, self.if_exists],
                labels=(self.archive, self.dest),
            )
