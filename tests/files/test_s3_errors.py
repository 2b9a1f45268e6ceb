"""What S3 refuses is told apart; keys that are no plain names, copies, TLS, and the hook."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    ConnectionLost,
    CredentialExpired,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    PermanentError,
    Rejected,
    Throttled,
    TimedOut,
    TransientError,
    Unavailable,
)
from flowrunner_provider.files.hooks.s3 import FlowRunnerS3Hook
from flowrunner_provider.files.stores import s3_bucket, s3_copy, s3_wire_requests
from flowrunner_provider.files.stores.s3_body import PiecesBody
from flowrunner_provider.files.uri import parse
from tests.contracts.store_contract import collect, write
from tests.files.s3 import PART, Bucket, connection_of, store_of
from tests.support.chaos_proxy import Toxics
from tests.support.http_server import Reply
from tests.support.servers import free_port

# ruff: noqa: PT012 - what is raised where inside of an open store is the point
pytestmark = pytest.mark.backend


def with_store(store, act):
    async def body():
        async with asyncio.timeout(60), store as opened:
            return await act(opened)

    return asyncio.run(body())


WRONG = {"aws_access_key_id": "AKTEST", "aws_secret_access_key": "wrong"}


@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.stat("/x/f"),
        lambda store: collect(store.read("/x/f")),
        lambda store: anext(store.list("/x")),
        lambda store: store.delete("/x/f"),
        lambda store: write(store, "/x/f", b"x"),
        lambda store: write(store, "/x/f", b"x" * (PART + 1)),
        lambda store: store.copy_within("/x/f", "/x/g"),
    ],
    ids=["stat", "read", "list", "delete", "put", "parts", "copy"],
)
def test_a_wrong_secret_is_access_denied_and_never_absence(rgw, act):
    Bucket(rgw)
    with pytest.raises(AccessDenied) as caught:
        with_store(store_of(rgw.endpoint, keys=WRONG), act)
    assert "wrong" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_an_error_of_the_address(rgw):
    async def nothing(store):
        pass

    with pytest.raises(ConfigError, match="bucket 'nowhere' does not exist") as caught:
        with_store(store_of(rgw.endpoint, bucket="nowhere"), nothing)
    assert caught.value.field == "bucket"


def test_keys_that_are_no_plain_names(rgw):
    far = Bucket(rgw)
    for name in ("d/", "d/f", "a//b", "n\nl", "w/../x", "d/sub/"):
        far.put(name, b"" if name.endswith("/") else b"x")

    async def act(store):
        shallow = {entry.path.removeprefix(far.root): entry.is_dir async for entry in store.list(far.root)}
        assert shallow == {"/d": True, "/a": True, "/n\nl": False, "/w": True}
        inside = {entry.name: entry.is_dir async for entry in store.list(f"{far.root}/d")}
        assert inside == {"f": False, "sub": True}
        assert [entry async for entry in store.list(f"{far.root}/d/sub")] == []  # there is only its marker
        deep = {entry.path.removeprefix(far.root) async for entry in store.list(far.root, True) if not entry.is_dir}
        assert deep == {"/d/f", "/a//b", "/n\nl", "/w/../x"}
        assert (await store.stat(f"{far.root}/d/sub")).is_dir
        far.put("b", b"another")
        for odd in ("a//b", "n\nl", "w/../x"):  # never taken for another key
            assert (await store.stat(f"{far.root}/{odd}")).size == 1
            assert await collect(store.read(f"{far.root}/{odd}")) == b"x"
        with pytest.raises(NotFound):
            await store.stat(f"{far.root}//d/f")

    with_store(store_of(rgw.endpoint), act)


def test_a_leading_slash_is_not_dropped(rgw):
    far = Bucket(rgw)
    far.client.put_object(Bucket=far.name, Key=f"{far.prefix}-lead", Body=b"without")

    async def act(store):
        with pytest.raises(PermanentError):
            await collect(store.read(f"//{far.prefix}-lead"))

    with_store(store_of(rgw.endpoint), act)


def test_an_object_replaced_while_it_is_read(rgw):
    far = Bucket(rgw)
    far.put("f", os.urandom(9_000_000))

    async def act(store):
        chunks = store.read(f"{far.root}/f")
        await anext(chunks)
        far.put("f", os.urandom(9_000_000))
        with pytest.raises(IntegrityError, match="changed"):
            await collect(chunks)

    with_store(store_of(rgw.endpoint), act)


def test_copies_within_the_store(rgw, monkeypatch):
    far, data = Bucket(rgw), os.urandom(3 * PART)
    far.client.put_object(
        Bucket=far.name, Key=f"{far.prefix}/a b", Body=data, ContentType="text/csv", Metadata={"owner": "x"}
    )

    async def act(store):
        source = await store.stat(f"{far.root}/a b")
        copied = await store.copy_within(source.path, f"{far.root}/c", version=source.version)
        assert (copied.path, copied.size) == (f"{far.root}/c", len(data))
        with pytest.raises(AlreadyExists):
            await store.copy_within(source.path, f"{far.root}/c", replace=False)
        with pytest.raises(IntegrityError):
            await store.copy_within(source.path, f"{far.root}/c", version="another")
        with pytest.raises(NotFound):
            await store.copy_within(f"{far.root}/none", f"{far.root}/c")
        monkeypatch.setattr(s3_copy, "ONE_REQUEST", PART)
        monkeypatch.setattr(s3_copy, "_PART", PART)
        await store.copy_within(source.path, f"{far.root}/in parts", version=source.version)

    with_store(store_of(rgw.endpoint), act)
    assert far.names() == ["a b", "c", "in parts"]
    for name in ("c", "in parts"):
        assert far.get(name) == data
        head = far.client.head_object(Bucket=far.name, Key=f"{far.prefix}/{name}")
        assert (head["ContentType"], head["Metadata"]) == ("text/csv", {"owner": "x"})


def test_a_taken_name_is_refused_after_all_parts_are_there(moto):
    far = Bucket(moto)
    far.put("f", b"old")

    async def act(store):
        upload = await store.begin(f"{far.root}/f", "t")
        await upload.write(os.urandom(2 * PART + 5))
        with pytest.raises(AlreadyExists):
            await upload.commit(replace=False)
        await upload.discard()

    with_store(store_of(moto.endpoint, conditional_writes=True), act)
    assert (far.get("f"), far.names()) == (b"old", ["f"])


def test_what_a_stranger_has_begun_is_left_alone(moto):
    """moto tells every principal the same name, so the stranger is made here."""
    far = Bucket(moto)
    key = f"{far.prefix}/f"
    theirs = far.client.create_multipart_upload(Bucket=far.name, Key=key)["UploadId"]
    neighbour = far.client.create_multipart_upload(Bucket=far.name, Key=f"{key}2")["UploadId"]

    async def act(store):
        begun = store.uploads.unfinished

        async def told(*arguments):
            found = await begun(*arguments)
            return [one._replace(by="stranger" if one.upload == theirs else "us") for one in found]

        store.uploads.unfinished = told
        await write(store, f"{far.root}/f", os.urandom(PART + 1))
        await store.forget(f"{far.root}/f", "t")

    with_store(store_of(moto.endpoint), act)
    assert {row["UploadId"] for row in far.unfinished()} == {theirs, neighbour}


def test_a_part_that_arrives_damaged_is_refused(rgw):
    far = Bucket(rgw)

    async def act(store):
        parts = store.parts(f"{far.prefix}/f", "t", None)
        await parts.start()
        send = store.uploads.send

        async def damaged(what, key, upload, number, data, proof):
            return await send(what, key, upload, number, PiecesBody([b"x" + b"y" * (PART - 1)]), proof)

        store.uploads.send = damaged
        with pytest.raises(Unavailable, match="damaged in transit"):
            await parts.send(1, [b"y" * PART])
        await parts.abort()

    with_store(store_of(rgw.endpoint), act)
    assert far.names() == []


def test_over_tls_with_a_trusted_ca(rgw, tls):
    """Regression: with boto3's default checksums Ceph answers MissingContentLength to every upload over TLS."""
    far = Bucket(rgw)

    async def act(store):
        await write(store, f"{far.root}/small", b"x")
        await write(store, f"{far.root}/large", b"x" * (PART + 1))
        return await collect(store.read(f"{far.root}/large"))

    options = {"ca_bundle": str(tls.ca_file)}
    assert with_store(store_of(rgw.tls_endpoint, **options), act) == b"x" * (PART + 1)
    with_store(store_of(rgw.tls_endpoint, unsigned_payload=True, **options), act)
    with_store(store_of(rgw.tls_endpoint, verify=False), act)
    with pytest.raises(ConfigError, match="certificate"):
        with_store(store_of(rgw.tls_endpoint), act)


