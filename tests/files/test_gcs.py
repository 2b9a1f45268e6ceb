"""The Google Cloud Storage store keeps the contract on community emulators, and tells its errors apart."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from base64 import b64encode

import google_crc32c
import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    IntegrityError,
    MissingExtra,
    Rejected,
    Throttled,
    TransientError,
    Unavailable,
)
from flowrunner_provider.core.names import is_part_name
from flowrunner_provider.files.config import GcsConfig
from flowrunner_provider.files.hook import open_store
from flowrunner_provider.files.stores import gcs_parts
from flowrunner_provider.files.stores.gcs import GcsStore
from flowrunner_provider.files.stores.gcs_checksum import combined
from tests.contracts.store_contract import StoreContract, collect, write
from tests.files.clouds import MIB, gcs_connection
from tests.support.chaos_proxy import Toxics
from tests.support.fake_gcs import gcp_emulator
from tests.support.http_server import Reply, in_turn
from tests.support.servers import HOST, free_port

pytestmark = pytest.mark.backend


class TestGcs(StoreContract):
    @pytest.fixture
    def far(self, fake_gcs):
        return fake_gcs.bucket()

    @pytest.fixture
    def open_store(self, fake_gcs, far):
        config = GcsConfig(is_anonymous=True, endpoint_url=fake_gcs.url, part_size=1)
        return lambda: GcsStore(config, far.name)

    def test_many_parts_are_composed_in_groups(self, run, far, monkeypatch):
        monkeypatch.setattr(gcs_parts, "_SOURCES", 2)
        data = os.urandom(5 * MIB + 1)

        async def test(store):
            await write(store, f"{far.root}/f", data, replace=False)

        run(test)
        assert far.get("f") == data
        assert far.names() == ["f"]

    def test_the_version_is_the_generation(self, run, far):
        far.put("f", b"x")

        async def test(store):
            assert (await store.stat(f"{far.root}/f")).version == far.properties("f")["generation"]

        run(test)

    def test_a_file_that_is_replaced_while_it_is_read(self, run, far):
        far.put("f", os.urandom(40_000_000))

        async def test(store):
            chunks = store.read(f"{far.root}/f")
            await anext(chunks)
            far.put("f", os.urandom(40_000_000))
            with pytest.raises(IntegrityError, match="changed"):
                await collect(chunks)

        run(test)

    def test_two_tokens_whose_names_begin_alike(self, run, far):
        async def test(store):
            one, two = await store.begin(f"{far.root}/f", "a"), await store.begin(f"{far.root}/f", "a-1")
            for upload in (one, two):
                await upload.write(b"x" * (MIB + 1))
                await upload.sync()
            await store.forget(f"{far.root}/f", "a")
            assert [is_part_name(name, "a-1-000001") for name in far.names()] == [True]
            await two.discard()

        run(test)
        assert far.names() == []


class TestSecondEmulator:
    """gcp-storage-emulator ignores conditions and pages, so it is asked only what it can answer."""

    def test_there_and_back(self, tmp_path):
        data = os.urandom(2 * MIB + 5)
        with gcp_emulator(tmp_path) as server:
            bucket = server.bucket()

            async def test(store):
                await write(store, "/base/f", data)
                await write(store, "/base/d/g", b"x")
                await store.copy_within("/base/f", "/base/h")
                assert {e.name for e in [e async for e in store.list("/base")]} == {"d", "f", "h"}
                assert await collect(store.read("/base/h")) == data
                assert await collect(store.read("/base/f", 5, 10)) == data[5:15]
                await store.delete("/base/h")

            using(config_of(server), bucket.name, test)
            assert bucket.get("f") == data
            assert bucket.names() == ["d/g", "f"]


def config_of(server, **given):
    return GcsConfig(
        **{
            "is_anonymous": True,
            "endpoint_url": server.url,
            "part_size": 1,
            "timeout": 5.0,
            "conn_timeout": 5.0,
            **given,
        }
    )


def using(config, bucket, test):
    async def body():
        async with asyncio.timeout(60), GcsStore(config, bucket) as store:
            return await test(store)

    return asyncio.run(body())


async def nothing(store):
    """Opening it is the test."""


def test_a_bucket_that_is_not_there(fake_gcs):
    with pytest.raises(ConfigError, match="does not exist") as caught:
        using(config_of(fake_gcs), "nowhere", nothing)
    assert caught.value.field == "bucket"


def test_no_server():
    with pytest.raises(ConnectionLost):
        using(GcsConfig(is_anonymous=True, endpoint_url=f"http://127.0.0.1:{free_port()}"), "b", nothing)


OBJECTS = "/storage/v1/b/b/o"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AccessDenied), (429, Throttled), (503, Unavailable), (500, Unavailable), (400, Rejected), (302, Rejected)],
)
def test_what_the_service_answers(http_server, status, kind):
    headers = {"Retry-After": "7", "Location": "http://127.0.0.1:1/"}
    http_server.route("GET", OBJECTS, in_turn(Reply(200, b"{}"), Reply(status, b"{}", headers)))

    async def first(store):
        await anext(store.pages("", delimited=True))

    with pytest.raises(kind) as caught:
        using(config_of(http_server), "b", first)
    assert getattr(caught.value, "retry_after", 7.0) == 7.0


def test_a_new_object_is_put_under_a_condition(http_server):
    """The emulators ignore it at a composition, so what is sent is looked at here."""
    http_server.route("GET", OBJECTS, Reply(200, b'{"items": []}'))
    http_server.route("GET", f"{OBJECTS}/f", Reply(404, b"{}"))
    http_server.route("POST", "/upload/storage/v1/b/b/o", uploaded)
    http_server.route("POST", f"{OBJECTS}/f/compose", Reply(412, b"{}"))

    async def test(store):
        upload = await store.begin("/f", "t")
        await upload.write(b"x" * (MIB + 1))
        http_server.route(
            "GET", f"{OBJECTS}/f", in_turn(Reply(404, b"{}"), Reply(200, json.dumps(resource()).encode()))
        )
        with pytest.raises(AlreadyExists):
            await upload.commit(replace=False)

    using(config_of(http_server), "b", test)
    (request,) = [r for r in http_server.requests if r.path.endswith("/compose")]
    assert request.query == {"ifGenerationMatch": ["0"]} or "ifGenerationMatch=0" in str(request.query)
    assert [source["generation"] for source in json.loads(request.body)["sourceObjects"]] == ["7", "7"]


def resource(data=b"", name="f"):
    checksum = b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
    return {
        "name": name, "size": str(len(data)), "crc32c": checksum, "generation": "7",
        "timeCreated": "2026-01-01T00:00:00.5Z",
    }  # fmt: skip


def uploaded(request):
    about, data = request.body.split(b"\r\n\r\n", 2)[1:]
    name = json.loads(about.partition(b"\r\n")[0])["name"]
    return Reply(200, json.dumps(resource(data.rpartition(b"\r\n--")[0], name)).encode())


def test_bytes_that_arrive_otherwise(http_server):
    http_server.route("GET", OBJECTS, Reply(200, b"{}"))
    http_server.route("POST", "/upload/storage/v1/b/b/o", Reply(200, json.dumps(resource(b"other")).encode()))
    with pytest.raises(IntegrityError, match="does not match the sent data"):
        using(config_of(http_server), "b", lambda store: write(store, "/f", b"bytes"))


def test_bytes_that_come_otherwise(http_server):
    http_server.route("GET", OBJECTS, Reply(200, b"{}"))
    headers = {"Content-Range": "bytes 0-4/5", "X-Goog-Hash": "crc32c=AAAAAA=="}
    http_server.route("GET", f"{OBJECTS}/f", Reply(206, b"bytes", headers))
    with pytest.raises(IntegrityError, match="does not match the checksum"):
        using(config_of(http_server), "b", lambda store: collect(store.read("/f")))


def test_cut_connections(fake_gcs, chaos):
    bucket = fake_gcs.bucket()
    bucket.put("f", os.urandom(3_000_000))
    proxy = chaos(HOST, fake_gcs.server.port)
    config = config_of(fake_gcs, endpoint_url=f"http://{HOST}:{proxy.port}")

    async def test(store):
        proxy.toxics = Toxics(cut_down=200_000, rst=True)
        with pytest.raises(TransientError):
            await collect(store.read("/base/f"))
        proxy.toxics = Toxics(cut_up=300_000, rst=True)
        proxy.drop_all()
        with pytest.raises(TransientError):
            await write(store, "/base/g", b"x" * 1_500_000)
        proxy.reset()
        await store.forget("/base/g", "t")

    using(config, bucket.name, test)
    assert bucket.names() == ["f"]


def key_of(token_url: str) -> dict[str, str]:
    """A service account's key, with a token service of the test's."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kind = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    text = key.private_bytes(serialization.Encoding.PEM, *kind).decode()
    account = {
        "type": "service_account",
        "client_email": "loader@acme.iam",
        "private_key_id": "1",
        "project_id": "acme",
    }
    return {**account, "private_key": text, "token_uri": token_url}


