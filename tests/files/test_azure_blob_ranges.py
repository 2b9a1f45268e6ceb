"""Large blobs to this machine's disk: ranges by obstore, verified, taken up again, and killed anywhere."""

from __future__ import annotations

import asyncio
import errno
import os
import uuid
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import FlowRunnerError, IntegrityError, PermanentError, TransientError
from flowrunner_provider.core.retry import Backoff, RetryPlan
from flowrunner_provider.files.config import AzureBlobConfig
from flowrunner_provider.files.operators import FileCopyOperator
from flowrunner_provider.files.stores import azure_blob_ranges
from flowrunner_provider.files.stores.azure_blob import AzureBlobStore
from flowrunner_provider.files.stores.local import LocalStore
from tests.files import test_faults as faults
from tests.files.clouds import CLOUDS, MIB, azure_connection
from tests.files.far import FAR_SIDES
from tests.support.chaos_proxy import Toxics
from tests.support.context import execute, make_context
from tests.support.http_server import Reply
from tests.support.kill import double_kill, random_kills, sweep
from tests.support.servers import HOST

pytestmark = [pytest.mark.backend, pytest.mark.timeout(600)]

BIG = os.urandom(5 * MIB + 700_007)
"""Up to 4 MiB are read in one go."""


@pytest.fixture
def container(azurite, monkeypatch):
    """One with a large blob; the connection ``blobs``."""
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", azure_connection(azurite.connection_string, parts_at_once=3))
    found = azurite.container()
    found.put("big", BIG)
    return found


def fetch(tmp_path: Path, container: Any, **options: Any) -> Any:
    source = f"wasb://blobs@{container.name}/base/big"
    operator = FileCopyOperator(task_id="copy", source=source, dest=f"{tmp_path}/out/big", **options)
    return execute(operator, make_context(operator, state=tmp_path / uuid.uuid4().hex))


