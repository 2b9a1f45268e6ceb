"""Connections as data teams have them: what becomes of each field, and the connection test."""

from __future__ import annotations

import json

import pytest

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.http.config import HttpConfig, flat_extra
from flowrunner_provider.http.hook import FlowRunnerHttpHook
from flowrunner_provider.http.paging import next_link
from flowrunner_provider.http.settings import settings_of
from tests.support.http_server import HttpServer, Reply


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "api.example.com"}, "http://api.example.com"),
        ({"host": "api.example.com", "schema": "https", "port": 8443}, "https://api.example.com:8443"),
        ({"host": "https://api.example.com/v1", "schema": "http"}, "https://api.example.com/v1"),
        ({"host": "https://api.example.com/v1", "port": 81}, "https://api.example.com:81/v1"),
        ({"host": "https://api.example.com:9/v1", "port": 81}, "https://api.example.com:9/v1"),
        ({"host": "::1", "port": 80}, "http://[::1]:80"),
    ],
)
def test_the_base_url(fields, url):
    assert settings_of(HttpConfig(**fields)).base_url == url


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"host": "ftp://x"},
        {"host": "http://u:p@x"},
        {"host": "x?a=1"},
        {"host": "x:port"},
        {"host": "x", "timeout": 0.0},
        {"host": "x", "timeout": float("inf")},
        {"host": "x", "auth": "bearer"},
        {"host": "x", "auth": "basic"},
        {"host": "x", "allow_hosts": ("http://y",)},
    ],
)
def test_what_cannot_work_is_named(fields):
    with pytest.raises(ConfigError) as caught:
        settings_of(HttpConfig(**fields))
    assert caught.value.field


@pytest.mark.parametrize(
    ("fields", "fixed", "query"),
    [
        ({}, {}, {}),
        ({"password": "p"}, {}, {}),
        ({"login": "u", "password": "p"}, {"Authorization": "Basic dTpw"}, {}),
        ({"auth": "none", "login": "u"}, {}, {}),
        ({"auth": "bearer", "password": "p"}, {"Authorization": "Bearer p"}, {}),
        ({"auth": "api_key", "password": "p"}, {"X-Api-Key": "p"}, {}),
        ({"auth": "api_key", "password": "p", "api_key_in": "query", "api_key_name": "k"}, {}, {"k": "p"}),
    ],
)
def test_credentials(fields, fixed, query):
    credentials = settings_of(HttpConfig(host="x", **fields)).credentials
    assert (credentials.fixed, credentials.query) == (fixed, query)


def test_the_flat_keys_of_the_official_hook():
    extra = {"timeout": 5, "verify": "/ca.pem", "cert": ["/c", "/k"], "proxy": "http://p:1", "stream": True,
             "max_redirects": 3, "allow_redirects": False, "check_response": False, "X-A": "1", "X-B": 2,
             "flowrunner": {"burst": 2}}  # fmt: skip
    assert flat_extra(extra) == {
        "timeout": 5, "ca_file": "/ca.pem", "cert_file": "/c", "key_file": "/k", "max_redirects": 3,
        "proxies": {"http": "http://p:1", "https": "http://p:1"}, "follow_redirects": False,
        "headers": {"X-A": "1", "X-B": "2"},
    }  # fmt: skip
    for bad in ({"X": {}}, {"srv_lookup": True}):
        with pytest.raises(ConfigError):
            flat_extra(bad)


