"""Who signs, where it goes, whom it trusts, and when boto3 does it instead: botocore judges what it can."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore import UNSIGNED as NOT_SIGNED
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import CredentialRetrievalError, EndpointConnectionError

from flowrunner_provider.core.errors import (
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    CredentialExpired,
    MissingCredential,
    NotFound,
    PermanentError,
)
from flowrunner_provider.files.config import S3Config
from flowrunner_provider.files.stores.s3 import S3Store, S3Target
from flowrunner_provider.files.stores.s3_client import client_errors
from flowrunner_provider.files.stores.s3_objects import ClientObjects
from flowrunner_provider.files.stores.s3_wire_address import bucket_address, tls_context
from flowrunner_provider.files.stores.s3_wire_objects import WireObjects
from flowrunner_provider.files.stores.s3_wire_requests import RenewingCredentials
from flowrunner_provider.files.stores.s3_wire_sign import (
    UNSIGNED,
    Keys,
    encoded,
    payload_of,
    query_of,
    request_head,
    signed,
)
from tests.contracts.store_contract import ODD_NAMES, collect, write
from tests.files.s3 import PART, Bucket, session, store_of
from tests.support.rgw import S3Server

KEYS = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")


def test_the_example_of_the_documentation():
    headers = {"host": "examplebucket.s3.amazonaws.com", "range": "bytes=0-9"}
    moment = datetime(2013, 5, 24, tzinfo=UTC)
    found = signed("GET", "/test.txt", "", headers, keys=KEYS, region="us-east-1", now=moment, payload=payload_of(b""))
    signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    assert found["authorization"].endswith(f"Signature={signature}")


@pytest.mark.parametrize("token", [None, "a/session+token=="])
@pytest.mark.parametrize("data", [None, b"", b"data"])
def test_botocore_signs_the_same(monkeypatch, token, data):
    moment = datetime(2026, 11, 23, 8, 0, 1, tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda: moment.replace(tzinfo=None), raising=False)
    keys = Keys(KEYS.access, KEYS.secret, token)
    theirs = S3SigV4Auth(Credentials(keys.access, keys.secret, token), "s3", "eu-west-1")
    for name in [*ODD_NAMES, "a/b//c/../~d", "\r\n\0"]:
        path, query = f"/bucket/{encoded(name, path=True)}", query_of({"prefix": name, "list-type": "2", "a b": "+"})
        headers = {"host": "127.0.0.1:9000", "content-md5": "x", "if-match": '"e"'}
        ours = signed(
            "PUT", path, query, headers, keys=keys, region="eu-west-1", now=moment,
            payload=UNSIGNED if data is None else payload_of(data),
        )  # fmt: skip
        request = AWSRequest("PUT", f"http://127.0.0.1:9000{path}?{query}", dict(headers), data)
        request.context["client_config"] = Config(s3={"payload_signing_enabled": data is not None})
        request.context["timestamp"] = f"{moment:%Y%m%dT%H%M%SZ}"
        request.headers["X-Amz-Date"] = request.context["timestamp"]
        request.headers["X-Amz-Content-SHA256"] = ours["x-amz-content-sha256"]
        if token:
            request.headers["X-Amz-Security-Token"] = token
        canonical = theirs.canonical_request(request)
        assert ours["authorization"].endswith(theirs.signature(theirs.string_to_sign(request, canonical), request))


def test_a_header_that_would_become_two_is_not_sent():
    for value in ("a\r\nb: c", "a\nb", "a\0", "\u00e9"):
        with pytest.raises(PermanentError):
            request_head("GET", "/", "", {"host": "h", "x": value})
    assert "secret" not in repr(Keys("a", "secret", "secret"))


class Session:
    """As much of boto3's as is asked."""

    def __init__(self, region: str | None = None, **profile: Any) -> None:
        self.region_name = region
        self._session = SimpleNamespace(get_scoped_config=lambda: profile)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def address(bucket: str = "raw", found: Any = None, client_config: Any = None, **config: Any) -> Any:
    target = S3Target(bucket=bucket, config=S3Config(**config), session=Session, client_config=client_config)
    return bucket_address(target, found or Session(), target.style)


