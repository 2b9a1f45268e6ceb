"""Compute checksums of files, verify them, and compare two folders."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from flowrunner_provider.core.errors import ConfigError, IntegrityError, NotFound
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.streams import Digest
from flowrunner_provider.files.concurrency import for_each
from flowrunner_provider.files.content import write_once
from flowrunner_provider.files.items import Item, Source, find
from flowrunner_provider.files.results import Algorithm, Checked, ChecksumResult
from flowrunner_provider.files.sidecar import sidecar_line, sidecar_of
from flowrunner_provider.files.spool import Rows, Spool
from flowrunner_provider.files.store import Store, identity
from flowrunner_provider.files.tree import Tree, side_by_side

__all__ = ["ALGORITHMS", "check_files", "compare_trees"]

ALGORITHMS: tuple[str, ...] = get_args(Algorithm)

_CONCURRENCY = 4
_MAX_NAMED = 20
_MAX_ENTRIES = 500


@dataclass
class _Mismatches:
    """The files that are not as expected; the first of them are named."""

    count: int = 0
    shown: list[str] = field(default_factory=list)

    def add(self, what: str) -> None:
        self.count += 1
        if len(self.shown) < _MAX_NAMED:
            self.shown.append(what)

    def check(self) -> None:
        """Raise ``IntegrityError`` if there is any."""
        if self.count:
            more = "" if self.count == len(self.shown) else f" and {self.count - len(self.shown)} more"
            raise IntegrityError(
                f"{self.count} of the files are not as expected: {'; '.join(self.shown)}{more}",
                remedy="copy them again from a correct source",
            )


async def digest_at(store: Store, path: str, algorithm: str) -> Digest:
    """Return the digest of a file as of one moment."""
    before = await store.stat(path)
    digest = Digest(algorithm)
    async for chunk in store.read(path):
        digest.update(chunk)
    if identity(await store.stat(path)) != identity(before) or before.size not in (None, digest.size):
        raise IntegrityError(f"{store.where}{path} changed while it was read", remedy="wait until it is complete")
    return digest


async def check_files(
    places: Sequence[tuple[Store, str, str]],
    run: Run,
    *,
    algorithm: str,
    recursive: bool,
    expected: Mapping[str, str] | str | None,
    verify_sidecar: bool,
    write_sidecar: bool,
) -> ChecksumResult:
    """Read all files, compare their checksums with the expected ones, or write the sidecars.

    :param places: open stores, each with a path (a file, a folder, or a glob) and the root of its address.
    """
    sources = [Source(store, path) for store, path, _ in places]
    items = await find(sources, run, recursive=recursive, max_files=100_000, missing_ok=False)
    suffix = f".{algorithm}"
    items = [item for item in items if not item.relative.endswith(suffix)]
    if not items:
        wanted = ", ".join(path for _, path, _ in places)
        raise NotFound(f"no file matches {wanted}", remedy="correct the path")
    if isinstance(expected, str) and len(items) != 1:
        raise ConfigError(
            f"expected is one checksum, but {len(items)} files match",
            field="expected",
            remedy="map names to checksums",
        )
    wanted_of = {items[0].relative: expected} if isinstance(expected, str) else dict(expected or {})
    mismatches, entries, totals = _Mismatches(), dict[tuple[int, str], Checked](), [0, 0]
    for name in sorted(set(wanted_of) - {item.relative for item in items}):
        mismatches.add(f"{name} is missing")

    async def check(item: Item) -> None:
        store, path = sources[item.source].store, sources[item.source].path_of(item.relative)
        digest = await digest_at(store, path, algorithm)
        label = places[item.source][2] + path
        wanted = wanted_of.get(item.relative)
        if verify_sidecar:
            wanted = await sidecar_of(store, path + suffix, label)
        totals[0] += digest.size
        if wanted is not None and not hmac.compare_digest(wanted.strip().lower().encode(), digest.hexdigest().encode()):
            mismatches.add(f"{label} has {digest.hexdigest()} instead of {wanted.strip()[:128]}")
            return
        totals[1] += wanted is not None
        if write_sidecar:
            await write_once(store, path + suffix, sidecar_line(digest, path), "overwrite", run, label + suffix)
        if len(entries) < _MAX_ENTRIES:
            entries[item.key] = Checked(path=label, size=digest.size, checksum=digest.hexdigest())

    await for_each(_CONCURRENCY, check, items)
    mismatches.check()
    shown = [entries[key] for key in sorted(entries)]
    return ChecksumResult(files=len(items), bytes=totals[0], algorithm=algorithm, compared=totals[1], entries=shown)


async def compare_trees(first: Tree, second: Tree, *, algorithm: str) -> ChecksumResult:
    """Compare all files below two folders by name, size and checksum.

    :raises IntegrityError: naming the first files that differ or that only one folder has.
    """
    mismatches, totals = _Mismatches(), [0, 0]
    spool = Spool()
    try:
        left, right = await _list(first, spool.rows()), await _list(second, spool.rows())

        async def compare(pair: tuple[Item | None, Item | None]) -> None:
            here, there = pair
            if here is None or there is None:
                name = here.relative if here else there.relative if there else ""
                mismatches.add(f"{name} is only in {first.folder if here else second.folder}")
                return
            totals[0] += 1
            name = here.relative
            if here.size != there.size:
                mismatches.add(f"{name} has {here.size} and {there.size} bytes")
                return
            left_digest = await digest_at(first.store, first.path_of(name), algorithm)
            right_digest = await digest_at(second.store, second.path_of(name), algorithm)
            totals[1] += left_digest.size
            if left_digest.hexdigest() != right_digest.hexdigest():
                mismatches.add(f"{name} differs")

        await for_each(_CONCURRENCY, compare, side_by_side(left.sorted(), right.sorted()))
    finally:
        spool.close()
    mismatches.check()
    return ChecksumResult(files=totals[0], bytes=totals[1], algorithm=algorithm, compared=totals[0], entries=[])


async def _list(tree: Tree, rows: Rows) -> Rows:
    async for item in tree.files(missing_ok=False):
        rows.add(item)
    return rows