def test_a_service_account(http_server):
    token = {"access_token": "canary-token", "expires_in": 3600, "token_type": "Bearer"}
    http_server.route("POST", "/token", Reply(200, json.dumps(token).encode(), {"Content-Type": "application/json"}))
    http_server.route("GET", OBJECTS, Reply(200, b"{}"))
    key = json.dumps(key_of(f"{http_server.url}/token"))

    async def many(store):
        await asyncio.gather(*(anext(store.pages("", delimited=True)) for _ in range(20)))

    using(config_of(http_server, is_anonymous=False, keyfile_dict=key), "b", many)
    asked = [request for request in http_server.requests if request.path == "/token"]
    assert len(asked) == 1
    lists = [request for request in http_server.requests if request.path == OBJECTS]
    assert {request.headers["authorization"] for request in lists} == {"Bearer canary-token"}


@pytest.mark.parametrize(("status", "kind"), [(400, AccessDenied), (503, ConnectionLost)])
def test_no_token_is_given(http_server, status, kind):
    http_server.route("POST", "/token", Reply(status, b'{"error": "invalid_grant"}'))
    key = key_of(f"{http_server.url}/token")
    with pytest.raises(kind) as caught:
        using(config_of(http_server, is_anonymous=False, keyfile_dict=json.dumps(key)), "b", nothing)
    assert key["private_key"][40:60] not in str(caught.value)


