"""1 GiB and 5,000 x 8 KiB to and from S3: files.copy as a task runs it, obstore bare, and rclone tuned.

The server is Ceph's gateway, or the one at ``FLOWRUNNER_S3_ENDPOINT`` (keys ``AKTEST`` and ``SKTEST``): a faster one
shows more of the clients.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from tests.support.rgw import ACCESS_KEY, SECRET_KEY, client_of, rgw
from tests.support.tls import Tls

SIZE, FILES, SMALL = 1024 * 1024 * 1024, 5_000, 8 * 1024
BUCKET, OUT = "bench", "out"


@contextlib.contextmanager
def scene() -> Iterator[dict[str, Any]]:
    """Both trees on this machine and in the bucket."""
    folder = scratch()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        (folder / "ceph").mkdir()
        endpoint = (
            os.environ.get("FLOWRUNNER_S3_ENDPOINT")
            or stack.enter_context(rgw(folder / "ceph", Tls.create(folder))).endpoint
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
    tuned = "--transfers 32 --checkers 32 --s3-upload-concurrency 8 --s3-chunk-size 16M --multi-thread-streams 6"
    return [program, "--config", os.devnull, *tuned.split(), "--fast-list"]


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
    subprocess.run([*rclone(), "copy", *ends], env=config(scene), check=True)
    yield
    check(scene, kind, up, prefix)


def by_us(scene: dict[str, Any], kind: str, up: bool) -> Iterator[None]:
    from flowrunner_provider.files.operators import FileCopyOperator, FileListOperator
    from tests.support.context import FileStateStore, execute, make_context

    options = {"bucket": BUCKET, "unsigned_payload": True, **json.loads(os.environ.get("FLOWRUNNER_S3_OPTIONS", "{}"))}
    extra = {"endpoint_url": scene["endpoint"], "region_name": "us-east-1", "flowrunner": options}
    connection = {"conn_type": "aws", "login": ACCESS_KEY, "password": SECRET_KEY, "extra": extra}
    os.environ["AIRFLOW_CONN_LAKE"] = json.dumps(connection)
    here, there, prefix = places(scene, kind, up)
    ends = (f"{here}/", f"s3://lake@/{prefix}/") if up else (f"s3://lake@/{prefix}/", f"{there}/")
    state = Path(tempfile.mkdtemp())
    warm = FileListOperator(task_id="warm", path="s3://lake@/")
    execute(warm, make_context(warm, state=FileStateStore(state / "warm")))
    at_once = int(os.environ.get("FLOWRUNNER_CONCURRENCY", "32"))
    operator = FileCopyOperator(task_id="t", source=ends[0], dest=ends[1], recursive=True, concurrency=at_once)
    context = make_context(operator, state=FileStateStore(state / "state"))
    yield
    execute(operator, context)
    yield
    shutil.rmtree(state)
    check(scene, kind, up, prefix)


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


def workload(title: str, kind: str, up: bool) -> Workload:
    def bound(act: Callable[..., Iterator[None]]) -> Callable[[dict[str, Any]], Iterator[None]]:
        return lambda scene: act(scene, kind, up)

    contenders = {"rclone": bound(by_rclone), "obstore": bound(by_obstore), "files.copy": bound(by_us)}
    return Workload(title=title, contenders=contenders, reference="rclone", scene=scene)


WORKLOADS = {
    "put_big": workload("1 GiB to S3", "big", True),
    "get_big": workload("1 GiB from S3", "big", False),
    "put_tree": workload("5,000 x 8 KiB to S3", "tree", True),
    "get_tree": workload("5,000 x 8 KiB from S3", "tree", False),
}