@contextmanager
def quickly(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nobody waits long before he tries again."""
    monkeypatch.setattr(azure_blob_ranges, "RetryPlan", lambda **how: RetryPlan(backoff=Backoff(base=0.001), **how))
    yield


# -- whole and verified


@pytest.mark.parametrize("size", [4 * MIB, 5 * MIB, len(BIG)])
def test_without_a_stream(tmp_path, container, monkeypatch, size):
    container.put("big", BIG[:size])

    async def read(self: Any, path: str, offset: int = 0, length: int | None = None) -> Any:
        raise AssertionError("streamed")
        yield b""

    monkeypatch.setattr(AzureBlobStore, "read", read)
    assert fetch(tmp_path, container)["bytes"] == size
    assert (tmp_path / "out/big").read_bytes() == container.get("big") == BIG[:size]
    assert os.listdir(tmp_path / "out") == ["big"]


def test_ranges_of_any_length_at_any_place(tmp_path, azurite, container):
    config = AzureBlobConfig(connection_string=azurite.connection_string)

    async def act() -> None:
        async with AzureBlobStore(config, container.name) as store:
            entry = await store.stat(f"{container.root}/big")
            upload = await LocalStore().begin(str(tmp_path / "big"), "t")
            file = await upload.open_file()
            for start, length in ((0, 1), (MIB - 1, MIB + 2), (len(BIG) - 1, 1), (5, len(BIG) - 5)):
                checksum = await store.read_into(file, entry.path, start, length, entry.version)
                assert checksum == zlib.crc32(BIG[start : start + length])
                assert file.read(length, start) == BIG[start : start + length]
            with pytest.raises(IntegrityError):
                await store.read_into(file, entry.path, 1, len(BIG), entry.version)
            with pytest.raises(IntegrityError):
                await store.read_into(file, entry.path, len(BIG), 1, entry.version)
            await upload.discard()

    asyncio.run(act())


@pytest.mark.parametrize("options", [{"write_sidecar": True}, {"verify": "checksum"}], ids=str)
def test_who_asks_for_a_stronger_digest_gets_it(tmp_path, container, options):
    fetch(tmp_path, container, **options)
    assert (tmp_path / "out/big").read_bytes() == BIG


# -- what must not be taken for success


def test_a_blob_that_changes_while_it_is_fetched_is_refused(tmp_path, container, monkeypatch):
    read_into = AzureBlobStore.read_into

    async def then_change(self: AzureBlobStore, file: Any, path: str, offset: int, *rest: Any) -> int:
        if offset == 4 * MIB:
            container.put("big", BIG[::-1])
        return await read_into(self, file, path, offset, *rest)

    monkeypatch.setattr(AzureBlobStore, "read_into", then_change)
    with pytest.raises(IntegrityError, match="changed"):
        fetch(tmp_path, container)
    assert os.listdir(tmp_path / "out") == []


ETAG = {"ETag": '"v"', "Last-Modified": "Mon, 23 Nov 2026 12:00:00 GMT"}
RANGE = {**ETAG, "Content-Range": "bytes 10-19/100"}


@pytest.mark.parametrize(
    "reply",
    [
        Reply(206, b"x" * 10, {**ETAG, "Content-Range": "bytes 20-29/100"}),
        Reply(206, b"x" * 5, {**ETAG, "Content-Range": "bytes 10-14/100"}),
        Reply(206, b"x" * 10, {**RANGE, "ETag": '"w"'}),
        Reply(206, b"x" * 12, RANGE),
        Reply(200, b"x" * 100, ETAG),
        Reply(416, b"", ETAG),
        Reply(412, b"", ETAG),
    ],
    ids=["another", "shorter", "version", "longer", "all", "behind", "condition"],
)
def test_another_answer_than_was_asked_for(tmp_path, http_server, monkeypatch, reply):
    http_server.route("GET", "/x/c-1", Reply(200, b""))
    http_server.route("GET", "/x/c-1/f", reply)
    config = AzureBlobConfig(host=f"{http_server.url}/x", anonymous=True, login="x", timeout=5.0)

    async def act() -> None:
        async with AzureBlobStore(config, "c-1") as store:
            upload = await LocalStore().begin(str(tmp_path / "big"), "t")
            await store.read_into(await upload.open_file(), "/f", 10, 10, "v")

    with quickly(monkeypatch), pytest.raises(FlowRunnerError):
        asyncio.run(act())


def test_a_full_disk_keeps_the_old_file_and_no_part(tmp_path, container, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/big").write_bytes(b"old")
    pwrite = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        if offset > 4 * MIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(PermanentError, match="is full"):
        fetch(tmp_path, container)
    assert os.listdir(tmp_path / "out") == ["big"]
    assert (tmp_path / "out/big").read_bytes() == b"old"


# -- connections that break


@contextmanager
def broken(azurite: Any, chaos: Any, monkeypatch: pytest.MonkeyPatch, toxics: Toxics) -> Any:
    """The connection ``blobs`` leads through a bad network."""
    proxy = chaos(HOST, azurite.server.port)
    text = azurite.connection_string.replace(f":{azurite.server.port}/", f":{proxy.port}/")
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", azure_connection(text, part_size=3))
    proxy.toxics = toxics
    with quickly(monkeypatch):
        yield proxy


@pytest.mark.parametrize("rst", [True, False])
def test_a_broken_connection_is_gone_on_with_where_it_broke(tmp_path, azurite, container, chaos, monkeypatch, rst):
    with broken(azurite, chaos, monkeypatch, Toxics(cut_down=2 * MIB + MIB // 2, rst=rst)) as proxy:
        fetch(tmp_path, container)
        assert proxy.bytes["down"] < len(BIG) + 3 * MIB // 2  # what was written did not come twice
    assert (tmp_path / "out/big").read_bytes() == BIG


def test_a_network_that_stays_broken_is_a_transient_error(tmp_path, azurite, container, chaos, monkeypatch):
    with (
        broken(azurite, chaos, monkeypatch, Toxics(cut_down=100_000)),
        pytest.raises(FlowRunnerError) as caught,
    ):
        fetch(tmp_path, container)
    assert isinstance(caught.value, TransientError)
    assert all(name.endswith(".part") for name in os.listdir(tmp_path / "out"))  # for the next attempt


# -- kills


@pytest.fixture
def big(monkeypatch):
    """The larger file of the scenes is fetched in ranges, one at a time so that a sweep is the same every time."""
    monkeypatch.setitem(faults.FILES, "sub/c.csv", BIG)
    monkeypatch.setitem(FAR_SIDES, "azure", CLOUDS["azure"])


def ours(point: str) -> bool:
    """What the sweeps of the stores do not pass; nightly everything."""
    return faults.KILLS > 3 or point.startswith(("files.copy.before_range", "files.copy.after_range"))


@pytest.mark.faults
def test_killed_anywhere(request, tmp_path, big):
    make = faults.scenes(request, tmp_path, "azure", "local", move=True)
    assert sweep(make, faults.run_copy, faults.everything_arrived, at=ours).kills >= 2


@pytest.mark.faults
def test_killed_twice_and_at_random(request, tmp_path, big):
    make = faults.scenes(request, tmp_path, "azure", "local", move=True)
    double_kill(make, faults.run_copy, faults.everything_arrived, limit=1 if faults.KILLS == 3 else faults.KILLS)
    random_kills(make, faults.run_copy, faults.everything_arrived, count=1 if faults.KILLS == 3 else faults.KILLS)


@pytest.mark.faults
@pytest.mark.parametrize(("hit", "left"), [(1, 6), (4, 3)])
def test_ranges_that_arrived_are_not_fetched_again(request, tmp_path, big, hit, left):
    scene = faults.scenes(request, tmp_path, "azure", "local")()
    assert faults.ranges_after_a_kill(scene, tmp_path, hit) == left
