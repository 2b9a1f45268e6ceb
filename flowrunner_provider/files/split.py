"""The engine that splits a file of any store into parts in any store, as a stream."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Json, NotFound, PermanentError
from flowrunner_provider.core.names import join_inside
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.derived_results import SplitResult
from flowrunner_provider.files.publish import IfExists, Publisher, Sink, one_of
from flowrunner_provider.files.records import first_record, read_from, records, refuse_binary
from flowrunner_provider.files.store import Entry, Store, identity

__all__ = ["SplitBy", "SplitOptions", "split"]

ACTION = "files.split"

SplitBy = Literal["lines", "bytes", "count"]


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """Options of a split; the parameters of ``files.split`` document them."""

    by: SplitBy
    size: int
    keep_header: bool = False
    whole_lines: bool = True
    quoted: bool = False
    names: str = "{stem}-{number}{suffix}"
    if_exists: IfExists = "overwrite"
    max_parts: int = 1000

    def __post_init__(self) -> None:
        one_of("by", self.by, ("lines", "bytes", "count"))
        one_of("if_exists", self.if_exists, ("overwrite", "skip", "fail"))
        for field, most in (("size", 1 << 62), ("max_parts", 9_999)):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ConfigError(f"{field} is {value!r}", field=field, remedy=f"write a whole number from 1 to {most}")
        if self.by == "count" and self.size > self.max_parts:
            raise _too_many(self.max_parts)
        if not self.whole_lines and (self.by == "lines" or self.keep_header or self.quoted):
            raise ConfigError(
                "whole_lines=False contradicts by='lines', keep_header and quoted",
                field="whole_lines",
                remedy="set whole_lines=True",
            )
        bare = self.names.replace("{stem}", "").replace("{suffix}", "").replace("{number}", "")
        if "{number}" not in self.names or set("{}/\0") & set(bare):
            raise ConfigError(f"names is {self.names!r}", field="names", remedy="use {stem}, {number} and {suffix}")

    def name(self, source: str, number: int) -> str:
        """Return the name of part ``number`` (from 0): ``orders-0001.csv``."""
        name = source.rpartition("/")[2]
        stem, dot, suffix = name.rpartition(".") if name.rfind(".") > 0 else (name, "", "")
        parts = {"{stem}": stem, "{number}": f"{number + 1:04d}", "{suffix}": dot + suffix}
        made = self.names
        for placeholder, value in parts.items():
            made = made.replace(placeholder, value)
        return join_inside("", made)


async def split(
    source: tuple[Store, str],
    dest: tuple[Store, str],
    run: Run,
    options: SplitOptions,
    *,
    identity_of_work: Json = None,
    labels: tuple[str, str] = ("", ""),
) -> SplitResult:
    """Split the file ``source`` into parts in the folder ``dest``; on return every part is complete.

    :param identity_of_work: JSON that must be unchanged for a retry to resume.
    :param labels: the file and the folder as the result names them.
    """
    store, path = source
    entry = await store.stat(path)
    if entry.is_dir or entry.is_link:
        raise ConfigError(f"{path} is not a file", field="source", remedy="name a file")
    _refuse_hopeless(entry, options)
    if options.whole_lines:
        await refuse_binary(store, path, "convert it first with files.convert_encoding; or set whole_lines=False")
    header = await first_record(store, path, quoted=options.quoted) if options.keep_header else b""
    if options.by == "bytes" and len(header) >= options.size:
        raise ConfigError(f"the header alone has {len(header)} bytes", field="size", remedy="write a larger size")
    work: list[Json] = [identity_of_work, list(map(str, identity(entry)))]
    publisher = Publisher(run, dest[0], ACTION, work, options.if_exists, announce=False, keep=0)
    folder = dest[1].rstrip("/") or "/"

    def target(number: int) -> str:
        return dest[0].join(folder, options.name(path, number))

    if store is dest[0] and path in {target(number) for number in range(options.max_parts)}:
        raise ConfigError("a part would replace the source", field="names", remedy="choose another folder")
    await publisher.refuse_existing(target(number) for number in range(options.size if options.by == "count" else 1))
    parts = _Parts(store, entry, options, header, publisher.last or [len(header), 0])
    progress = run.progress("split", unit="bytes", total=entry.size, start=parts.position)

    async def produce(sink: Sink) -> Json:
        await sink.write(header)
        before = parts.position
        async for piece in parts.next():
            await sink.write(piece)
        await parts.refuse_changed()
        progress.advance(parts.position - before)
        return None

    async with aclosing(parts):
        while True:
            await parts.skip_to(publisher.next)
            if publisher.next and not await parts.more():
                break
            if publisher.next >= options.max_parts:
                raise _too_many(options.max_parts)
            await publisher.publish(target(publisher.next), produce, key=lambda _: [parts.position, parts.done])
    if entry.size not in (None, parts.position):
        raise IntegrityError(f"{path}: {parts.position} of {entry.size} bytes came", remedy="check the server's disk")
    progress.finish()
    into = (labels[1] or dest[1]).rstrip("/")
    return SplitResult(
        source=labels[0] or path,
        parts=[f"{into}/{options.name(path, number)}" for number in range(publisher.next)],
        count=publisher.next, bytes=publisher.bytes, skipped=publisher.skipped,
    )  # fmt: skip


def _refuse_hopeless(entry: Entry, options: SplitOptions) -> None:
    if options.by == "count" and entry.size is None:
        raise ConfigError(
            "the store does not know the size of the file", field="by", remedy="split it by bytes or lines"
        )
    if options.by == "bytes" and (entry.size or 0) > options.size * options.max_parts:
        raise _too_many(options.max_parts)


def _too_many(max_parts: int) -> ConfigError:
    return ConfigError(
        f"there are more than {max_parts} parts",
        field="max_parts",
        remedy="write a larger size, or raise max_parts: Airflow maps over 1,024 by default",
    )


class _Parts:
    """The source, part by part.

    :param start: where to resume: the position at which a part starts, and the number of that part.
    """

    def __init__(self, store: Store, entry: Entry, options: SplitOptions, header: bytes, start: Sequence[Json]) -> None:
        self._store, self._entry, self._options, self._header = store, entry, options, len(header)
        self.position, self.done = (int(str(value)) for value in start)
        chunks = read_from(store, entry.path, self.position)
        whole = options.whole_lines
        self._blocks: AsyncGenerator[tuple[bytes, Sequence[int]], None] = (
            records(chunks, quoted=options.quoted, what=entry.path) if whole else _bytes(chunks)
        )
        self._ends: Sequence[int] = ()  # of the records in the block; those before the first are gone already
        self._block, self._first, self._at = b"", 0, 0

    async def aclose(self) -> None:
        """Close the stream."""
        await self._blocks.aclose()

    async def more(self) -> bool:
        """Return whether bytes are left."""
        while self._first >= len(self._ends):
            found = await anext(self._blocks, None)
            if found is None:
                return False
            (self._block, self._ends), self._first, self._at = found, 0, 0
        return True

    async def next(self) -> AsyncIterator[bytes]:
        """Yield the bytes of the next part, without a header."""
        size, count = self._header, 0
        while await self.more():
            until = self._fitting(size, count)
            end = self._ends[until - 1] if until > self._first else self._at
            piece, count = self._block[self._at : end], count + until - self._first
            self._first, self._at = until, end
            self.position += len(piece)
            size += len(piece)
            yield piece
            if until < len(self._ends):
                break
        self.done += 1

    def _fitting(self, size: int, count: int) -> int:
        """Return up to which record the block fits into a part that has ``size`` bytes and ``count`` records so far."""
        options, first = self._options, self._first
        if options.by == "lines":
            return min(len(self._ends), first + options.size - count)
        if options.by == "bytes":
            until = bisect_right(self._ends, self._at + options.size - size, lo=first)
            if until == first and not count:
                raise PermanentError(
                    f"{self._entry.path}: the line at byte {self.position} alone has more than {options.size} bytes",
                    remedy="write a larger size, or set whole_lines=False",
                )
            return until
        if self.done + 1 >= options.size:
            return len(self._ends)
        data = (self._entry.size or 0) - self._header
        goal = self._header + -(-data * (self.done + 1) // options.size)  # where this part ends in the file
        until = bisect_left(self._ends, self._at + goal - self.position, lo=first) + 1
        enough = count and self.position >= goal
        return first if enough else min(until, len(self._ends))

    async def skip_to(self, number: int) -> None:
        """Skip the parts before ``number``."""
        while self.done < number:
            async for _ in self.next():
                pass

    async def refuse_changed(self) -> None:
        """Check that the part came from the file that was found at first.

        :raises IntegrityError: if the file has changed.
        """
        try:
            now = identity(await self._store.stat(self._entry.path))
        except NotFound:
            now = None
        if now != identity(self._entry):
            raise IntegrityError(
                f"{self._entry.path} changed while it was split",
                remedy="split it once it is complete: wait with files.wait, or for a done marker",
            )


async def _bytes(chunks: AsyncIterator[bytes]) -> AsyncGenerator[tuple[bytes, Sequence[int]], None]:
    """Yield blocks in which a part may end at every byte."""
    async for chunk in chunks:
        yield chunk, range(1, len(chunk) + 1)
