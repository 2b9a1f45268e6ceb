"""From a real OpenSSH server to S3 without touching this machine's disk: ours as a task runs it, rclone, and the pipe
that is the bound. The S3 server is the one of :mod:`.s3_put_get`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import s3_put_get as s3
from tests.benchmarks import sftp
from tests.benchmarks.harness import Contender, Workload
from tests.support.memory_s3 import memory_s3
from tests.support.rgw import client_of


@contextlib.contextmanager
def scene(what: str) -> Iterator[dict[str, Any]]:
    with sftp.scene(what, 0) as found, memory_s3(Path(found["folder"]), "--trusting") as server:
        client_of(server.endpoint).create_bucket(Bucket=s3.BUCKET)
        yield {**found, "endpoint": server.endpoint}


def prefix() -> str:
    return f"{s3.OUT}-{os.getpid()}"


def pipe(scene: dict[str, Any], what: str) -> Iterator[None]:
    size = f"Content-Length: {s3.SIZE}"
    url = f"{scene['endpoint']}/{s3.BUCKET}/{prefix()}/big.bin"
    put = ["curl", "-sSf", "--noproxy", "*", "-H", size, "-H", "Transfer-Encoding:", "-T", "-", url]
    yield
    with subprocess.Popen(
        [*sftp.ssh(scene), f"cat {scene['folder']}/source/big.bin"], stdout=subprocess.PIPE
    ) as producer:
        subprocess.run(put, stdin=producer.stdout, check=True)
    yield
    s3.check(scene, what, True, prefix())


def rclone(scene: dict[str, Any], what: str) -> Iterator[None]:
    options = {
        "host": "127.0.0.1", "port": scene["port"], "user": scene["user"], "key_file": scene["key"],
        "known_hosts_file": scene["known"], "disable_hashcheck": "true", "concurrency": "64", "shell_type": "unix",
    }  # fmt: skip
    remote = ":sftp," + ",".join(f"{name}={value}" for name, value in options.items()) + ":"
    ends = [f"{remote}{scene['folder']}/source", f"s3:{s3.BUCKET}/{prefix()}"]
    yield
    subprocess.run([*s3.rclone(), "copy", *ends], env=s3.config(scene), check=True)
    yield
    s3.check(scene, what, True, prefix())


def ours(scene: dict[str, Any], what: str) -> Iterator[None]:
    import asyncssh  # noqa: F401 - what a worker pays once is not the transfer's cost

    from flowrunner_provider.files.operators import FileCopyOperator

    os.environ["AIRFLOW_CONN_PARTNER"] = json.dumps({
        "conn_type": "sftp", "host": "127.0.0.1", "port": scene["port"], "login": scene["user"],
        "extra": scene["extra"],
    })  # fmt: skip
    s3.connect(scene)
    source, dest = f"sftp://partner@{scene['folder']}/source", f"s3://lake@/{prefix()}/"
    yield from s3.run(FileCopyOperator(task_id="t", source=source, dest=dest, recursive=True))
    s3.check(scene, what, True, prefix())


def _workload(title: str, what: str, reference: str, **others: Contender) -> Workload:
    every: dict[str, Contender] = {
        **others,
        "rclone tuned": partial(rclone, what=what),
        "files.copy": partial(ours, what=what),
    }
    return Workload(title=title, contenders=every, reference=reference, scene=partial(scene, what))


WORKLOADS = {
    "big": _workload("1 GiB from SFTP to S3", "big", "ssh to curl", **{"ssh to curl": partial(pipe, what="big")}),
    "tree": _workload("5,000 x 8 KiB from SFTP to S3", "tree", "rclone tuned"),
}
