"""Copying and moving files between any two stores."""

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
    """Every file that ``source`` named is whole and verified under its final name in ``dest``.

    Killed or retried, it goes on where it was, also within a file; readers of ``dest`` never see a part, nothing is
    copied under two names, and no temporary file is left after success. Nothing is written before the listing is
    complete and was judged. Bytes are streamed, and a listing of more than some 40,000 files is kept on the worker's
    disk (200 bytes per file), so memory grows with neither. Within one store that copies by itself no byte
    passes through the worker. Links are not followed and empty folders not made.

    :param source: what to copy: a file, a folder, or a glob such as ``sftp://partner@/out/*.csv``; or a list.
        A name without scheme is a path on the worker. ``**`` stands for any number of folders; ``[*]``, ``[?]`` and
        ``[[]`` for these very characters.
    :param dest: where to: a folder if it ends with ``/`` or more than one file may come, else the new file.
    :param move: delete each source after its copy has been verified and found unchanged: ``after="delete"``.
    :param after: what becomes of such a source: ``none``, ``delete``, or ``move:FOLDER``, which renames it into a
        folder of its own store (absolute, or below the folder of the source), where the latest of a name stays.
    :param remove_empty_folders: after a move, remove every folder below the source folders that is empty.
    :param recursive: also what is below the folders.
    :param only_new: leave out what earlier runs have copied, by name, size, time and version. The ledger of these is
        a hidden file in ``dest``, or the file that is named here, e.g. ``/data/state/partner.jsonl``; it has one line
        per file and forgets files that the source no longer has beyond 100,000. A file whose run was killed for good
        is recognised by its bytes while its copy is still there.
    :param min_age: leave out what was modified less long ago, e.g. ``"5m"``: it may still be being written.
    :param stable_for: list twice, so far apart, and leave out what differs; at most 10 minutes.
    :param if_exists: when a target is there: replace it, skip the file, choose ``name.1.ext``, or fail before
        anything is written.
    :param verify: ``size`` asks the far side for the size; ``checksum`` reads every byte back before the file gets
        its final name (where the store cannot show a part: right after it).
    :param verify_sidecar: compare with ``<file>.<algorithm>`` beside each source, as ``sha256sum`` writes it, before
        the copy gets its name; these sidecars are not copied and go with a moved source.
    :param write_sidecar: write such a file beside each copy.
    :param algorithm: of the checksums.
    :param done_marker: the name of an empty file in ``dest`` that is written when every file is there, and removed
        before the first is written, e.g. ``_SUCCESS``.
    :param chmod: permission bits of the copies, e.g. ``"0640"``, on this machine and over SFTP.
    :param on_item_error: ``continue`` copies the others when a file cannot be copied (no permission, changed while
        it was read, wrong checksum), and then fails naming them; a retry does only these. A lost connection and the
        like end the attempt in any case.
    :param max_failures: with ``continue``, more failures than this end the attempt.
    :param concurrency: files at a time, at most 64; of files below 1 MiB sixteen times as many, at most
        64, too, and of those below 64 KiB 256; 1 is one in any case.
    :param preserve_times: give the copies the modification times of their sources.
    :param max_files: more matches than this are an error before anything is written.
    :param max_bytes: so is a larger sum of their sizes.
    :param missing_ok: nothing to copy is fine; otherwise it is an error.
    :param dry_run: only list, choose and judge, as a copy would, and tell the counts, the first names, and what would
        be left alone and why; nothing is written on either side, and no ledger.
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
        """Open the stores and copy."""
        from flowrunner_provider.files.copy import copy
        from flowrunner_provider.files.hook import opened
        from flowrunner_provider.files.uri import no_pattern, several

        options = self._options()
        uris = [self.source] if isinstance(self.source, str) else list(self.source)
        sources, dest = several(uris, "source"), no_pattern(self.dest, "dest")
        ledger = no_pattern(self.only_new, "only_new") if isinstance(self.only_new, str) and self.only_new else None
        async with AsyncExitStack() as stack:
            stores = await opened(run, stack, source=sources, dest=[dest], only_new=[ledger] if ledger else [])
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