@pytest.mark.parametrize(
    ("bucket", "config", "expected"),
    [
        ("raw", {}, ("raw.s3.us-east-1.amazonaws.com", 443, "/k", "us-east-1")),
        ("raw", {"region_name": "eu-west-1"}, ("raw.s3.eu-west-1.amazonaws.com", 443, "/k", "eu-west-1")),
        ("raw", {"region_name": "cn-north-1"}, ("raw.s3.cn-north-1.amazonaws.com.cn", 443, "/k", "cn-north-1")),
        ("raw", {"addressing_style": "path"}, ("s3.us-east-1.amazonaws.com", 443, "/raw/k", "us-east-1")),
        ("with.dots", {}, ("s3.us-east-1.amazonaws.com", 443, "/with.dots/k", "us-east-1")),
        ("UPPER", {}, ("s3.us-east-1.amazonaws.com", 443, "/UPPER/k", "us-east-1")),
        ("raw", {"endpoint_url": "http://h"}, ("h", 80, "/raw/k", "us-east-1")),
        ("raw", {"endpoint_url": "https://u:p@h:9/x/"}, ("h:9", 9, "/x/raw/k", "us-east-1")),
        ("raw", {"endpoint_url": "http://[::1]:9"}, ("[::1]:9", 9, "/raw/k", "us-east-1")),
        (
            "raw",
            {"endpoint_url": "https://h", "addressing_style": "virtual"},
            ("raw.h", 443, "/k", "us-east-1"),
        ),
    ],
)
def test_where_it_goes(bucket, config, expected):
    found = address(bucket, **config)
    assert (found.netloc, found.port, found.path("k"), found.region) == expected
    assert found.host in ("::1", found.netloc.partition(":")[0])


def test_a_bucket_in_another_region():
    found = address()
    assert found.moved("ap-south-1").host == "raw.s3.ap-south-1.amazonaws.com"
    for odd in ("", "us-east-1", "evil.example/", "a\r\nb", "169"):
        assert found.moved(odd) is found
    own = address(endpoint_url="http://h")
    assert own.moved("ap-south-1") is own


def test_a_store_follows_its_bucket_to_its_region(monkeypatch):
    asked: list[str] = []

    class Somewhere:
        def __init__(self, host: str) -> None:
            self.host = host

        async def region(self, what: str) -> str:
            asked.append(self.host)
            return "ap-south-1"

        def close(self) -> None:
            asked.append("closed")

    async def by_wire(self, stack, place, credentials):
        return Somewhere(place.host), None

    monkeypatch.setattr(S3Store, "_wire_requests", by_wire)
    config = S3Config(region_name="eu-west-1")
    store = S3Store(S3Target(bucket="raw", config=config, session=session))

    async def act(store: S3Store) -> str:
        return store.objects.host

    assert opened(store, act) == "raw.s3.ap-south-1.amazonaws.com"
    assert asked == ["raw.s3.eu-west-1.amazonaws.com", "closed"]


