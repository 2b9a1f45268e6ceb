"""The fixtures of conftest.py: environment and guard."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from tests.support import guard
from tests.support.kill import attempt


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.com", 80), ("0.0.0.0", 80)])
def test_no_connection_leaves_this_machine(address: tuple[str, int]) -> None:
    with socket.socket() as client, pytest.raises(guard.ConnectionOutside):
        client.connect(address)
    with socket.socket() as client, pytest.raises(guard.ConnectionOutside):
        client.connect_ex(address)
    assert len(guard.outside) == 2
    guard.outside.clear()  # otherwise this test would fail, as it should


def test_asyncio_is_guarded() -> None:
    with pytest.raises(guard.ConnectionOutside):
        asyncio.run(asyncio.wait_for(asyncio.open_connection("192.0.2.1", 80), 5))
    guard.outside.clear()


def connects_outside() -> None:
    with socket.socket() as client:
        client.connect(("192.0.2.1", 80))


def test_children_are_guarded() -> None:
    assert attempt(connects_outside).error_type == "ConnectionOutside"


def test_loopback_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(("localhost", server.getsockname()[1]), 5).close()


def test_the_environment_is_clean(airflow_home: Path) -> None:
    assert not {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "https_proxy", "HTTP_PROXY"} & set(os.environ)
    assert os.environ["AIRFLOW_HOME"] == str(airflow_home)
