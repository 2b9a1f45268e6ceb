"""Copying and moving files between any two stores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.results import CopyResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FileCopyOperator"]


class FileCopyOperator(FlowRunnerOperator):
    """Every file that ``source`` named is whole and verified under its final name in ``dest``.

    Killed or retried, it goes on where it was, also within a file; readers of ``dest`` never see a part, nothing is
    copied under two names, and no temporary file is left after success. Bytes are streamed, so memory does not
    grow with their number; about 1 KB is needed per file. Links are not followed and empty folders not made.

    :param source: what to copy: a file, a folder, or a glob such as ``sftp://partner@/out/*.csv``; or a list.
        A name without scheme is a path on the worker. ``**`` stands for any number of folders.
    :param dest: where to: a folder if it ends with ``/`` or more than one file may come, else the new file.
    :param move: delete each source after its copy has been verified and found unchanged.
    :param recursive: also what is below the folders.
    :param if_exists: when a target is there: replace it, skip the file, choose ``name.1.ext``, or fail before
        anything is written.
    :param verify: ``size`` asks the far side for the size; ``checksum`` reads every byte back before the file gets
        its final name.
    :param concurrency: files at a time, at most 64.
    :param preserve_times: give the copies the modification times of their sources.
    :param max_files: more matches than this are an error before anything is written.
    :param missing_ok: nothing to copy is fine; otherwise it is an error.
    """

    action: ClassVar[str] = "files.copy"
    template_fields: Sequence[str] = ("source", "dest")

    def __init__(
        self,
        *,
        source: str | list[str],
        dest: str,
        move: bool = False,
        recursive: bool = False,
        if_exists: Literal["overwrite", "skip", "rename", "fail"] = "overwrite",
        verify: Literal["size", "checksum"] = "size",
        concurrency: int = 4,
        preserve_times: bool = True,
        max_files: int = 100_000,
        missing_ok: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.dest = dest
        self.move = move
        self.recursive = recursive
        self.if_exists = if_exists
        self.verify = verify
        self.concurrency = concurrency
        self.preserve_times = preserve_times
        self.max_files = max_files
        self.missing_ok = missing_ok

    async def perform(self, run: Run) -> CopyResult:
        """Open the stores, one connection for each, and copy."""
        from flowrunner_provider.files.copy import copy
        from flowrunner_provider.files.hook import opened
        from flowrunner_provider.files.options import CopyOptions
        from flowrunner_provider.files.uri import parse, split_glob

        options = CopyOptions(
            move=self.move,
            recursive=self.recursive,
            if_exists=self.if_exists,
            verify=self.verify,
            concurrency=self.concurrency,
            preserve_times=self.preserve_times,
            max_files=self.max_files,
            missing_ok=self.missing_ok,
        )
        uris = [self.source] if isinstance(self.source, str) else list(self.source)
        if not uris:
            raise ConfigError("there is no source", field="source", remedy="name at least one file or pattern")
        sources = [parse(uri, field="source") for uri in uris]
        dest = parse(self.dest, field="dest")
        if split_glob(dest.path)[1]:
            raise ConfigError(f"dest {self.dest!r} is a pattern", field="dest", remedy="name a folder or a file")
        async with AsyncExitStack() as stack:
            stores = await opened(run, stack, source=sources, dest=[dest])
            return await copy(
                [(stores[location.root], location.path) for location in sources],
                (stores[dest.root], dest.path),
                run,
                options,
                identity_of_work=["files.copy", *uris, self.dest, self.move, self.if_exists],
                label=self.dest,
            )
