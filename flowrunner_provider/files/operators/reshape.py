"""The operators that split and concatenate files, and convert their encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.run import Run
from flowrunner_provider.files.derived_results import ConcatResult, EncodingResult, SplitResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FileConcatOperator", "FileEncodingOperator", "FileSplitOperator"]


class FileSplitOperator(FlowRunnerOperator):
    """On success, every part of ``source`` is complete in ``dest``; concatenated, without repeated headers, the parts
    are exactly the bytes of ``source``.

    A killed or retried task continues after the last finished part and splits at the same positions; readers never
    see a partial part.

    The file is read once, as a stream in constant memory. If it changes meanwhile the task fails, and the parts
    written so far remain. An empty file gives one empty part. Parts of an earlier, longer file are not removed: use
    the task's result, not the folder listing. ``parts`` of the result is the list to map over. Airflow maps over the
    return value of a task, so a small task must return that list (see the example).

    :param source: the file to split, e.g. ``sftp://partner@/out/orders.csv``.
    :param dest: the folder for the parts, in any store.
    :param by: the unit of ``size``: ``lines`` per part, ``bytes`` per part at most, or the ``count`` of parts, which
        have about equal sizes. A file with fewer lines than ``count`` gives fewer parts.
    :param size: the number of lines, bytes, or parts.
    :param keep_header: repeat the first line at the start of every part. It counts towards ``bytes``, not ``lines``.
    :param whole_lines: split only between lines. Set False for binary files (with ``bytes`` or ``count``).
    :param quoted: ignore line breaks between double quotes, for CSV files with line breaks in fields.
    :param names: the names of the parts: ``{stem}`` and ``{suffix}`` come from the source, ``{number}`` counts from
        0001.
    :param if_exists: if a part exists, ``overwrite`` it, ``skip`` it, or ``fail``. With ``count`` it fails before
        anything is written, otherwise at the first existing part.
    :param max_parts: fail if there are more parts. With ``lines`` and ``bytes`` the parts written so far remain.
    """

    action: ClassVar[str] = "files.split"
    template_fields: Sequence[str] = ("source", "dest", "names")

    def __init__(
        self,
        *,
        source: str,
        dest: str,
        by: Literal["lines", "bytes", "count"],
        size: int,
        keep_header: bool = False,
        whole_lines: bool = True,
        quoted: bool = False,
        names: str = "{stem}-{number}{suffix}",
        if_exists: Literal["overwrite", "skip", "fail"] = "overwrite",
        max_parts: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.dest = dest
        self.by = by
        self.size = size
        self.keep_header = keep_header
        self.whole_lines = whole_lines
        self.quoted = quoted
        self.names = names
        self.if_exists = if_exists
        self.max_parts = max_parts

    async def perform(self, run: Run) -> SplitResult:
        from flowrunner_provider.files.hook import open_locations
        from flowrunner_provider.files.split import SplitOptions, split
        from flowrunner_provider.files.uri import no_pattern, one_file

        source, dest = one_file(self.source, "source"), no_pattern(self.dest, "dest")
        options = SplitOptions(
            by=self.by,
            size=self.size,
            keep_header=self.keep_header,
            whole_lines=self.whole_lines,
            quoted=self.quoted,
            names=self.names,
            if_exists=self.if_exists,
            max_parts=self.max_parts,
        )
        rules = [self.by, self.size, self.keep_header, self.whole_lines, self.quoted, self.names, self.if_exists]
        async with open_locations(run, source=[source], dest=[dest]) as found:
            return await split(
                found["source"][0],
                found["dest"][0],
                run,
                options,
                identity_of_work=[self.source, self.dest, *rules],
                labels=(self.source, self.dest),
            )


class FileConcatOperator(FlowRunnerOperator):
    """On success, ``dest`` is complete under its final name and contains all files of ``source``, one after another.

    A killed or retried task writes it again from the start, unless an earlier attempt already published it; readers
    never see a partial file. Data is streamed in constant memory. If a source changes meanwhile the task fails.

    :param source: a file, a glob, or a list of them. List entries keep their order; matches of a glob are sorted by
        path.
    :param dest: the file to write. It must not be one of the sources.
    :param skip_header_after_first: keep the first line of the first file only. All files must start with the same
        line, apart from line ending and byte order mark; a file without a first line is an error.
    :param as_text: add a missing final line break between files, keep only the first byte order mark, and refuse
        files that contain NUL. Set False to join raw bytes, e.g. the volumes of an archive or ``.gz`` files.
    :param if_exists: if ``dest`` exists, ``overwrite`` it, ``skip`` the task's work, or ``fail``.
    :param max_files: fail before anything is written if more files match.
    """

    action: ClassVar[str] = "files.concat"
    template_fields: Sequence[str] = ("source", "dest")

    def __init__(
        self,
        *,
        source: str | list[str],
        dest: str,
        skip_header_after_first: bool = False,
        as_text: bool = True,
        if_exists: Literal["overwrite", "skip", "fail"] = "overwrite",
        max_files: int = 10_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.dest = dest
        self.skip_header_after_first = skip_header_after_first
        self.as_text = as_text
        self.if_exists = if_exists
        self.max_files = max_files

    async def perform(self, run: Run) -> ConcatResult:
        from flowrunner_provider.files.concat import ConcatOptions, concat
        from flowrunner_provider.files.hook import open_locations
        from flowrunner_provider.files.uri import one_file, several

        uris = [self.source] if isinstance(self.source, str) else list(self.source)
        sources, dest = several(uris, "source"), one_file(self.dest, "dest")
        options = ConcatOptions(
            skip_header_after_first=self.skip_header_after_first,
            as_text=self.as_text,
            if_exists=self.if_exists,
            max_files=self.max_files,
        )
        rules = [self.skip_header_after_first, self.as_text, self.if_exists]
        async with open_locations(run, source=sources, dest=[dest]) as found:
            return await concat(
                found["source"],
                found["dest"][0],
                run,
                options,
                identity_of_work=[*uris, self.dest, *rules],
                label=self.dest,
            )


class FileEncodingOperator(FlowRunnerOperator):
    """On success, every text file that ``source`` matched is complete in ``dest``, encoded as ``to_encoding``.

    A killed or retried task continues after the last finished file; readers never see a partial file.

    Data is streamed in constant memory; with ``auto``, the leading part of a file that is plain ASCII is read twice.
    With ``on_error="strict"`` nothing is lost: bytes that cannot be decoded and characters that cannot be encoded fail
    the task with the byte offset or the line number, and that file is not written. Otherwise ``lost`` of the result
    counts them.

    :param source: a file, a glob such as ``sftp://partner@/out/*.csv``, or a list of them.
    :param dest: the target file, or a folder if it ends with ``/`` or ``source`` can match several files. It must not
        be the source.
    :param from_encoding: the encoding of the files, e.g. ``cp1252``, ``latin-1`` or ``shift_jis``. ``auto`` uses the
        byte order mark, then UTF-8 if the file is valid UTF-8, then statistical detection. Detection is often
        ambiguous; then ``fallback_encoding`` applies, or the task fails.
    :param to_encoding: any encoding that Python supports. ``utf-8-sig``, ``utf-16`` and ``utf-32`` write a byte order
        mark.
    :param fallback_encoding: the encoding to assume if ``auto`` cannot decide. Empty: fail.
    :param newline: ``keep`` line endings, or convert them to ``lf`` or ``crlf``; a lone CR counts as a line ending.
    :param bom: write a byte order mark, as Excel expects. The mark of the source is never copied.
    :param on_error: for bytes or characters that cannot be converted: ``strict`` fails, ``replace`` writes U+FFFD or
        ``?``, ``ignore`` drops them.
    :param if_exists: if a target exists, ``overwrite`` it, ``skip`` it, or ``fail`` before anything is written.
    :param max_files: fail before anything is written if more files match.
    """

    action: ClassVar[str] = "files.convert_encoding"
    template_fields: Sequence[str] = ("source", "dest", "from_encoding", "to_encoding")

    def __init__(
        self,
        *,
        source: str | list[str],
        dest: str,
        from_encoding: str = "auto",
        to_encoding: str = "utf-8",
        fallback_encoding: str = "",
        newline: Literal["keep", "lf", "crlf"] = "keep",
        bom: bool = False,
        on_error: Literal["strict", "replace", "ignore"] = "strict",
        if_exists: Literal["overwrite", "skip", "fail"] = "overwrite",
        max_files: int = 10_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.dest = dest
        self.from_encoding = from_encoding
        self.to_encoding = to_encoding
        self.fallback_encoding = fallback_encoding
        self.newline = newline
        self.bom = bom
        self.on_error = on_error
        self.if_exists = if_exists
        self.max_files = max_files

    async def perform(self, run: Run) -> EncodingResult:
        from flowrunner_provider.files.encoding.engine import EncodingOptions, convert
        from flowrunner_provider.files.hook import open_locations
        from flowrunner_provider.files.uri import no_pattern, several

        uris = [self.source] if isinstance(self.source, str) else list(self.source)
        sources, dest = several(uris, "source"), no_pattern(self.dest, "dest")
        options = EncodingOptions(
            from_encoding=self.from_encoding,
            to_encoding=self.to_encoding,
            fallback_encoding=self.fallback_encoding,
            newline=self.newline,
            bom=self.bom,
            on_error=self.on_error,
            if_exists=self.if_exists,
            max_files=self.max_files,
        )
        encodings = [self.from_encoding, self.to_encoding, self.fallback_encoding]
        rules = [self.newline, self.bom, self.on_error, self.if_exists]
        async with open_locations(run, source=sources, dest=[dest]) as found:
            return await convert(
                found["source"],
                found["dest"][0],
                run,
                options,
                identity_of_work=[*uris, self.dest, *encodings, *rules],
            )
