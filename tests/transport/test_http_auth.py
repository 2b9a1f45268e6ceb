"""Credentials that answer challenges and sign requests, against servers that verify them by other means."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import ssl
import traceback
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.core.deadline import ManualClock
from flowrunner_provider.core.net_guard import NetPolicy
from flowrunner_provider.core.run import Run
from flowrunner_provider.transport.http import HttpTransport
from flowrunner_provider.transport.http_auth import api_key_credentials, bearer_credentials, client_certificate
from flowrunner_provider.transport.http_digest import DigestCredentials, read_challenges
from flowrunner_provider.transport.http_settings import (
    HttpSettings,
    Outgoing,
    StaticCredentials,
    TlsOptions,
    basic_credentials,
)
from flowrunner_provider.transport.http_signing import AwsCredentials, AwsOptions, HmacCredentials, HmacOptions
from tests.support.http_server import HttpServer, Reply, redirect

SECRET = "canary-s3cr3t+/=0815"
REALM = "the realm, of=things"


def settings(url, credentials, **more):
    return HttpSettings(base_url=url, policy=NetPolicy(home=url), credentials=credentials, **more)


def asks(how, *requests, timeout=20.0):
    """The outcome of each request, one after another over one transport."""

    async def main():
        found = []
        async with HttpTransport(how, Run.alone(timeout=timeout)) as http:
            for method, endpoint, *body in requests:
                try:
                    found.append(await http.request(method, endpoint, body=body[0] if body else None))
                except e.FlowRunnerError as error:
                    found.append(error)
        return found

    return asyncio.run(main())


# Digest


class Digest:
    """A server's side of RFC 7616; strict about nonce, count, target and everything that was echoed."""

    def __init__(self, login="Mufasa", password=SECRET, algorithm="SHA-256", qop="auth", uses=10**6, extra=""):
        self.login, self.password, self.algorithm, self.qop = login, password, algorithm, qop
        self.uses, self.extra, self.nonce, self.seen = uses, extra, 0, set()
        self.stale = True

    def hash(self, text):
        return hashlib.new(self.algorithm.replace("-", "").lower(), text.encode()).hexdigest()

    def challenge(self, stale=False):
        self.nonce += 1
        self.seen = set()
        qop = f', qop="{self.qop}"' if self.qop else ""
        late = ", stale=true" if stale and self.stale else ""
        header = f'Digest realm="{REALM}", nonce="n=={self.nonce}"{qop}'
        header += f', algorithm={self.algorithm}, opaque="o/{self.nonce}"{late}{self.extra}'
        return Reply(401, b"no", {"WWW-Authenticate": header})

    def __call__(self, request):
        header = request.headers.get("authorization", "")
        if not header.startswith("Digest "):
            return self.challenge()
        given = {n: q or p for n, q, p in re.findall(r'([\w*]+)=(?:"((?:[^"\\]|\\.)*)"|([^,\s]+))', header)}
        if given["nonce"] != f"n=={self.nonce}" or len(self.seen) >= self.uses:
            return self.challenge(stale=True)
        one = self.hash(f"{self.login}:{REALM}:{self.password}")
        two = self.hash(f"{request.method}:{given['uri']}")
        middle = f":{given['nc']}:{given['cnonce']}:auth" if self.qop else ""
        good = self.hash(f"{one}:{given['nonce']}{middle}:{two}")
        right = given["response"] == good and given["opaque"] == f"o/{self.nonce}" and given["realm"] == REALM
        if not right or urlsplit(given["uri"]).path != request.path or given.get("nc") in self.seen:
            return self.challenge()
        self.seen.add(given.get("nc", str(len(self.seen))))
        return Reply(200, b"in")


@pytest.mark.parametrize(("algorithm", "qop"), [("SHA-256", "auth"), ("MD5", "auth,auth-int"), ("MD5", "")])
def test_digest_as_requests_does_it(http_server, algorithm, qop):
    import requests

    http_server.route("*", "/a/b", server := Digest(algorithm=algorithm, qop=qop))
    oracle = requests.get(f"{http_server.url}/a/b?q=1&r=%20", auth=requests.auth.HTTPDigestAuth("Mufasa", SECRET))
    assert oracle.status_code == 200, "the server agrees with another client"
    before = len(http_server.requests)
    how = settings(http_server.url, DigestCredentials(login="Mufasa", password=SECRET))
    calls = [("GET", "/a/b?q=1&r=%20"), ("GET", "/a/b"), ("POST", "/a/b", b"body"), ("PUT", "/a/b", b"x")]
    assert [answer.status for answer in asks(how, *calls)] == [200] * 4
    assert len(http_server.requests) - before == 5, "one challenge, then every request brings its proof along"
    assert len(server.seen) == 4


