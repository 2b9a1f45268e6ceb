"""The engine of ``files.archive``: it streams files of any store into an archive in any store."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from flowrunner_provider.core.errors import ConfigError, Json, NotFound
from flowrunner_provider.core.names import join_inside
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.archives.writers import EPOCH, ArchiveWriter, format_of, writer_for
from flowrunner_provider.files.derived_results import ArchiveResult
from flowrunner_provider.files.items import Item, Source, find
from flowrunner_provider.files.publish import IfExists, Publisher, Sink, one_of, pinned
from flowrunner_provider.files.store import Store

__all__ = ["ArchiveOptions", "archive"]

ACTION = "files.archive"

_PLACEHOLDER = re.compile(r"\{(?:path|name)\}")


@dataclass(frozen=True, kw_only=True)
class ArchiveOptions:
    """The options of ``files.archive``; see its parameters."""

    format: str = "auto"
    arcname: str = "{path}"
    password: str = ""
    level: int | None = None
    reproducible: bool = False
    recursive: bool = True
    if_exists: IfExists = "overwrite"
    max_files: int = 100_000

    def __post_init__(self) -> None:
        one_of("if_exists", self.if_exists, ("overwrite", "skip", "fail"))
        bare = self.arcname.replace("{path}", "").replace("{name}", "")
        if "{" in bare or "}" in bare or not self.arcname:
            raise ConfigError(
                f"arcname {self.arcname!r} is not a valid pattern",
                field="arcname",
                remedy="use {path} and {name}, e.g. '2026/{path}'",
            )


async def archive(
    sources: Sequence[tuple[Store, str]],
    dest: tuple[Store, str],
    run: Run,
    options: ArchiveOptions,
    *,
    identity_of_work: Json = None,
    label: str = "",
) -> ArchiveResult:
    """Pack the files that ``sources`` match, and publish the archive under its final name.

    :param sources: open stores, each with the path of a file, a folder, or a glob.
    :param dest: an open store and the path of the archive.
    :param identity_of_work: JSON that identifies the work; a retry resumes only if it is equal.
    :param label: the path of the archive in the result.
    """
    store, target = dest
    kind = format_of(target.rpartition("/")[2], options.format)
    writer_for(kind, options.level, options.password).close()  # refuses invalid options before the listing
    publisher = Publisher(run, store, ACTION, identity_of_work, options.if_exists, announce=True)
    froms = [Source(*source) for source in sources]
    found = await find(
        froms, run, recursive=options.recursive, max_files=options.max_files, missing_ok=publisher.resumed
    )
    members = _by_archive_name(found, froms, dest, options)
    if kind in ("gz", "zst") and len(members) > 1:
        raise ConfigError(
            f"{kind} can hold one file, not {len(members)}", field="format", remedy=f"use the format tar.{kind}"
        )
    if not members and not publisher.resumed:
        wanted = ", ".join(source.path for source in froms)
        raise NotFound(f"nothing matches {wanted}", remedy="correct the path; empty archives are not created")
    sizes = [item.size for item in found]
    progress = run.progress("archive", unit="bytes", total=None if None in sizes else sum(size or 0 for size in sizes))

    async def produce(sink: Sink) -> Json:
        writer = writer_for(kind, options.level, options.password)
        count = 0

        def advance(size: int) -> None:
            nonlocal count
            count += size
            progress.advance(size)

        try:
            for name, item in members.items():
                source = froms[item.source]
                when = EPOCH if options.reproducible else item.modified or EPOCH
                await _write_member(sink, writer, name, item, source, when, advance)
            await sink.write(await asyncio.to_thread(writer.finish))
        finally:
            writer.close()
        return [len(members), count]

    await publisher.refuse_existing([target])
    done = await publisher.publish(target, produce)
    progress.finish()
    files, size = (0, 0) if done.skipped else (int(str(count)) for count in _counts(done.detail))
    return ArchiveResult(
        path=label or target, format=kind, files=files, bytes=size, size=done.size, sha256=done.sha256,
        skipped=done.skipped,
    )  # fmt: skip


def _counts(detail: Json) -> Sequence[Json]:
    return detail if isinstance(detail, list) else [0, 0]


def _by_archive_name(
    items: Sequence[Item], sources: Sequence[Source], dest: tuple[Store, str], options: ArchiveOptions
) -> dict[str, Item]:
    """Return the files by their name in the archive, sorted by name.

    :raises PathEscape: for a name that would lead outside when it is unpacked.
    :raises ConfigError: if two files would get the same name, or the archive would contain itself.
    """
    members: dict[str, Item] = {}
    for item in items:
        source = sources[item.source]
        if source.store is dest[0] and source.path_of(item.relative) == dest[1]:
            raise ConfigError(
                f"{dest[1]} would contain itself", field="dest", remedy="write it to a folder that is not a source"
            )
        name = join_inside("", _archive_name(options.arcname, item.relative))
        if name in members:
            raise ConfigError(
                f"two files would have the name {name} in the archive",
                field="arcname",
                remedy="use {path}, or rename one",
            )
        members[name] = item
    for name in members:
        folder = name
        while folder := folder.rpartition("/")[0]:
            if folder in members:
                raise ConfigError(
                    f"{folder} would be both a file and a folder in the archive", field="arcname", remedy="rename one"
                )
    return dict(sorted(members.items()))


def _archive_name(arcname: str, relative: str) -> str:
    """Fill in the placeholders in one pass: the names of files may look like placeholders."""
    values = {"{path}": relative, "{name}": relative.rpartition("/")[2]}
    return _PLACEHOLDER.sub(lambda match: values[match[0]], arcname)


async def _write_member(
    sink: Sink,
    writer: ArchiveWriter,
    name: str,
    item: Item,
    source: Source,
    when: datetime,
    advance: Callable[[int], None],
) -> None:
    await sink.write(writer.begin(name, item.size, when))
    async for chunk in pinned(source.store, source.path_of(item.relative), item.identity, advance):
        await sink.write(await asyncio.to_thread(writer.write, chunk))
    await sink.write(writer.end())
