"""Compute and verify checksums of files in any store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar, get_args

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.results import Algorithm, ChecksumResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FileChecksumOperator"]


class FileChecksumOperator(FlowRunnerOperator):
    """On success, every byte of the files was read, and all checksums match the expected ones.

    A killed or retried task reads again; with ``write_sidecar`` it writes the same sidecars again. A mismatch, a
    missing file and a missing sidecar are errors that name the first 20 files. Memory does not grow with the size of
    the files. Comparing two folders keeps only the differences in memory; otherwise about 1 KB per file.

    :param path: a file, a folder, or a glob such as ``sftp://partner@/out/*.csv``; or a list of these. Sidecars are
        skipped.
    :param algorithm: the checksum algorithm.
    :param recursive: include all files below the folders.
    :param expected: the checksum of a single file, or a mapping from names (relative to the folder) to checksums.
    :param verify_sidecar: compare each file with ``<file>.<algorithm>`` beside it, as written by ``sha256sum``.
    :param write_sidecar: write such a sidecar beside each file.
    :param compare_with: a second folder, which must hold the same files as the folder ``path``, at any depth.
    """

    action: ClassVar[str] = "files.checksum"
    template_fields: Sequence[str] = ("path", "expected", "compare_with")

    def __init__(
        self,
        *,
        path: str | list[str],
        algorithm: Algorithm = "sha256",
        recursive: bool = False,
        expected: str | Mapping[str, str] | None = None,
        verify_sidecar: bool = False,
        write_sidecar: bool = False,
        compare_with: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.algorithm = algorithm
        self.recursive = recursive
        self.expected = expected
        self.verify_sidecar = verify_sidecar
        self.write_sidecar = write_sidecar
        self.compare_with = compare_with

    async def perform(self, run: Run) -> ChecksumResult:
        from flowrunner_provider.files.checksum import check_files
        from flowrunner_provider.files.hook import open_stores
        from flowrunner_provider.files.uri import parse

        uris = [self.path] if isinstance(self.path, str) else list(self.path)
        if not uris:
            raise ConfigError("path is empty", field="path", remedy="name at least one file or glob")
        if self.algorithm not in get_args(Algorithm):
            raise ConfigError(
                f"algorithm is {self.algorithm!r}",
                field="algorithm",
                remedy=f"write one of {', '.join(get_args(Algorithm))}",
            )
        if sum((self.expected is not None, self.verify_sidecar, self.write_sidecar, self.compare_with is not None)) > 1:
            raise ConfigError(
                "more than one kind of comparison is set",
                field="expected",
                remedy="use one of expected, verify_sidecar, write_sidecar and compare_with",
            )
        if self.compare_with is not None:
            return await self._compare(run, uris, self.compare_with)
        locations = [parse(uri, field="path") for uri in uris]
        async with AsyncExitStack() as stack:
            stores = await open_stores(run, stack, path=locations)
            return await check_files(
                [(stores[found.root], found.path, found.root) for found in locations],
                run,
                algorithm=self.algorithm,
                recursive=self.recursive,
                expected=self.expected,
                verify_sidecar=self.verify_sidecar,
                write_sidecar=self.write_sidecar,
            )

    async def _compare(self, run: Run, uris: list[str], second: str) -> ChecksumResult:
        from flowrunner_provider.files.checksum import compare_trees
        from flowrunner_provider.files.hook import open_stores
        from flowrunner_provider.files.tree import Tree, path_filter
        from flowrunner_provider.files.uri import no_pattern

        if len(uris) > 1:
            raise ConfigError("compare_with compares two folders", field="path", remedy="name one folder as path")
        first, other = no_pattern(uris[0], "path"), no_pattern(second, "compare_with")
        async with AsyncExitStack() as stack:
            stores = await open_stores(run, stack, path=[first], compare_with=[other])
            everything = path_filter([], [])
            return await compare_trees(
                Tree(stores[first.root], first.path, everything, field="path"),
                Tree(stores[other.root], other.path, everything, field="compare_with"),
                algorithm=self.algorithm,
            )
