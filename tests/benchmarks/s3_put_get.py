"""1 GiB and 5,000 x 8 KiB to and from S3, and a sync of what is unchanged: ours as a task runs it, and the others.

The server keeps everything in memory and is quick, to show what the clients cost; another one may be named by
``FLOWRUNNER_S3_ENDPOINT`` (keys ``AKTEST`` and ``SKTEST``).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Workload
from tests.benchmarks.http_download import scratch
from tests.support.memory_s3 import memory_s3
from tests.support.rgw import ACCESS_KEY, SECRET_KEY, client_of

SIZE, FILES, SMALL = 1024 * 1024 * 1024, 5_000, 8 * 1024
BUCKET, OUT = "bench", "out"


@contextlib.contextmanager
def scene() -> Iterator[dict[str, Any]]:
    """Both trees on this machine and in the bucket."""
    folder = scratch()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        endpoint = (
            os.environ.get("FLOWRUNNER_S3_ENDPOINT") or stack.enter_context(memory_s3(folder, "--trusting")).endpoint
        )
        for name, size, count in (("big", SIZE, 1), ("tree", SMALL, FILES)):
            for number in range(count):
                path = folder / name / f"{number % 50:02}" / f"f{number}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(os.urandom(min(size, 1 << 20)) * max(1, size >> 20))
        about = {"endpoint": endpoint, "folder": str(folder)}
        client_of(endpoint).create_bucket(Bucket=BUCKET)
        for name in ("big", "tree"):
            subprocess.run(
                [*rclone(), "copy", f"{folder}/{name}", f"s3:{BUCKET}/{name}"], env=config(about), check=True
            )
        yield about


def config(scene: dict[str, Any]) -> dict[str, str]:
    settings = {
        "TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": scene["endpoint"], "ACCESS_KEY_ID": ACCESS_KEY,
        "SECRET_ACCESS_KEY": SECRET_KEY, "REGION": "us-east-1", "NO_CHECK_BUCKET": "true", "FORCE_PATH_STYLE": "true",
    }  # fmt: skip
    return {**os.environ, **{f"RCLONE_CONFIG_S3_{name}": value for name, value in settings.items()}}


def rclone() -> list[str]:
    program = shutil.which(str(Path(sys.executable).parent / "rclone")) or "rclone"
    tuned = "--transfers 32 --checkers 32 --s3-upload-concurrency 4 --s3-chunk-size 32M --multi-thread-streams 4"
    return [program, "--config", os.devnull, "-q", *tuned.split(), "--s3-disable-checksum", "--s3-no-head"]


def places(scene: dict[str, Any], kind: str, up: bool) -> tuple[str, Path, str]:
    """An empty target, for ``up`` a prefix; the folder and the prefix that are copied."""
    target = Path(scene["folder"]) / OUT
    shutil.rmtree(target, ignore_errors=True)
    return f"{scene['folder']}/{kind}", target, f"{OUT}-{os.getpid()}" if up else kind


def check(scene: dict[str, Any], kind: str, up: bool, prefix: str) -> None:
    count, total = (1, SIZE) if kind == "big" else (FILES, FILES * SMALL)
    if up:
        client = client_of(scene["endpoint"])
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        found = [(row["Key"], row["Size"]) for page in pages for row in page.get("Contents", [])]
        for at in range(0, len(found), 1000):
            keys = [{"Key": key} for key, _ in found[at : at + 1000]]
            client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})
        sizes = [size for _, size in found]
    else:
        folder = Path(scene["folder"]) / OUT
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        shutil.rmtree(folder)
    if (len(sizes), sum(sizes)) != (count, total):
        raise AssertionError(f"{len(sizes)} files, {sum(sizes)} bytes")


def by_rclone(scene: dict[str, Any], kind: str, up: bool) -> Iterator[None]:
    here, there, prefix = places(scene, kind, up)
    ends = (here, f"s3:{BUCKET}/{prefix}") if up else (f"s3:{BUCKET}/{prefix}", str(there))
    yield
    subprocess.run([*rclone(), "--fast-list", "copy", *ends], env=config(scene), check=True)
    yield
    check(scene, kind, up, prefix)


def connect(scene: dict[str, Any]) -> None:
    """Make the connection ``lake``; what a worker pays once, such as imports, is not part of the work."""
    from flowrunner_provider.files.operators import FileListOperator
    from tests.support.context import FileStateStore, execute, make_context

    importlib.import_module("flowrunner_provider.files.copy")
    options = {
        "bucket": BUCKET, "unsigned_payload": True, "request_checksum_calculation": "when_supported",
        **json.loads(os.environ.get("FLOWRUNNER_S3_OPTIONS", "{}")),
    }  # fmt: skip
    extra = {"endpoint_url": scene["endpoint"], "region_name": "us-east-1", "flowrunner": options}
    connection = {"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET_KEY, "extra": extra}
    os.environ["AIRFLOW_CONN_LAKE"] = json.dumps(connection)
    warm = FileListOperator(task_id="warm", path="s3://lake@/")
    with tempfile.TemporaryDirectory() as state:
        execute(warm, make_context(warm, state=FileStateStore(Path(state) / "warm")))


def run(operator: Any) -> Iterator[None]:
    """Run an operator as a task does; only that is timed."""
    from tests.support.context import FileStateStore, execute, make_context

    with tempfile.TemporaryDirectory() as state:
        context = make_context(operator, state=FileStateStore(Path(state) / "state"))
        yield
        execute(operator, context)
        yield


def by_us(scene: dict[str, Any], kind: str, up: bool) -> Iterator[None]:
    from flowrunner_provider.files.operators import FileCopyOperator

    connect(scene)
    here, there, prefix = places(scene, kind, up)
    ends = (f"{here}/", f"s3://lake@/{prefix}/") if up else (f"s3://lake@/{prefix}/", f"{there}/")
    more = {"concurrency": int(os.environ["FLOWRUNNER_CONCURRENCY"])} if "FLOWRUNNER_CONCURRENCY" in os.environ else {}
    yield from run(FileCopyOperator(task_id="t", source=ends[0], dest=ends[1], recursive=True, **more))
    check(scene, kind, up, prefix)


def by_boto3(scene: dict[str, Any], kind: str, up: bool) -> Iterator[None]:
    """The quickest way of the library: 64 MiB x 4, the payload not signed."""
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    client = boto3.client(
        "s3", endpoint_url=scene["endpoint"], region_name="us-east-1", aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY, config=Config(s3={"payload_signing_enabled": False},
        request_checksum_calculation="when_required", response_checksum_validation="when_required"),
    )  # fmt: skip
    here, _, prefix = places(scene, kind, up)
    (path,) = (path for path in Path(here).rglob("*") if path.is_file())
    parts = TransferConfig(multipart_chunksize=64 << 20, max_concurrency=4)
    yield
    client.upload_file(str(path), BUCKET, f"{prefix}/{path.name}", Config=parts)
    yield
    check(scene, kind, up, prefix)


def by_curl(scene: dict[str, Any], kind: str, up: bool) -> Iterator[None]:
    here, there, prefix = places(scene, kind, up)
    (path,) = (path for path in Path(here).rglob("*") if path.is_file())
    there.mkdir()
    url = f"{scene['endpoint']}/{BUCKET}/{prefix}/{path.relative_to(here)}"
    how = ["-T", str(path)] if up else ["-o", str(there / path.name)]
    yield
    subprocess.run(["curl", "-sSf", "--noproxy", "*", *how, url], check=True)
    yield
    check(scene, kind, up, prefix)


def unchanged(scene: dict[str, Any]) -> Path:
    """A folder with what is in the bucket; synced once, so that both are the same for everybody."""
    _, target, _ = places(scene, "tree", False)
    shutil.copytree(f"{scene['folder']}/tree", target)
    subprocess.run([*rclone(), "sync", f"s3:{BUCKET}/tree", str(target)], env=config(scene), check=True)
    return target


def sync_by_rclone(scene: dict[str, Any]) -> Iterator[None]:
    target = unchanged(scene)
    same = ["--fast-list", "--size-only"]
    yield
    subprocess.run([*rclone(), *same, "sync", f"s3:{BUCKET}/tree", str(target)], env=config(scene), check=True)
    yield
    check(scene, "tree", False, "")


def sync_by_us(scene: dict[str, Any]) -> Iterator[None]:
    from flowrunner_provider.files.operators import FileSyncOperator

    target = unchanged(scene)
    connect(scene)
    first = run(FileSyncOperator(task_id="first", source="s3://lake@/tree", dest=str(target)))
    for _ in first:
        pass
    yield from run(FileSyncOperator(task_id="t", source="s3://lake@/tree", dest=str(target)))
    check(scene, "tree", False, "")


def by_obstore(scene: dict[str, Any], kind: str, up: bool) -> Iterator[None]:
    import obstore
    from obstore.store import S3Store

    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    store = S3Store(
        BUCKET, endpoint=scene["endpoint"], region="us-east-1", unsigned_payload=True,
        client_options={"allow_http": True}, **keys,
    )  # fmt: skip
    here, there, prefix = places(scene, kind, up)

    async def put(name: str) -> None:
        await obstore.put_async(store, f"{prefix}/{name}", Path(here) / name, chunk_size=16 << 20, max_concurrency=8)

    async def get(name: str, size: int) -> None:
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        with (there / name).open("wb") as file:
            for start in range(0, size, 64 << 20):
                starts = list(range(start, min(start + (64 << 20), size), 8 << 20))
                ends = [min(at + (8 << 20), size) for at in starts]
                for block in await obstore.get_ranges_async(
                    store, f"{prefix}/{name}", starts=starts, ends=ends, coalesce=0
                ):
                    file.write(block)

    async def all_of_them() -> None:
        slots = asyncio.Semaphore(64)

        async def one(act: Callable[..., Any], *arguments: Any) -> None:
            async with slots:
                await act(*arguments)

        if up:
            names = [str(path.relative_to(here)) for path in Path(here).rglob("*") if path.is_file()]
            await asyncio.gather(*(one(put, name) for name in names))
        else:
            found = await obstore.list(store, prefix).collect_async()
            cut = len(prefix) + 1
            await asyncio.gather(*(one(get, row["path"][cut:], row["size"]) for row in found))

    yield
    asyncio.run(all_of_them())
    yield
    check(scene, kind, up, prefix)


def workload(title: str, kind: str, up: bool, reference: str, **others: Callable[..., Iterator[None]]) -> Workload:
    def bound(act: Callable[..., Iterator[None]]) -> Callable[[dict[str, Any]], Iterator[None]]:
        return lambda scene: act(scene, kind, up)

    every = {**others, "obstore": by_obstore, "rclone tuned": by_rclone, "files.copy": by_us}
    contenders = {name: bound(act) for name, act in every.items()}
    return Workload(title=title, contenders=contenders, reference=reference, scene=scene)


WORKLOADS = {
    "put_big": workload("1 GiB to S3", "big", True, "boto3", boto3=by_boto3, curl=by_curl),
    "get_big": workload("1 GiB from S3", "big", False, "curl", curl=by_curl),
    "put_tree": workload("5,000 x 8 KiB to S3", "tree", True, "obstore"),
    "get_tree": workload("5,000 x 8 KiB from S3", "tree", False, "obstore"),
    "unchanged": Workload(
        title="5,000 x 8 KiB in S3, synced and unchanged",
        contenders={"rclone --fast-list": sync_by_rclone, "files.sync": sync_by_us},
        reference="rclone --fast-list",
        scene=scene,
    ),
}
