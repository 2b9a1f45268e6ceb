"""The ``auth`` of an ``http`` connection, as a DAG uses it: against a real authorization server and strict ones."""

from __future__ import annotations

import asyncio
import json
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from airflow.sdk.crypto import get_fernet
from cryptography.fernet import Fernet

from flowrunner_provider.core import errors as e
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.config import HttpConfig
from flowrunner_provider.http.hook import FlowRunnerHttpHook
from flowrunner_provider.http.operators import HttpRequestOperator
from flowrunner_provider.http.settings import settings_of
from flowrunner_provider.runtime import masking
from flowrunner_provider.runtime.secret_store import SecretStore
from flowrunner_provider.transport.oauth_tokens import PROCESS_TOKENS
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import HttpServer, Reply, json_reply
from tests.support.kill import attempt, kill_at
from tests.support.oidc import SECRET, Idp, idp

CANARY = "canary-s3cr3t-0815"


@pytest.fixture(scope="session", name="idp")
def idp_fixture(tmp_path_factory) -> Iterator[Idp]:
    with idp(tmp_path_factory.mktemp("idp")) as server:
        yield server


@pytest.fixture(autouse=True)
def worker(tmp_path, monkeypatch):
    """A worker with an encryption key and a state folder of its own, that has no token yet."""
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", Fernet.generate_key().decode())
    monkeypatch.setenv("AIRFLOW__FLOWRUNNER__STATE_PATH", str(tmp_path / "shared"))
    get_fernet.cache_clear()
    PROCESS_TOKENS.forget()
    yield
    get_fernet.cache_clear()
    PROCESS_TOKENS.forget()


@pytest.fixture
def masked(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr(masking, "mask_secret", told.append)
    return told


@pytest.fixture
def connect(monkeypatch, http_server):
    def set_connection(auth, extra=None, **fields):
        value = {"conn_type": "http", "host": http_server.url, **fields}
        value["extra"] = {"flowrunner": {"auth": auth, **(extra or {})}}
        monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(value))

    return set_connection


@pytest.fixture
def ask(tmp_path):
    """``http.request`` as a task; everything that it leaves behind is looked through for ``secrets``."""

    def run(*secrets, **how):
        state = FileStateStore(tmp_path / "state" / os.urandom(4).hex())
        operator = HttpRequestOperator(task_id="t", endpoint="/x", retries=0, **how)
        context = make_context(operator, state=state)
        try:
            result = execute(operator, context)
        except e.FlowRunnerError as error:
            result = error
        left = str(context["ti"].xcoms) + str(state.items()) + str(result)
        if isinstance(result, Exception):
            left += "".join(traceback.format_exception(result)) + str(result.to_event())
        assert not any(secret in left for secret in secrets)
        return result

    return run


def guarded(server: Idp, seen: list[str]):
    def route(request):
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        seen.append(token)
        return json_reply("in") if server.introspect(token)["active"] else Reply(401, token.encode())

    return route


# OAuth, against a real server


@pytest.mark.backend
def test_client_credentials_from_login_and_password(idp, connect, ask, http_server, masked):
    http_server.route("GET", "/x", guarded(idp, seen := []))
    connect(
        "oauth2_client_credentials",
        {"oauth": {"issuer": idp.issuer, "scope": "api.read"}},
        login="basic: +1",
        password=SECRET,
    )
    before = idp.token_requests()
    assert ask(SECRET)["body"] == "in"
    assert ask(SECRET, *seen)["body"] == "in"
    assert (idp.token_requests() - before, len(set(seen))) == (1, 1)
    assert set(seen) | {SECRET} <= set(masked)


@pytest.mark.backend
def test_jwt_bearer(idp, connect, ask, http_server):
    http_server.route("GET", "/x", guarded(idp, seen := []))
    key = json.dumps(idp.keys["rsa"])
    oauth = {"token_url": idp.token_url, "private_key": key, "client_id": "bearer", "subject": "alice"}
    connect("oauth2_jwt_bearer", {"oauth": {**oauth, "assertion_audience": idp.issuer}})
    result = ask(idp.keys["rsa"]["d"])
    assert not isinstance(result, Exception), result
    assert result["body"] == "in"
    assert seen[0] not in str(result)


@pytest.mark.backend
def test_a_rotated_refresh_token_is_there_for_the_next_process(idp, connect, ask, http_server, tmp_path):
    http_server.route("GET", "/x", guarded(idp, seen := []))
    first = idp.consent("rotating")
    connect(
        "oauth2_refresh_token",
        {"oauth": {"issuer": idp.issuer, "refresh_token": first}},
        login="rotating",
        password=SECRET,
    )
    for _ in range(3):
        PROCESS_TOKENS.forget()
        assert ask(SECRET, first, *seen)["body"] == "in"
    assert len(set(seen)) == 3
    files = [path for path in (tmp_path / "shared" / "secrets").rglob("*") if path.is_file()]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600]
    assert "refresh_token" not in files[0].read_text(), "encrypted"


