"""The SFTP store keeps the contract on a real OpenSSH server, and tells its errors apart."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConnectionLost,
    FlowRunnerError,
    PermanentError,
    TimedOut,
    TransientError,
    Unavailable,
)
from flowrunner_provider.files.stores.sftp import SftpStore
from flowrunner_provider.transport.sftp_wire import Attributes
from tests.contracts.store_contract import StoreContract, collect, write
from tests.files.conftest import target_of
from tests.files.far import Disk
from tests.support.chaos_proxy import Toxics

# ruff: noqa: PT012 - what is raised where inside of an open store is the point
pytestmark = pytest.mark.backend


def count_handles(store):
    """How many files and folders are open on the server, when all answers have come."""
    session, count = store.session, 0

    def spy(method, step):
        def called(*args):
            nonlocal count
            count += step
            return method(*args)

        return called

    for name, step in (("open", 1), ("opendir", 1), ("close", -1), ("close_unawaited", -1)):
        setattr(session, name, spy(getattr(session, name), step))
    return lambda: count


class TestSftp(StoreContract):
    @pytest.fixture
    def far(self, sshd):
        return Disk(sshd.root())

    @pytest.fixture
    def open_store(self, sshd):
        return lambda: SftpStore(target_of(sshd))

    def test_links_are_shown_and_not_followed(self, run, far):
        far.put("d/f", b"x")
        os.symlink(far.path, far.path / "loop")

        async def test(store):
            found = {e.path.removeprefix(f"{far.root}/"): e.is_link async for e in store.list(far.root, True)}
            assert found == {"d": False, "d/f": False, "loop": True}

        run(test)

    def test_a_name_that_is_not_utf8_survives_the_listing(self, run, far):
        with open(os.path.join(os.fsencode(far.root), b"caf\xe9"), "wb") as file:
            file.write(b"latin")

        async def test(store):
            (entry,) = [entry async for entry in store.list(far.root)]
            assert entry.name == "caf\udce9"
            assert await collect(store.read(entry.path)) == b"latin"

        run(test)

    def test_many_folders_are_listed_at_a_time_and_all_of_them(self, run, far):
        expected = set()
        for number in range(150):
            name = f"{number % 7}/{number % 30}/{number}"
            far.put(f"{name}/f", b"x")
            expected |= {f"{name}/f", *(name.rsplit("/", up)[0] for up in range(3))}

        async def test(store):
            handles = count_handles(store)
            found = [e.path.removeprefix(f"{far.root}/") async for e in store.list(far.root, True)]
            assert sorted(found) == sorted(expected)
            assert handles() == 0

        run(test)

    def test_a_listing_that_is_given_up_leaves_no_folder_open(self, run, far):
        for number in range(40):
            far.put(f"{number}/f", b"x")

        async def test(store):
            handles = count_handles(store)
            async with aclosing(store.list(far.root, True)) as entries:
                async for entry in entries:
                    if not entry.is_dir:
                        break
            await store.stat(far.root)
            assert handles() == 0

        run(test)

    def test_a_file_is_closed_once_even_if_its_name_is_taken(self, run, far):
        """A server may give the handle of a closed file to another one."""
        far.put("f", b"old")

        async def test(store):
            handles = count_handles(store)
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(b"new")
            with pytest.raises(AlreadyExists):
                await upload.commit(replace=False, modified=datetime(1960, 1, 1, tzinfo=UTC))
            await upload.commit()
            await upload.close()
            assert handles() == 0

        run(test)
        assert far.get("f") == b"new"

    def test_a_size_that_was_told_too_early_is_asked_for_again(self, run, far):
        """Servers that work on several requests at a time may tell it before they have written."""

        async def test(store):
            early = asyncio.get_running_loop().create_future()
            early.set_result(Attributes(size=0))
            fstat, answers = store.session.fstat, [early]
            store.session.fstat = lambda handle: answers.pop() if answers else fstat(handle)
            upload = await store.begin(f"{far.root}/f", "t")
            await upload.write(b"x" * 1000)
            await upload.sync()
            assert not answers
            assert await upload.size() == 1000
            await upload.discard()

        run(test)

    def test_paths_relative_to_the_home_folder(self, run):
        async def test(store):
            assert (await store.stat(".")).is_dir

        run(test)


class TestSftpWithoutPosixRename(StoreContract):
    """A server without OpenSSH's extension declares that it cannot replace in one step, and works all the same."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls):
        from tests.support import sshd as module

        with pytest.MonkeyPatch.context() as patch:
            blocked = "ForceCommand internal-sftp -P posix-rename"
            patch.setattr(module, "CONFIG", module.CONFIG.replace("ForceCommand internal-sftp", blocked))
            with module.sshd() as server:
                yield server

    @pytest.fixture
    def far(self, server):
        return Disk(server.root())

    @pytest.fixture
    def open_store(self, server):
        return lambda: SftpStore(target_of(server))

    def test_it_says_so(self, run):
        async def test(store):
            assert not store.capabilities.atomic_replace

        run(test)


