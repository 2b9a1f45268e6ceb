"""Copy and move files between any two stores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.files.results import Algorithm, CopyResult, IfExists
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.files.options import CopyOptions

__all__ = ["FileCopyOperator"]


class FileCopyOperator(FlowRunnerOperator):
    """On success, every file that ``source`` matched is complete and verified under its final name in ``dest``.

    A killed or retried task resumes where it stopped, also inside a file. Readers of ``dest`` never see a partial
    file, no file is copied under two names, and no temporary file is left after success.

    Nothing is written until the listing is complete and has passed all checks. Bytes are streamed, and a listing of
    more than about 40,000 files is kept on the worker's disk (200 bytes per file), so memory stays constant. A copy
    within one store that supports server-side copies moves no bytes through the worker. Symbolic links are not
    followed, and empty folders are not created.

    :param source: the files to copy: a file, a folder, or a glob such as ``sftp://partner@/out/*.csv``; or a list of
        these. A path without a scheme is on the worker. ``**`` matches any number of folders; write ``[*]``, ``[?]``
        and ``[[]`` for the characters themselves.
    :param dest: the target. It is a folder if it ends with ``/``, or if ``source`` is a folder, a glob or several
        paths; otherwise it is the new file.
    :param move: delete each source once its copy is verified and the source is unchanged; same as ``after="delete"``.
    :param after: what to do with a source once its copy is verified: ``none`` keeps it, ``delete`` deletes it, and
        ``move:FOLDER`` renames it into a folder of its own store. The folder is absolute, or relative to the folder of
        the source; a file of the same name there is replaced.
    :param remove_empty_folders: after a move, remove every empty folder below the source folders.
    :param recursive: include all files below the folders.
    :param only_new: skip files that earlier runs have copied, compared by name, size, time and version. The ledger of
        copied files is a hidden file in ``dest``, or the file named here, e.g. ``/data/state/partner.jsonl``. It has
        one line per file; above 100,000 lines, files that are gone from the source are dropped. After a run that was
        killed for good, its copies are recognized by their bytes as long as they are still in ``dest``.
    :param min_age: skip files modified more recently than this, e.g. ``"5m"``, which may still be being written.
    :param stable_for: list twice, this far apart, and skip files that differ; at most 10 minutes.
    :param if_exists: if a target exists: replace it, skip the file, copy to ``name.1.ext``, or fail before anything is
        written.
    :param verify: ``size`` compares the sizes on both sides; ``checksum`` also reads every byte back before the file
        gets its final name (on stores that cannot read an unfinished upload: right after).
    :param verify_sidecar: compare each file with ``<file>.<algorithm>`` beside it, as written by ``sha256sum``, before
        the copy gets its final name. The sidecars are not copied; when a source is moved or deleted, so is its
        sidecar.
    :param write_sidecar: write such a sidecar beside each copy.
    :param algorithm: the checksum algorithm.
    :param done_marker: the name of an empty file, e.g. ``_SUCCESS``, that is written to ``dest`` after the last file
        and deleted before the first one.
    :param chmod: the permission bits of the copies as octal digits, e.g. ``"0640"``; for local disks and SFTP.
    :param on_item_error: ``continue`` copies the other files if one fails (access denied, changed while it was read,
        wrong checksum), and then fails with a list; a retry copies only the failed files. Errors that affect all
        files, such as a lost connection, always end the attempt.
    :param max_failures: with ``on_item_error="continue"``, end the attempt after more failures than this.
    :param concurrency: files in flight, at most 64. Smaller files are cheaper: 16 times as many (at most 64) if below
        1 MiB, and up to 256 if below 64 KiB. 1 always means one file.
    :param preserve_times: give each copy the modification time of its source.
    :param max_files: fail before anything is written if more files match.
    :param max_bytes: fail before anything is written if the matching files are larger in total.
    :param missing_ok: succeed if there is nothing to copy; by default that is an error.
    :param dry_run: list, choose and check as a copy would, and return the counts, the first names, and which files
        would be skipped and why. Nothing is written to either side or to the ledger.
    """

    action: ClassVar[str] = "files.copy"
    template_fields: Sequence[str] = ("source", "dest", "after", "only_new", "done_marker")

    def __init__(
        self,
        *,
        source: str | list[str],
        dest: str,
        move: bool = False,
        after: str = "none",
        remove_empty_folders: bool = False,
        recursive: bool = False,
        only_new: bool | str = False,
        min_age: str | float | timedelta = 0,
        stable_for: str | float | timedelta = 0,
        if_exists: IfExists = "overwrite",
        verify: Literal["size", "checksum"] = "size",
        verify_sidecar: bool = False,
        write_sidecar: bool = False,
        algorithm: Algorithm = "sha256",
        done_marker: str | None = None,
        chmod: str | None = None,
        on_item_error: Literal["fail", "continue"] = "fail",
        max_failures: int = 100,
        concurrency: int = 4,
        preserve_times: bool = True,
        max_files: int = 100_000,
        max_bytes: int | None = None,
        missing_ok: bool = False,
        dry_run: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source, self.dest, self.move, self.after = source, dest, move, after
        self.remove_empty_folders, self.recursive = remove_empty_folders, recursive
        self.only_new, self.min_age, self.stable_for = only_new, min_age, stable_for
        self.if_exists, self.verify, self.algorithm = if_exists, verify, algorithm
        self.verify_sidecar, self.write_sidecar = verify_sidecar, write_sidecar
        self.done_marker, self.chmod = done_marker, chmod
        self.on_item_error, self.max_failures = on_item_error, max_failures
        self.concurrency, self.preserve_times = concurrency, preserve_times
        self.max_files, self.max_bytes, self.missing_ok = max_files, max_bytes, missing_ok
        self.only_plan = dry_run  # BaseOperator has a method of the other name

    async def perform(self, run: Run) -> CopyResult:
        from flowrunner_provider.files.copy import copy
        from flowrunner_provider.files.hook import open_stores
        from flowrunner_provider.files.uri import no_pattern, several

        options = self._options()
        uris = [self.source] if isinstance(self.source, str) else list(self.source)
        sources, dest = several(uris, "source"), no_pattern(self.dest, "dest")
        ledger = no_pattern(self.only_new, "only_new") if isinstance(self.only_new, str) and self.only_new else None
        async with AsyncExitStack() as stack:
            stores = await open_stores(run, stack, source=sources, dest=[dest], only_new=[ledger] if ledger else [])
            return await copy(
                [(stores[location.root], location.path) for location in sources],
                (stores[dest.root], dest.path),
                run,
                options,
                identity_of_work=[
                    "files.copy",
                    *uris,
                    self.dest,
                    options.leaves,
                    options.archive,
                    self.if_exists,
                    *(["recursive"] if self.recursive else []),
                ],
                label=self.dest,
                ledger=(stores[ledger.root], ledger.path) if ledger else None,
            )

    def _options(self) -> CopyOptions:
        from flowrunner_provider.files.options import CopyOptions

        return CopyOptions(
            move=self.move,
            after=self.after,
            remove_empty_folders=self.remove_empty_folders,
            recursive=self.recursive,
            only_new=bool(self.only_new),
            min_age=parse_duration(self.min_age, "min_age"),
            stable_for=parse_duration(self.stable_for, "stable_for"),
            if_exists=self.if_exists,
            verify=self.verify,
            verify_sidecar=self.verify_sidecar,
            write_sidecar=self.write_sidecar,
            algorithm=self.algorithm,
            done_marker=self.done_marker,
            chmod=self.chmod,
            on_item_error=self.on_item_error,
            max_failures=self.max_failures,
            concurrency=self.concurrency,
            preserve_times=self.preserve_times,
            max_files=self.max_files,
            max_bytes=self.max_bytes,
            missing_ok=self.missing_ok,
            dry_run=self.only_plan,
        )