@pytest.mark.backend
def test_a_wrong_secret_names_the_field(idp, connect, ask, http_server):
    connect("oauth2_client_credentials", {"oauth": {"issuer": idp.issuer}}, login="basic: +1", password=CANARY)
    error = ask(CANARY)
    assert isinstance(error, e.AccessDenied)
    assert "client_secret" in error.remedy
    assert http_server.requests == []


@pytest.mark.backend
def test_an_api_that_refuses_every_token_is_asked_twice(idp, connect, ask, http_server):
    http_server.route("GET", "/x", Reply(401))
    connect("oauth2_client_credentials", {"oauth": {"issuer": idp.issuer}}, login="basic: +1", password=SECRET)
    assert isinstance(ask(SECRET), e.AccessDenied)
    assert len(http_server.requests) == 2


# Rotation


class Rotating:
    """A token endpoint that takes each refresh token exactly once."""

    def __init__(self):
        self.good, self.number = f"{CANARY}-0", 0

    def __call__(self, request):
        (given,) = parse_qs(request.body.decode())["refresh_token"]
        if given != self.good:
            return json_reply({"error": "invalid_grant"}, 400)
        self.number += 1
        self.good = f"{CANARY}-{self.number}"
        return json_reply({"access_token": f"access-{self.number}", "token_type": "Bearer", "refresh_token": self.good})


@pytest.fixture
def rotating(http_server, connect):
    http_server.route("POST", "/token", server := Rotating())
    http_server.route("GET", "/x", json_reply("in"))

    def use(**more):
        oauth = {"token_url": f"{http_server.url}/token", "refresh_token": f"{CANARY}-0"}
        connect("oauth2_refresh_token", {"oauth": oauth, **more}, login="app", password="app-s3cr3t")

    use()
    server.use = use
    return server


@dataclass(frozen=True)
class Scene:
    directory: Path


def request_once(scene: Scene) -> None:
    operator = HttpRequestOperator(task_id="t", endpoint="/x")
    execute(operator, make_context(operator, state=FileStateStore(scene.directory)))


@pytest.mark.faults
def test_killed_after_the_store_the_rotated_token_is_not_lost(rotating, tmp_path):
    scene = Scene(tmp_path / "scene")
    for _ in range(3):
        outcome = attempt(request_once, scene, rules=[kill_at("oauth.refresh.after_store")])
        assert outcome.killed, outcome
    assert attempt(request_once, scene, try_number=4).ok
    assert rotating.number == 4


def test_without_an_encryption_key_no_token_is_used_up(rotating, ask, http_server, monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "")
    get_fernet.cache_clear()
    error = ask(CANARY)
    assert isinstance(error, e.ConfigError)
    assert error.field == "fernet_key"
    assert "rotated_tokens" in error.remedy
    assert http_server.requests == []
    PROCESS_TOKENS.forget()  # it remembers a refusal for a while
    rotating.use(rotated_tokens="memory")
    assert ask(CANARY)["body"] == "in"


def test_a_record_of_another_key_is_told_before_a_token_is_used_up(rotating, ask, monkeypatch):
    assert ask(CANARY)["body"] == "in"
    PROCESS_TOKENS.forget()
    former = os.environ["AIRFLOW__CORE__FERNET_KEY"]
    fresh = Fernet.generate_key().decode()
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", fresh)
    get_fernet.cache_clear()
    error = ask(CANARY)
    assert isinstance(error, e.ConfigError)
    assert rotating.number == 1
    PROCESS_TOKENS.forget()
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", f"{fresh},{former}")
    get_fernet.cache_clear()
    assert ask(CANARY)["body"] == "in"


def test_the_secret_store_keeps_what_it_was_given():
    SecretStore("a").set("k", {"refresh_token": "ä"})
    assert SecretStore("a").get("k") == {"refresh_token": "ä"}
    assert SecretStore("a").get("other") is None
    assert SecretStore("b").get("k") is None


# Connections


OAUTH = {"token_url": "https://login.example.com/token", "client_id": "c", "client_secret": CANARY}


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"auth": "digest", "login": "u", "password": CANARY}, "DigestCredentials"),
        ({"auth": "oauth2_client_credentials", "oauth": OAUTH}, "OAuthCredentials"),
        ({"auth": "oauth2_refresh_token", "oauth": {**OAUTH, "refresh_token": CANARY}}, "OAuthCredentials"),
        ({"auth": "hmac", "password": CANARY}, "HmacCredentials"),
        ({"auth": "api_key", "api_key_in": "cookie", "api_key_name": "sid", "password": CANARY}, "StaticCredentials"),
        ({"auth": "mtls", "cert_file": "/c.pem", "host": "https://x"}, "StaticCredentials"),
    ],
)
def test_every_auth_has_its_credentials_and_shows_none(fields, kind):
    settings = settings_of(HttpConfig(**{"host": "x", **fields}))
    assert type(settings.credentials).__name__ == kind
    assert settings.credentials.configured
    assert CANARY not in repr(settings) + repr(HttpConfig(**{"host": "x", **fields}))
    if CANARY in str(fields):
        assert CANARY in set(settings.credentials.secrets())


