"""Connections that are tried, and credentials whose end is read, where the outcome can be known otherwise."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from flowrunner_provider.auth.expiry import certificate_expiries, read_certificates, token_expiry
from flowrunner_provider.auth.operators import ConnectionCheckOperator, CredentialExpiryOperator
from flowrunner_provider.core import errors as e
from flowrunner_provider.runtime.retry_policy import retrying_helps
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import HttpServer, Reply

CANARY = "canary-s3cr3t-0815"


@pytest.fixture
def run(tmp_path):
    def perform(cls, **how):
        operator = cls(task_id="t", **how)
        return execute(operator, make_context(operator, state=FileStateStore(tmp_path / "state" / os.urandom(4).hex())))

    return perform


@pytest.fixture
def connect(monkeypatch):
    def define(name, **fields):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"password": CANARY, **fields}))

    return define


# auth.check_connection


def test_every_connection_is_tried_where_it_leads(run, connect, http_server, tmp_path):
    http_server.route("GET", "/", Reply(200))
    connect("shop", conn_type="http", host=http_server.url, login="u")
    connect("db", conn_type="sqlite", host=str(tmp_path / "x.db"))
    (tmp_path / "x.db").touch()
    report = run(ConnectionCheckOperator, conn_ids=["shop", "db", "shop"])
    assert [(row["conn_id"], row["conn_type"], row["ok"]) for row in report["connections"]] == [
        ("shop", "http", True),
        ("db", "sqlite", True),
    ]
    assert (report["ok"], report["failed"]) == (2, 0)
    assert len(http_server.requests) == 1
    assert CANARY not in str(report)


def test_each_failing_connection_is_named_with_what_to_do(run, connect, http_server):
    http_server.route("GET", "/", lambda request: Reply(403, str(request.headers).encode()))
    connect("good", conn_type="http", host=http_server.url)
    connect("denied", conn_type="http", host=http_server.url, login="u")
    connect("down", conn_type="http", host="http://127.0.0.1:1")
    connect("odd", conn_type="no_such_type")
    http_server.route("GET", "/fine", Reply(200))
    connect("good", conn_type="http", host=http_server.url, extra={"flowrunner": {"check_endpoint": "/fine"}})
    with pytest.raises(e.PartialFailure) as caught:
        run(ConnectionCheckOperator, conn_ids=["good", "denied", "down", "odd", "nowhere"])
    error = caught.value
    assert (error.done, set(error.failed)) == (1, {"denied", "down", "odd", "nowhere"})
    assert all(" -> " in reason for reason in error.failed.values())
    assert "AIRFLOW_CONN_NOWHERE" in error.failed["nowhere"]
    assert all(name in str(error) for name in error.failed)
    shown = "".join(traceback.format_exception(error)) + str(error.to_event())
    assert CANARY not in shown
    assert "dTpjYW5hcnk" not in shown, "nor as Basic"
    assert retrying_helps(error)


def test_fail_on_all(run, connect, http_server):
    http_server.route("GET", "/", Reply(200))
    connect("good", conn_type="http", host=http_server.url)
    report = run(ConnectionCheckOperator, conn_ids=["good", "nowhere"], fail_on="all")
    assert (report["ok"], report["failed"]) == (1, 1)
    with pytest.raises(e.ConfigError) as caught:
        run(ConnectionCheckOperator, conn_ids=["nowhere", "neither"], fail_on="all")
    assert not retrying_helps(caught.value)


class Fine:
    def __init__(self, conn_id):
        self.conn_id = conn_id

    def test_connection(self):
        return True, f"hello {CANARY}"


class Broken(Fine):
    def test_connection(self):
        raise KeyError(CANARY)


class Untested:
    def __init__(self, conn_id):
        pass


class Hanging(Fine):
    over = threading.Event()

    def test_connection(self):
        self.over.wait(30)
        return True, ""


def test_the_hooks_of_others_may_do_anything(run, connect, monkeypatch):
    from airflow.sdk import Connection

    kinds = {"fine": Fine, "broken": Broken, "untested": Untested, "hanging": Hanging}
    for name in kinds:
        connect(name, conn_type="theirs")
    monkeypatch.setattr(Connection, "get_hook", lambda self: kinds[self.conn_id](self.conn_id))
    began = time.monotonic()
    with pytest.raises(e.PartialFailure) as caught:
        run(ConnectionCheckOperator, conn_ids=list(kinds), check_timeout=4)
    Hanging.over.set()
    assert time.monotonic() - began < 20
    assert set(caught.value.failed) == {"broken", "untested", "hanging"}
    assert "KeyError" in caught.value.failed["broken"]
    assert "no connection test" in caught.value.failed["untested"]
    assert "4 s" in caught.value.failed["hanging"]
    assert CANARY not in str(caught.value)
    report = run(ConnectionCheckOperator, conn_ids=["fine"])
    assert report["connections"][0]["message"] == "hello ***"


@pytest.mark.parametrize(
    "how",
    [
        {"conn_ids": []},
        {"conn_ids": "shop"},
        {"conn_ids": [""]},
        {"conn_ids": ["x"], "fail_on": "some"},
        {"conn_ids": ["x"], "check_timeout": "soon"},
        {"conn_ids": ["x"], "check_timeout": 0},
    ],
)
def test_bad_input_of_the_check(run, how):
    with pytest.raises(e.ConfigError) as caught:
        run(ConnectionCheckOperator, **how)
    assert caught.value.field in how


# auth.check_expiry


def ends_in(days):
    return datetime.now(UTC) + timedelta(days=days)


def serve(ca, directory, days, *, name="localhost"):
    cert = ca.issue_cert(name, "127.0.0.1", not_after=ends_in(days))
    path = directory / f"{days}.pem"
    cert.private_key_and_cert_chain_pem.write_to_path(str(path))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return HttpServer(tls=context)


@pytest.mark.parametrize(("days", "state"), [(100, "ok"), (20, "warn"), (3, "fail"), (-1, "fail")])
def test_the_certificate_of_a_server(run, tls, tmp_path, days, state):
    with serve(tls.ca, tmp_path, days) as server:
        target = {"kind": "tls_cert", "host": f"localhost:{server.port}", "ca_file": str(tls.ca_file)}
        if state == "fail":
            with pytest.raises(e.PartialFailure, match="renew") as caught:
                run(CredentialExpiryOperator, targets=[target])
            assert f"tls_cert localhost:{server.port}" in caught.value.failed
            assert not retrying_helps(caught.value)
            return
        report = run(CredentialExpiryOperator, targets=[target])
    assert server.requests == []
    row = report["rows"][0]
    assert (row["kind"], row["state"], row["verified"]) == ("tls_cert", state, True)
    assert row["days_left"] == pytest.approx(days, abs=0.1)


def test_a_certificate_that_nobody_vouches_for_is_read_and_said_to_be_so(run, tls, tmp_path):
    with serve(trustme.CA(), tmp_path, 100) as server:
        target = {"kind": "tls_cert", "host": f"localhost:{server.port}", "ca_file": str(tls.ca_file)}
        (row, *_) = run(CredentialExpiryOperator, targets=[target])["rows"]
    assert (row["state"], row["verified"]) == ("ok", False)
    assert "not trusted" in row["note"]


def test_the_rest_of_the_chain_has_a_row_of_its_own(run, tmp_path):
    root = trustme.CA()
    middle = root.create_child_ca()
    with serve(middle, tmp_path, 5) as server:
        target = {"kind": "tls_cert", "host": f"127.0.0.1:{server.port}"}
        report = run(CredentialExpiryOperator, targets=[target], warn_days=9, fail_days=1)
    assert [row["kind"] for row in report["rows"]] == ["tls_cert", "tls_cert_chain"]
    assert report["rows"][0]["state"] == "warn"


def test_a_server_that_is_not_there_is_never_good(run, http_server):
    targets = [
        {"kind": "tls_cert", "host": "127.0.0.1:1"},
        {"kind": "tls_cert", "host": f"127.0.0.1:{http_server.port}"},
    ]
    with pytest.raises(e.PartialFailure) as caught:
        run(CredentialExpiryOperator, targets=targets, target_timeout=5)
    assert len(caught.value.failed) == 2
    assert retrying_helps(caught.value)


def jwt(claims):
    from joserfc import jwt as jose
    from joserfc.jwk import OctKey

    return jose.encode({"alg": "HS256"}, claims, OctKey.import_key(CANARY * 3))


def test_tokens(run, connect):
    end = int(ends_in(12).timestamp())
    connect(
        "api", conn_type="http", host="x", password=jwt({"exp": end}), extra={"flowrunner": {}, "X-Jwt": jwt({"a": 1})}
    )
    targets = [{"kind": "jwt", "conn_id": "api"}, {"kind": "jwt", "conn_id": "api", "field": "X-Jwt"}]
    report = run(CredentialExpiryOperator, targets=targets)
    assert [(row["state"], row["expires"] is None) for row in report["rows"]] == [("warn", False), ("ok", True)]
    assert datetime.fromisoformat(report["rows"][0]["expires"]).timestamp() == end
    assert jwt({"exp": end}) not in str(report)


@pytest.mark.parametrize("token", ["opaque-canary", "a.b.c", "a.b", "", "ey.ey.ey", "e30.W10.x", "e30.e30"])
def test_what_is_no_token_is_never_good_and_never_shown(token):
    with pytest.raises(e.ConfigError) as caught:
        token_expiry(token)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("end", [0, -1, -62135596801, -1e300, -(10**400)])
def test_a_token_that_ended_before_any_calendar_has_expired(end):
    expires = token_expiry(jwt({"exp": end})).expires
    assert expires is not None
    assert expires.year < 1971


def test_an_end_that_is_no_number_is_never_good():
    with pytest.raises(e.ConfigError, match="exp"):
        token_expiry(jwt({"exp": float("nan")}))


def test_ssh_keys_and_their_certificates(run, connect, tmp_path):
    def keygen(*words):
        subprocess.run(["ssh-keygen", "-q", *words], check=True, capture_output=True)

    for name in ("ca", "bare", "signed", "always"):
        keygen("-t", "ed25519", "-N", "", "-f", str(tmp_path / name))
    keygen("-s", str(tmp_path / "ca"), "-I", "etl", "-n", "etl", "-V", "-1d:+2w", str(tmp_path / "signed.pub"))
    keygen("-s", str(tmp_path / "ca"), "-I", "etl", "-n", "etl", str(tmp_path / "always.pub"))
    for name in ("bare", "signed", "always"):
        connect(name, conn_type="sftp", host="x", extra={"key_file": str(tmp_path / name)})
    targets = [{"kind": "ssh_key", "conn_id": name} for name in ("bare", "signed", "always")]
    rows = {row["target"]: row for row in run(CredentialExpiryOperator, targets=targets)["rows"]}
    assert [rows[name]["kind"] for name in ("bare", "signed", "always")] == ["ssh_key", *["ssh_certificate"] * 2]
    assert [rows[name]["state"] for name in ("bare", "signed", "always")] == ["ok", "warn", "ok"]
    assert rows["signed"]["days_left"] == pytest.approx(14, abs=0.1)


def test_the_client_certificate_of_a_connection(run, connect, tmp_path):
    cert = trustme.CA().issue_cert("etl@example.com", not_after=ends_in(20))
    cert.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "c.pem"))
    options = {"auth": "mtls", "cert_file": str(tmp_path / "c.pem")}
    connect("bank", conn_type="http", host="https://x", extra={"flowrunner": options})
    (row,) = run(CredentialExpiryOperator, targets=[{"kind": "client_cert", "conn_id": "bank"}])["rows"]
    assert (row["kind"], row["state"]) == ("client_cert", "warn")
    (leaf, *_) = certificate_expiries("x", read_certificates(tmp_path / "c.pem"))
    assert leaf.expires.isoformat() == row["expires"]


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"targets": []}, "targets"),
        ({"targets": ["x"]}, "targets"),
        ({"targets": [{"kind": "entra_app", "conn_id": "x"}]}, "targets"),
        ({"targets": [{"kind": "jwt"}]}, "targets"),
        ({"targets": [{"kind": "tls_cert", "host": "https://x"}]}, "targets"),
        ({"targets": [{"kind": "tls_cert", "host": "x:port"}]}, "targets"),
        ({"targets": [{"kind": "jwt", "conn_id": "x", "feild": "y"}]}, "feild"),
        ({"targets": [{"kind": "jwt", "conn_id": "nowhere"}]}, "targets"),
        ({"targets": [{"kind": "jwt", "conn_id": "api", "field": "zz"}]}, "targets"),
        ({"targets": [{"kind": "client_cert", "conn_id": "api"}]}, "targets"),
        ({"targets": [{"kind": "client_cert", "conn_id": "lost"}]}, "targets"),
        ({"targets": [{"kind": "jwt", "conn_id": "x"}], "warn_days": 1}, "fail_days"),
        ({"targets": [{"kind": "jwt", "conn_id": "x"}], "fail_days": -1}, "fail_days"),
        ({"targets": [{"kind": "jwt", "conn_id": "x"}], "target_timeout": "soon"}, "target_timeout"),
    ],
)
def test_bad_input_of_the_expiry(run, connect, how, field):
    connect("api", conn_type="http", host="x")
    connect("lost", conn_type="http", host="https://x", extra={"flowrunner": {"cert_file": "/nowhere.pem"}})
    with pytest.raises(e.ConfigError) as caught:
        run(CredentialExpiryOperator, **how)
    assert caught.value.field == field
    assert CANARY not in str(caught.value)
