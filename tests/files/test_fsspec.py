"""The fsspec store keeps the contract on filesystems of fsspec's own, and never publishes a truncated object."""

from __future__ import annotations

import uuid

import pytest

from flowrunner_provider.files.stores.fsspec import FsspecStore
from tests.contracts.store_contract import StoreContract
from tests.files.far import Disk


class Memory:
    """A folder of fsspec's memory, by its own calls."""

    def __init__(self) -> None:
        from fsspec.implementations.memory import MemoryFileSystem

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
