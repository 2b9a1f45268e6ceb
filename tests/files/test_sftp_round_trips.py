"""How often a small file waits for a distant server, and what makes that safe, on a real OpenSSH server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from flowrunner_provider.core.errors import FlowRunnerError, Rejected
from flowrunner_provider.files.operators import FileCopyOperator
from flowrunner_provider.files.stores.sftp import SftpStore
from flowrunner_provider.transport.sftp_session import CREATE, READ, WRITE, SftpSession
from flowrunner_provider.transport.sftp_wire import Attributes, Kind, StatusError
from tests.contracts.store_contract import write
from tests.files.conftest import target_of
from tests.files.far import Disk
from tests.files.stage import LONG_AGO, stage
from tests.support.chaos_proxy import Toxics

pytestmark = pytest.mark.backend

NAMES = {value: name for name, value in vars(Kind).items() if isinstance(value, int)}


@pytest.fixture
def flights(monkeypatch) -> list[list[str]]:
    """What was asked for, in a list for each round trip: what is asked when an answer is there belongs to the next."""
    asked: list[list[str]] = []
    sent: dict[int, int] = {}
    arrived = 0
    request, answer = SftpSession._enqueue, SftpSession._answer

    def count_request(self: SftpSession, kind: int, *more: Any, **named: Any) -> None:
        request(self, kind, *more, **named)
        sent[self._last_number] = arrived
        while len(asked) <= arrived:
            asked.append([])
        asked[arrived].append(NAMES[kind])

    def count_answer(self: SftpSession, kind: int, number: int, body: bytes) -> None:
        nonlocal arrived
        if number in sent:
            arrived = max(arrived, sent[number] + 1)
        answer(self, kind, number, body)

    monkeypatch.setattr(SftpSession, "_enqueue", count_request)
    monkeypatch.setattr(SftpSession, "_answer", count_answer)
    return asked


UP = [["OPEN"], ["WRITE", "CLOSE", "SETSTAT", "LSTAT"], ["EXTENDED"]]
DOWN = [["OPEN"], ["READ"]]


@pytest.mark.parametrize("way", ["up", "down"])
def test_the_round_trips_of_a_small_file(tmp_path, sshd, flights, way):
    here, there = stage("local", tmp_path / "here", sshd), stage("sftp", tmp_path / "there", sshd)
    one, two = (here, there) if way == "up" else (there, here)
    one.put("f")
    two.run(FileCopyOperator(task_id="t", source=one.uri("f"), dest=two.uri("f")))
    begun = next(number for number, flight in enumerate(flights) if "OPEN" in flight)
    expected = UP if way == "up" else DOWN
    assert [flight[: len(wanted)] for flight, wanted in zip(flights[begun:], expected, strict=False)] == expected
    assert len(flights) <= begun + len(expected) + (way == "down")  # a file that was read is closed behind it
    assert two.disk.get("f") == b"f"
    assert int((two.disk.path / "f").stat().st_mtime) == LONG_AGO


def test_many_tiny_files_wait_together(tmp_path, sshd, chaos, monkeypatch):
    proxy = chaos(sshd.host, sshd.port)
    proxy.toxics = Toxics(latency=0.05)
    far = replace(sshd, server=SimpleNamespace(port=proxy.port))
    most = watch_open_files(monkeypatch)
    here, there = stage("local", tmp_path / "here", far), stage("sftp", tmp_path / "there", far)
    here.put(*(f"d/{number}" for number in range(200)))
    there.run(FileCopyOperator(task_id="t", source=here.uri("d"), dest=there.uri("d/"), recursive=True))
    assert most() > 64
    assert len(there.disk.names()) == 200


@pytest.mark.parametrize("handles", [None, 40])
def test_no_more_files_are_open_than_the_server_bears(tmp_path, sshd, chaos, monkeypatch, handles):
    """64 of each kind where it says nothing, else a quarter of what it says."""
    proxy = chaos(sshd.host, sshd.port)
    proxy.toxics = Toxics(latency=0.0 if handles else 0.03)
    far = replace(sshd, server=SimpleNamespace(port=proxy.port))
    here, there = stage("local", tmp_path / "here", far), stage("sftp", tmp_path / "there", far)
    here.put(*(f"d/{number}" for number in range(150)))
    numbers = SftpSession._extended

    async def limits(*_: Any) -> tuple[int, ...]:
        return 0, 0, 0, handles or 0

    def extended(self: SftpSession, name: bytes, *more: Any) -> Any:
        return limits() if name == b"limits@openssh.com" else numbers(self, name, *more)

    monkeypatch.setattr(SftpSession, "_extended", extended)
    most = watch_open_files(monkeypatch)
    there.run(FileCopyOperator(task_id="t", source=here.uri("d"), dest=there.uri("d/"), recursive=True))
    assert most() == (64 if handles is None else handles // 4)
    there.run(FileCopyOperator(task_id="t", source=there.uri("d"), dest=here.uri("e/"), recursive=True))
    assert most() == (64 if handles is None else handles // 4)
    there.run(FileCopyOperator(task_id="t", source=there.uri("d"), dest=there.uri("f/"), recursive=True))
    assert most() <= 2 * (64 if handles is None else handles // 4)
    assert len(there.disk.names()) == 300


def watch_open_files(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    now = most = 0
    opened, closed, dropped = SftpSession.open, SftpSession.close, SftpSession.close_unawaited

    def count_open(self: SftpSession, *what: Any) -> Any:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        return opened(self, *what)

    def count_end(method: Any) -> Any:
        def ended(self: SftpSession, handle: bytes) -> Any:
            nonlocal now
            now -= 1
            return method(self, handle)

        return ended

    monkeypatch.setattr(SftpSession, "open", count_open)
    monkeypatch.setattr(SftpSession, "close", count_end(closed))
    monkeypatch.setattr(SftpSession, "close_unawaited", count_end(dropped))
    return lambda: most


# -- why the rename waits


def test_openssh_renames_though_what_was_asked_before_has_failed(sshd):
    far = Disk(sshd.root())
    far.put("part", b"old")

    async def test() -> None:
        async with SftpStore(target_of(sshd)) as store:
            session = store.session
            handle = await session.open(f"{far.root}/part", READ)  # so it cannot be written
            write = session.write(handle, 0, b"new")
            closed, renamed = session.close(handle), session.posix_rename(f"{far.root}/part", f"{far.root}/f")
            with pytest.raises(StatusError):
                await write
            await closed
            await renamed

    asyncio.run(test())
    assert far.names() == ["f"]


def with_writes(store: SftpStore, broken: list[bool]) -> None:
    """Writes are refused where ``broken`` says so, as if their file had been closed; its last word stays valid."""
    write = store.session.write

    def refused_or_not(handle: bytes, offset: int, data: Any) -> Any:
        refuse = broken[0]
        broken[:] = broken[1:] or broken
        return write(b"none" if refuse else handle, offset, data)

    store.session.write = refused_or_not  # type: ignore[method-assign]


@pytest.mark.parametrize("size", [10, 255 * 1024 * 2 + 5])
def test_a_write_that_failed_is_followed_by_no_rename(sshd, flights, size):
    far = Disk(sshd.root())
    far.put("f", b"old")

    async def test() -> None:
        async with SftpStore(target_of(sshd)) as store:
            with_writes(store, [False] * (size // (255 * 1024)) + [True])
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(b"x" * size)
            with pytest.raises(Rejected, match="writing"):
                await upload.commit()
            await upload.discard()
            again = await store.begin(f"{far.root}/g", "t")  # the place among the open files was given back
            await again.discard()
            assert store.write_slots._value == store.session.max_files

    asyncio.run(test())
    assert far.names() == ["f"]
    assert far.get("f") == b"old"


@pytest.mark.parametrize("size", [10, 255 * 1024 + 5])
def test_a_server_that_closes_before_it_has_written_is_asked_one_by_one(sshd, flights, size):
    far, data = Disk(sshd.root()), os.urandom(size)

    async def test() -> None:
        async with SftpStore(target_of(sshd)) as store:
            with_writes(store, [False] * (2 * (size // (255 * 1024))) + [True, True, False])
            uploads = [await store.begin(f"{far.root}/{name}", "t") for name in "fg"]
            for upload in uploads:
                await upload.write(data)
            await asyncio.gather(*(upload.commit() for upload in uploads))  # found out by both at a time
            await write(store, f"{far.root}/h", data)
            assert not store.pipelines_finish

    asyncio.run(test())
    assert far.names() == ["f", "g", "h"]
    assert far.get("f") == far.get("g") == far.get("h") == data
    assert not any("WRITE" in flight and "CLOSE" in flight for flight in flights[-4:])


@pytest.mark.parametrize("told", [Attributes(size=0, times=(LONG_AGO, LONG_AGO)), Attributes(size=1, times=(1, 1))])
def test_a_time_that_may_have_been_set_too_early_is_set_again(sshd, told):
    """Servers that work on several requests at a time may set it before they have written, which changes it."""
    far = Disk(sshd.root())

    async def test() -> None:
        async with SftpStore(target_of(sshd)) as store:
            early: asyncio.Future[Attributes] = asyncio.get_running_loop().create_future()
            early.set_result(told)
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            asked, set_times, first = store.session.lstat, store.session.setstat, [early, done]
            store.session.lstat = lambda path: first.pop(0) if first else asked(path)  # type: ignore[assignment]
            store.session.setstat = lambda *of: first.pop() if first else set_times(*of)  # type: ignore[assignment]
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(b"x")
            await upload.finish(modified=datetime.fromtimestamp(LONG_AGO, UTC))
            assert not first
            assert await upload.size() == 1
            await upload.commit()

    asyncio.run(test())
    assert int((far.path / "f").stat().st_mtime) == LONG_AGO


def test_an_upload_that_cannot_be_opened_keeps_no_place(sshd):
    far = Disk(sshd.root())

    async def test() -> None:
        async with SftpStore(target_of(sshd)) as store:
            handle = await store.session.open(f"{far.root}/f", WRITE | CREATE)
            await store.session.close(handle)
            for path in (f"{far.root}/none/f", f"{far.root}/f/g"):
                with pytest.raises(FlowRunnerError, match="writing"):
                    await store.begin(path, "t")
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(StatusError(4, "no"))
            store.session.fsetstat = lambda *_: refused  # type: ignore[method-assign]
            with pytest.raises(Rejected):
                await store.begin(f"{far.root}/h", "t", resume_at=10)
            assert store.write_slots._value == store.session.max_files

    asyncio.run(test())
