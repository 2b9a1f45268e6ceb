"""Large files between this disk and S3: ranges moved by threads, verified, taken up again, and killed anywhere."""

from __future__ import annotations

import asyncio
import errno
import os
import uuid
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import FlowRunnerError, IntegrityError, PermanentError, TransientError
from flowrunner_provider.core.retry import Backoff, RetryPlan
from flowrunner_provider.files import ranges
from flowrunner_provider.files.operators import FileCopyOperator
from flowrunner_provider.files.stores import s3_bucket, s3_ranges
from flowrunner_provider.files.stores.local import LocalStore
from flowrunner_provider.files.stores.s3 import S3Store
from flowrunner_provider.files.stores.s3_body import FileBody
from flowrunner_provider.files.stores.s3_client import S3Client
from tests.files import test_faults as faults
from tests.files.far import FAR_SIDES, Disk, Side
from tests.files.s3 import PART, Bucket, connection_of, store_of
from tests.support.chaos_proxy import ChaosProxy, Toxics
from tests.support.context import execute, make_context
from tests.support.kill import attempt, double_kill, kill_at, random_kills, sweep, trace
from tests.support.memory_s3 import memory_s3
from tests.support.rgw import ACCESS_KEY, SECRET_KEY

pytestmark = pytest.mark.timeout(600)

