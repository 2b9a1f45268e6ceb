"""FTPS servers that ask the worker who it is: a certificate is shown, or nothing secret leaves."""

from __future__ import annotations

import asyncio
import json

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from flowrunner_provider.core.errors import AccessDenied, ConfigError, ConnectionLost, SecurityError
from flowrunner_provider.files.hook import open_store
from flowrunner_provider.files.hooks.ftp import FlowRunnerFtpHook
from flowrunner_provider.files.stores.ftp import FtpStore
from tests.contracts.store_contract import collect, write
from tests.files.far import Disk
from tests.files.ftp_targets import proftpd_target
from tests.support.proftpd import proftpd as run_proftpd
from tests.support.tls import Tls

pytestmark = pytest.mark.backend
KEY_PASSWORD = "key-canary-4711"


def within(target, test):
    """Run a coroutine function with an open store."""

    async def body():
        async with asyncio.timeout(30), FtpStore(target) as store:
            return await test(store)

    return asyncio.run(body())


def pem(path, *parts):
    path.write_bytes(b"".join(parts))
    return str(path)


@pytest.fixture(params=["TLSv1.2", "TLSv1.3"])
def strict(request, tls):
    """A ProFTPD that lets nobody in without a certificate of the authority."""
    more = f"TLSVerifyClient on\nTLSCACertificateFile {tls.ca_file}"
    with run_proftpd(tls, more=more, required="on", protocol=request.param) as server:
        yield server


@pytest.fixture
def shown(tls, tmp_path):
    """The worker's certificate in the forms that it comes in."""
    worker = tls.ca.issue_cert("worker.test")
    cert = pem(tmp_path / "cert.pem", *(part.bytes() for part in worker.cert_chain_pems))
    plain = worker.private_key_pem.bytes()
    locked = load_pem_private_key(plain, None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(KEY_PASSWORD.encode())
    )
    return {
        "two files": {"cert_file": cert, "key_file": pem(tmp_path / "key.pem", plain)},
        "one file": {"cert_file": pem(tmp_path / "both.pem", worker.private_key_and_cert_chain_pem.bytes())},
        "encrypted": {
            "cert_file": cert,
            "key_file": pem(tmp_path / "locked.pem", locked),
            "key_password": KEY_PASSWORD,
        },
    }


@pytest.mark.parametrize("security", ["explicit", "implicit"])
def test_it_is_shown_on_both_channels(strict, tls, shown, security):
    far = Disk(strict.root())
    for options in shown.values():

        async def test(store):
            await write(store, f"{far.root}/a", b"x" * 300_000)
            assert await collect(store.read(f"{far.root}/a")) == b"x" * 300_000
            assert [entry.name async for entry in store.list(far.root)] == ["a"]

        within(proftpd_target(strict, tls, security, **options), test)


@pytest.mark.parametrize("security", ["explicit", "implicit"])
def test_without_the_right_one_no_login_is_sent(strict, tls, tmp_path, security):
    stranger = Tls.create(tmp_path)
    other = pem(tmp_path / "both.pem", stranger.ca.issue_cert("worker.test").private_key_and_cert_chain_pem.bytes())
    for options in ({}, {"cert_file": other}):
        with pytest.raises((AccessDenied, SecurityError, ConnectionLost), match="connecting to") as caught:
            within(proftpd_target(strict, tls, security, **options), lambda store: store.stat("."))
        assert "cert_file" in str(caught.value), "the remedy"
    assert "PASS" not in strict.commands


def test_by_the_connection(monkeypatch, strict, tls, shown):
    for options in shown.values():
        monkeypatch.setenv("AIRFLOW_CONN_DROP", strict.connection(tls, tls=True, **options))
        assert FlowRunnerFtpHook("drop").test_connection()[0]
    monkeypatch.setenv("AIRFLOW_CONN_DROP", strict.connection(tls, tls=True))
    ok, text = FlowRunnerFtpHook("drop").test_connection()
    assert not ok
    assert "cert_file" in text


@pytest.mark.parametrize(
    "options",
    [
        {"cert_file": "/nowhere.pem"},
        {"key_file": "/nowhere.pem"},
        {"cert_file": "{cert_file}", "key_file": "{key_file}"},  # encrypted, and nobody is asked for its password
        {"cert_file": "{cert_file}", "key_file": "{key_file}", "key_password": "wrong-canary-0815"},
    ],
    ids=["no-file", "key-alone", "no-password", "wrong-password"],
)
def test_what_cannot_be_used_is_told_before_anything_is_sent(monkeypatch, tls, shown, options):
    named = {name: value.format(**shown["encrypted"]) for name, value in options.items()}
    connection = {"conn_type": "ftp", "host": "ftp.partner.test", "login": "u", "extra": {"flowrunner": named}}
    monkeypatch.setenv("AIRFLOW_CONN_DROP", json.dumps(connection))

    async def enter():
        async with open_store("ftps://drop@/x"):
            pass

    with pytest.raises(ConfigError, match="certificate") as caught:
        asyncio.run(enter())
    assert caught.value.field == "cert_file"
    assert "canary" not in f"{caught.value}{caught.value.remedy}"
