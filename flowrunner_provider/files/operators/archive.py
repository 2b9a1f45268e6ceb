"""Packing files into archives, and unpacking them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.run import Run
from flowrunner_provider.files.derived import ArchiveResult, ExtractResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FileArchiveOperator", "FileExtractOperator"]


class FileArchiveOperator(FlowRunnerOperator):
    """The archive is whole under its final name and holds every file that ``source`` named, each as it was listed.

    Killed or retried, it is made again from the start, unless it is found published already; readers never see a
    part, and no temporary file is left. The archive goes to its store as a stream: no copy of it lies on the worker,
    and memory does not grow with the bytes; about 1 KB is needed per file. Links are not followed, empty folders
    left out, owners and modes not kept.

    :param source: what to pack: a file, a folder, or a glob such as ``sftp://partner@/out/*.csv``; or a list.
    :param dest: the archive, e.g. ``/data/out/orders.zip``; one that lies among the sources is refused.
    :param format: ``auto`` goes by the end of ``dest``: ``.zip`` ``.tar`` ``.tar.gz`` ``.tgz`` ``.tar.zst``
        ``.tzst`` ``.gz`` ``.zst``; the last two hold one file.
    :param arcname: how a file is called in the archive: ``{path}`` is its path below the folder of its source,
        ``{name}`` the last component. Two files of one name are refused, and names that would lead elsewhere.
    :param keys_conn_id: a ``generic`` connection whose password encrypts the files in a zip with AES-256; their
        names stay readable. Prefer ``files.crypt`` where the other side can.
    :param level: of compression, 0 to 9, for zst to 19; by default 6, for zst 3.
    :param reproducible: all times are 1980-01-01, so that the same files give the same bytes (not with a password).
    :param recursive: also what is below the folders.
    :param if_exists: when ``dest`` is there: replace it, leave it alone, or fail.
    :param max_files: more matches than this are an error before anything is written.
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
        """Open the stores and pack."""
        from flowrunner_provider.files.archives.archive import ArchiveOptions, archive
        from flowrunner_provider.files.hook import places
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
        async with places(run, source=sources, dest=[dest]) as found:
            return await archive(
                found["source"],
                found["dest"][0],
                run,
                options,
                identity_of_work=[*uris, self.dest, self.format, self.arcname, self.if_exists],
                label=self.dest,
            )


class FileExtractOperator(FlowRunnerOperator):
    """Every wanted file of the archive is in ``dest``, whole and checked against the archive's own checksums.

    Killed or retried, it goes on behind the files that are done; readers never see a part of one. Before the first
    file is written the whole archive is looked at and refused if it is damaged, if a wanted name would lead out of
    ``dest`` or come twice, if a wanted entry is a link or a device, or if a limit is passed; a packed TAR is
    therefore read twice. What it is, is told by its bytes, not its name: zip (stored or deflate, encrypted by AES or
    the old cipher), tar, tar.gz, tar.zst, gz, zst. Archives within the archive stay files. Memory does not grow with
    bytes. Owners, modes and empty folders are not made.

    :param archive: one file, e.g. ``sftp://partner@/out/orders.zip``.
    :param dest: a folder; it is made if it is missing.
    :param members: globs of the wanted files; one without ``/`` is for the name in any folder. None: all.
    :param strip_prefix: a folder in the archive that is left out of the names.
    :param keys_conn_id: a ``generic`` connection whose password opens the archive.
    :param if_exists: when a target is there: replace it, leave it alone, or fail before anything is written.
    :param preserve_times: give the files the times that the archive says (ZIP tells no time zone; UTC is assumed).
    :param max_ratio: more unpacked bytes per packed byte than this are taken for a bomb (from 1 MiB on).
    :param max_size: the most unpacked bytes, by default 10 GiB.
    :param max_entries: the most entries, wanted or not.
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
        """Open the stores, look, then unpack."""
        from flowrunner_provider.files.archives.extract import ExtractOptions, extract
        from flowrunner_provider.files.archives.members import Limits
        from flowrunner_provider.files.hook import places
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
        async with places(run, archive=[source], dest=[dest]) as found:
            return await extract(
                found["archive"][0],
                found["dest"][0],
                run,
                options,
                identity_of_work=[self.archive, self.dest, list(members), self.strip_prefix, self.if_exists],
                labels=(self.archive, self.dest),
            )