BIG = os.urandom(3 * PART + 1_000_007)
RANGES = [(0, PART), (PART, PART), (2 * PART, PART), (3 * PART, 1_000_007)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with memory_s3(tmp_path_factory.mktemp("memory_s3")) as found:
        yield found


@pytest.fixture
def bucket(server):
    return Bucket(server)


@pytest.fixture(params=["when_supported", "when_required"])
def lake(request, server, monkeypatch):
    """The connection ``lake``, with either checksum."""
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", connection_of(server, request_checksum_calculation=request.param))


@pytest.fixture
def by_ranges_only(monkeypatch):
    """Whoever streams, fails."""

    async def read(self: Any, path: str, offset: int = 0, length: int | None = None) -> Any:
        raise AssertionError("streamed")
        yield b""

    monkeypatch.setattr(LocalStore, "read", read)
    monkeypatch.setattr(S3Store, "read", read)


@pytest.fixture(params=["ours", "boto3"])
def way(request, monkeypatch):
    """Who fetches a range: connections of our own, or boto3 where only that knows the way."""
    if request.param == "boto3":
        monkeypatch.setattr(s3_bucket, "bucket_address", lambda *_: None)


def copy(tmp_path: Path, source: str, dest: str, **options: Any) -> Any:
    operator = FileCopyOperator(task_id="copy", source=source, dest=dest, **options)
    return execute(operator, make_context(operator, state=tmp_path / uuid.uuid4().hex))


# -- whole and verified


@pytest.mark.parametrize("size", [PART + 1, 2 * PART, 3 * PART + 1_000_007])
def test_there_and_back_without_a_byte_in_the_loop(tmp_path, bucket, lake, by_ranges_only, way, size):
    (tmp_path / "big").write_bytes(BIG[:size])
    assert copy(tmp_path, f"{tmp_path}/big", f"s3://lake@{bucket.root}/big")["bytes"] == size
    assert (bucket.get("big"), bucket.unfinished()) == (BIG[:size], [])
    assert copy(tmp_path, f"s3://lake@{bucket.root}/big", f"{tmp_path}/back/big")["bytes"] == size
    assert (tmp_path / "back/big").read_bytes() == BIG[:size]
    assert os.listdir(tmp_path / "back") == ["big"]


@pytest.mark.parametrize("options", [{"write_sidecar": True}, {"verify": "checksum"}], ids=str)
def test_who_asks_for_a_stronger_digest_gets_it(tmp_path, bucket, lake, options):
    (tmp_path / "big").write_bytes(BIG)
    copy(tmp_path, f"{tmp_path}/big", f"s3://lake@{bucket.root}/big", **options)
    copy(tmp_path, f"s3://lake@{bucket.root}/big", f"{tmp_path}/back/big", **options)
    assert (tmp_path / "back/big").read_bytes() == BIG == bucket.get("big")
    if "write_sidecar" in options:
        assert (tmp_path / "back/big.sha256").read_text() == bucket.get("big.sha256").decode()


def test_the_last_range_may_be_the_smaller_rest(tmp_path, bucket, lake, monkeypatch):
    monkeypatch.setattr(ranges, "_MAX_RANGE", 700_001)
    bucket.put("big", BIG)
    copy(tmp_path, f"s3://lake@{bucket.root}/big", f"{tmp_path}/big")
    assert (tmp_path / "big").read_bytes() == BIG


# -- a source that changes


@pytest.mark.parametrize("change", ["shrunk", "rewritten"])
def test_a_file_that_changes_while_it_is_sent_is_refused(tmp_path, bucket, lake, monkeypatch, change):
    """Between the checksum of a part and its way: what arrives is not what was summed."""
    path = tmp_path / "big"
    path.write_bytes(BIG)
    crc32, md5 = FileBody.crc32, FileBody.md5

    def then_change(real: Callable[[FileBody], Any]) -> Callable[[FileBody], Any]:
        def summed(self: FileBody) -> Any:
            result = real(self)
            if change == "shrunk":
                os.truncate(path, 100)
            else:
                path.write_bytes(BIG[::-1])
            return result

        return summed

    monkeypatch.setattr(FileBody, "crc32", then_change(crc32))
    monkeypatch.setattr(FileBody, "md5", then_change(md5))
    with pytest.raises(IntegrityError, match=r"changed after|was truncated"):
        copy(tmp_path, str(path), f"s3://lake@{bucket.root}/big")
    assert bucket.names() == []


def test_an_object_that_changes_while_it_is_fetched_is_refused(tmp_path, bucket, lake, way, monkeypatch):
    bucket.put("big", BIG)
    read_into = S3Store.read_into

    async def then_change(self: S3Store, file: Any, path: str, offset: int, *rest: Any) -> int:
        if offset == 2 * PART:
            bucket.put("big", BIG[::-1])
        return await read_into(self, file, path, offset, *rest)

    monkeypatch.setattr(S3Store, "read_into", then_change)
    with pytest.raises(IntegrityError, match="changed"):
        copy(tmp_path, f"s3://lake@{bucket.root}/big", f"{tmp_path}/back/big")
    assert os.listdir(tmp_path / "back") == []


def test_another_range_than_was_asked_for_is_refused(tmp_path, bucket, monkeypatch):
    bucket.put("big", BIG)
    monkeypatch.setattr(s3_bucket, "bucket_address", lambda *_: None)
    run = S3Client.run

    class Careless:
        """Forgets the range."""

        def __init__(self, client: Any) -> None:
            self._client = client

        def get_object(self, *, Range: str, **question: Any) -> Any:  # noqa: N803 - as boto3 calls it
            return self._client.get_object(**question)

    async def forgetful(self: Any, what: str, work: Callable[[Any], Any]) -> Any:
        return await run(self, what, lambda client: work(Careless(client)))

    async def act() -> None:
        async with store_of(bucket.endpoint) as store:
            entry = await store.stat(f"{bucket.root}/big")
            upload = await LocalStore().begin(str(tmp_path / "big"), "t")
            monkeypatch.setattr(S3Client, "run", forgetful)
            await store.read_into(await upload.open_file(), entry.path, 0, PART, entry.version)

    with pytest.raises(IntegrityError, match="another range"):
        asyncio.run(act())


def test_a_full_disk_keeps_the_old_file_and_no_part(tmp_path, bucket, lake, monkeypatch):
    bucket.put("big", BIG)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/big").write_bytes(b"old")
    pwrite = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        if offset > 2 * PART:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(PermanentError, match="is full"):
        copy(tmp_path, f"s3://lake@{bucket.root}/big", f"{tmp_path}/out/big")
    assert os.listdir(tmp_path / "out") == ["big"]
    assert (tmp_path / "out/big").read_bytes() == b"old"


# -- connections that break


@contextmanager
def broken(server: Any, monkeypatch: pytest.MonkeyPatch, toxics: Toxics, **options: Any) -> Any:
    """The connection ``lake`` leads through a bad network; nobody waits long before he tries again."""
    quick = lambda **how: RetryPlan(backoff=Backoff(base=0.001), **how)  # noqa: E731
    monkeypatch.setattr(s3_ranges, "RetryPlan", quick)
    with ChaosProxy("127.0.0.1", int(server.endpoint.rpartition(":")[2])) as proxy:
        flowrunner = {"bucket": "tests", "part_size": 5, "timeout": 20.0, "parts_at_once": 1, **options}
        extra = {"endpoint_url": f"http://127.0.0.1:{proxy.port}", "region_name": "us-east-1", "flowrunner": flowrunner}
        monkeypatch.setenv(
            "AIRFLOW_CONN_LAKE",
            faults.json.dumps({"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET_KEY, "extra": extra}),
        )
        proxy.toxics = toxics
        yield proxy


@pytest.mark.parametrize("rst", [True, False])
@pytest.mark.parametrize("cut", [2 * PART + PART // 2, 3 * PART])
def test_a_broken_connection_is_gone_on_with_where_it_broke(tmp_path, server, bucket, way, monkeypatch, rst, cut):
    bucket.put("big", BIG)
    with broken(server, monkeypatch, Toxics(cut_down=cut, rst=rst)) as proxy:
        copy(tmp_path, f"s3://lake@{bucket.root}/big", f"{tmp_path}/big")
        assert proxy.bytes["down"] < len(BIG) + 1_500_000  # no more came twice than was in the buffer
    assert (tmp_path / "big").read_bytes() == BIG


def test_a_network_that_stays_broken_is_a_transient_error(tmp_path, server, bucket, way, monkeypatch):
    bucket.put("big", BIG)
    with (
        broken(server, monkeypatch, Toxics(cut_down=100_000)),
        pytest.raises(FlowRunnerError) as caught,
    ):
        copy(tmp_path, f"s3://lake@{bucket.root}/big", f"{tmp_path}/out/big")
    assert isinstance(caught.value, TransientError)
    assert all(name.endswith(".part") for name in os.listdir(tmp_path / "out"))  # for the next attempt


def test_what_nobody_waits_for_ends_soon_and_leaves_other_files_alone(tmp_path, server, bucket, way):
    bucket.put("big", BIG)

    async def act() -> None:
        async with store_of(bucket.endpoint) as store:
            entry = await store.stat(f"{bucket.root}/big")
            upload = await LocalStore().begin(str(tmp_path / "big"), "t")
            file = await upload.open_file()
            tasks = [asyncio.create_task(store.read_into(file, entry.path, *one, entry.version)) for one in RANGES]
            await asyncio.wait(tasks, timeout=0.01)
            for task in tasks:
                task.cancel()
            del file
            await upload.discard()
            (tmp_path / "other").write_bytes(b"")
            others = [os.open(tmp_path / "other", os.O_RDWR) for _ in range(20)]
            await asyncio.gather(*tasks, return_exceptions=True)
            for other in others:
                os.close(other)

    asyncio.run(act())
    assert (tmp_path / "other").read_bytes() == b""
    assert os.listdir(tmp_path) == ["other"]


# -- kills


@pytest.fixture
def big(monkeypatch, server):
    """The larger file of the scenes is moved in ranges, one at a time so that a sweep is the same every time."""
    connection = connection_of(server, parts_at_once=1, request_checksum_calculation="when_supported")
    monkeypatch.setitem(faults.FILES, "sub/c.csv", BIG)
    monkeypatch.setitem(
        FAR_SIDES, "s3", lambda *_: Side(Bucket(server), "s3://lake@", {"AIRFLOW_CONN_LAKE": connection}, False)
    )


def ours(point: str) -> bool:
    """What the sweeps of the stores do not pass; nightly everything."""
    moving = ("files.copy.before_range", "files.copy.after_range", "files.copy.before_send", "files.copy.after_send")
    return faults.KILLS > 3 or point.startswith(moving)


@pytest.mark.faults
@pytest.mark.parametrize(("source", "dest"), [("local", "s3"), ("s3", "local")])
def test_killed_anywhere(request, tmp_path, big, source, dest):
    make = faults.scenes(request, tmp_path, source, dest, move=True)
    passed = set(trace(faults.run_copy, make()))
    assert passed >= (
        {"files.copy.before_send", "s3.after_upload_part"} if dest == "s3" else {"files.copy.after_range"}
    )
    assert sweep(make, faults.run_copy, faults.everything_arrived, at=ours).kills >= 2


@pytest.mark.faults
@pytest.mark.parametrize(("source", "dest"), [("local", "s3"), ("s3", "local")])
def test_killed_twice_and_at_random(request, tmp_path, big, source, dest):
    make = faults.scenes(request, tmp_path, source, dest, move=True)
    double_kill(make, faults.run_copy, faults.everything_arrived, limit=1 if faults.KILLS == 3 else faults.KILLS)
    random_kills(make, faults.run_copy, faults.everything_arrived, count=1 if faults.KILLS == 3 else faults.KILLS)


@pytest.mark.faults
@pytest.mark.parametrize(("hit", "left"), [(1, 4), (3, 2)])
def test_ranges_that_arrived_are_not_fetched_again(request, tmp_path, big, hit, left):
    scene = faults.scenes(request, tmp_path, "s3", "local")()
    assert faults.ranges_after_a_kill(scene, tmp_path, hit) == left


@pytest.mark.faults
def test_a_part_that_was_tampered_with_is_not_gone_on_with(request, tmp_path, big):
    scene = faults.scenes(request, tmp_path, "s3", "local")()
    assert attempt(faults.run_copy, scene, rules=[kill_at("files.copy.before_range", 4)]).killed
    assert isinstance(scene.dest.far, Disk)
    (part,) = [name for name in scene.dest.far.names() if name.endswith(".part")]
    data = bytearray(scene.dest.far.get(part))
    data[PART] ^= 1
    (scene.dest.far.path / part).write_bytes(bytes(data))
    assert attempt(faults.run_copy, scene, try_number=2).ok
    faults.everything_arrived(scene)
