"""Reading and writing small files in any store."""

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
    """The result holds the whole content of the file, as it was at one moment.

    It only reads, so a retry reads again; a file that is longer than ``max_bytes``, or not of the encoding, is an
    error and never cut or patched. The content goes into the result, so keep it small.

    :param path: one file, e.g. ``sftp://partner@/out/control.json``.
    :param read_as: ``text``, its ``lines`` without their ends, the bytes as ``base64``, or the value that is
        written there as ``json``.
    :param encoding: of the text; a byte order mark of UTF-8 is left out.
    :param max_bytes: the most that a file may have, at most 10,000,000.
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
        """Read it and say what it means."""
        from flowrunner_provider.files.content import decoded, read_whole, text_encoding
        from flowrunner_provider.files.hook import opened

        location = _file(self.path)
        _one_of("read_as", self.read_as, ("text", "lines", "base64", "json"))
        text_encoding(self.encoding)
        most = self.max_bytes
        if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 10_000_000:
            raise ConfigError(f"max_bytes is {most!r}", field="max_bytes", remedy="write a number from 1 to 10000000")
        async with AsyncExitStack() as stack:
            store = (await opened(run, stack, path=[location]))[location.root]
            data = await read_whole(store, location.path, most)
        content = decoded(data, self.read_as, self.encoding, self.path)
        return ReadResult(path=self.path, size=len(data), content=content)


class FileWriteOperator(FlowRunnerOperator):
    """The file is there with exactly this content, or with ``append`` has it once behind what it held before.

    Killed or retried, it writes the same again, and an append is never doubled: the file is replaced by a longer
    one in one step, and what it held is remembered before. Readers never see a part. ``append`` therefore copies
    the file (streamed), is for one writer at a time, needs the same content in every attempt, and stops as
    OutcomeUnknown if somebody else wrote while a killed attempt was away.

    :param path: the file; missing folders are made.
    :param content: a text as it stands; anything else is written as JSON. A file with the text as a template is
        ``{% include "report.md.j2" %}``, looked up beside the DAG and in its ``template_searchpath``.
    :param append: put it behind what the file holds; a file that is missing is made.
    :param encoding: of the text.
    :param newline: how lines end: as in ``content`` (where Airflow's templates write ``lf``), ``lf`` or ``crlf``.
    :param if_exists: when the file is there (without ``append``): replace it, leave it alone, or fail.
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
        """Encode, then write."""
        from flowrunner_provider.files.content import Appending, as_bytes, write_once
        from flowrunner_provider.files.hook import opened

        location = _file(self.path)
        _one_of("newline", self.newline, ("keep", "lf", "crlf"))
        _one_of("if_exists", self.if_exists, ("overwrite", "skip", "fail"))
        if self.append and self.if_exists != "overwrite":
            raise ConfigError("append and if_exists are both given", field="if_exists", remedy="keep one of them")
        data = as_bytes(self._text(), self.encoding, self.newline)
        async with AsyncExitStack() as stack:
            store = (await opened(run, stack, path=[location]))[location.root]
            if self.append:
                return await Appending(store, location.path, data, run, self.path).run()
            return await write_once(store, location.path, data, self.if_exists, run, self.path)

    def _text(self) -> Any:
        """The content with the final end of line that Jinja takes off every text which it renders."""
        given, content = self._given, self.content
        taken = isinstance(given, str) and given.endswith("\n") and content != given
        return f"{content}\n" if taken and isinstance(content, str) else content


def _file(path: str) -> Location:
    from flowrunner_provider.files.uri import parse

    location = parse(path, field="path")
    if location.path.endswith("/"):
        raise ConfigError(f"path {path!r} is a folder", field="path", remedy="name a file")
    return location


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{field} is {value!r}", field=field, remedy=f"write one of {', '.join(allowed)}")
