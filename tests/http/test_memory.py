"""A file of any size passes through in constant memory."""

from __future__ import annotations

import json
import os
import resource
import socket
import threading
from pathlib import Path

from flowrunner_provider.http.operators import HttpDownloadOperator, HttpRequestOperator
from tests.support.context import FileStateStore, execute, make_context
from tests.support.kill import attempt

SIZE = 300 * 1024 * 1024
BLOCK = b"flow" * 65536


def fetch(url: str, directory: Path) -> int:
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": url})
    small = HttpRequestOperator(task_id="warm", endpoint="/small")
    execute(small, make_context(small, state=FileStateStore(directory / "warm")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    big = HttpDownloadOperator(task_id="t", endpoint="/big", save_to=str(directory / "big"))
    assert execute(big, make_context(big, state=FileStateStore(directory / "state")))["bytes"] == SIZE
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def serve(listener: socket.socket) -> None:
    for size in (0, SIZE):
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // len(BLOCK)):
                connection.sendall(BLOCK)


def test_300_mb_grow_the_process_by_less_than_60(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        outcome = attempt(fetch, f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path)
    assert outcome.ok, outcome.error
    assert outcome.result < 60 * 1024
    print(f"grew by {outcome.result} KiB in {outcome.seconds:.1f} s")
    (tmp_path / "big").unlink()
