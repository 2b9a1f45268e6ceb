"""The engine that joins files of any store into one file in any store, as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Json, NotFound, PermanentError
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import MAX_LINE
from flowrunner_provider.files.derived_results import ConcatResult
from flowrunner_provider.files.items import Source, find
from flowrunner_provider.files.publish import IfExists, Publisher, Sink, one_of, pinned
from flowrunner_provider.files.records import BOM, refuse_binary
from flowrunner_provider.files.store import Store

__all__ = ["ConcatOptions", "concat"]

ACTION = "files.concat"


@dataclass(frozen=True, kw_only=True)
class ConcatOptions:
    """Options of a concatenation; the parameters of ``files.concat`` document them."""

    skip_header_after_first: bool = False
    as_text: bool = True
    if_exists: IfExists = "overwrite"
    max_files: int = 10_000

    def __post_init__(self) -> None:
        one_of("if_exists", self.if_exists, ("overwrite", "skip", "fail"))
        if self.skip_header_after_first and not self.as_text:
            raise ConfigError("only text files have headers", field="as_text", remedy="set as_text=True")


async def concat(
    sources: Sequence[tuple[Store, str]],
    dest: tuple[Store, str],
    run: Run,
    options: ConcatOptions,
    *,
    identity_of_work: Json = None,
    label: str = "",
) -> ConcatResult:
    """Join the files that ``sources`` match, in that order, each by path; on return the file is complete.

    :param identity_of_work: JSON that must be unchanged for a retry to resume.
    :param label: the file as the result names it.
    """
    store, target = dest
    publisher = Publisher(run, store, ACTION, identity_of_work, options.if_exists, announce=True)
    froms = [Source(*source) for source in sources]
    items = await find(froms, run, recursive=False, max_files=options.max_files, missing_ok=publisher.resumed)
    if not items and not publisher.resumed:
        wanted = ", ".join(source.path for source in froms)
        raise NotFound(f"no file matches {wanted}", remedy="correct the path")
    if any(froms[item.source].store is store and froms[item.source].path_of(item.relative) == target for item in items):
        raise ConfigError(f"{target} is one of the sources", field="dest", remedy="choose another path")
    sizes = [item.size for item in items]
    progress = run.progress("join", unit="bytes", total=None if None in sizes else sum(size or 0 for size in sizes))

    async def produce(sink: Sink) -> Json:
        joined = _Joined(sink, options)
        for item in items:
            source = froms[item.source]
            path = source.path_of(item.relative)
            if options.as_text:
                await refuse_binary(source.store, path, "set as_text=False to join the bytes as they are")
            await joined.add(pinned(source.store, path, item.identity, progress.advance), path)
        return len(items)

    await publisher.refuse_existing([target])
    done = await publisher.publish(target, produce)
    progress.finish()
    return ConcatResult(
        path=label or target, files=0 if done.skipped else int(str(done.detail)), size=done.size, sha256=done.sha256,
        skipped=done.skipped,
    )  # fmt: skip


class _Joined:
    """The growing file: its header, and how it ends so far."""

    def __init__(self, sink: Sink, options: ConcatOptions) -> None:
        self._sink, self._options = sink, options
        self._header: bytes | None = None
        self._last, self._line_break = b"", b""

    async def add(self, chunks: AsyncIterator[bytes], path: str) -> None:
        """Append a file.

        :raises PermanentError: if its header differs from that of the first file.
        """
        if not self._options.as_text:
            async for chunk in chunks:
                await self._sink.write(chunk)
            return
        gap, head, begun = self._last not in (b"", b"\n"), b"", False
        async for chunk in chunks:
            if not begun:
                head += chunk
                begun = self._is_enough(head, path)
                chunk = self._start(head, path) if begun else b""
            gap = await self._write(chunk, gap)
        if not begun:
            await self._write(self._start(head, path), gap)

    async def _write(self, text: bytes, gap: bool) -> bool:
        """Append ``text``, after a line break if one is missing; return whether one is still missing."""
        if not text:
            return gap
        self._line_break = self._line_break or (b"\r\n" if b"\r\n" in text else b"\n")
        await self._sink.write(self._line_break + text if gap else text)
        self._last = text[-1:]
        return False

    def _is_enough(self, head: bytes, path: str) -> bool:
        if not self._options.skip_header_after_first:
            return len(head) >= len(BOM)
        if b"\n" not in head and len(head) > MAX_LINE:
            raise IntegrityError(
                f"{path} has a header of more than {MAX_LINE} bytes", remedy="check that it is a text file"
            )
        return b"\n" in head

    def _start(self, head: bytes, path: str) -> bytes:
        """Return the part of a file's start that is appended."""
        text = head.removeprefix(BOM)
        if not self._options.skip_header_after_first:
            return text if self._last else head
        header, _, rest = text.partition(b"\n")
        header = header.removesuffix(b"\r")
        if not header:
            raise PermanentError(f"{path} has no header", remedy="exclude it, or ask its sender")
        if self._header is None:
            self._header = header
            return head
        if header != self._header:
            raise PermanentError(
                f"the header of {path} differs from that of the first file", remedy="join files with the same header"
            )
        return rest
