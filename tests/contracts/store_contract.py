"""What every store promises. A store's test subclasses :class:`StoreContract` and says how to open it and
how to look at its far side by another way than the store itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest

from flowrunner_provider.core.errors import (
    AlreadyExists,
    FlowRunnerError,
    NotFound,
    PathEscape,
    PermanentError,
)
from flowrunner_provider.files.store import Store, Upload, identity

__all__ = ["ESCAPES", "ODD_NAMES", "FarSide", "StoreContract"]

ODD_NAMES = [
    "with space", " leading", "trailing ", "trailing.", "-rf", "~", "~root", "#1", "a;b", "a&b", "a|b", "$HOME",
    "`id`", "'single'", '"double"', "a*b", "a?b", "[a]", "{a}", "ab:c", "a<b>", "a=b", "a,b", "%41", "100%", "{{ x }}",
    "region=a%2Fb", "a%252fb", "%5F", "x=%20?",
    "CON", "nul.txt", ".hidden", "caf\u00e9", "cafe\u0301", "\u65e5\u672c\u8a9e", "\U0001f600",
    "\u05e9\u05dc\u05d5\u05dd",
    "x" * 180, "\u00fc" * 90, "UPPER", "upper", "a.b.c", "--", "@", "+", "!", "^", "a\tb".replace("\t", "_"),
]  # fmt: skip

ESCAPES = [
    "..", ".", "", "../x", "a/../../x", "/etc/passwd", "a//b", "..\\x", "C:\\x", "C:x", "%2e%2e", "%2e%2e%2fx",
    "..%2fx", "%252e%252e%252fx", "%2Fx", "a%2F..", "a%00b", "a\0b", "a\nb", "\u2025", "\uff0e\uff0e", "x\uff0fy",
    "a\u2215..\u2215b", "...", " ", "a/..", "./a", "\udcff", "x" * 300, "a\\b", "a/./b",
]  # fmt: skip


class FarSide(Protocol):
    """The same files, seen by another way."""

    root: str

    def put(self, relative: str, data: bytes) -> None:
        """Make a file and its folders."""

    def get(self, relative: str) -> bytes:
        """Its bytes."""

    def names(self) -> list[str]:
        """The relative paths of all files, hidden ones included."""


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def write(store: Store, path: str, data: bytes, *, token: str = "t", **commit: Any) -> None:
    upload = await store.begin(path, token, size=len(data))
    try:
        for start in range(0, len(data), 100_000):
            await upload.write(data[start : start + 100_000])
        await upload.commit(**commit)
    finally:
        await upload.close()


class StoreContract:
    """Subclass it as ``Test...`` with two fixtures: ``far`` and ``open_store``."""

    CHUNK = 255 * 1024

    @pytest.fixture
    def run(self, open_store: Callable[[], Store]) -> Callable[[Callable[[Store], Coroutine[Any, Any, Any]]], Any]:
        """Run a test's coroutine function with an open store."""

        def run(test: Callable[[Store], Coroutine[Any, Any, Any]]) -> Any:
            async def body() -> Any:
                async with asyncio.timeout(60), open_store() as store:
                    return await test(store)

            return asyncio.run(body())

        return run

    @pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, 4 * CHUNK + 1, 3_000_000])
    def test_bytes_come_back_as_they_went(self, run, far, size):
        data = os.urandom(size)

        async def test(store):
            await write(store, f"{far.root}/f", data)
            assert far.get("f") == data
            assert (await store.stat(f"{far.root}/f")).size == size
            assert await collect(store.read(f"{far.root}/f")) == data
            assert await collect(store.read(f"{far.root}/f", 0, size)) == data

        run(test)

    @pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, 1), (5, None), (99, 5), (500_000, 300_000)])
    def test_a_range(self, run, far, offset, length):
        data = os.urandom(700_000)
        far.put("f", data)

        async def test(store):
            expected = data[offset:] if length is None else data[offset : offset + length]
            assert await collect(store.read(f"{far.root}/f", offset, length)) == expected

        run(test)

    def test_a_range_beyond_the_end_is_empty(self, run, far):
        far.put("f", b"abc")

        async def test(store):
            assert await collect(store.read(f"{far.root}/f", 3)) == b""
            assert await collect(store.read(f"{far.root}/f", 10, 10)) == b""
            assert await collect(store.read(f"{far.root}/f", 1, 10)) == b"bc"

        run(test)

    def test_a_small_file_in_one_go_is_the_one_that_was_listed(self, run, far):
        far.put("f", b"x" * 1000)

        async def test(store):
            if not store.capabilities.reads_whole:
                return
            assert store.capabilities.reads_whole >= 1000
            entry = await store.stat(f"{far.root}/f")
            assert await store.read_whole(entry.path, 1000, entry.version) == b"x" * 1000
            assert await store.read_whole(entry.path, 999, entry.version) is None
            assert await store.read_whole(entry.path, 1001, entry.version) is None
            if entry.version:
                assert await store.read_whole(entry.path, 1000, "another") is None
            with pytest.raises(NotFound):
                await store.read_whole(f"{far.root}/absent", 1000, "")

        run(test)

    def test_a_read_may_be_left_early(self, run, far):
        far.put("f", os.urandom(3_000_000))

        async def test(store):
            chunks = store.read(f"{far.root}/f")
            assert await anext(chunks)
            await chunks.aclose()
            assert (await store.stat(f"{far.root}/f")).size == 3_000_000

        run(test)

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names(self, run, far, name):
        async def test(store):
            await write(store, store.join(far.root, name), b"x")
            assert far.names() == [name]
            assert [entry.name async for entry in store.list(far.root)] == [name]
            assert await collect(store.read(store.join(far.root, name))) == b"x"
            await store.delete(store.join(far.root, name))

        run(test)
        assert far.names() == []

    @pytest.mark.parametrize("name", ESCAPES)
    def test_names_that_lead_elsewhere_are_refused(self, open_store, far, name):
        with pytest.raises(PathEscape):
            open_store().join(far.root, name)

    def test_join(self, open_store, far):
        assert open_store().join(far.root, "a/b c.txt").endswith("/a/b c.txt")

    def test_nobody_sees_an_upload_before_its_commit(self, run, far):
        async def test(store):
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(b"x" * 1_000_000)
            await upload.sync()
            with pytest.raises(NotFound):
                await store.stat(f"{far.root}/f")
            await upload.commit()
            await upload.close()
            assert far.names() == ["f"]

        run(test)

    def test_a_reader_sees_the_old_file_or_the_new_one(self, run, far):
        old, new = b"o" * 500_000, b"n" * 700_000
        far.put("f", old)

        async def test(store):
            if not store.capabilities.atomic_replace:
                pytest.skip("declared: atomic_replace=False")
            seen = set()

            async def read() -> None:
                for _ in range(30):
                    seen.add(far.get("f"))
                    await asyncio.sleep(0)

            async def replace() -> None:
                for number in range(10):
                    await write(store, f"{far.root}/f", new if number % 2 == 0 else old)

            await asyncio.gather(read(), replace(), read())
            assert seen <= {old, new}

        run(test)

    def test_commit_replaces(self, run, far):
        far.put("f", b"old and longer")

        async def test(store):
            await write(store, f"{far.root}/f", b"new")

        run(test)
        assert far.get("f") == b"new"
        assert far.names() == ["f"]

    def test_commit_without_replace_refuses_and_keeps_the_old_file(self, run, far):
        far.put("f", b"old")

        async def test(store):
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(b"new")
            with pytest.raises(AlreadyExists):
                await upload.commit(replace=False)
            await upload.discard()

        run(test)
        assert far.get("f") == b"old"
        assert far.names() == ["f"]

    def test_commit_without_replace_creates(self, run, far):
        async def test(store):
            await write(store, f"{far.root}/f", b"new", replace=False)

        run(test)
        assert far.get("f") == b"new"
        assert far.names() == ["f"]

    def test_discard_leaves_nothing(self, run, far):
        async def test(store):
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(b"x" * 600_000)
            await upload.discard()
            await upload.close()

        run(test)
        assert far.names() == []

    def test_close_keeps_what_was_synced_and_the_token_finds_it(self, run, far):
        data = os.urandom(1_000_000)

        async def first(store):
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(data[:600_000])
            await upload.sync()
            await upload.write(os.urandom(50_000))
            await upload.close()

        async def second(store):
            if not store.capabilities.resumable_upload:
                pytest.skip("declared: resumable_upload=False")
            upload = await store.begin(f"{far.root}/f", "t", resume_at=600_000)
            assert upload.offset == 600_000
            assert await upload.size() == 600_000
            if store.capabilities.readable_parts:
                assert await collect(upload.read_back()) == data[:600_000]
                assert await collect(upload.read_back(599_990, 10)) == data[599_990:600_000]
            await upload.write(data[600_000:])
            assert upload.offset == len(data)
            await upload.commit()
            await upload.close()

        run(first)
        run(second)
        assert far.get("f") == data
        assert far.names() == ["f"]

    def test_resume_says_when_less_survived(self, run, far):
        async def test(store):
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(b"abc")
            await upload.sync()
            await upload.close()
            again = await store.begin(f"{far.root}/f", "t", resume_at=100)
            assert again.offset == (3 if store.capabilities.resumable_upload else 0)
            await again.discard()
            nothing = await store.begin(f"{far.root}/g", "t", resume_at=100)
            assert nothing.offset == 0
            await nothing.discard()

        run(test)
        assert far.names() == []

    def test_begin_afresh_detaches_an_attempt_that_still_writes(self, run, far):
        async def test(store):
            zombie = await store.begin(f"{far.root}/f", "t")
            await zombie.write(b"old")
            await zombie.sync()
            fresh = await store.begin(f"{far.root}/f", "t")
            await fresh.write(b"new")
            await fresh.commit()
            await zombie.write(b"x" * 600_000)
            await zombie.sync()
            await zombie.close()
            await fresh.close()

        run(test)
        assert far.get("f") == b"new"

    def test_two_tokens_do_not_disturb_each_other(self, run, far):
        async def test(store):
            one, two = await store.begin(f"{far.root}/f", "a"), await store.begin(f"{far.root}/f", "b")
            await one.write(b"one")
            await two.write(b"two!")
            await one.commit()
            await two.commit()

        run(test)
        assert far.get("f") == b"two!"
        assert far.names() == ["f"]

    def test_forget(self, run, far):
        async def test(store):
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(b"x" * 300_000)
            await upload.sync()
            await upload.close()
            other = await store.begin(f"{far.root}/f", "other")
            await other.close()
            await store.forget(f"{far.root}/f", "t")
            await store.forget(f"{far.root}/f", "t")
            assert len(far.names()) <= 1
            await store.forget(f"{far.root}/f", "other")

        run(test)
        assert far.names() == []

    def test_size_is_what_the_far_side_holds(self, run, far):
        async def test(store):
            upload = await store.begin(f"{far.root}/f", "t")
            for _ in range(70):
                await upload.write(b"y" * 10_000)
            await upload.sync()
            assert await upload.size() == 700_000 == upload.offset
            await upload.discard()

        run(test)

    def test_modified_can_be_set_and_is_utc(self, run, far):
        moment = datetime(2020, 2, 29, 12, 0, 1, tzinfo=UTC)

        async def test(store):
            if not store.capabilities.sets_modified:
                pytest.skip("declared: sets_modified=False")
            await write(store, f"{far.root}/f", b"x", modified=moment)
            entry = await store.stat(f"{far.root}/f")
            assert entry.modified == moment
            assert entry.modified.utcoffset() == timedelta(0)

        run(test)

    @pytest.mark.parametrize("size", [0, 1, CHUNK + 1])
    def test_an_upload_that_is_finished_lacks_only_its_name(self, run, far, size):
        moment, data = datetime(2020, 2, 29, 12, 0, 1, tzinfo=UTC), os.urandom(size)

        async def test(store):
            if not store.capabilities.finishes:
                pytest.skip("declared: finishes=False")
            far.put("f", b"old")
            upload = await store.begin(f"{far.root}/f", "t", size=size)
            await upload.write(data)
            await upload.finish(modified=moment, durable=True)
            assert await upload.size() == size == upload.offset
            assert far.get("f") == b"old"
            await upload.commit(modified=moment, durable=True)
            await upload.close()
            assert (await store.stat(f"{far.root}/f")).modified == moment
            given_up = await store.begin(f"{far.root}/f", "t", size=size)
            await given_up.finish()
            await given_up.discard()

        run(test)
        assert far.get("f") == data
        assert far.names() == ["f"]

    def test_modified_of_a_new_file_is_now(self, run, far):
        async def test(store):
            await write(store, f"{far.root}/f", b"x", durable=True)
            entry = await store.stat(f"{far.root}/f")
            assert abs(entry.modified - datetime.now(UTC)) < timedelta(seconds=60)

        run(test)

    def test_identity_changes_with_the_content(self, run, far):
        async def test(store):
            far.put("f", b"one")
            before = identity(await store.stat(f"{far.root}/f"))
            assert identity(await store.stat(f"{far.root}/f")) == before
            far.put("f", b"three")
            assert identity(await store.stat(f"{far.root}/f")) != before

        run(test)

    def test_list_and_stat_agree(self, run, far):
        far.put("a", b"12345")
        far.put("d/b", b"")

        async def test(store):
            entries = {entry.name: entry async for entry in store.list(far.root)}
            assert set(entries) == {"a", "d"}
            assert entries["d"].is_dir
            for entry in entries.values():
                assert (await store.stat(entry.path)).is_dir == entry.is_dir
            assert identity(await store.stat(entries["a"].path)) == identity(entries["a"])

        run(test)

    def test_list_recursive(self, run, far):
        names = ["a", "d/b", "d/e/c", ".h/x"]
        for name in names:
            far.put(name, b"x")

        async def test(store):
            found = [entry async for entry in store.list(far.root, recursive=True)]
            paths = sorted(e.path.removeprefix(f"{far.root}/") for e in found if not e.is_dir)
            assert paths == sorted(names)

        run(test)

    def test_list_an_empty_folder(self, run, far):
        async def test(store):
            await store.mkdir(f"{far.root}/empty")
            if not store.capabilities.folders:
                with pytest.raises(NotFound):
                    await anext(store.list(f"{far.root}/empty"))
                return
            assert [entry async for entry in store.list(f"{far.root}/empty")] == []

        run(test)

    def test_list_a_large_folder(self, run, far):
        names = {f"file-{number:05}" for number in range(2_000)}
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda name: far.put(name, b""), names))

        async def test(store):
            found = [entry.name async for entry in store.list(far.root)]
            assert len(found) == len(names)
            assert set(found) == names

        run(test)

    def test_list_may_be_left_early(self, run, far):
        for number in range(300):
            far.put(f"f{number}", b"")

        async def test(store):
            listing = store.list(far.root)
            await anext(listing)
            await listing.aclose()
            assert len([entry async for entry in store.list(far.root)]) == 300

        run(test)

    @pytest.mark.parametrize(
        "act",
        [
            lambda store, path: store.stat(path),
            lambda store, path: collect(store.read(path)),
            lambda store, path: store.delete(path),
            lambda store, path: anext(store.list(path)),
            lambda store, path: store.rename(path, path + "2"),
            lambda store, path: store.stat(path + "/deeper"),
        ],
        ids=["stat", "read", "delete", "list", "rename", "stat below"],
    )
    def test_what_is_not_there_is_not_found(self, run, far, act):
        async def test(store):
            with pytest.raises(NotFound) as caught:
                await act(store, f"{far.root}/nothing")
            assert "nothing" in str(caught.value)

        run(test)

    def test_a_file_is_not_a_folder(self, run, far):
        far.put("f", b"x")

        async def test(store):
            with pytest.raises(PermanentError) as caught:
                await anext(store.list(f"{far.root}/f"))
            assert not isinstance(caught.value, NotFound)

        run(test)

    def test_a_folder_cannot_be_read_or_deleted_as_a_file(self, run, far):
        far.put("d/f", b"x")

        async def test(store):
            with pytest.raises(PermanentError):
                await store.delete(f"{far.root}/d")
            with pytest.raises(FlowRunnerError):
                await collect(store.read(f"{far.root}/d"))

        run(test)
        assert far.names() == ["d/f"]

    def test_mkdir(self, run, far):
        async def test(store):
            await store.mkdir(f"{far.root}/a/b/c", parents=True)
            await store.mkdir(f"{far.root}/a/b/c", parents=True)
            await store.mkdir(f"{far.root}/a")
            if store.capabilities.folders:
                assert (await store.stat(f"{far.root}/a/b/c")).is_dir
                with pytest.raises(NotFound):
                    await store.mkdir(f"{far.root}/x/y")
            await asyncio.gather(*(store.mkdir(f"{far.root}/p/q/r", parents=True) for _ in range(8)))

        run(test)

    def test_mkdir_over_a_file(self, run, far):
        far.put("f", b"x")

        async def test(store):
            if store.capabilities.folders:
                with pytest.raises(PermanentError):
                    await store.mkdir(f"{far.root}/f")

        run(test)
        assert far.get("f") == b"x"

    def test_rmdir(self, run, far):
        far.put("d/e/f", b"x")

        async def test(store):
            if not store.capabilities.removes_folders:
                pytest.skip("declared: removes_folders=False")
            assert not await store.rmdir(f"{far.root}/d")
            await store.mkdir(f"{far.root}/empty")
            assert await store.rmdir(f"{far.root}/empty")
            assert await store.rmdir(f"{far.root}/empty")
            with pytest.raises(NotFound):
                await store.stat(f"{far.root}/empty")
            with pytest.raises(PermanentError):
                await store.rmdir(f"{far.root}/d/e/f")

        run(test)
        assert far.names() == ["d/e/f"]

    def test_chmod(self, run, far):
        async def test(store):
            if not store.capabilities.sets_mode:
                pytest.skip("declared: sets_mode=False")
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(b"x")
            await upload.sync()
            await upload.chmod(0o640)
            await upload.commit()
            await upload.close()

        run(test)
        if hasattr(far, "path") and far.names():
            assert (far.path / "f").stat().st_mode & 0o7777 == 0o640

    def test_rename(self, run, far):
        far.put("a", b"a")
        far.put("b", b"b")

        async def test(store):
            with pytest.raises(AlreadyExists):
                await store.rename(f"{far.root}/a", f"{far.root}/b")
            assert far.get("b") == b"b"
            await store.rename(f"{far.root}/a", f"{far.root}/b", replace=True)
            await store.rename(f"{far.root}/b", f"{far.root}/c")

        run(test)
        assert far.names() == ["c"]
        assert far.get("c") == b"a"

    def test_many_at_once(self, run, far):
        data = {f"f{number}": os.urandom(number * 9_000) for number in range(40)}

        async def test(store):
            await asyncio.gather(*(write(store, f"{far.root}/{name}", body) for name, body in data.items()))
            bodies = await asyncio.gather(*(collect(store.read(f"{far.root}/{name}")) for name in data))
            assert bodies == list(data.values())

        run(test)
        assert sorted(far.names()) == sorted(data)

    def test_read_and_write_in_constant_memory(self, run, far):
        import tracemalloc

        block = os.urandom(1_000_000)

        async def test(store):
            upload: Upload = await store.begin(f"{far.root}/f", "t")
            for _ in range(64):
                await upload.write(block)
            await upload.commit()
            digest = hashlib.sha256()
            async for chunk in store.read(f"{far.root}/f"):
                digest.update(chunk)
            assert digest.digest() == hashlib.sha256(block * 64).digest()

        tracemalloc.start()
        try:
            run(test)
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 150_000_000