def test_no_permission_is_not_absence(special_sshd):
    with special_sshd("-P lstat,opendir,open,remove,mkdir,rename,posix-rename") as server:
        far = Disk(server.root())
        far.put("f", b"x")

        async def test() -> None:
            async with SftpStore(target_of(server)) as store:
                for act in (
                    store.stat(f"{far.root}/f"),
                    anext(store.list(far.root)),
                    collect(store.read(f"{far.root}/f")),
                    store.delete(f"{far.root}/f"),
                    store.begin(f"{far.root}/g", "t"),
                ):
                    with pytest.raises(AccessDenied):
                        await act

        asyncio.run(test())
        assert far.names() == ["f"]


def test_a_read_only_server(special_sshd):
    with special_sshd("-R") as server:
        far = Disk(server.root())
        far.put("f", b"x")

        async def test() -> None:
            async with SftpStore(target_of(server)) as store:
                with pytest.raises(AccessDenied):
                    await write(store, f"{far.root}/g", b"x")
                assert await collect(store.read(f"{far.root}/f")) == b"x"

        asyncio.run(test())


def test_a_login_that_prints_something_before_sftp(monkeypatch):
    from tests.support import sshd as module

    talks = "ForceCommand echo Welcome to the machine; cat > /dev/null"
    monkeypatch.setattr(module, "CONFIG", module.CONFIG.replace("ForceCommand internal-sftp", talks))

    async def test(server) -> None:
        with pytest.raises(Unavailable, match="violated the SFTP protocol"):
            async with SftpStore(target_of(server)):
                pass

    with module.sshd() as server:
        asyncio.run(test(server))


def _proxied(sshd, proxy, **more):
    more = {"host_key": sshd.host_key, **more}
    return target_of(sshd, port=proxy.port, **more)


@pytest.mark.parametrize("at", [30_000, 500_000, 2_000_000])
def test_a_connection_cut_in_the_middle_of_a_read(sshd, chaos, at):
    far = Disk(sshd.root())
    far.put("f", os.urandom(4_000_000))
    proxy = chaos(sshd.host, sshd.port)

    async def test() -> None:
        got = b""
        with pytest.raises(ConnectionLost):
            async with SftpStore(_proxied(sshd, proxy)) as store:
                async for chunk in store.read(f"{far.root}/f"):
                    got += chunk
                    if len(got) >= at:
                        proxy.drop_all(rst=True)
        assert far.get("f").startswith(got)

    asyncio.run(test())


def test_a_connection_cut_in_the_middle_of_a_write(sshd, chaos):
    far = Disk(sshd.root())
    proxy = chaos(sshd.host, sshd.port)

    async def test() -> None:
        with pytest.raises(ConnectionLost):
            async with SftpStore(_proxied(sshd, proxy)) as store:
                upload = await store.begin(f"{far.root}/f", "t")
                for number in range(200):
                    await upload.write(b"x" * 300_000)
                    if number == 3:
                        proxy.drop_all(rst=True)

    asyncio.run(test())
    assert "f" not in far.names()


def test_a_server_that_falls_silent(sshd, chaos):
    far = Disk(sshd.root())
    far.put("f", os.urandom(1_000_000))
    proxy = chaos(sshd.host, sshd.port)

    async def test() -> None:
        with pytest.raises((TimedOut, ConnectionLost)):
            async with SftpStore(_proxied(sshd, proxy, timeout=0.5)) as store:
                await store.stat(f"{far.root}/f")
                proxy.toxics = Toxics(blackhole_down=True)
                await collect(store.read(f"{far.root}/f"))

    asyncio.run(test())


def test_the_store_of_a_dead_server_cannot_be_entered():
    from flowrunner_provider.transport.ssh import SshTarget
    from tests.support.servers import free_port

    async def test() -> None:
        store = SftpStore(SshTarget(host="127.0.0.1", port=free_port(), look_for_keys=False, host_key="ssh-rsa AAAA"))
        with pytest.raises(TransientError):
            async with store:
                pass

    asyncio.run(test())


def test_errors_are_ours_only(sshd):
    async def test() -> None:
        async with SftpStore(target_of(sshd)) as store:
            for act in (
                store.stat("\0"),
                store.delete("/dev/null/x"),
                store.mkdir("/proc/x"),
                store.rename("/proc/x", "/y"),
            ):
                with pytest.raises((FlowRunnerError, PermanentError)):
                    await act

    asyncio.run(test())
