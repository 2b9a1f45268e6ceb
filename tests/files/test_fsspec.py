"""The fsspec store keeps the contract on filesystems of fsspec's own, and never publishes a truncated object."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import uuid

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    NotFound,
    PermanentError,
    TimedOut,
)
from flowrunner_provider.files.hook import open_store
from flowrunner_provider.files.stores.fsspec import FsspecStore
from tests.contracts.store_contract import StoreContract, collect, write
from tests.files.far import Disk
from tests.support.servers import HOST

# ruff: noqa: PT012 - what is raised where inside of an open store is the point


class Memory:
    """A folder of fsspec's memory, by its own calls."""

    def __init__(self) -> None:
        self.filesystem = MemoryFileSystem()
        self.root = f"/{uuid.uuid4().hex}"
        self.filesystem.mkdir(self.root)

    def put(self, relative: str, data: bytes) -> None:
        path = f"{self.root}/{relative}"
        self.filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
        self.filesystem.pipe_file(path, data)

    def get(self, relative: str) -> bytes:
        return self.filesystem.cat_file(f"{self.root}/{relative}")

    def names(self) -> list[str]:
        return sorted(
            name.removeprefix(f"{self.root}/") for name in self.filesystem.store if name.startswith(self.root)
        )


class TestMemory(StoreContract):
    @pytest.fixture
    def far(self):
        return Memory()

    @pytest.fixture
    def open_store(self, far):
        return lambda: FsspecStore(lambda: far.filesystem, where="fsspec+memory://")


class TestLocal(StoreContract):
    @pytest.fixture
    def far(self, tmp_path):
        return Disk(tmp_path.resolve())

    @pytest.fixture
    def open_store(self):
        from fsspec.implementations.local import LocalFileSystem

        return lambda: FsspecStore(LocalFileSystem, where="fsspec+file://")


class TestDirectory(StoreContract):
    """A filesystem within a folder of another one; its paths begin there."""

    @pytest.fixture
    def far(self, tmp_path):
        disk = Disk(tmp_path.resolve() / "base")
        disk.path.mkdir()
        disk.root = "/base"
        return disk

    @pytest.fixture
    def open_store(self, tmp_path):
        from fsspec.implementations.dirfs import DirFileSystem
        from fsspec.implementations.local import LocalFileSystem

        return lambda: FsspecStore(
            lambda: DirFileSystem(str(tmp_path.resolve()), LocalFileSystem()), where="fsspec+dir://"
        )


class Broken(Exception):
    """A source that fails in the middle."""


async def broken():
    yield b"x" * 700_000
    raise Broken


def abfs(azurite, container):
    """A filesystem whose files are fsspec's buffered ones: on a real protocol, with blocks small enough to be sent."""
    from adlfs import AzureBlobFileSystem

    def opened():
        filesystem = AzureBlobFileSystem(connection_string=azurite.connection_string, skip_instance_cache=True)
        filesystem.blocksize = 100_000
        return filesystem

    return FsspecStore(opened, base=container.name, where=f"fsspec+abfs://@{container.name}")


def run_in(store, test):
    async def body():
        async with asyncio.timeout(60), store:
            return await test(store)

    return asyncio.run(body())


@pytest.mark.backend
def test_a_truncated_object_is_not_published(azurite):
    """Airflow's own copy between two object stores publishes it: the file is closed on the way out of a ``with``."""
    container = azurite.container()

    async def test(store):
        filesystem = store.filesystem
        with pytest.raises(Broken), filesystem.open(f"{container.name}/base/official", "wb") as file:
            async for chunk in broken():
                file.write(chunk)
        upload = await store.begin("/base/ours", "t")
        with pytest.raises(Broken):
            async for chunk in broken():
                await upload.write(chunk)
        await upload.close()
        del upload
        gc.collect()

    run_in(abfs(azurite, container), test)
    assert container.names() == ["official"]
    assert len(container.get("official")) == 700_000, "truncated, and under its final name"


@pytest.mark.backend
def test_a_copy_by_airflows_own_filesystem(azurite, monkeypatch):
    """The provider of the connection opens the filesystem; both ends are in one container."""
    from tests.files.clouds import azure_connection

    container = azurite.container()
    container.put("in/a b.csv", b"a" * 300_000)
    connection = json.loads(azure_connection(azurite.connection_string))
    connection["extra"]["flowrunner"] = {}
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", json.dumps(connection))

    async def test(store):
        assert [entry.name async for entry in store.list("/base/in")] == ["a b.csv"]
        await write(store, "/base/out/c[1].csv", b"c" * 300_000)
        with pytest.raises(AlreadyExists):
            await write(store, "/base/out/c[1].csv", b"d", replace=False)
        await store.forget("/base/out/c[1].csv", "t")
        with pytest.raises(NotFound):
            await store.stat("/base/nothing")

    run_in(open_store(f"fsspec+abfs://blobs@{container.name}/base/in"), test)
    assert container.names() == ["in/a b.csv", "out/c[1].csv"]
    assert container.get("out/c[1].csv") == b"c" * 300_000


