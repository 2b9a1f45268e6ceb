"""1 GiB from a real nginx into a file: ours as a task runs it, and curl."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Workload
from tests.support.nginx import nginx

SIZE = 1024 * 1024 * 1024


def scratch() -> Path:
    """A folder in memory where there is one, so that no disk is measured."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))


@contextlib.contextmanager
def scene() -> Iterator[dict[str, Any]]:
    folder = scratch()
    try:
        (folder / "www").mkdir()
        with (folder / "www" / "big.bin").open("wb") as file:
            block = os.urandom(1024 * 1024)
            for _ in range(SIZE // len(block)):
                file.write(block)
        with nginx(folder / "www", folder) as server:
            yield {"url": f"http://127.0.0.1:{server.port}", "folder": str(folder)}
    finally:
        shutil.rmtree(folder)


def curl(scene: dict[str, Any]) -> Iterator[None]:
    target = Path(scene["folder"]) / "curl.bin"
    yield
    subprocess.run(["curl", "-sSf", "-o", str(target), f"{scene['url']}/big.bin"], check=True)
    whole(target)


def ours(scene: dict[str, Any], **how: Any) -> Iterator[None]:
    from flowrunner_provider.http.operators import HttpDownloadOperator, HttpRequestOperator
    from tests.support.context import FileStateStore, execute, make_context

    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": scene["url"]})
    state, target = Path(tempfile.mkdtemp()), Path(scene["folder"]) / "ours.bin"
    warm = HttpRequestOperator(task_id="warm", endpoint="/", response_format="bytes")
    execute(warm, make_context(warm, state=FileStateStore(state / "warm")))
    operator = HttpDownloadOperator(task_id="t", endpoint="/big.bin", save_to=str(target), **how)
    context = make_context(operator, state=FileStateStore(state / "state"))
    yield
    execute(operator, context)
    shutil.rmtree(state)
    whole(target)


def whole(path: Path) -> None:
    size = path.stat().st_size
    path.unlink()
    if size != SIZE:
        raise AssertionError(f"{path} has {size} bytes")


WORKLOAD = Workload(
    title="http.download of 1 GiB from nginx",
    contenders={"curl": curl, "http.download": ours},
    reference="curl",
    scene=scene,
)