def test_connections_cut_in_the_middle_of_a_read(rgw, chaos):
    far, proxy, data = Bucket(rgw), chaos(rgw.host, rgw.port), os.urandom(9_000_000)
    far.put("f", data)

    async def act(store):
        proxy.toxics = Toxics(cut_down=3_000_000, rst=True, connections=3)
        assert await collect(store.read(f"{far.root}/f")) == data  # the library goes on behind what came
        proxy.toxics = Toxics(cut_down=30_000, rst=True)
        with pytest.raises(TransientError):
            await collect(store.read(f"{far.root}/f"))

    with_store(store_of(f"http://{proxy.host}:{proxy.port}", timeout=2.0), act)


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "ExpiredToken"])
@pytest.mark.parametrize(
    "act",
    [
        lambda store: store.stat("/f"),
        lambda store: collect(store.read("/f")),
        lambda store: anext(store.list("/x")),
        lambda store: write(store, "/f", b"x"),
        lambda store: write(store, "/f", b"x" * (PART + 1)),
    ],
    ids=["stat", "read", "list", "put", "parts"],
)
def test_a_server_that_cannot_now(http_server, monkeypatch, act, code):
    monkeypatch.setattr(s3_bucket, "_TRIES", 1)
    body = f"<Error><Code>{code}</Code><Message>later</Message></Error>".encode()
    status = {"SlowDown": 503, "InternalError": 500, "ExpiredToken": 400}[code]
    reply = Reply(status, body, {"Content-Type": "application/xml"})
    http_server.route("HEAD", "/tests", Reply(200, b""))
    for method, path in (("HEAD", "/f"), ("GET", "/f"), ("GET", ""), ("PUT", "/f"), ("POST", "/f")):
        http_server.route(method, f"/tests{path}", reply)
    expected = {"SlowDown": Throttled, "InternalError": Unavailable, "ExpiredToken": CredentialExpired}[code]
    with pytest.raises(FlowRunnerError) as caught:
        with_store(store_of(http_server.url.rstrip("/")), act)
    if http_server.requests[-1].method == "HEAD":  # has no body that could say why
        assert isinstance(caught.value, Rejected if code == "ExpiredToken" else Unavailable)
    else:
        assert isinstance(caught.value, expected)


