"""Read and write small files in any store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.results import ReadResult, WriteResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

if TYPE_CHECKING:
    from flowrunner_provider.files.uri import Location

__all__ = ["FileReadOperator", "FileWriteOperator"]


class FileReadOperator(FlowRunnerOperator):
    """On success, the result is the complete content of the file as of one moment.

    The task only reads, so a retry reads again. A file larger than ``max_bytes``, or not in ``encoding``, is an error;
    it is never truncated or repaired. The content is stored in XCom, so keep it small.

    :param path: one file, e.g. ``sftp://partner@/out/control.json``.
    :param read_as: return the content as ``text``, as a list of ``lines`` without line ends, as ``base64``, or as the
        parsed ``json`` value.
    :param encoding: the text encoding; a UTF-8 byte order mark is dropped.
    :param max_bytes: the maximum size of the file, at most 10,000,000.
    """

    action: ClassVar[str] = "files.read"
    keeps_result: ClassVar[bool] = False
    template_fields: Sequence[str] = ("path",)

    def __init__(
        self,
        *,
        path: str,
        read_as: Literal["text", "lines", "base64", "json"] = "text",
        encoding: str = "utf-8",
        max_bytes: int = 48_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.read_as = read_as
        self.encoding = encoding
        self.max_bytes = max_bytes

    async def perform(self, run: Run) -> ReadResult:
        from flowrunner_provider.files.content import decode_content, read_whole, text_encoding
        from flowrunner_provider.files.hook import open_stores

        location = _file(self.path)
        _one_of("read_as", self.read_as, ("text", "lines", "base64", "json"))
        text_encoding(self.encoding)
        limit = self.max_bytes
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 10_000_000:
            raise ConfigError(f"max_bytes is {limit!r}", field="max_bytes", remedy="write a number from 1 to 10000000")
        async with AsyncExitStack() as stack:
            store = (await open_stores(run, stack, path=[location]))[location.root]
            data = await read_whole(store, location.path, limit)
        content = decode_content(data, self.read_as, self.encoding, self.path)
        return ReadResult(path=self.path, size=len(data), content=content)


class FileWriteOperator(FlowRunnerOperator):
    """On success, the file holds exactly ``content``; with ``append``, what it held before, then ``content`` once.

    A killed or retried task writes the same again and never appends twice. Readers never see a partial file.

    ``append`` replaces the file with a longer one in a single step: it copies the file (streamed), supports one writer
    at a time, and needs the same ``content`` in every attempt. If somebody else changes the file between two attempts,
    the task fails with ``OutcomeUnknown``.

    :param path: the file; missing folders are created.
    :param content: a text, written as it is; any other value is written as JSON. To render a template file, write
        ``{% include "report.md.j2" %}``; it is looked up beside the DAG file and in its ``template_searchpath``.
    :param append: add ``content`` to the end of the file; a missing file is created.
    :param encoding: the text encoding.
    :param newline: the line ends: ``keep`` those of ``content`` (Airflow's templates produce ``lf``), ``lf`` or
        ``crlf``.
    :param if_exists: if the file exists (without ``append``): replace it, skip the write, or fail.
    """

    action: ClassVar[str] = "files.write"
    template_fields: Sequence[str] = ("path", "content")

    def __init__(
        self,
        *,
        path: str,
        content: Any,
        append: bool = False,
        encoding: str = "utf-8",
        newline: Literal["keep", "lf", "crlf"] = "keep",
        if_exists: Literal["overwrite", "skip", "fail"] = "overwrite",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.content = content
        self._given = content
        self.append = append
        self.encoding = encoding
        self.newline = newline
        self.if_exists = if_exists

    async def perform(self, run: Run) -> WriteResult:
        from flowrunner_provider.files.content import AppendOnce, encode_content, write_once
        from flowrunner_provider.files.hook import open_stores

        location = _file(self.path)
        _one_of("newline", self.newline, ("keep", "lf", "crlf"))
        _one_of("if_exists", self.if_exists, ("overwrite", "skip", "fail"))
        if self.append and self.if_exists != "overwrite":
            raise ConfigError("append and if_exists are both set", field="if_exists", remedy="remove one of them")
        data = encode_content(self._text(), self.encoding, self.newline)
        async with AsyncExitStack() as stack:
            store = (await open_stores(run, stack, path=[location]))[location.root]
            if self.append:
                return await AppendOnce(store, location.path, data, run, self.path).run()
            return await write_once(store, location.path, data, self.if_exists, run, self.path)

    def _text(self) -> Any:
        """Return the content with the final line end that Jinja strips from every rendered text."""
        given, content = self._given, self.content
        stripped = isinstance(given, str) and given.endswith("\n") and content != given
        return f"{content}\n" if stripped and isinstance(content, str) else content


def _file(path: str) -> Location:
    from flowrunner_provider.files.uri import parse

    location = parse(path, field="path")
    if location.path.endswith("/"):
        raise ConfigError(f"path {path!r} is a folder", field="path", remedy="name a file")
    return location


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{field} is {value!r}", field=field, remedy=f"write one of {', '.join(allowed)}")
