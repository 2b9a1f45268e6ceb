"""The local store keeps the contract, and follows no link."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from flowrunner_provider.core.errors import PathEscape, PermanentError
from flowrunner_provider.files.hook import open_store
from flowrunner_provider.files.operators import FileCopyOperator
from flowrunner_provider.files.stores.local import LocalStore
from tests.contracts.store_contract import StoreContract, collect
from tests.files.far import Disk
from tests.files.stage import stage


class TestLocal(StoreContract):
    @pytest.fixture
    def far(self, tmp_path):
        return Disk(tmp_path.resolve())

    @pytest.fixture
    def open_store(self):
        return LocalStore

    def test_links_are_shown_and_not_followed(self, run, far):
        far.put("d/f", b"x")
        os.symlink(far.path / "d", far.path / "link")
        os.symlink(far.path, far.path / "loop")
        os.symlink("/etc/passwd", far.path / "passwd")

        async def test(store):
            found = {e.path.removeprefix(f"{far.root}/"): e.is_link async for e in store.list(far.root, True)}
            assert found == {"d": False, "d/f": False, "link": True, "loop": True, "passwd": True}
            assert (await store.stat(f"{far.root}/passwd")).is_link
            with pytest.raises(PermanentError):
                await collect(store.read(f"{far.root}/passwd"))
            with pytest.raises(PathEscape):
                store.join(far.root, "passwd")

        run(test)

    def test_a_part_that_is_a_link_is_not_written_through(self, run, far):
        far.put("victim", b"precious")
        os.symlink(far.path / "victim", far.path / ".f.t.part")

        async def test(store):
            async def opened(resume_at):
                upload = await store.begin(f"{far.root}/f", "t", resume_at=resume_at)
                await upload.sync()

            for resume_at in (0, 3):
                with pytest.raises(PermanentError):
                    await opened(resume_at)

        run(test)
        assert far.get("victim") == b"precious"

    def test_a_pipe_is_refused_and_does_not_hang(self, run, far):
        os.mkfifo(far.path / "pipe")

        async def test(store):
            with pytest.raises(PermanentError):
                await collect(store.read(f"{far.root}/pipe"))

        run(test)

    def test_a_full_disk(self, tmp_path: Path):
        mount = tmp_path / "small"
        mount.mkdir()
        if (
            os.geteuid() != 0
            or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]).returncode
        ):
            if os.environ.get("REQUIRE_BACKENDS") == "1":
                pytest.fail("a tmpfs cannot be mounted here")
            pytest.skip("needs root and the right to mount a tmpfs")
        try:
            (mount / "f").write_bytes(b"old")

            async def test() -> None:
                upload = await LocalStore().begin(str(mount / "f"), "t")
                with pytest.raises(PermanentError, match="is full"):
                    await upload.write(b"x" * 2_000_000)
                await upload.discard()

            asyncio.run(test())
            assert (mount / "f").read_bytes() == b"old"
            assert os.listdir(mount) == ["f"]
        finally:
            subprocess.run(["umount", str(mount)], check=True)


def test_a_partitioned_export_is_copied_with_the_names_of_its_folders(tmp_path):
    """As Hive, Spark and sql.export call the folder of a value with a slash."""
    there = stage("local", tmp_path, None)
    there.put("in/region=a%2Fb/day=1/part-00000.csv", "in/region=%2F/part-00000.csv")
    result = there.run(FileCopyOperator(task_id="t", source=there.uri("in/**/*.csv"), dest=there.uri("out/")))
    assert result["files"] == 2
    assert there.disk.get("out/region=a%2Fb/day=1/part-00000.csv") == b"in/region=a%2Fb/day=1/part-00000.csv"
    assert there.disk.get("out/region=%2F/part-00000.csv")


@pytest.fixture
def far_future():
    """A file on tmpfs, which accepts times beyond those that Python's datetime can hold."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "f"
        path.write_bytes(b"x")
        os.utime(path, (2**40, 2**40))
        if path.stat().st_mtime != 2**40:
            pytest.skip("the file system clamps times")
        yield path


@pytest.mark.parametrize("prefix", ["", "fsspec+file://"])
def test_a_time_beyond_the_year_9999_is_unknown(far_future, prefix):
    async def entries():
        async with open_store(f"{prefix}{far_future.parent}") as store:
            return [entry async for entry in store.list(str(far_future.parent))]

    (entry,) = asyncio.run(entries())
    assert (entry.name, entry.size, entry.modified) == ("f", 1, None)
