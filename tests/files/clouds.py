"""Far sides for the fault tests: Azure Blob and Google Cloud Storage on their emulators, and fsspec on this disk.

Parts are 1 MiB and travel one at a time, so that a sweep is the same every time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.files.far import Disk, Side

__all__ = ["CLOUDS", "MIB", "azure_connection", "gcs_connection"]

MIB = 1024 * 1024
_OPTIONS = {"part_size": 1, "parts_at_once": 1, "timeout": 20.0}


def azure_connection(connection_string: str, **options: Any) -> str:
    """The Airflow connection for an account."""
    extra = {"connection_string": connection_string, "flowrunner": {**_OPTIONS, **options}}
    return json.dumps({"conn_type": "wasb", "extra": extra})


def gcs_connection(url: str, **options: Any) -> str:
    """The Airflow connection for an emulator."""
    extra = {"is_anonymous": True, "flowrunner": {**_OPTIONS, "endpoint_url": url, **options}}
    return json.dumps({"conn_type": "google_cloud_platform", "extra": extra})


def _azure(request: pytest.FixtureRequest, folder: Path) -> Side:
    server = request.getfixturevalue("azurite")
    container = server.container()
    environment = {"AIRFLOW_CONN_BLOBS": azure_connection(server.connection_string)}
    return Side(container, f"wasb://blobs@{container.name}", environment, keeps_times=False)


def _gcs(request: pytest.FixtureRequest, folder: Path) -> Side:
    server = request.getfixturevalue("fake_gcs")
    bucket = server.bucket()
    return Side(bucket, f"gs://bucket@{bucket.name}", {"AIRFLOW_CONN_BUCKET": gcs_connection(server.url)}, False)


def _fsspec(request: pytest.FixtureRequest, folder: Path) -> Side:
    folder.mkdir(parents=True)
    return Side(Disk(folder.resolve()), "fsspec+file://", keeps_times=False)


CLOUDS: dict[str, Callable[[pytest.FixtureRequest, Path], Side]] = {"azure": _azure, "gcs": _gcs, "fsspec": _fsspec}
"""Store -> a function that makes a fresh side, as :data:`tests.files.far.FAR_SIDES`."""