@pytest.mark.parametrize("stale", [True, False])
def test_digest_takes_a_new_nonce_when_the_old_one_is_used_up(http_server, stale):
    http_server.route("*", "/x", server := Digest(uses=2))
    server.stale = stale
    how = settings(http_server.url, DigestCredentials(login="Mufasa", password=SECRET))
    assert [answer.status for answer in asks(how, *[("GET", "/x")] * 6)] == [200] * 6
    assert len(http_server.requests) == 6 + 3


def test_digest_with_a_wrong_password_asks_twice_and_names_the_fields(http_server):
    http_server.route("*", "/x", Digest())
    (error,) = asks(settings(http_server.url, DigestCredentials(login="Mufasa", password="wrong")), ("GET", "/x"))
    assert isinstance(error, e.AccessDenied)
    assert error.remedy == "check the connection's `login` and `password`, and the permissions of its account"
    assert len(http_server.requests) == 2


def test_digest_concurrently(http_server):
    http_server.route("*", "/x", server := Digest())
    http_server.route("*", "/first", server)

    async def main():
        how = settings(http_server.url, DigestCredentials(login="Mufasa", password=SECRET))
        async with HttpTransport(how, Run.alone()) as http:
            await http.request("GET", "/first")
            return await asyncio.gather(*(http.request("GET", "/x") for _ in range(40)))

    assert {answer.status for answer in asyncio.run(main())} == {200}
    assert len(http_server.requests) == 42


@pytest.mark.parametrize(
    "challenge",
    [
        "Basic realm=x",
        'Digest realm="x", nonce="1", algorithm=SHA-512-256',
        'Digest realm="x", nonce="1", qop="auth-int"',
    ],
)
def test_digest_where_the_server_wants_something_else(http_server, challenge):
    http_server.route("*", "/x", Reply(401, headers={"WWW-Authenticate": challenge}))
    (error,) = asks(settings(http_server.url, DigestCredentials(login="u", password=SECRET)), ("GET", "/x"))
    assert isinstance(error, e.ConfigError)
    assert error.field == "auth"
    assert len(http_server.requests) == 1


def test_digest_refuses_a_stream_before_it_is_sent(http_server):
    async def once():
        yield b"x"

    (error,) = asks(settings(http_server.url, DigestCredentials(login="u", password=SECRET)), ("PUT", "/x", once()))
    assert isinstance(error, e.ConfigError)
    assert http_server.requests == []


def test_challenges_are_read_whatever_they_look_like():
    header = 'Negotiate, Digest realm="a, Basic b=\\"c\\"", nonce=n1 , qop="auth" ,Bearer'
    (first, second, third) = read_challenges([header])
    assert (first, third) == (("negotiate", {}), ("bearer", {}))
    assert second == ("digest", {"realm": 'a, Basic b=\\"c\\"', "nonce": "n1", "qop": "auth"})
    for odd in ("", "=", '"', "Digest realm=", 'Digest realm="', "," * 9000, 'a="' * 9000, "Negotiate YWJj=="):
        read_challenges([odd])


# HMAC


