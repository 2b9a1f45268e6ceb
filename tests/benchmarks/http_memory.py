"""Memory of large work over HTTP: a body of 4 GiB down, one up, and 10,000 small pages; it must stay flat."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Workload
from tests.benchmarks.http_download import scratch
from tests.support.nginx import nginx

SIZE = 4 * 1024 * 1024 * 1024
PAGES = 10_000


@contextlib.contextmanager
def scene() -> Iterator[dict[str, Any]]:
    folder = scratch()
    try:
        pages = folder / "www" / "pages"
        pages.mkdir(parents=True)
        with (folder / "www" / "sparse.bin").open("wb") as file:
            file.truncate(SIZE)
        for number in range(1, PAGES + 1):
            following = f"/pages/{number + 1}.json" if number < PAGES else None
            body = {"items": [{"id": 2 * number}, {"id": 2 * number + 1}], "next": following}
            (pages / f"{number}.json").write_text(json.dumps(body))
        with nginx(folder / "www", folder) as server:
            yield {"url": f"http://127.0.0.1:{server.port}", "folder": str(folder)}
    finally:
        shutil.rmtree(folder)


def execute(url: str, operator: Any) -> Iterator[Any]:
    """First warm up, then the result; both in the same process."""
    from flowrunner_provider.http.operators import HttpRequestOperator
    from tests.support.context import FileStateStore, make_context
    from tests.support.context import execute as really

    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": url})
    state = Path(tempfile.mkdtemp())
    warm = HttpRequestOperator(task_id="warm", endpoint="/pages/1.json")
    really(warm, make_context(warm, state=FileStateStore(state / "warm")))
    yield
    yield really(operator, make_context(operator, state=FileStateStore(state / "state")))
    shutil.rmtree(state)


def down(scene: dict[str, Any]) -> Iterator[None]:
    from flowrunner_provider.http.operators import HttpDownloadOperator

    target = Path(scene["folder"]) / "down.bin"
    steps = execute(scene["url"], HttpDownloadOperator(task_id="t", endpoint="/sparse.bin", save_to=str(target)))
    yield next(steps)
    if next(steps)["bytes"] != SIZE:
        raise AssertionError("not all of it came")
    target.unlink()


def sink(listener: socket.socket) -> None:
    """Take one request of any size and answer it."""
    while True:
        connection, _ = listener.accept()
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            head, _, body = head.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            left = int(length[1]) - len(body) if length else 0
            while left > 0:
                left -= len(connection.recv(1024 * 1024))
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def up(scene: dict[str, Any]) -> Iterator[None]:
    from flowrunner_provider.http.operators import HttpUploadOperator

    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.get_context("fork").Process(target=sink, args=(listener,), daemon=True)
        process.start()
        source = str(Path(scene["folder"]) / "www" / "sparse.bin")
        operator = HttpUploadOperator(task_id="t", source=source, endpoint="/up.bin", mode="raw")
        steps = execute(f"http://127.0.0.1:{listener.getsockname()[1]}", operator)
        yield next(steps)
        sent = next(steps)
        process.terminate()
    if sent["bytes"] != SIZE:
        raise AssertionError("not all of it went")


def pages(scene: dict[str, Any]) -> Iterator[None]:
    from flowrunner_provider.http.operators import HttpPaginateOperator

    operator = HttpPaginateOperator(
        task_id="t",
        endpoint="/pages/1.json",
        save_to=f"{scene['folder']}/rows.jsonl",
        strategy="next_url",
        records_path="items",
        cursor_path="next",
    )
    steps = execute(scene["url"], operator)
    yield next(steps)
    if next(steps)["rows"] != 2 * PAGES:
        raise AssertionError("not all rows came")


WORKLOAD = Workload(
    title=f"memory: a body of 4 GiB down and up, {PAGES:,} pages",
    contenders={"http.download": down, "http.upload": up, "http.paginate": pages},
    reference="http.download",
    scene=scene,
)
