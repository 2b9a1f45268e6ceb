"""Splitting files, joining them, and writing texts in another encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.run import Run
from flowrunner_provider.files.derived import ConcatResult, EncodingResult, SplitResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FileConcatOperator", "FileEncodingOperator", "FileSplitOperator"]


class FileSplitOperator(FlowRunnerOperator):
    """Every part of ``source`` is whole in ``dest``, and the parts one after another, without repeated headers, are
    exactly its bytes.

    Killed or retried, it goes on behind the parts that are done, in the same places; readers never see half a part.
    The file is read once as a stream, in constant memory. A file that changes meanwhile is an error (the parts until
    then stay). An empty one gives one part. Parts of an earlier and longer file stay in the folder: trust the
    result, not the folder. ``parts`` of the result is the list to map over; Airflow maps over what a task returns,
    so a small task hands that list on (see the example).

    :param source: the file, e.g. ``sftp://partner@/out/orders.csv``.
    :param dest: the folder of the parts, in any store.
    :param by: ``lines``: so many lines per part; ``bytes``: at most so many bytes per part; ``count``: so many parts
        of about the same size, fewer if there are not so many lines.
    :param size: how many lines, bytes, or parts.
    :param keep_header: the first line is at the start of every part, and counts only as bytes.
    :param whole_lines: no line is cut; False for files that are no texts (by bytes or count).
    :param quoted: a line break between double quotes does not end a line: CSV with line breaks in its fields.
    :param names: what a part is called: ``{stem}`` and ``{suffix}`` of the source, ``{number}`` from 0001.
    :param if_exists: when a part is there: replace it, leave it alone, or fail (with ``count`` before anything is
        written, else at the first that is taken).
    :param max_parts: more parts are an error; where that shows only on the way, the parts until then stay.
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
        """Open the stores and split."""
        from flowrunner_provider.files.hook import places
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
        async with places(run, source=[source], dest=[dest]) as found:
            return await split(
                found["source"][0],
                found["dest"][0],
                run,
                options,
                identity_of_work=[self.source, self.dest, *rules],
                labels=(self.source, self.dest),
            )


class FileConcatOperator(FlowRunnerOperator):
    """``dest`` holds what all files of ``source`` hold, one after another, and is whole under its final name.

    Killed or retried, it is made again from the start, unless it is found published already; readers never see a
    part of it. Bytes go through as a stream, in constant memory. A file that changes meanwhile is an error.

    :param source: files and globs, joined in the order of the list, each glob by path.
    :param dest: the new file; one that is among the sources is refused.
    :param skip_header_after_first: the first line is taken from the first file alone. All must have the same one,
        but for the line ending and a byte order mark; a file without any is an error.
    :param as_text: where a file lacks its last line break, one is put; a byte order mark counts at the start alone;
        files with NUL are refused. False joins the bytes as they are: parts of an archive, ``.gz``.
    :param if_exists: when ``dest`` is there: replace it, leave it alone, or fail.
    :param max_files: more matches than this are an error before anything is written.
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
        """Open the stores and join."""
        from flowrunner_provider.files.concat import ConcatOptions, concat
        from flowrunner_provider.files.hook import places
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
        async with places(run, source=sources, dest=[dest]) as found:
            return await concat(
                found["source"],
                found["dest"][0],
                run,
                options,
                identity_of_work=[*uris, self.dest, *rules],
                label=self.dest,
            )


class FileEncodingOperator(FlowRunnerOperator):
    """Every text that ``source`` named is in ``dest`` in the encoding ``to_encoding``, each whole.

    Killed or retried, it goes on behind the files that are done; readers never see half a file. Bytes go through as
    streams, in constant memory; with ``auto`` a text is read twice as far as it is plain ASCII. With ``strict``
    nothing is lost: what cannot be read or written is an error that names the byte or the line, and that file is not
    there; otherwise ``lost`` of the result counts what was.

    :param source: a file or a glob, e.g. ``sftp://partner@/out/*.csv``; or a list.
    :param dest: a folder if it ends with ``/`` or several files may come, else the new file; never the source.
    :param from_encoding: ``cp1252``, ``latin-1``, ``shift_jis``, ...; ``auto``: a byte order mark decides, else whether
        it is valid UTF-8, else the letters, if one encoding fits far better than all others: more often than not
        they leave it open, and then ``fallback_encoding`` is taken, or it is an error.
    :param to_encoding: any encoding that Python knows; ``utf-8-sig``, ``utf-16`` and ``utf-32`` come with a mark.
    :param fallback_encoding: what files are in that are no UTF-8, where ``auto`` is not sure.
    :param newline: line breaks stay, or become ``lf`` or ``crlf`` (a lone CR counts as one, too).
    :param bom: put a byte order mark at the start, as Excel likes it; one of the source is never kept by itself.
    :param on_error: for what cannot be read or written: ``strict`` fails, ``replace`` puts U+FFFD or ``?``,
        ``ignore`` leaves it out.
    :param if_exists: when a target is there: replace it, leave it alone, or fail before anything is written.
    :param max_files: more matches than this are an error before anything is written.
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
        """Open the stores and convert."""
        from flowrunner_provider.files.encoding.engine import EncodingOptions, convert
        from flowrunner_provider.files.hook import places
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
        async with places(run, source=sources, dest=[dest]) as found:
            return await convert(
                found["source"],
                found["dest"][0],
                run,
                options,
                identity_of_work=[*uris, self.dest, *encodings, *rules],
            )