@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        ({}, SECRET.encode(), lambda r: b"\n".join([r.method.encode(), b"/v1/x?a=1", b"1767225600", r.body])),
        (
            {"signs": ["timestamp", "body"], "separator": ".", "algorithm": "sha512", "prefix": "v0=",
             "timestamp_format": "unix_ms", "header": "X-Sig", "signature_encoding": "base64"},
            SECRET.encode(), lambda r: b"1767225600000." + r.body,
        ),
        (
            {"signs": ["method", "host", "path", "query", "timestamp", "key_id", "body_sha256"], "separator": "",
             "timestamp_format": "iso8601", "key_id_header": "X-Key"},
            SECRET.encode(),
            lambda r: (f"{r.method}{r.headers['host']}/v1/xa=12026-01-01T00:00:00Zkey-1"
                       f"{hashlib.sha256(r.body).hexdigest()}").encode(),
        ),
        ({"signs": ["body"], "timestamp_header": "", "secret_encoding": "hex"}, b"\x01\xff", lambda r: r.body),
        ({"signs": ["body"], "timestamp_header": "", "secret_encoding": "base64"}, b"\x01\xff", lambda r: r.body),
    ],
    ids=["default", "like-slack", "everything", "hex", "base64"],
)  # fmt: skip
def test_hmac(http_server, options, key, expected):
    encoding = options.get("secret_encoding", "utf-8")
    secret = {"utf-8": SECRET, "hex": key.hex(), "base64": base64.b64encode(key).decode()}[encoding]
    http_server.route("*", "/v1/x", Reply(200))
    how = HmacOptions(**{**options, "signs": tuple(options["signs"])} if "signs" in options else options)
    credentials = HmacCredentials(how, secret=secret, key_id="key-1", clock=ManualClock())
    (answer,) = asks(settings(http_server.url, credentials), ("POST", "/v1/x?a=1", b'{"b": 2}'))
    assert answer.status == 200
    (seen,) = http_server.requests
    mac = hmac.new(key, expected(seen), how.algorithm).digest()
    shown = mac.hex() if how.signature_encoding == "hex" else base64.b64encode(mac).decode()
    assert seen.headers[how.header.lower()] == how.prefix + shown
    assert seen.headers.get("x-key") == ("key-1" if how.key_id_header else None)


@pytest.mark.parametrize(
    "options",
    [{"signs": ()}, {"signs": ("cookie",)}, {"timestamp_header": ""}, {"header": "a b"}, {"prefix": "x\n"}],
)
def test_hmac_options_that_cannot_work(options):
    with pytest.raises(e.ConfigError) as caught:
        HmacOptions(**options)
    assert caught.value.field.startswith("hmac.")


@pytest.mark.parametrize("encoding", ["hex", "base64"])
def test_a_secret_that_is_not_in_its_encoding_is_not_quoted(encoding):
    with pytest.raises(e.ConfigError) as caught:
        HmacCredentials(HmacOptions(secret_encoding=encoding), secret="canary !!")
    shown = "".join(traceback.format_exception(caught.value))
    assert caught.value.field == "password"
    assert "canary !!" not in shown.replace('secret="canary !!"', "")


# AWS Signature Version 4

KEY, SECRET_KEY = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


@pytest.fixture
def aws(monkeypatch):
    auth = pytest.importorskip("botocore.auth")
    moment = datetime(2015, 8, 30, 12, 36, 0, tzinfo=UTC)
    monkeypatch.setattr(auth, "get_current_datetime", lambda *args, **kwargs: moment)


def signer(service="service", **more):
    options = AwsOptions(region="us-east-1", service=service, **more)
    return AwsCredentials(options, access_key=KEY, secret_key=SECRET_KEY)


