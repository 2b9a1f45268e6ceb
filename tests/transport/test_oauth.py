"""OAuth against a scripted server: every odd answer, single flight over tasks, loops and threads, secrecy."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import random
import threading
import traceback
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest

from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    CredentialExpired,
    FlowRunnerError,
    IntegrityError,
    MissingCredential,
    NotFound,
    Rejected,
    SecurityError,
    TargetForbidden,
    Throttled,
    TimedOut,
    Unavailable,
)
from flowrunner_provider.core.journal import MemoryStore
from flowrunner_provider.core.retry import Backoff, RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.transport.http import HttpTransport
from flowrunner_provider.transport.http_settings import HttpSettings, NetPolicy, Refused, TlsOptions
from flowrunner_provider.transport.oauth import OAuthCredentials
from flowrunner_provider.transport.oauth_settings import ClientCredentials, RefreshToken
from flowrunner_provider.transport.oauth_tokens import PROCESS_TOKENS, TokenCache
from tests.support.http_server import HttpServer, Reply, Request, drop, in_turn, json_reply, redirect, throttled
from tests.support.servers import HOST, free_port

SECRET = "canary-client-secret/+="
QUICK = RetryPlan(attempts=4, backoff=Backoff(base=0.001, cap=0.002), rng=random.Random(1))


def client(url: str, **more: Any) -> ClientCredentials:
    return ClientCredentials(token_url=f"{url}/token", client_id="etl", client_secret=SECRET, **more)


def oauth(settings: Any, **more: Any) -> OAuthCredentials:
    return OAuthCredentials(settings, **{"tokens": TokenCache(), "retry": QUICK, **more})


def token_of(credentials: OAuthCredentials) -> str:
    async def ask() -> str:
        return (await credentials.headers())["Authorization"].removeprefix("Bearer ")

    return asyncio.run(ask())


def fails(credentials: OAuthCredentials) -> FlowRunnerError:
    with pytest.raises(FlowRunnerError) as caught:
        token_of(credentials)
    return caught.value


class Tokens:
    """A token endpoint that counts: ``token-1``, ``token-2`` ..., each good for ``lifetime`` seconds."""

    def __init__(self, lifetime: Any = 3600, wait: float = 0.0, **more: Any) -> None:
        self.lifetime, self.wait, self.more = lifetime, wait, more
        self.forms: list[dict[str, list[str]]] = []
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        return len(self.forms)

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            self.forms.append(parse_qs(request.body.decode()))
            number = self.count
        body = {"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": self.lifetime, **self.more}
        return Reply(200, json.dumps(body).encode(), {"Content-Type": "application/json"}, wait=self.wait)


def granted(**fields: Any) -> Reply:
    return json_reply({"access_token": "good", "token_type": "Bearer", "expires_in": 3600} | fields)


# What an answer means


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(200, b"<html>Sign in</html>", {"Content-Type": "text/html"}), IntegrityError),
        (Reply(200, b""), IntegrityError),
        (Reply(200, b"[]"), IntegrityError),
        (Reply(200, b"[" * 100_000), IntegrityError),
        (Reply(200, b'{"access_token": "x", "expires_in": ' + b"9" * 5000 + b"}"), IntegrityError),
        (Reply(200, b" " * 300_000), IntegrityError),
        (Reply(200, b'{"access_token": "cut', cut=10), FlowRunnerError),
        (json_reply({"token_type": "Bearer"}), IntegrityError),
        (granted(access_token=""), IntegrityError),
        (granted(access_token=None), IntegrityError),
        (granted(access_token=["a"]), IntegrityError),
        (granted(access_token="a\r\nX-Evil: 1"), IntegrityError),
        (granted(access_token="with blank"), IntegrityError),
        (granted(token_type="DPoP"), Rejected),
        (granted(token_type="mac"), Rejected),
        (granted(token_type=7), Rejected),
        (granted(expires_in=0), CredentialExpired),
        (granted(expires_in=-5), CredentialExpired),
        (granted(expires_in="-5"), CredentialExpired),
        (redirect("http://127.0.0.1:1/elsewhere", 302), Rejected),
        (redirect("http://127.0.0.1:1/elsewhere", 307), Rejected),
        (redirect("http://127.0.0.1:1/elsewhere", 308), Rejected),
        (Reply(404, b"nothing here"), NotFound),
        (Reply(405, b"no"), NotFound),
        (Reply(401, b"no"), AccessDenied),
        (Reply(403, b"<html>blocked</html>"), AccessDenied),
        (Reply(400, b"what?"), Rejected),
        (Reply(418, b"{}"), Rejected),
        (Reply(500, b"oops"), Unavailable),
        (Reply(502, b"<html>bad gateway</html>"), Unavailable),
        (Reply(503, b'{"error": "temporarily_unavailable"}'), Unavailable),
        (throttled(retry_after="3600"), Throttled),
        (throttled(), Throttled),
        (drop(), ConnectionLost),
        (drop(rst=True), ConnectionLost),
        (json_reply({"error": "invalid_client"}, 401), AccessDenied),
        (json_reply({"error": "invalid_client"}, 400), AccessDenied),
        (json_reply({"error": "unauthorized_client"}, 400), AccessDenied),
        (json_reply({"error": "invalid_scope"}, 400), AccessDenied),
        (json_reply({"error": "invalid_target"}, 400), AccessDenied),
        (json_reply({"error": "invalid_grant"}, 400), AccessDenied),
        (json_reply({"error": "access_denied"}, 401), AccessDenied),
        (json_reply({"error": "invalid_request"}, 400), Rejected),
        (json_reply({"error": "unsupported_grant_type"}, 400), ConfigError),
        (json_reply({"error": "temporarily_unavailable"}, 400), Unavailable),
        (json_reply({"error": "server_error"}, 500), Unavailable),
        (json_reply({"error": "slow_down"}, 400), Throttled),
        (json_reply({"error": "invalid_client"}, 200), AccessDenied),
        (json_reply({"error": {"code": 7}}, 400), Rejected),
        (json_reply({"error": "x" * 10_000}, 400), Rejected),
        (json_reply({"error": "<b>\r\n"}, 400), Rejected),
    ],
)
def test_every_odd_answer_is_a_declared_error(http_server, reply, error):
    http_server.route("POST", "/token", reply)
    raised = fails(oauth(client(http_server.url)))
    assert isinstance(raised, error), repr(raised)
    assert raised.remedy
    assert len(str(raised)) < 900
    assert "\n" not in str(raised)


@pytest.mark.parametrize(
    ("value", "used_for"),
    [
        (3600, 3540), (3600.5, 3540.5), ("3600", 3540), (" 120 ", 96), (100, 80), (1, 0.8), (0.5, 0.4),
        (300, 240), (301, 241), (86400, 86340),
        (10**9, 86340), (1e300, 86340), ("9" * 20, 86340), (float("inf"), 86340),
        (None, 540), ("soon", 540), ("", 540), (True, 540), ([], 540), (float("nan"), 540), ("1e3", 540), ("0x10", 540),
    ],
)  # fmt: skip
def test_how_long_a_token_is_used(http_server, value, used_for):
    http_server.route("POST", "/token", tokens := Tokens(lifetime=value))
    clock = ManualClock()
    credentials = oauth(client(http_server.url), clock=clock)
    assert token_of(credentials) == "token-1"
    clock.advance(used_for - 0.05)
    assert token_of(credentials) == "token-1"
    clock.advance(0.1)
    assert token_of(credentials) == "token-2"
    assert tokens.count == 2


def test_expires_in_and_token_type_may_be_absent(http_server):
    http_server.route("POST", "/token", json_reply({"access_token": "bare"}))
    assert token_of(oauth(client(http_server.url, assumed_lifetime=120.0))) == "bare"


def test_token_type_ignores_case(http_server):
    http_server.route("POST", "/token", granted(token_type="bEARER"))
    assert token_of(oauth(client(http_server.url))) == "good"


def test_the_wall_clock_may_jump(http_server):
    http_server.route("POST", "/token", tokens := Tokens())
    clock = ManualClock()
    credentials = oauth(client(http_server.url), clock=clock)
    token_of(credentials)
    clock.wall = clock.wall.replace(year=1970)
    token_of(credentials)
    clock.wall = clock.wall.replace(year=2100)
    token_of(credentials)
    assert tokens.count == 1


# Repetition


@pytest.mark.parametrize(
    "first", [throttled("0"), throttled("0", 503), Reply(502), drop(), drop(rst=True), granted(expires_in=0)]
)
def test_a_hiccup_is_repeated(http_server, first):
    http_server.route("POST", "/token", in_turn(first, first, granted()))
    assert token_of(oauth(client(http_server.url))) == "good"
    assert len(http_server.requests) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_never_early(http_server, status):
    http_server.route("POST", "/token", in_turn(throttled("1", status), granted()))
    assert token_of(oauth(client(http_server.url))) == "good"
    first, second = http_server.requests
    assert second.at - first.at >= 1.0


def test_a_long_retry_after_goes_up_and_is_kept_for_all_who_ask(http_server):
    http_server.route("POST", "/token", in_turn(throttled("600"), granted()))
    clock = ManualClock()
    credentials = oauth(client(http_server.url), clock=clock)
    assert fails(credentials).retry_after == 600
    clock.advance(100)
    assert fails(credentials).retry_after == pytest.approx(500, abs=1)
    assert len(http_server.requests) == 1
    clock.advance(501)
    assert token_of(credentials) == "good"


def test_a_wrong_secret_is_one_failed_login_for_a_whole_batch(http_server):
    http_server.route("POST", "/token", json_reply({"error": "invalid_client"}, 401))
    clock = ManualClock()
    credentials = oauth(client(http_server.url), clock=clock)

    async def batch() -> list[Any]:
        return await asyncio.gather(*(credentials.headers() for _ in range(100)), return_exceptions=True)

    errors = asyncio.run(batch()) + asyncio.run(batch())
    assert {type(error) for error in errors} == {AccessDenied}
    assert len({id(error) for error in errors}) == 200
    assert len(http_server.requests) == 1
    clock.advance(31)
    assert isinstance(fails(credentials), AccessDenied)
    assert len(http_server.requests) == 2


def test_the_deadline_holds(http_server):
    http_server.route("POST", "/token", Reply(200, wait=30))
    assert isinstance(fails(oauth(client(http_server.url, token_timeout=0.4))), TimedOut)


def test_nobody_listens():
    assert isinstance(fails(oauth(client(f"http://{HOST}:{free_port()}"))), ConnectionLost)


def test_a_server_that_is_away_is_not_noticed_while_the_old_token_lasts(http_server):
    http_server.route("POST", "/token", in_turn(granted(), Reply(503), Reply(503), Reply(503), Reply(503), granted()))
    clock = ManualClock()
    credentials = oauth(client(http_server.url), clock=clock)
    token_of(credentials)
    clock.advance(3545)
    assert many(credentials) == {"Bearer good"}
    assert len(http_server.requests) == 5
    clock.advance(9)
    assert many(credentials) == {"Bearer good"}
    assert len(http_server.requests) == 5
    clock.advance(2)
    assert many(credentials) == {"Bearer good"}
    assert len(http_server.requests) == 6


def test_a_dead_token_is_never_used(http_server):
    http_server.route("POST", "/token", in_turn(granted(), Reply(503)))
    clock = ManualClock()
    credentials = oauth(client(http_server.url), clock=clock)
    token_of(credentials)
    clock.advance(3601)
    assert isinstance(fails(credentials), Unavailable)


def test_a_refused_token_is_no_spare(http_server):
    http_server.route("POST", "/token", in_turn(granted(), Reply(503)))
    http_server.route("GET", "*", accepting(set()))
    (error,) = pages(api(http_server, oauth(client(http_server.url))), 1)
    assert isinstance(error, Unavailable)


# One flight


def many(credentials: OAuthCredentials, number: int = 100) -> set[str]:
    async def all_at_once() -> set[str]:
        answers = await asyncio.gather(*(credentials.headers() for _ in range(number)))
        return {answer["Authorization"] for answer in answers}

    return asyncio.run(all_at_once())


def test_100_concurrent_expiries_are_one_request(http_server):
    http_server.route("POST", "/token", tokens := Tokens(wait=0.05))
    clock = ManualClock()
    credentials = oauth(client(http_server.url), clock=clock)
    assert many(credentials) == {"Bearer token-1"}
    clock.advance(3600)
    assert many(credentials) == {"Bearer token-2"}
    assert tokens.count == 2


def test_a_fresh_loop_per_task_and_a_new_object_share_the_token(http_server):
    http_server.route("POST", "/token", tokens := Tokens())
    shared = TokenCache()
    assert {token_of(oauth(client(http_server.url), tokens=shared)) for _ in range(20)} == {"token-1"}
    assert {token_of(oauth(client(http_server.url, scope="other"), tokens=shared))} == {"token-2"}
    assert tokens.count == 2


def threads(work: Callable[[], Any], number: int) -> list[Any]:
    results: list[Any] = []
    start = threading.Barrier(number)

    def one() -> None:
        start.wait()
        results.append(work())

    running = [threading.Thread(target=one) for _ in range(number)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(30)
    return results


def test_16_threads_with_their_own_loops_are_one_request(http_server):
    http_server.route("POST", "/token", tokens := Tokens(wait=0.2))
    credentials = oauth(client(http_server.url))
    assert threads(lambda: many(credentials, 10), 16) == [{"Bearer token-1"}] * 16
    assert tokens.count == 1


def test_a_failure_reaches_every_thread(http_server):
    http_server.route("POST", "/token", Reply(400, b'{"error": "invalid_scope"}', wait=0.2))
    credentials = oauth(client(http_server.url))
    assert {type(error) for error in threads(lambda: fails(credentials), 8)} == {AccessDenied}
    assert len(http_server.requests) == 1


def test_the_first_asker_may_be_cancelled(http_server):
    http_server.route("POST", "/token", tokens := Tokens(wait=1.0))
    credentials = oauth(client(http_server.url))

    async def work() -> str:
        first = asyncio.create_task(credentials.headers())
        others = [asyncio.create_task(credentials.headers()) for _ in range(5)]
        await asyncio.sleep(0.05)
        first.cancel()
        others[0].cancel()
        got = await asyncio.gather(first, *others, return_exceptions=True)
        assert sum(isinstance(each, asyncio.CancelledError) for each in got) == 2
        return (await credentials.headers())["Authorization"]

    assert asyncio.run(work()) == "Bearer token-1"
    assert tokens.count == 1


def test_a_loop_that_ends_in_mid_flight_leaves_the_lead_to_another(http_server):
    http_server.route("POST", "/token", tokens := Tokens(wait=1.5))
    credentials = oauth(client(http_server.url))
    begun = threading.Event()

    async def given_up() -> None:
        asked = asyncio.create_task(credentials.headers())
        await asyncio.sleep(0.1)
        begun.set()
        await asyncio.sleep(0.1)
        asked.cancel()  # and the loop ends, which cancels the flight

    thread = threading.Thread(target=lambda: asyncio.run(given_up()))
    thread.start()
    begun.wait(10)
    assert token_of(credentials) == "token-2"
    thread.join(10)
    assert tokens.count == 2


def test_a_loop_that_stands_still_is_overtaken(http_server):
    http_server.route("POST", "/token", tokens := Tokens())
    cache = TokenCache()
    credentials = oauth(client(http_server.url), tokens=cache)
    asleep = asyncio.new_event_loop()
    asked = asleep.create_task(credentials.headers())
    asleep.run_until_complete(asyncio.sleep(0))  # the flight has begun, and its loop stops here

    async def impatient() -> tuple[str, int] | None:
        slot = credentials._slot()
        return await cache.obtain(slot, lambda: credentials._fetch(slot), clock=ManualClock(), patience=0.1)

    assert asyncio.run(impatient()) is not None
    assert asleep.run_until_complete(asked)["Authorization"].startswith("Bearer token-")
    asleep.close()
    assert tokens.count == 2


def test_a_mistake_in_the_fetch_is_nobodys_secret():
    async def work() -> None:
        cache = TokenCache()

        async def fetch() -> Any:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await cache.obtain(cache.slot("k"), fetch, clock=ManualClock(), patience=1)

    asyncio.run(work())


def test_many_clients_do_not_fill_the_memory():
    cache = TokenCache()
    for number in range(1000):
        cache.slot(str(number))
    assert len(cache._slots) <= 256


def test_a_forked_child_begins_anew():
    PROCESS_TOKENS.slot("parent")
    held = PROCESS_TOKENS._lock
    with held:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if not PROCESS_TOKENS._slots and not PROCESS_TOKENS._lock.locked() else 1)
    assert os.waitpid(pid, 0)[1] == 0
    PROCESS_TOKENS.forget()


# 401


def api(server: HttpServer, credentials: OAuthCredentials) -> HttpSettings:
    return HttpSettings(base_url=server.url, policy=NetPolicy(home=server.url), credentials=credentials)


def accepting(good: set[str]) -> Callable[[Request], Reply]:
    def route(request: Request) -> Reply:
        return Reply(200, b"{}") if request.headers.get("authorization") in good else Reply(401, b"who?")

    return route


def pages(how: HttpSettings, number: int) -> list[Any]:
    async def read() -> list[Any]:
        async with HttpTransport(how, Run.alone(retry=QUICK)) as http:
            asked = (http.request("GET", f"/page/{n}") for n in range(number))
            return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(read())


def test_100_concurrent_401_are_one_renewal(http_server):
    good = {"Bearer token-1"}
    http_server.route("POST", "/token", tokens := Tokens(wait=0.05))
    http_server.route("GET", "*", accepting(good))
    how = api(http_server, oauth(client(http_server.url)))
    assert {answer.status for answer in pages(how, 100)} == {200}
    good.clear()
    good.add("Bearer token-2")
    assert {answer.status for answer in pages(how, 100)} == {200}
    assert tokens.count == 2


def test_a_second_401_is_access_denied_and_no_storm(http_server):
    http_server.route("POST", "/token", tokens := Tokens())
    http_server.route("GET", "*", accepting(set()))
    clock = ManualClock()
    how = api(http_server, oauth(client(http_server.url), clock=clock))
    assert {type(error) for error in pages(how, 100)} == {AccessDenied}
    assert {type(error) for error in pages(how, 100)} == {AccessDenied}
    assert tokens.count == 2
    clock.advance(61)
    pages(how, 10)
    assert tokens.count == 3


def test_the_same_refusal_told_five_times_is_one_renewal(http_server):
    http_server.route("POST", "/token", tokens := Tokens())
    credentials = oauth(client(http_server.url))

    async def work() -> list[bool]:
        refused = Refused(await credentials.headers())
        return [await asyncio.create_task(credentials.renew(refused)) for _ in range(5)]

    assert asyncio.run(work()) == [True] * 5
    assert tokens.count == 2


def test_two_connections_in_one_task_are_told_apart(http_server):
    http_server.route("POST", "/token", tokens := Tokens())
    cache = TokenCache()
    one, two = (oauth(client(http_server.url, scope=scope), tokens=cache) for scope in ("one", "two"))

    async def work() -> None:
        sent = await one.headers()
        await two.headers()
        assert await one.renew(Refused(sent))
        assert (await two.headers())["Authorization"] == "Bearer token-2"
        assert (await one.headers())["Authorization"] == "Bearer token-3"

    asyncio.run(work())
    assert tokens.count == 3


def test_a_failed_renewal_is_the_error_of_the_request(http_server):
    http_server.route("POST", "/token", in_turn(granted(), json_reply({"error": "invalid_client"}, 401)))
    http_server.route("GET", "*", accepting(set()))
    (error,) = pages(api(http_server, oauth(client(http_server.url))), 1)
    assert isinstance(error, AccessDenied)
    assert "invalid_client" in str(error)


# Where the secret goes


def test_a_redirect_gets_no_second_look(http_server):
    with HttpServer() as thief:
        for status in (301, 302, 303, 307, 308):
            http_server.route("POST", "/token", redirect(f"{thief.url}/token", status))
            error = fails(oauth(client(http_server.url)))
            assert isinstance(error, Rejected)
            assert error.status == status
        assert thief.requests == []


def test_the_secret_never_travels_in_the_address(http_server):
    http_server.route("POST", "/token", Tokens())
    for method in ("client_secret_basic", "client_secret_post"):
        token_of(oauth(client(http_server.url, client_auth=method)))
    assert [request.query for request in http_server.requests] == [{}, {}]
    assert "canary" in http_server.requests[1].body.decode()


def test_an_untrusted_server_gets_no_byte_of_the_secret(tls):
    with HttpServer(tls=tls.server_context()) as server:
        server.route("POST", "/token", Tokens())
        assert isinstance(fails(oauth(client(server.url))), SecurityError)
        assert server.requests == []
        trusted = TlsOptions(ca_file=str(tls.ca_file))
        assert token_of(oauth(client(server.url), tls=trusted)) == "token-1"


def found_by(server: HttpServer, issuer: str | None = None, **more: Any) -> ClientCredentials:
    return ClientCredentials(issuer=issuer or server.url, client_id="etl", client_secret=SECRET, **more)


def metadata(server: HttpServer, **more: Any) -> Reply:
    return json_reply({"issuer": server.url, "token_endpoint": f"{server.url}/token"} | more)


OIDC, RFC8414 = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"


@pytest.mark.parametrize(
    ("issuer", "path"),
    [
        ("", OIDC), ("/", OIDC), ("", RFC8414), ("/tenant", f"/tenant{OIDC}"), ("/tenant", f"{RFC8414}/tenant"),
    ],
)  # fmt: skip
def test_discovery_asks_once(http_server, issuer, path):
    http_server.route("GET", path, metadata(http_server, issuer=http_server.url + issuer))
    http_server.route("POST", "/token", tokens := Tokens(lifetime=10))
    clock = ManualClock()
    credentials = oauth(found_by(http_server, http_server.url + issuer), clock=clock)
    for _ in range(3):
        token_of(credentials)
        clock.advance(10)
    assert tokens.count == 3
    assert sum(request.path == path for request in http_server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (lambda server: metadata(server, issuer="https://evil.example.com"), SecurityError),
        (lambda server: metadata(server, issuer=f"{server.url}/other"), SecurityError),
        (lambda server: metadata(server, issuer=None), IntegrityError),
        (lambda server: metadata(server, token_endpoint=None), IntegrityError),
        (lambda server: metadata(server, token_endpoint="http://idp.example.com/token"), ConfigError),
        (lambda server: metadata(server, token_endpoint="file:///etc/passwd"), ConfigError),
        (lambda server: metadata(server, token_endpoint="https://a:b@idp.example.com/t"), ConfigError),
        (lambda server: metadata(server, token_endpoint="https://169.254.169.254/t"), TargetForbidden),
        (lambda server: metadata(server, token_endpoint="https://10.0.0.1/t"), TargetForbidden),
        (lambda server: metadata(server, token_endpoint="https://metadata.internal/t"), TargetForbidden),
        (lambda server: metadata(server, token_endpoint="http://127.0.0.2:1/t"), TargetForbidden),
        (lambda server: Reply(200, b"<html>"), IntegrityError),
        (lambda server: Reply(200, b" " * 300_000), IntegrityError),
        (lambda server: redirect(f"{server.url}/x"), Rejected),
        (lambda server: Reply(404), NotFound),
        (lambda server: Reply(503), Unavailable),
    ],
)
def test_bad_metadata_gets_no_secret(http_server, reply, error):
    http_server.route("GET", OIDC, reply(http_server))
    raised = fails(oauth(found_by(http_server)))
    assert isinstance(raised, error), repr(raised)
    assert {request.method for request in http_server.requests} == {"GET"}
    assert not any("canary" in str(request.headers) for request in http_server.requests)


def test_an_endpoint_that_moved_is_found_again(http_server):
    http_server.route("GET", OIDC, in_turn(metadata(http_server, token_endpoint=f"{http_server.url}/old"),
                                           metadata(http_server)))  # fmt: skip
    http_server.route("POST", "/token", Tokens())
    clock = ManualClock()
    credentials = oauth(found_by(http_server), clock=clock)
    assert isinstance(fails(credentials), NotFound)
    clock.advance(60)
    assert token_of(credentials) == "token-1"


# Secrecy


def echoing(request: Request) -> Reply:
    said = request.body.decode() + request.headers.get("authorization", "")
    return json_reply({"error": "invalid_client", "error_description": said}, 401)


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_no_secret_in_errors_logs_and_representations(http_server, caplog, method):
    caplog.set_level(logging.DEBUG)
    masked: list[str] = []
    settings = RefreshToken(
        token_url=f"{http_server.url}/token",
        client_id="etl",
        client_secret=SECRET,
        refresh_token="canary-refresh",
        client_auth=method,
    )
    rotated = Tokens(refresh_token="canary-rotated", access_token="canary-access")
    http_server.route("POST", "/token", in_turn(rotated, echoing))
    credentials = oauth(settings, store=MemoryStore(), mask=masked.extend)
    token_of(credentials)
    asyncio.run(refused(credentials))
    error = asyncio.run(refused(credentials))
    assert isinstance(error, AccessDenied)
    shown = "".join(traceback.format_exception(error)) + str(error.to_event()) + repr(credentials) + caplog.text
    for secret in ("canary", "Y2FuYXJ5", "ZXRsOm"):  # plain, base64, base64 of "etl:..."
        assert secret not in shown
    assert {SECRET, "canary-refresh", "canary-rotated", "canary-access"} <= set(credentials.secrets())
    assert {"canary-rotated", "canary-access"} <= set(masked)


async def refused(credentials: OAuthCredentials) -> FlowRunnerError:
    with pytest.raises(FlowRunnerError) as caught:
        await credentials.renew(Refused(await credentials.headers()))
    return caught.value


def test_the_api_may_quote_the_old_token(http_server):
    http_server.route("POST", "/token", Tokens(access_token="canary-token"))
    http_server.route("GET", "*", lambda request: Reply(401, request.headers["authorization"].encode()))
    (error,) = pages(api(http_server, oauth(client(http_server.url))), 1)
    assert isinstance(error, AccessDenied)
    assert "canary" not in str(error)


# Rotation


class Rotating:
    """A server that gives every refresh token once, and ends the family when one comes twice."""

    def __init__(self, first: str) -> None:
        self.good, self.used = first, set[str]()
        self.number = 0

    def __call__(self, request: Request) -> Reply:
        given = parse_qs(request.body.decode())["refresh_token"][0]
        if given != self.good:
            if given in self.used:
                self.good = ""
            return json_reply({"error": "invalid_grant"}, 400)
        self.used.add(given)
        self.number += 1
        self.good = f"refresh-{self.number}"
        return granted(access_token=f"access-{self.number}", refresh_token=self.good)


def refreshing(server: HttpServer) -> RefreshToken:
    return RefreshToken(
        token_url=f"{server.url}/token", client_id="etl", client_secret=SECRET, refresh_token="refresh-0"
    )


def test_the_rotated_token_survives_the_process(http_server):
    http_server.route("POST", "/token", Rotating("refresh-0"))
    store = MemoryStore()
    for number in (1, 2, 3):  # a new cache is a new process
        assert token_of(oauth(refreshing(http_server), store=store)) == f"access-{number}"
    (record,) = store.values.values()
    assert json.loads(record) == {"refresh_token": "refresh-3"}


def test_without_a_store_rotation_is_warned_of(http_server, caplog):
    http_server.route("POST", "/token", Rotating("refresh-0"))
    token_of(oauth(refreshing(http_server)))
    assert "kept in this process only" in caplog.text
    assert "refresh-1" not in caplog.text


def test_a_slower_process_goes_on_with_the_token_of_the_quicker_one(http_server):
    server = Rotating("refresh-0")
    server.good = "refresh-7"  # another process has rotated; its record arrives while we ask
    http_server.route("POST", "/token", server)

    class Late(MemoryStore):
        asked = 0

        def get(self, key: str) -> Any:
            self.asked += 1
            return None if self.asked == 1 else {"refresh_token": "refresh-7"}

    assert token_of(oauth(refreshing(http_server), store=Late())) == "access-1"


def test_a_dead_refresh_token_asks_for_a_new_consent(http_server):
    http_server.route("POST", "/token", json_reply({"error": "invalid_grant"}, 400))
    error = fails(oauth(refreshing(http_server), store=MemoryStore()))
    assert isinstance(error, MissingCredential)
    assert error.field == "refresh_token"
    assert len(http_server.requests) == 1


def test_a_new_consent_is_not_held_up_by_the_old_record(http_server):
    store = MemoryStore()
    http_server.route("POST", "/token", Rotating("refresh-0"))
    token_of(oauth(refreshing(http_server), store=store))
    http_server.route("POST", "/token", Rotating("second consent"))
    again = dataclasses.replace(refreshing(http_server), refresh_token="second consent")
    assert token_of(oauth(again, store=store)) == "access-1"


def test_a_store_that_fails_stops_and_loses_nothing(http_server):
    class Failing(MemoryStore):
        failures = 1

        def set(self, key: str, value: Any) -> None:
            if self.failures:
                self.failures -= 1
                raise PermissionError("the store is read-only")
            super().set(key, value)

    http_server.route("POST", "/token", Rotating("refresh-0"))
    store = Failing()
    credentials = oauth(refreshing(http_server), store=store)
    with pytest.raises(PermissionError):
        token_of(credentials)
    assert token_of(credentials) == "access-2"
    assert "refresh-2" in str(store.values)


@pytest.mark.parametrize("record", ["text", 7, [], {}, {"refresh_token": 7}, {"refresh_token": ""}])
def test_a_damaged_record_is_never_a_fresh_start(http_server, record):
    class Damaged(MemoryStore):
        def get(self, key: str) -> Any:
            return record

    error = fails(oauth(refreshing(http_server), store=Damaged()))
    assert isinstance(error, ConfigError)
    assert http_server.requests == []


def test_a_store_that_cannot_be_read_stops(http_server):
    class Unreadable(MemoryStore):
        def get(self, key: str) -> Any:
            raise ConnectionLost("the store is away")

    assert isinstance(fails(oauth(refreshing(http_server), store=Unreadable())), ConnectionLost)
    assert http_server.requests == []