def test_a_connection_cut_in_the_middle_of_a_part(rgw, chaos):
    far, proxy = Bucket(rgw), chaos(rgw.host, rgw.port)

    async def act(store):
        proxy.toxics = Toxics(cut_up=3_000_000, rst=True)
        upload = await store.begin(f"{far.root}/f", "t")
        with pytest.raises(ConnectionLost):
            await upload.write(b"x" * (PART + 1))
            await upload.sync()
        proxy.reset()
        await upload.discard()

    with_store(store_of(f"http://{proxy.host}:{proxy.port}", timeout=2.0), act)
    assert far.names() == []


def test_a_server_that_falls_silent(rgw, chaos):
    Bucket(rgw)
    proxy = chaos(rgw.host, rgw.port)

    async def act(store):
        proxy.toxics = Toxics(blackhole_down=True)
        with pytest.raises((TimedOut, ConnectionLost)):
            await store.stat("/x/f")

    with_store(store_of(f"http://{proxy.host}:{proxy.port}", timeout=0.3), act)


def test_nobody_listens():
    async def nothing(store):
        pass

    with pytest.raises(TransientError):
        with_store(store_of(f"http://127.0.0.1:{free_port()}", conn_timeout=1.0), nothing)


def hook_of(monkeypatch, connection: str) -> FlowRunnerS3Hook:
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", connection)
    return FlowRunnerS3Hook("lake")