@pytest.mark.parametrize("given", [{"keyfile_dict": "{}"}, {"keyfile_dict": "no JSON"}, {"key_path": "/nowhere.json"}])
def test_a_key_that_is_none(given):
    with pytest.raises(ConfigError) as caught:
        using(GcsConfig(**given), "b", nothing)
    assert caught.value.remedy


def test_checksums_of_parts_make_the_checksum_of_the_whole():
    data = os.urandom(100_003)
    pieces = [data[:50_000], data[50_000:50_001], b"", data[50_001:]]
    assert combined((google_crc32c.value(piece), len(piece)) for piece in pieces) == google_crc32c.value(data)


def test_connection_test(fake_gcs, monkeypatch):
    from flowrunner_provider.files.hooks.gcs import FlowRunnerGcsHook

    bucket = fake_gcs.bucket()
    for options, text in (({"bucket": bucket.name}, bucket.name), ({"project": "acme"}, "buckets")):
        monkeypatch.setenv("AIRFLOW_CONN_BUCKET", gcs_connection(fake_gcs.url, **options))
        ok, message = FlowRunnerGcsHook("bucket").test_connection()
        assert ok, message
        assert text in message


BAD = [
    ("gs://nowhere@b/x", {}, "nowhere"),
    ("gs://bucket@/x", {"is_anonymous": True}, "bucket"),
    ("gs://bucket@b/x", {"key_secret_name": "s"}, "key_secret_name"),
    ("gs://bucket@b/x", {"key_path": "/a", "keyfile_dict": {"type": "service_account"}}, "key_path"),
    ("gs://bucket@b/x", {"flowrunner": {"part_size": 1000}}, "part_size"),
    ("gs://bucket@b/x", {"flowrunner": {"endpoint_url": "localhost"}}, "endpoint_url"),
]


@pytest.mark.parametrize(("uri", "extra", "text"), BAD)
def test_bad_input(monkeypatch, uri, extra, text):
    monkeypatch.setenv("AIRFLOW_CONN_BUCKET", json.dumps({"conn_type": "google_cloud_platform", "extra": extra}))
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert text in str(caught.value)


def test_the_official_extras_are_read(monkeypatch):
    from flowrunner_provider.files.hooks.gcs import FlowRunnerGcsHook

    extra = {
        "extra__google_cloud_platform__project": "acme",
        "keyfile_dict": {"type": "service_account", "private_key": "canary"},
        "impersonation_chain": "a@x, b@x",
        "scope": "s1,s2",
    }
    monkeypatch.setenv("AIRFLOW_CONN_BUCKET", json.dumps({"conn_type": "google_cloud_platform", "extra": extra}))
    config = FlowRunnerGcsHook("bucket").config
    assert (config.project, config.impersonation_chain, config.scope) == ("acme", ["a@x", "b@x"], "s1,s2")
    assert json.loads(config.keyfile_dict)["private_key"] == "canary"
    assert "canary" not in repr(config)


@pytest.mark.parametrize("package", ["google_crc32c", "aiohttp"])
def test_a_missing_package_is_told(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra) as caught:
        using(GcsConfig(is_anonymous=True), "b", nothing)
    assert caught.value.extra == "gcs"