def test_the_vector_that_aws_publishes(aws):
    request = Outgoing("GET", "https://example.amazonaws.com/", {"User-Agent": "x", "Accept": "*/*"}, None)
    sent = asyncio.run(signer().sign(request))
    assert sent["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        "SignedHeaders=host;x-amz-date, "
        "Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    )


def signature(request, scheme_host, service="service"):
    """Signature Version 4 once more, from its documentation, over what arrived."""
    header = request.headers["authorization"]
    names = re.search(r"SignedHeaders=([^,]+)", header)[1].split(";")
    pairs = sorted(
        (quote(n, safe="-_.~"), quote(v, safe="-_.~")) for n, values in request.query.items() for v in values
    )
    path = request.path if service == "s3" else quote(request.path, safe="/-_.~")
    canonical = "\n".join([
        request.method, path, "&".join(f"{n}={v}" for n, v in pairs),
        *(f"{name}:{' '.join(request.headers[name].split())}" for name in names), "", ";".join(names),
        hashlib.sha256(request.body).hexdigest(),
    ])  # fmt: skip
    stamp, scope = request.headers["x-amz-date"], f"20150830/us-east-1/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{SECRET_KEY}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), "sha256").digest()
    return hmac.new(key, text.encode(), "sha256").hexdigest()


@pytest.mark.parametrize("service", ["execute-api", "s3"])
@pytest.mark.parametrize(
    "call",
    [
        ("GET", "/"),
        ("GET", "/a%20b/c?z=1&a=b%20c&a=&x=%2F:@"),
        ("POST", "/x", b'{"a": 1}'),
        ("DELETE", "/x"),
    ],
    ids=["plain", "escapes", "body", "delete"],
)
def test_aws_as_a_second_implementation_does_it(aws, http_server, service, call):
    http_server.route("*", "*", Reply(200))
    credentials = signer(service, session_token="canary-session")
    (answer,) = asks(settings(http_server.url, credentials), call)
    assert answer.status == 200, answer
    (seen,) = http_server.requests
    given = re.search(r"Signature=(\w+)", seen.headers["authorization"])[1]
    assert given == signature(seen, http_server.url, service)
    assert seen.headers["x-amz-security-token"] == "canary-session"
    assert "x-amz-security-token" in seen.headers["authorization"]


def test_aws_without_keys_anywhere_says_so(aws, monkeypatch, tmp_path):
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    credentials = AwsCredentials(AwsOptions(region="us-east-1", service="es"))
    (error,) = asks(settings("http://127.0.0.1:9", credentials), ("GET", "/"))
    assert isinstance(error, e.MissingCredential)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    masked: list[str] = []
    credentials = AwsCredentials(AwsOptions(region="us-east-1", service="es"), mask=masked.extend)
    sent = asyncio.run(credentials.sign(Outgoing("GET", "https://x.es.amazonaws.com/", {}, None)))
    assert f"Credential={KEY}/" in sent["Authorization"]
    assert masked == [SECRET_KEY]
    with pytest.raises(e.MissingCredential):
        AwsCredentials(AwsOptions(region="us-east-1", service="es"), access_key=KEY)


# API keys and tokens


def test_an_api_key_in_a_cookie(http_server):
    http_server.route("*", "/x", Reply(200))
    asks(settings(http_server.url, api_key_credentials("sid", "abc123", "cookie")), ("GET", "/x"))
    assert http_server.requests[0].headers["cookie"] == "sid=abc123"


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: bearer_credentials("canary\n"), "password"),
        (lambda: api_key_credentials("X Key", "canary", "header"), "api_key_name"),
        (lambda: api_key_credentials("X-Key", "canary\r\nX: 1", "header"), "password"),
        (lambda: api_key_credentials("sid", "canary;b=1", "cookie"), "password"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_field(make, field):
    with pytest.raises(e.ConfigError) as caught:
        make()
    assert caught.value.field == field
    assert "canary" not in str(caught.value)


# Client certificates


@pytest.fixture
def mutual(tls, tmp_path):
    """A server that demands a certificate of our authority, and one such certificate."""
    context = tls.server_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(tls.ca_file)
    client = tls.ca.issue_cert("client@example.com")
    cert, key = tmp_path / "client.pem", tmp_path / "client.key"
    client.cert_chain_pems[0].write_to_path(str(cert))
    client.private_key_pem.write_to_path(str(key))
    with HttpServer(tls=context) as server:
        server.route("*", "/x", Reply(200, b"in"))
        server.tls = context
        yield server, TlsOptions(ca_file=str(tls.ca_file), cert_file=str(cert), key_file=str(key))


def test_a_client_certificate_opens_the_door(mutual):
    server, options = mutual
    (answer,) = asks(settings(server.url, client_certificate(), tls=options), ("GET", "/x"))
    assert answer.content == b"in"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_or_with_a_strange_one_nobody_gets_in(mutual, tmp_path, method, version):
    import trustme

    server, options = mutual
    server.tls.maximum_version = version
    strange = tmp_path / "strange.pem"
    trustme.CA().issue_cert("client@example.com").private_key_and_cert_chain_pem.write_to_path(str(strange))
    for cert in ("", str(strange)):
        tls = TlsOptions(ca_file=options.ca_file, cert_file=cert)
        (error,) = asks(settings(server.url, client_certificate(), tls=tls), (method, "/x"))
        if version == ssl.TLSVersion.TLSv1_3 and not isinstance(error, e.AccessDenied):
            # The refusal comes after our side of the handshake, and the reset behind it may be quicker.
            assert isinstance(error, e.ConnectionLost if method == "GET" else e.OutcomeUnknown), repr(error)
        else:
            assert isinstance(error, e.AccessDenied), repr(error)
            assert "`cert_file`" in error.remedy
    assert server.requests == []


def test_an_encrypted_key_needs_its_password(mutual, tmp_path):
    from cryptography.hazmat.primitives import serialization as s

    server, options = mutual
    key = s.load_pem_private_key(Path(options.key_file).read_bytes(), None)
    locked = tmp_path / "locked.key"
    how = s.BestAvailableEncryption(SECRET.encode())
    locked.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, how))
    files = {"ca_file": options.ca_file, "cert_file": options.cert_file, "key_file": str(locked)}
    good = TlsOptions(**files, key_password=SECRET)
    (answer,) = asks(settings(server.url, client_certificate(), tls=good), ("GET", "/x"))
    assert answer.status == 200
    assert SECRET not in repr(good)
    with pytest.raises(e.ConfigError, match="key_password"):
        TlsOptions(**files).context()


