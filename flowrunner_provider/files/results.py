"""Results of the file actions; a light module, because the DAG processor imports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = [
    "Algorithm",
    "Arrival",
    "ArrivedFile",
    "Checked",
    "ChecksumResult",
    "CopiedFile",
    "CopyResult",
    "DeleteResult",
    "FolderResult",
    "IfExists",
    "LeftBecause",
    "LeftFile",
    "ListResult",
    "ListedFile",
    "ReadResult",
    "ShardResult",
    "SyncFinishResult",
    "SyncPlanResult",
    "SyncResult",
    "WaitResult",
    "WriteResult",
]

Algorithm = Literal["sha256", "sha512", "sha1", "md5", "blake2b"]
IfExists = Literal["overwrite", "skip", "rename", "fail"]
LeftBecause = Literal["exists", "known", "young", "changing"]


@dataclass(frozen=True, kw_only=True)
class CopiedFile:
    """A copied file."""

    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class LeftFile:
    """A file that is not copied.

    :param because: ``exists``: the target exists; ``known``: an earlier run has copied it; ``young``: it was modified
        too recently; ``changing``: it is still changing.
    """

    path: str
    because: LeftBecause


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """The files that were copied, over all attempts; in a dry run, those that would be.

    :param files: the number of copied (or moved) files.
    :param bytes: their total size.
    :param skipped: the number of files that were skipped because their target exists.
    :param dest: the destination.
    :param entries: the first copied files, at most 20.
    :param known: with ``only_new``, the number of files that earlier runs have copied.
    :param dry_run: whether nothing was written.
    :param reasons: in a dry run, the number of files that would be skipped, by reason; see ``left``.
    :param left: in a dry run, the first files that would be skipped, at most 20.
    """

    files: int
    bytes: int
    skipped: int
    dest: str
    entries: list[CopiedFile]
    known: int = 0
    dry_run: bool = False
    reasons: dict[str, int] = field(default_factory=dict)
    left: list[LeftFile] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """What a sync did, over all attempts; ``listed`` = ``copied`` + ``unchanged``.

    :param listed: the number of files in the source.
    :param copied: the number of copied files; in a dry run, of files that would be copied.
    :param unchanged: the number of files that were up to date.
    :param bytes: the total size of the copied files.
    :param deleted: the number of extra files that were deleted, or moved to the backup; in a dry run, that would be.
    :param extra: the number of files that only ``dest`` has and that were kept.
    :param dry_run: whether nothing was written.
    :param copies: the first files that the last attempt copied, at most 20.
    :param deletes: the first files that the last attempt deleted, at most 20.
    """

    listed: int
    copied: int
    unchanged: int
    bytes: int
    deleted: int
    extra: int
    dry_run: bool
    copies: list[str]
    deletes: list[str]


@dataclass(frozen=True, kw_only=True)
class SyncPlanResult:
    """The plan of a sharded sync.

    :param plan: the folder of the plan; empty after a dry run.
    :param shards: the number of shards.
    :param waves: the number of waves in which the plan was published.
    :param listed: the number of files in the source.
    :param files: the number of files to copy, or to compare by their bytes; in a dry run, of files to copy.
    :param bytes: their total size.
    :param largest: the total size of the files of the largest shard.
    :param deletes: the number of extra files that will be deleted at the end.
    :param extra: the number of files that only ``dest`` has and that are kept.
    :param copies: the first names, at most 20.
    """

    plan: str
    shards: int
    waves: int
    listed: int
    files: int
    bytes: int
    largest: int
    deletes: int
    extra: int
    dry_run: bool
    copies: list[str]


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What one shard did, over all attempts; ``files`` = ``copied`` + ``unchanged``.

    :param waves: the number of waves of the plan.
    :param files: the number of files that were assigned to the shard.
    :param copied: the number of copied files.
    :param unchanged: the number of files that were up to date, or are gone from the source since the plan was made.
    :param bytes: the total size of the copied files.
    """

    shard: int
    waves: int
    files: int
    copied: int
    unchanged: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class SyncFinishResult:
    """The sharded sync as a whole.

    :param listed: the number of files in the source at the end.
    :param planned: the number of files that were assigned to shards.
    :param planned_bytes: their total size.
    :param late: the number of files that had changed since the plan was made and were copied at the end.
    :param deleted: the number of extra files that were deleted, or moved to the backup.
    :param extra: the number of files that only ``dest`` has and that were kept.
    """

    listed: int
    planned: int
    planned_bytes: int
    late: int
    deleted: int
    extra: int


@dataclass(frozen=True, kw_only=True)
class DeleteResult:
    """What was deleted, over all attempts; ``matched`` = ``deleted`` + ``kept``.

    :param matched: the number of files that matched.
    :param deleted: the number of deleted files; in a dry run, of files that would be deleted.
    :param kept: the number of files that were kept: by age, by ``keep_last``, or because they changed after the
        listing.
    :param bytes: the total size of the deleted files, as far as the store knows sizes.
    :param dry_run: whether nothing was deleted.
    :param paths: the first deleted files, at most 20.
    """

    matched: int
    deleted: int
    kept: int
    bytes: int
    dry_run: bool
    paths: list[str]


@dataclass(frozen=True, kw_only=True)
class FolderResult:
    """A folder.

    :param path: its path.
    :param created: whether this task created it; False if it existed before.
    """

    path: str
    created: bool


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """A file in a listing.

    :param path: its address, which other actions accept as ``source``.
    :param modified: in UTC, ISO 8601; None if the store does not know it.
    """

    path: str
    name: str
    size: int | None
    modified: str | None


@dataclass(frozen=True, kw_only=True)
class ListResult:
    """A listing.

    :param count: the number of matching files.
    :param files: these files, or the first ``limit`` of them.
    """

    count: int
    files: list[ListedFile]


@dataclass(frozen=True, kw_only=True)
class ArrivedFile(ListedFile):
    """A file of an event.

    :param change: ``created`` or ``updated``.
    """

    change: Literal["created", "updated"]


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """An event of a watched folder.

    :param id: identical whenever the same version of the same files is reported again.
    :param files: the file of this event; with ``batch="look"``, all files that one listing found, at most 40.
    """

    id: str
    files: list[ArrivedFile]


@dataclass(frozen=True, kw_only=True)
class WaitResult:
    """The files that were waited for.

    :param count: the number of files.
    :param files: these files by path, or the first 1,000 of them.
    """

    count: int
    files: list[ListedFile]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A file and its checksum, in lower-case hexadecimal."""

    path: str
    size: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class ChecksumResult:
    """The files that were read and compared.

    :param files: the number of files (of two folders: of names in both).
    :param bytes: their total size.
    :param algorithm: the checksum algorithm.
    :param compared: the number of files that had something to be compared with, and matched.
    :param entries: the files and their checksums, at most 500.
    """

    files: int
    bytes: int
    algorithm: str
    compared: int
    entries: list[Checked] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ReadResult:
    """The content of a file.

    :param size: in bytes.
    :param content: a text, a list of lines, base64, or the JSON value.
    """

    path: str
    size: int
    content: Any


@dataclass(frozen=True, kw_only=True)
class WriteResult:
    """The file that was written.

    :param path: its path.
    :param bytes: the size of ``content`` in bytes.
    :param size: the size of the file after the task.
    :param skipped: whether the file existed and the write was skipped.
    """

    path: str
    bytes: int
    size: int
    skipped: bool = False
