"""``ftp`` connections: what the official provider reads, our options, and what the connection test says."""

from __future__ import annotations

import asyncio
import json

import pytest

from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.files.hook import open_store
from flowrunner_provider.files.hooks.ftp import FlowRunnerFtpHook
from tests.files.far import Disk
from tests.support.ftp_script import ScriptedFtp
from tests.support.servers import free_port

pytestmark = pytest.mark.backend


def given(monkeypatch, extra=None, /, **fields):
    whole = {"conn_type": "ftp", "host": "ftp.partner.test", "login": "u", "password": "pw-canary-4711", **fields}
    monkeypatch.setenv("AIRFLOW_CONN_DROP", json.dumps({**whole, "extra": extra or {}}))
    return FlowRunnerFtpHook("drop")


@pytest.mark.parametrize(
    ("extra", "fields", "scheme", "expected"),
    [
        ({}, {}, "ftp", {"security": "plain", "port": 21, "passive": True, "encoding": "utf-8"}),
        ({}, {}, "ftps", {"security": "explicit", "port": 21}),
        ({}, {"port": 990}, "ftps", {"security": "implicit", "port": 990}),
        ({"flowrunner": {"implicit": True}}, {"port": 2990}, "ftps", {"security": "implicit", "port": 2990}),
        ({"passive": "false"}, {}, "ftp", {"passive": False}),
        ({"passive": "true"}, {}, "ftp", {"passive": True}),
        ({"passive": False}, {}, "ftp", {"passive": False}),
        ({"encoding": "cp1251"}, {}, "ftp", {"encoding": "cp1251"}),
        (
            {"flowrunner": {"ca_file": "/etc/ca.pem", "timeout": 5}},
            {},
            "ftps",
            {"ca_file": "/etc/ca.pem", "timeout": 5},
        ),
        ({}, {"login": None, "password": None}, "ftp", {"login": "", "password": ""}),
    ],
)
def test_what_a_connection_means(monkeypatch, extra, fields, scheme, expected):
    given(monkeypatch, extra, **fields)
    target = open_store(f"{scheme}://drop@/x")._target
    assert {name: getattr(target, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("extra", "fields", "where", "text"),
    [
        ({}, {"conn_type": "sftp"}, "ftp://drop@/x", "type ftp"),
        ({}, {}, "ftp://drop@elsewhere/x", "another host"),
        ({}, {"login": "u\r\nDELE x"}, "ftp://drop@/x", "line break"),
        ({}, {"password": "u\nDELE x"}, "ftp://drop@/x", "line break"),
        ({"encoding": "klingon"}, {}, "ftp://drop@/x", "encoding"),
        ({"flowrunner": {"timeout": 0}}, {}, "ftp://drop@/x", "timeout"),
        ({"flowrunner": {"connections": 0}}, {}, "ftp://drop@/x", "connections"),
        ({"flowrunner": {"tls": True}}, {}, "ftp://drop@/x", "ftps://drop@"),
        ({}, {"port": 990}, "ftp://drop@/x", "ftps://drop@"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_sent(monkeypatch, extra, fields, where, text):
    given(monkeypatch, extra, **fields)
    with pytest.raises(ConfigError, match=text) as caught:
        open_store(where)
    assert "canary" not in str(caught.value)


def test_a_ca_file_that_is_not_there(monkeypatch):
    given(monkeypatch, {"flowrunner": {"ca_file": "/nowhere.pem"}})

    async def enter():
        async with open_store("ftps://drop@/x"):
            pass

    with pytest.raises(ConfigError, match="ca_file"):
        asyncio.run(enter())


def check(monkeypatch, server, authority, **options):
    monkeypatch.setenv("AIRFLOW_CONN_DROP", server.connection(authority, **options))
    return FlowRunnerFtpHook("drop").test_connection()


def test_the_connection_test_logs_in_and_lists(monkeypatch, proftpd, tls):
    root = Disk(proftpd.root()).root
    assert check(monkeypatch, proftpd, tls, test_folder=root) == (
        True,
        f"Logged in to 127.0.0.1:{proftpd.port} without TLS and listed {root}.",
    )
    ok, text = check(monkeypatch, proftpd, tls, tls=True)
    assert (ok, "with TLS" in text) == (True, True)
    ok, text = check(monkeypatch, proftpd, tls, implicit=True)
    assert (ok, "with TLS" in text) == (True, True)


def test_the_connection_test_says_what_the_server_cannot(monkeypatch, vsftpd, tls):
    given(monkeypatch, host=vsftpd.host, port=vsftpd.port, login=None, password=None)
    ok, text = FlowRunnerFtpHook("drop").test_connection()
    assert ok
    assert "cannot set modification times" in text


def test_the_connection_test_says_what_to_do(monkeypatch, proftpd, tls):
    ok, text = check(monkeypatch, proftpd, tls, test_folder="/nowhere/at/all")
    assert (ok, "does not exist" in text) == (False, True)
    hook = given(monkeypatch, host=proftpd.host, port=proftpd.port, login="alice")
    ok, text = hook.test_connection()  # the real password is another one only in its place
    assert ok
    hook = given(monkeypatch, host=proftpd.host, port=proftpd.port, password="canary-wrong")
    ok, text = hook.test_connection()
    assert not ok
    assert "correct login and password" in text
    assert "canary" not in text
    hook = given(monkeypatch, {"flowrunner": {"tls": True}}, host=proftpd.host, port=proftpd.port)
    ok, text = hook.test_connection()
    assert not ok
    assert "ca_file" in text
    hook = given(monkeypatch, host="127.0.0.1", port=free_port())
    ok, text = hook.test_connection()
    assert not ok
    assert "check host, port and firewall" in text


def test_the_connection_test_of_something_else(monkeypatch):
    with ScriptedFtp({"USER": "hello?"}) as server:
        ok, text = given(monkeypatch, host=server.host, port=server.port).test_connection()
    assert not ok
    assert "not an answer of an FTP server" in text


def test_an_anonymous_login(monkeypatch):
    """The official hook never logs in without a login, so the server refuses everything else."""
    with ScriptedFtp({"MLST": "550 no", "SIZE": "550 no"}) as server:
        given(monkeypatch, host=server.host, port=server.port, login=None, password=None)

        async def look():
            async with open_store("ftp://drop@/x") as store:
                await store.stat("/x")

        with pytest.raises(NotFound):
            asyncio.run(look())
        assert server.lines[:2] == ["USER anonymous", "PASS anonymous@"]