# Across origins, in time, and out of sight

OTHER = "127.0.0.2"
FORMS = {
    "basic": lambda: basic_credentials("user", SECRET),
    "bearer": lambda: bearer_credentials(SECRET),
    "header": lambda: api_key_credentials("X-Odd", SECRET, "header"),
    "query": lambda: api_key_credentials("k", SECRET, "query"),
    "cookie": lambda: api_key_credentials("sid", "canary-s3cr3t", "cookie"),
    "digest": lambda: DigestCredentials(login="Mufasa", password=SECRET),
    "hmac": lambda: HmacCredentials(HmacOptions(header="X-Odd"), secret=SECRET),
    "aws_sigv4": lambda: AwsCredentials(AwsOptions(region="r", service="s"), access_key="AKID", secret_key=SECRET),
}


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_credentials_leaves_its_origin(http_server, form):
    if form == "aws_sigv4":
        pytest.importorskip("botocore.auth")
    with HttpServer() as other:
        other.route("*", "*", Reply(200))
        away = redirect(f"http://localhost:{other.port}/there?page=2")
        server = Digest()
        http_server.route(
            "*", "/x", lambda request: away if form != "digest" or server(request).status == 200 else server.challenge()
        )
        credentials = FORMS[form]()
        how = HttpSettings(
            base_url=http_server.url,
            policy=NetPolicy(home=http_server.url, allow_hosts=("localhost", "127.0.0.0/8")),
            credentials=credentials,
            secret_headers=frozenset({"X-Odd"}),
        )
        (answer,) = asks(how, ("GET", "/x"))
        assert answer.status == 200, answer
        (seen,) = other.requests
    assert set(seen.headers) <= {"host", "user-agent", "accept", "accept-encoding"}
    assert seen.query == {"page": ["2"]}
    home = http_server.requests[-1]
    assert set(home.headers) - set(seen.headers) or "k" in home.query, "at home they were sent"
    assert "canary" not in repr(credentials) + repr(how)


class Slow(StaticCredentials):
    """Credentials that somebody else never gives."""

    async def headers(self):
        await asyncio.sleep(60)

    async def renew(self, refused):
        await asyncio.sleep(60)


def test_credentials_have_as_long_as_the_run(http_server):
    http_server.route("*", "/x", Reply(401))
    for fixed in (None, {}):
        (error,) = asks(settings(http_server.url, Slow(fixed=fixed)), ("GET", "/x"), timeout=0.3)
        assert isinstance(error, e.TimedOut), repr(error)


@pytest.mark.parametrize("form", ["basic", "bearer", "header", "query", "hmac", "digest"])
def test_a_server_that_quotes_what_it_got_shows_nothing(http_server, form, caplog):
    def echo(request):
        return Reply(403, str(sorted(request.headers.items())).encode() + str(request.query).encode())

    http_server.route("*", "/x", echo)
    (error,) = asks(settings(http_server.url, FORMS[form]()), ("GET", "/x"))
    assert isinstance(error, e.AccessDenied)
    shown = "".join(traceback.format_exception(error)) + str(error.to_event()) + caplog.text
    encoded = base64.b64encode(f"user:{SECRET}".encode()).decode()
    assert not any(secret in shown for secret in (SECRET, quote(SECRET, safe=""), encoded))
    assert all(f"`{name}`" in error.remedy for name in FORMS[form]().fields)
