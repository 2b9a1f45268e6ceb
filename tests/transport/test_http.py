"""The HTTP engine against a server that answers right and wrong: what the caller is told, what the far side saw."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import ssl
import time
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.core.net_guard import NetPolicy
from flowrunner_provider.core.retry import Backoff, RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.transport.http import HttpTransport
from flowrunner_provider.transport.http_settings import HttpSettings, StaticCredentials, TlsOptions, basic_credentials
from tests.support.chaos_proxy import Toxics
from tests.support.http_server import Blob, HttpServer, Reply, drop, gzipped, in_turn, json_reply, redirect, throttled

QUICK = RetryPlan(attempts=4, backoff=Backoff(base=0.001, cap=0.002), rng=random.Random(1))
KEY = "k-1234567890abcdef"


def settings(url: str, **more) -> HttpSettings:
    policy = more.pop("policy", None) or NetPolicy(home=url)
    return HttpSettings(base_url=url, policy=policy, **more)


def ask(url: str, method: str = "GET", endpoint: str = "/x", *, run: Run | None = None, how=None, **request):
    """One request with a transport of its own."""

    async def main():
        async with HttpTransport(how or settings(url), run or Run.alone(retry=QUICK)) as http:
            return await http.request(method, endpoint, **request)

    return asyncio.run(main())


def fails(*args, **kwargs) -> e.FlowRunnerError:
    with pytest.raises(e.FlowRunnerError) as caught:
        ask(*args, **kwargs)
    return caught.value


@pytest.mark.parametrize(
    ("status", "method", "expected"),
    [
        (400, "GET", e.Rejected),
        (401, "GET", e.MissingCredential),
        (403, "GET", e.AccessDenied),
        (404, "GET", e.NotFound),
        (408, "GET", e.Unavailable),
        (409, "POST", e.Rejected),
        (410, "POST", e.NotFound),
        (425, "POST", e.Unavailable),
        (429, "POST", e.Throttled),
        (500, "GET", e.Unavailable),
        (500, "POST", e.OutcomeUnknown),
        (501, "POST", e.Rejected),
        (502, "PATCH", e.OutcomeUnknown),
        (503, "POST", e.OutcomeUnknown),
        (504, "PUT", e.Unavailable),
    ],
)
def test_a_status_becomes_the_error_that_says_what_to_do(http_server, status, method, expected):
    http_server.route("*", "/x", json_reply({"error": {"code": "E42"}}, status))
    error = fails(http_server.url, method)
    assert type(error) is expected
    assert f"{method} {http_server.url}/x" in error.message
    assert str(status) in error.message
    if expected is e.Rejected:
        assert (error.status, error.code) == (status, "E42")
    repeats = 4 if method != "POST" and method != "PATCH" and isinstance(error, e.TransientError) else 1
    assert len(http_server.requests) == repeats


def test_the_body_of_an_error_is_shown_short_and_without_secrets(http_server):
    http_server.route("GET", "/x", Reply(400, f"bad key {KEY}\n".encode() + b"y" * 5000))
    how = settings(http_server.url, credentials=StaticCredentials(query={"api_key": KEY}, hidden=(KEY,)))
    error = fails(http_server.url, how=how)
    assert KEY not in str(error)
    assert "bad key ***" in error.message
    assert len(error.message) < 450
    assert http_server.requests[0].query == {"api_key": [KEY]}


# Throttling: GUARANTEES row 6


@pytest.mark.parametrize("value", ["0", "1", "date", "past", "-1", "abc"])
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_kept_and_never_early(http_server, value, status):
    now = datetime.now(UTC)
    header = {
        "date": format_datetime(now + timedelta(seconds=2), usegmt=True),
        "past": format_datetime(now - timedelta(days=1), usegmt=True),
    }.get(value, value)
    http_server.route("GET", "/x", in_turn(throttled(header, status), Reply(200, b"ok")))
    assert ask(http_server.url).content == b"ok"
    first, second = http_server.requests
    least = {"1": 1.0, "date": 1.0}.get(value, 0.0)
    assert least - 0.05 <= second.at - first.at < least + 1.5


def test_a_long_retry_after_goes_up_at_once_and_holds_the_other_tasks(http_server):
    http_server.route("GET", "/x", throttled("86400"))
    run = Run.alone(retry=QUICK)
    error = fails(http_server.url, run=run)
    assert isinstance(error, e.Throttled)
    assert error.retry_after == 86400
    assert len(http_server.requests) == 1
    again = fails(http_server.url, run=run)
    assert isinstance(again, e.Throttled)
    assert again.retry_after > 86000
    assert len(http_server.requests) == 1


def test_a_throttled_post_is_not_repeated_in_place(http_server):
    http_server.route("POST", "/x", in_turn(throttled("0"), Reply(200)))
    assert isinstance(fails(http_server.url, "POST", body=b"1"), e.Throttled)
    assert len(http_server.requests) == 1


# Connections that break: rows 7, 8, 9


def test_a_refused_connection_is_tried_again_as_configured(chaos, http_server):
    proxy = chaos(http_server.host, http_server.port)
    proxy.refuse()
    url = f"http://{proxy.host}:{proxy.port}"
    for method in ("GET", "POST"):
        assert isinstance(fails(url, method), e.ConnectionLost)
    assert http_server.requests == []


def test_an_unknown_name_is_not_sent_to(monkeypatch):
    def no_such_name(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    error = fails("http://api.example.com", "POST")
    assert isinstance(error, e.ConnectionLost)
    assert "cannot be resolved" in error.message


@pytest.mark.parametrize("rst", [False, True])
@pytest.mark.parametrize("share", [0.0, 1, 0.25, 0.5, 0.99, -1])
def test_a_reset_anywhere_in_the_answer_is_repaired_by_asking_again(chaos, http_server, share, rst):
    data = random.Random(0).randbytes(100_000)
    http_server.route("GET", "/x", Blob(data))
    proxy = chaos(http_server.host, http_server.port)
    whole = 100_170
    cut = int(whole * share) if isinstance(share, float) else share if share > 0 else 100_100
    proxy.toxics = Toxics(cut_down=cut, rst=rst, connections=1)
    assert ask(f"http://{proxy.host}:{proxy.port}").content == data


@pytest.mark.parametrize("lost", [drop(), drop(rst=True), Reply(201, b"12345", cut=2)])
def test_a_lost_reply_to_a_post_is_an_unknown_outcome(http_server, lost):
    http_server.route("POST", "/x", lost)
    assert isinstance(fails(http_server.url, "POST", body=b"{}"), e.OutcomeUnknown)
    assert len(http_server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(200, b"x" * 100, cut=40), e.IntegrityError),
        (Reply(200, b"x" * 10, claim=1000), e.IntegrityError),
        (Reply(200, chunks=(b"abc", b"def"), cut=1), e.IntegrityError),
        (Reply(200, gzip.compress(b"abc" * 99, mtime=0)[:-9], {"Content-Encoding": "gzip"}), e.IntegrityError),
        (Reply(200, b"abc", {"Content-Encoding": "br"}), e.IntegrityError),
        (Reply(200, b"abc", {"Content-Encoding": "gzip, gzip"}), e.IntegrityError),
        (gzipped(b"\0" * 3_000_000), e.BombDetected),
        (Reply(200, b"x" * 2_000_000), e.IntegrityError),
    ],
)
def test_a_body_that_is_not_whole_is_never_returned(http_server, reply, expected):
    http_server.route("GET", "/x", reply)
    assert type(fails(http_server.url, max_bytes=1_000_000)) is expected
    http_server.route("POST", "/x", reply)
    assert isinstance(fails(http_server.url, "POST", max_bytes=1_000_000), e.OutcomeUnknown)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_encoded_bodies_are_decoded(http_server, coding):
    body = gzip.compress(b"hello") if coding == "gzip" else zlib.compress(b"hello")
    http_server.route("GET", "/x", Reply(200, body, {"Content-Encoding": coding}))
    assert ask(http_server.url).content == b"hello"
    assert http_server.requests[0].headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize(
    "reply",
    [Reply(200, b"x", wait=30), Reply(200, b"x" * 100, every=0.1), Reply(200, b"x" * 100, every=20)],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_slow_server_cannot_outlast_the_deadline(http_server, reply, method):
    http_server.route(method, "/x", reply)
    began = time.monotonic()
    error = fails(http_server.url, method, run=Run.alone(timeout=0.4, retry=QUICK))
    assert isinstance(error, e.TimedOut if method == "GET" else e.OutcomeUnknown)
    assert time.monotonic() - began < 10


def test_silence_after_connecting_ends_too():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        error = fails(url, timeout=0.2, retry=False)
    assert isinstance(error, e.TimedOut)


def test_every_default_time_limit_is_finite():
    how = settings("http://127.0.0.1")
    assert all(0 < limit < 3600 for limit in (how.timeout, how.connect_timeout, how.read_timeout))


# Redirects and credentials: S4, S5


def secretive(url: str, **more) -> HttpSettings:
    return settings(
        url,
        credentials=basic_credentials("user", "pass-word-1"),
        headers={"X-Api-Key": KEY, "X-Tenant": "t1"},
        secret_headers=frozenset({"X-Api-Key", "X-Tenant"}),
        **more,
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_credentials_never_follow_to_another_origin(http_server, status):
    with HttpServer() as other:
        other.route("*", "/there", Reply(200, b"ok"))
        http_server.route("*", "/x", redirect(f"{other.url}/there?api_key={KEY}&a=1", status))
        how = secretive(http_server.url, policy=NetPolicy(home=http_server.url, allow_hosts=("127.0.0.1",)))
        query = StaticCredentials(query={"api_key": KEY}, hidden=(KEY,))
        mine = {"Cookie": "session=1", "X-Auth-Token": "mine", "X-Plain": "yes"}
        for each in (how, replace(how, credentials=query)):
            ask(http_server.url, how=each, headers=mine)
        for seen in other.requests:
            assert {"authorization", "cookie", "x-api-key", "x-tenant", "x-auth-token"}.isdisjoint(seen.headers)
            assert seen.headers["x-plain"] == "yes"
        assert "api_key" not in other.requests[1].query
        assert http_server.requests[0].headers["authorization"].startswith("Basic ")
        assert http_server.requests[0].headers["x-api-key"] == KEY


def test_credentials_do_follow_within_the_origin_and_do_not_come_back_to_it(http_server):
    with HttpServer() as other:
        http_server.route("GET", "/x", redirect("/y"))
        http_server.route("GET", "/y", redirect(f"{other.url}/z"))
        other.route("GET", "/z", redirect(f"{http_server.url}/end"))
        http_server.route("GET", "/end", Reply(200, b"ok"))
        how = secretive(http_server.url, policy=NetPolicy(home=http_server.url, allow_hosts=("127.0.0.1",)))
        ask(http_server.url, how=how)
    first, second, last = http_server.requests
    assert first.headers["x-api-key"] == second.headers["x-api-key"] == KEY
    assert "x-api-key" not in last.headers


def test_an_absolute_address_elsewhere_gets_no_credentials(http_server):
    with HttpServer() as other:
        other.route("GET", "/x", Reply(401))
        how = secretive(http_server.url, policy=NetPolicy(home=http_server.url, allow_hosts=("127.0.0.1",)))
        error = fails(http_server.url, "GET", f"{other.url}/x", how=how)
        assert isinstance(error, e.AccessDenied)
        assert "authorization" not in other.requests[0].headers


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:1/", "http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/",
        "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/latest/", "http://10.0.0.1/",
        "http://[fd00::1]/", "http://metadata.google.internal/", "http://localhost/", "file:///etc/passwd",
        "gopher://127.0.0.1/", "//10.0.0.1/", "http://１２７.0.0.1/", "http://a@10.0.0.1/", "http://[64:ff9b::a00:1]/",
    ],
)  # fmt: skip
def test_a_redirect_into_the_private_network_is_refused(http_server, target):
    route = Reply(302, headers={"Location": target.encode().decode("latin-1")})
    http_server.route("GET", "/x", route)
    assert isinstance(fails(http_server.url), e.SecurityError)
    if target[:2] != "//":
        assert isinstance(fails(http_server.url, "GET", target), e.SecurityError)
    assert len(http_server.requests) == 1


def test_a_public_name_that_resolves_to_a_private_address_is_refused(http_server, monkeypatch):
    def rebound(host, port, *_, **__):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", port))]

    http_server.route("GET", "/x", redirect("http://rebind.example.com/"))
    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    assert isinstance(fails(http_server.url), e.TargetForbidden)


def test_redirects_end(http_server):
    http_server.route("GET", "/x", redirect("/x"))
    assert isinstance(fails(http_server.url), e.Rejected)
    assert len(http_server.requests) == 11


@pytest.mark.parametrize(
    ("status", "method", "body"),
    [(301, "GET", b""), (302, "GET", b""), (303, "GET", b""), (307, "POST", b"hi"), (308, "POST", b"hi")],
)
def test_method_and_body_after_a_redirect(http_server, status, method, body):
    http_server.route("POST", "/x", redirect("/y", status))
    http_server.route("*", "/y", Reply(200))
    ask(http_server.url, "POST", body=b"hi", headers={"Content-Type": "text/plain"})
    last = http_server.requests[-1]
    assert (last.method, last.body, "content-type" in last.headers) == (method, body, bool(body))


def test_a_body_that_can_be_read_once_is_not_sent_twice(http_server):
    async def pieces():
        yield b"one"

    http_server.route("PUT", "/x", redirect("/y", 307))
    assert isinstance(fails(http_server.url, "PUT", body=pieces()), e.Rejected)
    assert [request.path for request in http_server.requests] == ["/x"]


def test_once_a_post_was_carried_out_no_later_failure_says_otherwise(http_server):
    http_server.route("POST", "/x", redirect("/gone", 303))
    assert isinstance(fails(http_server.url, "POST"), e.OutcomeUnknown)
    http_server.route("POST", "/x", redirect("http://10.0.0.1/", 303))
    assert isinstance(fails(http_server.url, "POST"), e.OutcomeUnknown)


# TLS


def test_tls_is_verified_and_nothing_is_sent_to_a_stranger(tls):
    with HttpServer(tls=tls.server_context()) as server:
        server.route("GET", "/x", Reply(200, b"ok"))
        error = fails(server.url)
        assert isinstance(error, e.SecurityError)
        assert server.requests == []
        assert ask(server.url, how=settings(server.url, tls=TlsOptions(ca_file=str(tls.ca_file)))).content == b"ok"
        assert ask(server.url, how=settings(server.url, tls=TlsOptions(verify=False))).content == b"ok"
    with pytest.raises(e.ConfigError):
        TlsOptions(ca_file="/not/there.pem").context()


def test_a_client_certificate_is_shown(tls):
    context = tls.server_context()
    context.load_verify_locations(tls.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    with HttpServer(tls=context) as server:
        server.route("GET", "/x", Reply(200, b"ok"))
        options = TlsOptions(ca_file=str(tls.ca_file), cert_file=str(tls.cert_file), key_file=str(tls.key_file))
        assert ask(server.url, how=settings(server.url, tls=options)).content == b"ok"
        assert isinstance(
            fails(server.url, how=settings(server.url, tls=replace(options, cert_file="", key_file=""))),
            e.FlowRunnerError,
        )


# Requests


def test_what_is_sent(http_server):
    http_server.route("*", "/base/x%20y", Reply(200))
    ask(
        http_server.url + "/base/",
        "PUT",
        "/x y?q=1",
        params={"a": [1, 2], "b": None, "c": True, "d": "ä&"},
        headers={"user-agent": "me"},
        body=b"data",
    )
    seen = http_server.requests[0]
    assert seen.path == "/base/x%20y"
    assert seen.query == {"q": ["1"], "a": ["1", "2"], "c": ["true"], "d": ["ä&"]}
    assert seen.headers["user-agent"] == "me"
    assert seen.body == b"data"


@pytest.mark.parametrize(
    ("method", "endpoint", "headers"), [("G T", "/x", {}), ("GET", "/x\r\nX: 1", {}), ("GET", "/x", {"A": "1\r\nB: 2"})]
)
def test_line_breaks_do_not_get_into_a_request(http_server, method, endpoint, headers):
    assert isinstance(fails(http_server.url, method, endpoint, headers=headers), e.ConfigError)
    assert http_server.requests == []


def test_a_401_is_tried_once_more_with_a_renewed_credential(http_server):
    class Renewing(StaticCredentials):
        renewals = 0

        async def renew(self, refused) -> bool:
            Renewing.renewals += 1
            return True

    http_server.route("GET", "/x", Reply(401))
    how = settings(http_server.url, credentials=Renewing(fixed={"Authorization": "Bearer old"}))
    assert isinstance(fails(http_server.url, how=how), e.AccessDenied)
    assert Renewing.renewals == 1
    assert len(http_server.requests) == 2


def test_connections_are_kept_for_what_may_be_repeated_and_fresh_for_a_post(http_server):
    http_server.route("*", "/x", Reply(200))

    async def main():
        async with HttpTransport(settings(http_server.url), Run.alone()) as http:
            for method in ("GET", "GET", "GET", "POST", "POST"):
                await http.request(method, "/x")

    asyncio.run(main())
    assert http_server.connections == 3
