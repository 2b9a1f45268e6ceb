"""The Azure Blob store keeps the contract on Azurite, Microsoft's emulator, and tells its errors apart."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from hashlib import md5

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    MissingExtra,
    Throttled,
    TransientError,
    Unavailable,
)
from flowrunner_provider.files.config import AzureBlobConfig
from flowrunner_provider.files.hook import open_store
from flowrunner_provider.files.stores.azure_blob import AzureBlobStore
from flowrunner_provider.files.stores.azure_blob_account import account_of
from tests.contracts.store_contract import StoreContract, collect, write
from tests.files.clouds import azure_connection
from tests.support.azurite import ACCOUNT, KEY
from tests.support.chaos_proxy import Toxics
from tests.support.http_server import Reply
from tests.support.servers import HOST, free_port

pytestmark = pytest.mark.backend


class TestAzureBlob(StoreContract):
    @pytest.fixture
    def far(self, azurite):
        return azurite.container()

    @pytest.fixture
    def open_store(self, azurite, far):
        config = AzureBlobConfig(connection_string=azurite.connection_string, part_size=1)
        return lambda: AzureBlobStore(config, far.name)

    def test_blocks_of_two_tokens(self, run, far):
        """Whoever commits first drops the blocks of the other one, who is told that a retry helps."""

        async def test(store):
            one, two = await store.begin(f"{far.root}/f", "a"), await store.begin(f"{far.root}/f", "b")
            await one.write(b"1" * 1_500_000)
            await two.write(b"2" * 1_500_000)
            await asyncio.gather(one.sync(), two.sync())
            await one.commit()
            with pytest.raises(Unavailable, match="another writer"):
                await two.commit()
            again = await store.begin(f"{far.root}/f", "b")
            await again.write(b"2" * 1_500_000)
            await again.commit()

        run(test)
        assert far.get("f") == b"2" * 1_500_000
        assert far.uncommitted("f") == []

    def test_md5_is_kept(self, run, far):
        async def test(store):
            await write(store, f"{far.root}/f", b"x")

        run(test)
        assert bytes(far.properties("f").content_settings.content_md5) == md5(b"x").digest()

    def test_marker_of_a_folder(self, run, far):
        """As an account with a hierarchical namespace shows it."""
        far._client.upload_blob("base/d", b"", metadata={"hdi_isfolder": "true"})
        far.put("d/f", b"x")

        async def test(store):
            assert (await store.stat(f"{far.root}/d")).is_dir
            assert [(e.name, e.is_dir) async for e in store.list(far.root)] == [("d", True)]
            found = {(e.name, e.is_dir) async for e in store.list(far.root, recursive=True)}
            assert found == {("d", True), ("f", False)}

        run(test)


def config_of(azurite, **given):
    """The account by URL, without a connection string."""
    return AzureBlobConfig(host=azurite.url, login=ACCOUNT, part_size=1, timeout=5.0, conn_timeout=5.0, **given)


def using(config, container, test):
    async def body():
        async with asyncio.timeout(60), AzureBlobStore(config, container) as store:
            return await test(store)

    return asyncio.run(body())


async def put_and_get(store):
    await write(store, "/base/f", b"x" * 1_500_000)
    await store.copy_within("/base/f", "/base/g", replace=False)
    return len(await collect(store.read("/base/g")))


@pytest.mark.parametrize("field", ["password", "account_key", "shared_access_key"])
def test_a_key_in_each_field(azurite, field):
    assert using(config_of(azurite, **{field: KEY}), azurite.container().name, put_and_get) == 1_500_000


def test_a_sas_token_and_a_url_that_has_one(azurite):
    sas = azurite.sas()
    text = f"BlobEndpoint={azurite.url};SharedAccessSignature={sas}"
    for config in (
        config_of(azurite, sas_token=sas),
        config_of(azurite, sas_token=f"?{sas}"),
        AzureBlobConfig(connection_string=text),
    ):
        assert using(config, azurite.container().name, put_and_get) == 1_500_000


def refused(config, container="c-1"):
    with pytest.raises(FlowRunnerError) as caught:
        using(config, container, put_and_get)
    return caught.value


def test_a_bad_key(azurite):
    error = refused(config_of(azurite, password=b64encode(b"k" * 64).decode()), azurite.container().name)
    assert isinstance(error, AccessDenied)
    assert error.remedy


def test_a_key_that_is_none_is_not_sent():
    error = refused(AzureBlobConfig(login="x", password="no base64!"))
    assert isinstance(error, ConfigError)
    assert error.field == "password"


def test_a_tampered_and_an_expired_sas(azurite):
    container, sas = azurite.container().name, azurite.sas()
    tampered = re.sub(r"sig=[^&]{4}", "sig=AAAA", sas)
    for token in (tampered, azurite.sas(valid=timedelta(hours=-1))):
        error = refused(config_of(azurite, sas_token=token), container)
        assert isinstance(error, AccessDenied)
        assert token[-20:] not in str(error)


def test_a_sas_that_may_only_read(azurite):
    container = azurite.container()
    container.put("f", b"x")
    config = config_of(azurite, sas_token=azurite.sas(permission="rl"))

    async def test(store):
        assert await collect(store.read("/base/f")) == b"x"
        for act in (write(store, "/base/g", b"x"), write(store, "/base/g", b"x" * 1_500_000), store.delete("/base/f")):
            with pytest.raises(AccessDenied):
                await act

    using(config, container.name, test)
    assert container.names() == ["f"]


def test_a_container_that_is_not_there(azurite):
    error = refused(config_of(azurite, password=KEY), "nowhere")
    assert isinstance(error, ConfigError)
    assert error.field == "container"


def test_an_account_that_is_not_there():
    error = refused(AzureBlobConfig(host=f"http://127.0.0.1:{free_port()}/x", login="x", password=KEY, timeout=5.0))
    assert isinstance(error, ConnectionLost)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [(503, "ServerBusy", Throttled), (500, "InternalError", Unavailable), (403, "AuthorizationFailure", AccessDenied)],
)
def test_what_the_service_answers(http_server, status, code, kind):
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()
    http_server.route("GET", "/x/c-1", Reply(status, body, {"x-ms-error-code": code}))
    config = AzureBlobConfig(host=f"{http_server.url}/x", login="x", password=KEY)

    async def first(store):
        await anext(store.pages("", delimited=True))

    with pytest.raises(kind):
        using(config, "c-1", first)


def test_cut_connections(azurite, chaos):
    container = azurite.container()
    container.put("f", os.urandom(3_000_000))
    proxy = chaos(HOST, azurite.server.port)
    config = config_of(azurite, password=KEY)
    config = replace(config, host=azurite.url.replace(str(azurite.server.port), str(proxy.port)))

    async def test(store):
        proxy.toxics = Toxics(cut_down=200_000, rst=True)
        with pytest.raises(TransientError):
            await collect(store.read("/base/f"))
        proxy.toxics = Toxics(cut_up=300_000, rst=True)
        proxy.drop_all()
        with pytest.raises(TransientError):
            await write(store, "/base/g", b"x" * 1_500_000)

    using(config, container.name, test)
    assert container.names() == ["f"]


ACCOUNTS = [
    ({"login": "acme"}, "acme", "https://acme.blob.core.windows.net"),
    ({"login": "acme", "host": "acme.blob.core.chinacloudapi.cn"}, "acme", "https://acme.blob.core.chinacloudapi.cn"),
    ({"login": "acme", "host": "https://files.acme.com/"}, "acme", "https://files.acme.com"),
    ({"login": "app", "host": "https://acme.blob.core.windows.net", "tenant_id": "t"}, "acme", None),
    ({"sas_token": "https://acme.blob.core.windows.net/?sv=1&sig=s"}, "acme", "https://acme.blob.core.windows.net"),
    ({"connection_string": f"AccountName=acme;AccountKey={KEY};EndpointSuffix=x.y"}, "acme", "https://acme.blob.x.y"),
]


@pytest.mark.parametrize(("given", "name", "url"), ACCOUNTS)
def test_which_account(given, name, url):
    account = account_of(AzureBlobConfig(**given))
    assert (account.name, account.url) == (name, url or "https://acme.blob.core.windows.net")
    assert KEY not in repr(account)


@pytest.mark.parametrize("given", [{}, {"connection_string": "nothing"}, {"password": KEY}])
def test_no_account(given):
    with pytest.raises(ConfigError) as caught:
        account_of(AzureBlobConfig(**given))
    assert caught.value.remedy


def test_connection_test(azurite, monkeypatch):
    from flowrunner_provider.files.hooks.azure_blob import FlowRunnerAzureBlobHook

    container = azurite.container()
    for options, text in (({"container": container.name}, container.name), ({}, "answers")):
        monkeypatch.setenv("AIRFLOW_CONN_BLOBS", azure_connection(azurite.connection_string, **options))
        ok, message = FlowRunnerAzureBlobHook("blobs").test_connection()
        assert ok, message
        assert text in message


BAD = [
    ("wasb://nowhere@c/x", {}, "nowhere"),
    ("wasb://blobs@/x", {"conn_type": "wasb", "login": "a"}, "container"),
    ("wasb://blobs@c/x", {"conn_type": "sftp", "host": "h"}, "wasb"),
    ("wasb://blobs@c/x", {"conn_type": "wasb", "extra": {"flowrunner": {"part_size": 0}}}, "part_size"),
    ("wasb://blobs@c/x", {"conn_type": "wasb", "extra": {"flowrunner": {"part": 1}}}, "part"),
    ("wasb://blobs@c/x", {"conn_type": "wasb", "extra": {"client_secret_auth_config": "{"}}, "client_secret_auth"),
    ("wasb://blobs@c/x", {"conn_type": "wasb", "extra": {"client_secret_auth_config": "[]"}}, "client_secret_auth"),
]


@pytest.mark.parametrize(("uri", "connection", "text"), BAD)
def test_bad_input(monkeypatch, uri, connection, text):
    monkeypatch.setenv("AIRFLOW_CONN_BLOBS", json.dumps(connection or {"conn_type": "wasb"}))
    with pytest.raises(ConfigError) as caught:
        open_store(uri)
    assert text in str(caught.value)
    assert caught.value.field


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "azure.storage.blob.aio", None)
    error = refused(AzureBlobConfig(login="x", password=KEY))
    assert isinstance(error, MissingExtra)
    assert error.extra == "azure"