def test_the_connection_test(rgw, monkeypatch):
    Bucket(rgw)
    ok, text = hook_of(monkeypatch, connection_of(rgw)).test_connection()
    assert (ok, "Reached the bucket tests" in text) == (True, True)
    ok, text = hook_of(monkeypatch, connection_of(rgw, bucket="")).test_connection()
    assert ok
    assert "tests" in text
    ok, text = hook_of(monkeypatch, connection_of(rgw, bucket="nowhere")).test_connection()
    assert not ok
    assert "bucket 'nowhere' does not exist" in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"part_size": 1}, "part_size"),
        ({"parts_at_once": 0}, "parts_at_once"),
        ({"addressing_style": "dns"}, "addressing_style"),
        ({"timeout": 0}, "timeout"),
        ({"ca_bundle": "/nowhere.pem"}, "ca_bundle|CA bundle"),
        ({"endpoint_url": "127.0.0.1:9000"}, "endpoint_url"),
    ],
)
def test_bad_settings_are_named(rgw, monkeypatch, change, text):
    hook = hook_of(monkeypatch, connection_of(rgw, **change))
    with pytest.raises(ConfigError, match=text):
        hook.check()


def test_an_address_without_a_bucket(rgw, monkeypatch):
    hook = hook_of(monkeypatch, connection_of(rgw, bucket=""))
    with pytest.raises(ConfigError, match="names a bucket") as caught:
        hook.store(parse("s3://lake@/key", field="dest"), field="dest")
    assert caught.value.field == "dest"
    assert hook.store(parse("s3://lake@raw/key")).bucket == "raw"


def test_credentials_come_from_the_official_hook_and_are_renewed(rgw, monkeypatch):
    """What the official hook's session has, goes out; when it changes, the next requests follow."""
    far, asked = Bucket(rgw), []
    hook = hook_of(monkeypatch, connection_of(rgw))
    hook.check()
    session = hook._official.get_session()
    monkeypatch.setattr(hook._official, "get_session", lambda: session)
    frozen = session.get_credentials().get_frozen_credentials

    class Renewing:
        def get_frozen_credentials(self):
            asked.append(threading.current_thread())
            return frozen() if len(asked) != 2 else frozen()._replace(secret_key="wrong")

    monkeypatch.setattr(session, "get_credentials", Renewing)

    async def act(store):
        await write(store, f"{far.root}/f", b"x")
        await write(store, f"{far.root}/g", b"x")
        assert len(asked) == 1  # and not for every request
        monkeypatch.setattr(s3_wire_requests, "_CACHE_SECONDS", 0.0)
        store.objects._credentials._cached_until = 0.0
        with pytest.raises(AccessDenied):
            await write(store, f"{far.root}/h", b"x")
        await asyncio.gather(*(write(store, f"{far.root}/{name}", b"x") for name in "ij"))

    with_store(hook.store(), act)
    assert threading.main_thread() not in asked
    assert far.names() == ["f", "g", "i", "j"]