@pytest.mark.backend
def test_errors_of_a_filesystem_are_ours(azurite, chaos):
    container = azurite.container()
    proxy = chaos(HOST, azurite.server.port)
    text = azurite.connection_string.replace(str(azurite.server.port), str(proxy.port))

    def opened():
        from adlfs import AzureBlobFileSystem

        return AzureBlobFileSystem(connection_string=text, skip_instance_cache=True)

    async def test(store):
        proxy.refuse()
        proxy.drop_all()
        with pytest.raises(FlowRunnerError) as caught:
            await store.stat("/base/f")
        assert not isinstance(caught.value, NotFound)

    run_in(FsspecStore(opened, base=container.name, where="fsspec+abfs://x", timeout=3.0), test)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PermissionError("x"), AccessDenied),
        (ConnectionResetError("x"), ConnectionLost),
        (TimeoutError("x"), TimedOut),
        (OSError(28, "No space left on device"), PermanentError),
        (NotImplementedError(), PermanentError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_errors_by_their_root(error, kind):
    class Vendor(Exception):
        """What a filesystem's library makes of it."""

    class Failing(MemoryFileSystem):
        def info(self, path, **options):
            try:
                raise error
            except type(error) as cause:
                raise Vendor("secret-canary") from cause

    async def test(store):
        with pytest.raises(kind) as caught:
            await store.stat("/f")
        assert "canary" not in str(caught.value)

    run_in(FsspecStore(Failing, where="fsspec+x://"), test)


def test_a_filesystem_that_hangs():
    class Hanging(MemoryFileSystem):
        def info(self, path, **options):
            done.wait(20)

    done = threading.Event()

    async def test(store):
        with pytest.raises(TimedOut):
            await store.stat("/f")
        done.set()

    run_in(FsspecStore(Hanging, where="fsspec+x://", timeout=0.2), test)


def test_memory_by_its_address():
    async def test(store):
        path = f"/{uuid.uuid4().hex}"
        await write(store, path, b"x")
        assert (await store.stat(path)).size == 1
        await store.delete(path)

    run_in(open_store("fsspec+memory:///x"), test)


BAD = [
    ("fsspec+memory://nowhere@/x", "nowhere"),
    ("fsspec+memory://place@/x", "would have no effect"),
    ("fsspec+nosuchthing:///x", "nosuchthing"),
    ("fsspec://place@/x", "fsspec+PROTOCOL"),
    ("memory://place@/x", "fsspec+PROTOCOL"),
    ("fsspec+memory:///x/../y", "steps up"),
]


@pytest.mark.parametrize(("uri", "text"), BAD)
def test_bad_input(monkeypatch, uri, text):
    monkeypatch.setenv("AIRFLOW_CONN_PLACE", json.dumps({"conn_type": "generic", "host": "h"}))

    async def nothing(store):
        """Opening it is the test."""

    with pytest.raises(ConfigError) as caught:
        run_in(open_store(uri), nothing)
    assert text in str(caught.value)
    assert caught.value.remedy


def test_storage_options_open_what_no_provider_brings(monkeypatch, tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    options = {"storage_options": {"path": str(tmp_path), "target_protocol": "file"}}
    monkeypatch.setenv("AIRFLOW_CONN_PLACE", json.dumps({"conn_type": "generic", "extra": {"flowrunner": options}}))

    async def test(store):
        assert [entry.name async for entry in store.list("/")] == ["f"]
        assert await collect(store.read("/f")) == b"x"

    run_in(open_store("fsspec+dir://place@/x"), test)


@pytest.mark.backend
def test_connection_test(azurite, monkeypatch):
    from flowrunner_provider.files.hooks.fsspec import FlowRunnerFsspecHook

    container = azurite.container()
    container.put("f", b"x")
    extra = {"connection_string": azurite.connection_string, "flowrunner": {"test_folder": f"/{container.name}/base"}}
    monkeypatch.setenv("AIRFLOW_CONN_PLACE", json.dumps({"conn_type": "wasb", "extra": extra}))
    ok, message = FlowRunnerFsspecHook("place").test_connection()
    assert ok, message
    monkeypatch.setenv("AIRFLOW_CONN_PLACE", json.dumps({"conn_type": "generic"}))
    ok, message = FlowRunnerFsspecHook("place").test_connection()
    assert not ok
    assert "files.list" in message
