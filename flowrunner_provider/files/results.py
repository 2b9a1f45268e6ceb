"""What the file actions return; light, because whoever reads a DAG imports it."""

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
    """One file of the result's preview."""

    path: str
    size: int


@dataclass(frozen=True, kw_only=True)
class LeftFile:
    """One file that is not copied.

    :param because: its target ``exists``; it was copied before and is ``known``; it is too ``young``, or still
        ``changing``.
    """

    path: str
    because: LeftBecause


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """What was copied, over all attempts; of a dry run what would be.

    :param files: how many files were copied (or moved).
    :param bytes: their size together.
    :param skipped: how many were left alone because their target was there.
    :param dest: where they are.
    :param entries: the first of them, at most 20.
    :param known: with ``only_new``: how many were left alone because they were copied before.
    :param dry_run: nothing was done.
    :param reasons: in a dry run: how many match and would be left alone, by reason; see ``left``.
    :param left: in a dry run: the first of these, at most 20.
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
    """What was done, over all attempts; ``listed`` = ``copied`` + ``unchanged``.

    :param listed: how many files the source has.
    :param copied: how many of them were copied; in a dry run: how many would be.
    :param unchanged: how many were there already.
    :param bytes: the size of the copied ones together.
    :param deleted: how many extra files were deleted, or moved into the backup; in a dry run: would be.
    :param extra: how many files are in ``dest`` alone and stay there.
    :param dry_run: nothing was done.
    :param copies: the first names that were copied, in the last attempt, at most 20.
    :param deletes: the first names that were deleted, in the last attempt, at most 20.
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
    """A plan.

    :param plan: the folder that it lies in; empty after a dry run.
    :param shards: into how many parts it was cut.
    :param waves: in how many steps it was published.
    :param listed: how many files the source has.
    :param files: how many of them are to be copied, or compared by their bytes; in a dry run: to be copied.
    :param bytes: their size together.
    :param largest: the size of the files of the largest shard together.
    :param deletes: how many extra files will be deleted at the end.
    :param extra: how many files are in ``dest`` alone and stay there.
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
    """What became of one shard, over all attempts; ``files`` = ``copied`` + ``unchanged``.

    :param waves: how many waves the plan had.
    :param files: how many files were planned for it.
    :param copied: how many of them were copied.
    :param unchanged: how many turned out to be the same, or are gone from the source since.
    :param bytes: the size of the copied ones together.
    """

    shard: int
    waves: int
    files: int
    copied: int
    unchanged: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class SyncFinishResult:
    """The whole sync.

    :param listed: how many files the source has at the end.
    :param planned: how many were to be copied by the shards.
    :param planned_bytes: their size together.
    :param late: how many had changed since the plan was made, and were copied at the end.
    :param deleted: how many extra files were deleted, or moved into the backup.
    :param extra: how many files are in ``dest`` alone and stay there.
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

    :param matched: how many files the path named.
    :param deleted: how many of them are gone; in a dry run: how many would be.
    :param kept: how many were left, by age, by ``keep_last``, or because they changed after they were listed.
    :param bytes: the size of the deleted ones together, where the store knows sizes.
    :param dry_run: nothing was deleted.
    :param paths: the first of the deleted, at most 20.
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

    :param path: where it is.
    :param created: this task has made it; False if it was there before.
    """

    path: str
    created: bool


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """One file.

    :param path: its address, to be used as ``source`` of another action.
    :param modified: in UTC, ISO 8601; None where the store does not know.
    """

    path: str
    name: str
    size: int | None
    modified: str | None


@dataclass(frozen=True, kw_only=True)
class ListResult:
    """What was found.

    :param count: how many files match.
    :param files: those files, or the first ``limit`` of them.
    """

    count: int
    files: list[ListedFile]


@dataclass(frozen=True, kw_only=True)
class ArrivedFile(ListedFile):
    """One file of an event.

    :param change: ``created`` or ``updated``.
    """

    change: Literal["created", "updated"]


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """An event of a watched folder.

    :param id: the same whenever the same version of the same files is told again.
    :param files: the one that it is about; with ``batch="look"`` all that one look has found, at most 40.
    """

    id: str
    files: list[ArrivedFile]


@dataclass(frozen=True, kw_only=True)
class WaitResult:
    """What was waited for.

    :param count: how many files are there.
    :param files: those files by path, or the first 1,000 of them.
    """

    count: int
    files: list[ListedFile]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One file and its checksum, in lower-case hexadecimal."""

    path: str
    size: int
    checksum: str


@dataclass(frozen=True, kw_only=True)
class ChecksumResult:
    """What was read and compared.

    :param files: how many files were read (of two trees: names that are in both).
    :param bytes: their size together.
    :param algorithm: of the checksums.
    :param compared: how many had something to be compared with, and were the same.
    :param entries: the files with their checksums, at most 500.
    """

    files: int
    bytes: int
    algorithm: str
    compared: int
    entries: list[Checked] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ReadResult:
    """A file's content.

    :param size: in bytes.
    :param content: a text, a list of lines, base64, or what the JSON says.
    """

    path: str
    size: int
    content: Any


@dataclass(frozen=True, kw_only=True)
class WriteResult:
    """What was written.

    :param path: the file.
    :param bytes: how many bytes ``content`` has.
    :param size: how many bytes the file had when this task was through with it.
    :param skipped: it was there and was left alone.
    """

    path: str
    bytes: int
    size: int
    skipped: bool = False
