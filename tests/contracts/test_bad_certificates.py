"""A server whose certificate is not right hears no credential, whatever is spoken."""

from __future__ import annotations

import datetime
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
import trustme

from flowrunner_provider.registry import CONNECTORS
from tests.support.tls import Tls

SECRET = "canary4711canary4711canary4711"
HOOKS = {conn_type: path for connector in CONNECTORS for conn_type, path in connector.hooks}
CASES = ["expired", "not-yet-valid", "wrong-name", "unknown-authority", "self-signed"]


def certificate(case: str, tls: Tls) -> trustme.LeafCert:
    today = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    names = ["localhost", "127.0.0.1"]
    if case == "expired":
        return tls.ca.issue_cert(*names, not_before=today - 9 * day, not_after=today - day)
    if case == "not-yet-valid":
        return tls.ca.issue_cert(*names, not_before=today + day, not_after=today + 9 * day)
    if case == "wrong-name":
        return tls.ca.issue_cert("other.test")
    return trustme.CA().issue_cert(*names)


class Listener(ThreadingTCPServer):
    """Speaks TLS at once, and writes down what it hears within."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.context, self.heard, self.asked = context, b"", 0


class _Handler(StreamRequestHandler):
    server: Listener

    def setup(self) -> None:
        """There is no stream before the handshake."""

    def handle(self) -> None:
        self.request.settimeout(3)
        self.server.asked += 1
        with suppress(OSError), self.server.context.wrap_socket(self.request, server_side=True) as stream:
            stream.sendall(b"* OK 220 ready\r\n")
            while more := stream.recv(4096):
                self.server.heard += more

    def finish(self) -> None:
        """Nor is there one to flush."""


@pytest.fixture(params=CASES)
def listener(request: pytest.FixtureRequest, tls: Tls, tmp_path: Path) -> Iterator[Listener]:
    leaf = certificate(request.param, tls)
    pem = tmp_path / "both.pem"
    chain = leaf.cert_chain_pems[:1] if request.param == "self-signed" else leaf.cert_chain_pems
    pem.write_bytes(leaf.private_key_pem.bytes() + b"".join(part.bytes() for part in chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with Listener(context) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def connections(port: int, ca_file: str) -> dict[str, dict[str, Any]]:
    here = {"host": "127.0.0.1", "port": port, "login": "user", "password": SECRET}
    url = f"https://127.0.0.1:{port}"
    ours = {"flowrunner": {"ca_file": ca_file}}
    at_once = {"ca_file": ca_file, "tls": True, "implicit": True}
    return {
        "ftp": {"conn_type": "ftp", **here, "extra": {"flowrunner": at_once}},
        "smtp": {"conn_type": "smtp", **here, "extra": ours},
        "imap": {"conn_type": "imap", **here, "extra": ours},
        "http": {"conn_type": "http", **here, "host": url, "extra": ours},
        "mattermost": {"conn_type": "mattermost", "host": url, "password": SECRET, "extra": {"ca_file": ca_file}},
        "teams": {"conn_type": "teams", "password": f"{url}/w/{SECRET}", "extra": {"ca_file": ca_file}},
        "twilio": {
            "conn_type": "twilio", "login": "AC" + "0" * 32, "host": url, "password": SECRET,
            "extra": {"ca_file": ca_file},
        },
        "aws": {
            "conn_type": "aws", "login": "user", "password": SECRET,
            "extra": {"endpoint_url": url, "flowrunner": {"bucket": "b", "ca_bundle": ca_file}},
        },
    }  # fmt: skip


@pytest.mark.parametrize("conn_type", ["ftp", "smtp", "imap", "http", "mattermost", "teams", "twilio", "aws"])
def test_it_hears_nothing(conn_type: str, listener: Listener, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = connections(listener.server_address[1], str(tls.ca_file))[conn_type]
    monkeypatch.setenv("AIRFLOW_CONN_BAD", json.dumps(whole))
    module, _, name = HOOKS[conn_type].rpartition(".")
    ok, message = getattr(import_module(module), name)("bad").test_connection()
    assert not ok
    assert listener.asked, "nobody came"
    assert listener.heard == b""
    assert " -> " in message
    assert "certificate" in message
    assert SECRET not in message
