"""The SFTP store keeps the contract on a real OpenSSH server, and tells its errors apart."""

from __future__ import annotations

import asyncio
import os

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConnectionLost,
    FlowRunnerError,
    PermanentError,
    TimedOut,
    TransientError,
)
from flowrunner_provider.files.stores.sftp import SftpStore
from tests.contracts.store_contract import StoreContract, collect, write
from tests.files.conftest import target_of
from tests.files.far import Disk
from tests.support.chaos_proxy import Toxics

# ruff: noqa: PT012 - what is raised where inside of an open store is the point
pytestmark = pytest.mark.backend


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