@pytest.mark.parametrize(
    ("bucket", "session", "client_config", "environment"),
    [
        ("arn:aws:s3:eu-west-1:1:accesspoint/x", None, None, {}),
        ("raw--use1-az4--x-s3", None, None, {}),
        ("raw", Session("us-iso-east-1"), None, {}),
        ("raw", Session(endpoint_url="http://h"), None, {}),
        ("raw", Session(s3={"use_accelerate_endpoint": True}), None, {}),
        ("raw", None, Config(proxies={"https": "http://p"}), {}),
        ("raw", None, Config(client_cert="/c.pem"), {}),
        ("raw", None, Config(use_dualstack_endpoint=True), {}),
        ("raw", None, Config(s3={"us_east_1_regional_endpoint": "legacy"}), {}),
        ("raw", None, Config(signature_version="s3"), {}),
        ("raw", None, None, {"AWS_ENDPOINT_URL_S3": "http://h"}),
        ("raw", None, None, {"AWS_USE_FIPS_ENDPOINT": "true"}),
        ("raw", None, None, {"https_proxy": "http://p:3128"}),
        ("raw", None, None, {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "elsewhere"}),
    ],
)
def test_what_only_boto3_knows(monkeypatch, bucket, session, client_config, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert address(bucket, session, client_config) is None


@pytest.mark.parametrize(
    ("client_config", "environment"),
    [
        (Config(signature_version=NOT_SIGNED), {}),
        (Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 9}), {}),
        (None, {"http_proxy": "http://p:3128"}),  # of the other scheme
        (None, {"https_proxy": "http://p:3128", "no_proxy": ".amazonaws.com"}),
    ],
)
def test_what_boto3_is_not_needed_for(monkeypatch, client_config, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert address(client_config=client_config) is not None


def test_whom_it_trusts(tls, tmp_path):
    assert tls_context(S3Config(ca_bundle=str(tls.ca_file))).check_hostname
    assert tls_context(S3Config()) is tls_context(S3Config())
    assert not tls_context(S3Config(verify=False)).check_hostname
    (tmp_path / "empty.pem").write_text("nothing")
    for name, why in (("none.pem", "cannot be read"), ("empty.pem", "contains no certificate")):
        with pytest.raises(ConfigError, match=why) as caught:
            tls_context(S3Config(ca_bundle=str(tmp_path / name)))
        assert caught.value.field == "ca_bundle"


def opened(store: S3Store, act: Any) -> Any:
    async def body() -> Any:
        async with asyncio.timeout(60), store:
            return await act(store)

    return asyncio.run(body())


@pytest.mark.backend
def test_through_a_proxy_boto3_does_it(moto: S3Server, monkeypatch):
    """The server plays the proxy of an address where nobody listens: it, too, is asked for ``http://address/...``."""
    far = Bucket(moto)
    monkeypatch.setenv("http_proxy", moto.endpoint)

    async def act(store: S3Store) -> None:
        assert isinstance(store.objects, ClientObjects)
        await write(store, f"{far.root}/a b", b"x" * 10)
        with pytest.raises(AlreadyExists):
            await write(store, f"{far.root}/a b", b"y", replace=False)
        entry = await store.stat(f"{far.root}/a b")
        assert (entry.size, [found.name async for found in store.list(far.root)]) == (10, ["a b"])
        assert await collect(store.read(entry.path)) == b"x" * 10
        assert await collect(store.read(entry.path, 7, 9)) == b"xxx"
        assert await collect(store.read(entry.path, 10)) == b""
        assert await store.read_whole(entry.path, 10, entry.version) == b"x" * 10
        await write(store, f"{far.root}/large", b"z" * (PART + 1))
        await store.delete(entry.path)
        with pytest.raises(NotFound):
            await store.stat(entry.path)

    opened(store_of("http://127.0.0.2:9", conditional_writes=True), act)
    assert far.names() == ["large"]
    with pytest.raises(ConfigError, match="bucket 'nowhere' does not exist"):
        opened(store_of("http://127.0.0.2:9", bucket="nowhere"), act)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (CredentialRetrievalError(provider="sts", error_msg="secret"), MissingCredential),
        (EndpointConnectionError(endpoint_url="https://sts"), ConnectionLost),
        (RuntimeError("refreshed, but still expired"), CredentialExpired),
    ],
)
def test_credentials_that_cannot_be_renewed(failure, expected):
    class Failing:
        def get_frozen_credentials(self) -> None:
            raise failure

    with pytest.raises(expected, match=r"^reading f: ") as caught:
        asyncio.run(RenewingCredentials(Failing()).keys("reading f"))
    assert "secret" not in str(caught.value)


def test_a_connection_error_of_the_library_names_the_server_and_nothing_more():
    url = "https://user:secret@s3.example:9000/raw?X-Amz-Signature=secret"
    with pytest.raises(ConnectionLost) as caught, client_errors("connecting to s3://raw"):
        raise EndpointConnectionError(endpoint_url=url)
    assert caught.value.message == "connecting to s3://raw: the connection to s3.example:9000 failed"
    assert "endpoint_url" in caught.value.remedy


@pytest.mark.backend
def test_without_a_signature(moto: S3Server):
    far = Bucket(moto)
    far.client.put_object(Bucket=far.name, Key=f"{far.prefix}/f", Body=b"public", ACL="public-read")
    config = S3Config(endpoint_url=moto.endpoint, timeout=20.0)
    unsigned = Config(signature_version=NOT_SIGNED)
    store = S3Store(S3Target(bucket="tests", config=config, session=session, client_config=unsigned))

    async def act(store: S3Store) -> bytes:
        assert isinstance(store.objects, WireObjects)
        return await collect(store.read(f"{far.root}/f"))

    assert opened(store, act) == b"public"