def test_the_names_of_signed_headers_never_leave_the_origin():
    config = HttpConfig(host="x", auth="hmac", password=CANARY, hmac={"header": "X-Odd", "timestamp_header": "X-At"})
    assert {"X-Odd", "X-At"} <= settings_of(config).secret_headers


@pytest.mark.parametrize(
    ("auth", "extra", "fields", "field"),
    [
        ("digest", {}, {}, "login"),
        ("digest", {}, {"login": "u"}, "password"),
        ("hmac", {}, {}, "password"),
        ("hmac", {"hmac": {"signs": ["nose"]}}, {"password": CANARY}, "hmac.signs"),
        ("hmac", {"hmac": {"algoritm": "md5"}}, {"password": CANARY}, "algoritm"),
        ("hmac", {"hmac": {"algorithm": "md5"}}, {"password": CANARY}, "algorithm"),
        ("mtls", {}, {}, "cert_file"),
        ("mtls", {"cert_file": "/nowhere.pem"}, {}, "schema"),
        ("aws_sigv4", {"aws": {"region": "r"}}, {"login": "AKID", "password": CANARY}, "service"),
        ("aws_sigv4", {"aws": {"region": "r", "service": "s"}}, {"login": "AKID"}, "password"),
        ("oauth2_client_credentials", {}, {"login": "c", "password": CANARY}, "token_url"),
        (
            "oauth2_client_credentials",
            {"oauth": {"token_url": "https://l.example.com"}},
            {"login": "c"},
            "client_secret",
        ),
        ("oauth2_refresh_token", {"oauth": OAUTH}, {}, "refresh_token"),
        ("oauth2_jwt_bearer", {"oauth": {"token_url": "https://l.example.com"}}, {}, "private_key"),
        ("oauth2", {}, {}, "auth"),
        ("basic", {"oauth": OAUTH}, {"login": "u", "password": CANARY}, "auth"),
        ("bearer", {}, {"password": CANARY + "\n"}, "password"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(connect, ask, http_server, auth, extra, fields, field):
    connect(auth, extra, **fields)
    error = ask(CANARY)
    assert isinstance(error, e.ConfigError), repr(error)
    assert error.field == field
    assert error.remedy
    assert http_server.requests == []
    ok, message = FlowRunnerHttpHook().test_connection()
    assert not ok
    assert CANARY not in message


def test_flat_extras_of_the_official_hook_still_work(monkeypatch, ask, http_server):
    http_server.route("GET", "/x", Reply(200))
    value = {
        "conn_type": "http",
        "host": http_server.url,
        "login": "u",
        "password": "p",
        "extra": {"X-Api-Key": CANARY},
    }
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(value))
    assert ask(CANARY)["status"] == 200
    seen = http_server.requests[0].headers
    assert (seen["authorization"], seen["x-api-key"]) == ("Basic dTpw", CANARY)


def test_in_the_triggerer_a_token_is_masked_without_blocking(connect, http_server, monkeypatch):
    told: list[str] = []

    async def tell(secret):
        told.append(secret)

    def block(secret):
        raise AssertionError("blocks the event loop")

    http_server.route("POST", "/token", json_reply({"access_token": CANARY, "token_type": "Bearer"}))
    http_server.route("GET", "/x", Reply(200))
    oauth = {"token_url": f"{http_server.url}/token"}
    connect("oauth2_client_credentials", {"oauth": oauth}, login="c", password="c-s3cr3t")

    async def main():
        monkeypatch.setattr(masking, "amask_secret", tell)
        monkeypatch.setattr(masking, "mask_secret", block)
        async with await FlowRunnerHttpHook().atransport(Run.alone()) as http:
            await http.request("GET", "/x")
        await asyncio.sleep(0)

    asyncio.run(main())
    assert {CANARY, "c-s3cr3t"} <= set(told)


def test_digest_and_hmac_through_the_hook(connect, http_server):
    with HttpServer() as elsewhere:
        elsewhere.route("*", "*", Reply(200))
        http_server.route("*", "*", Reply(302, headers={"Location": elsewhere.url + "/"}))
        connect("hmac", {"hmac": {"header": "X-Odd"}, "allow_hosts": ["127.0.0.0/8"]}, password=CANARY)
        ok, message = FlowRunnerHttpHook().test_connection()
        assert ok, message
        assert "x-odd" in http_server.requests[0].headers
        assert not {"x-odd", "x-timestamp"} & set(elsewhere.requests[0].headers)


def test_the_tls_options_of_the_connection_are_for_its_own_host(tls):
    own = {"host": "https://api.example.com", "ca_file": str(tls.ca_file), "verify": False, "cert_file": "/c.pem"}
    oauth = {"client_id": "c", "client_secret": CANARY}

    def wire(**more):
        config = HttpConfig(**own, auth="oauth2_client_credentials", oauth={**oauth, **more})
        return settings_of(config).credentials._wire.tls

    assert wire(token_url="https://api.example.com/token").cert_file == "/c.pem"
    elsewhere = wire(token_url="https://login.example.com/token")
    assert (elsewhere.verify, elsewhere.ca_file, elsewhere.cert_file) == (True, "", "")
    assert wire(token_url="https://login.example.com/token", ca_file="/ca.pem").ca_file == "/ca.pem"