def test_proxies_of_the_environment(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example.com")
    assert settings_of(HttpConfig(host="x")).proxies == {"https": "http://proxy:3128"}
    assert settings_of(HttpConfig(host="inside.example.com")).proxies == {}
    assert settings_of(HttpConfig(host="x", trust_env=False)).proxies == {}


def test_a_proxy_is_used(http_server):
    import asyncio

    from flowrunner_provider.core.run import Run
    from flowrunner_provider.transport.http import HttpTransport

    http_server.route("GET", "*", Reply(200, b"by proxy"))

    async def main() -> bytes:
        config = HttpConfig(host="http://far.example.com", proxies={"http": http_server.url})
        async with HttpTransport(settings_of(config), Run.alone()) as http:
            return (await http.request("GET", "/a")).content

    assert asyncio.run(main()) == b"by proxy"
    assert http_server.requests[0].headers["host"] == "far.example.com"


def test_an_incomplete_credential_is_a_missing_one():
    with pytest.raises(MissingCredential):
        settings_of(HttpConfig(host="x", auth="api_key"))


# The connection test


def connection_test(monkeypatch, **fields) -> tuple[bool, str]:
    monkeypatch.setenv("AIRFLOW_CONN_C", json.dumps({"conn_type": "http", **fields}))
    return FlowRunnerHttpHook("c").test_connection()


@pytest.mark.parametrize(
    ("status", "fine", "says"),
    [
        (200, True, "200"),
        (404, True, "check_endpoint"),
        (401, False, "login"),
        (403, False, "permissions"),
        (500, False, "500"),
    ],
)
def test_the_connection_test_tells_what_was_answered(monkeypatch, http_server, status, fine, says):
    http_server.route("GET", "/", Reply(status))
    success, text = connection_test(monkeypatch, host=http_server.url)
    assert success is fine
    assert says in text


def test_the_connection_test_tells_why_there_was_no_answer(monkeypatch, chaos, http_server, tls):
    proxy = chaos(http_server.host, http_server.port)
    proxy.refuse()
    assert "check host, port" in connection_test(monkeypatch, host=f"http://{proxy.host}:{proxy.port}")[1]
    with HttpServer(tls=tls.server_context()) as server:
        assert "ca_file" in connection_test(monkeypatch, host=server.url)[1]
    assert "extra is not JSON" in connection_test(monkeypatch, host="x", extra="{")[1]
    assert "unknown option" in connection_test(monkeypatch, host="x", extra={"flowrunner": {"auht": "basic"}})[1]
    assert "not defined" in FlowRunnerHttpHook("nowhere").test_connection()[1]


def test_the_rate_limit_is_shared_by_the_hooks_of_a_connection(monkeypatch):
    from flowrunner_provider.core.run import Run

    extra = {"flowrunner": {"rate_limit": "2/day"}}
    monkeypatch.setenv("AIRFLOW_CONN_LIMITED", json.dumps({"conn_type": "http", "host": "x", "extra": extra}))
    runs = [Run.alone(), Run.alone()]
    for run in runs:
        FlowRunnerHttpHook("limited").transport(run)
    assert runs[0].pacer.reserve(1) == 0
    assert runs[1].pacer.reserve(1, 10) > 40_000


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ('<https://a/b?x=1,2>; rel="next"', "https://a/b?x=1,2"),
        ('</1>; rel="prev", </2>; title="x, y; z"; rel=next', "/2"),
        ('</1>; rel="last next"', "/1"),
        ('</1>; rel="nextish"', None),
        ("garbage, </1>; rel=next", None),
        ("", None),
        ("<" * 50_000, None),
        ("</1>" + ";a=b" * 20_000, None),
    ],
)
def test_link_headers(header, target):
    assert next_link([header]) == target


@pytest.mark.parametrize("headers", [{"X-Token": "canary-s3cr3t\n"}, {"X-To\r\nken": "x"}, {"X-Token": "canary\x01"}])
def test_a_header_of_the_connection_that_cannot_be_sent_is_named(monkeypatch, http_server, headers):
    http_server.route("GET", "/x", Reply(200))
    works, message = connection_test(
        monkeypatch, host=http_server.url, extra={**headers, "flowrunner": {"check_endpoint": "/x"}}
    )
    assert not works
    assert "header" in message
    assert "canary" not in message
    assert http_server.requests == []
