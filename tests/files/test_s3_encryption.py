"""Encryption on the server's side: asked for with all that is written, and ETags that are no MD5 are not compared."""

from __future__ import annotations

import asyncio

import pytest

from flowrunner_provider.core.errors import ConfigError, IntegrityError
from flowrunner_provider.files.config import S3Config
from flowrunner_provider.files.stores import s3_copy
from flowrunner_provider.files.stores.s3_objects import Stored
from tests.contracts.store_contract import collect, write
from tests.files.s3 import PART, Bucket, store_of


def encryption(far: Bucket, name: str) -> tuple[str, str]:
    """How an object is kept, and with which key."""
    about = far.client.head_object(Bucket=far.name, Key=f"{far.prefix}/{name}")
    return about["ServerSideEncryption"], about["SSEKMSKeyId"]


KMS = {"server_side_encryption": "aws:kms", "kms_key_id": "key-1"}


@pytest.mark.backend
@pytest.mark.parametrize("size", [10, PART + 1, 2 * PART])
def test_what_is_written_is_encrypted_with_the_key(rgw, size):
    far = Bucket(rgw)
    data = bytes(range(256)) * (size // 256 + 1)

    async def body() -> None:
        async with asyncio.timeout(60), store_of(rgw.endpoint, **KMS) as store:
            await write(store, f"{far.root}/f", data)
            assert await collect(store.read(f"{far.root}/f")) == data

    asyncio.run(body())
    assert encryption(far, "f") == ("aws:kms", "key-1")
    assert far.get("f") == data
    assert far.names() == ["f"]


@pytest.mark.backend
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_copy_is_encrypted_with_the_key(moto, monkeypatch, in_parts):
    """On moto: Ceph copies nothing that is encrypted."""
    if in_parts:
        monkeypatch.setattr(s3_copy, "ONE_REQUEST", 1)
    far = Bucket(moto)
    far.put("f", b"data")

    async def body() -> None:
        async with asyncio.timeout(60), store_of(moto.endpoint, **KMS) as store:
            await store.copy_within(f"{far.root}/f", f"{far.root}/g")

    asyncio.run(body())
    assert encryption(far, "g") == ("aws:kms", "key-1")
    assert far.get("g") == b"data"


@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
@pytest.mark.parametrize("kind", ["", "AES256", "aws:kms", "aws:kms:dsse"])
def test_only_without_kms_an_etag_is_a_checksum(kind, checksums):
    """It is looked at, too, after a CRC-32 that the server did not take notice of."""
    store = store_of("http://127.0.0.1:1", server_side_encryption=kind, request_checksum_calculation=checksums)
    proof, stored = store.proof(b"data"), Stored(etag=f'"{"0" * 32}"', crc32="")
    store.verify_stored(b"data", proof, Stored(etag='"8d777f385d3dfec8815d20f7496026dc"', crc32=""))
    store.verify_stored(b"data", proof, Stored(etag="opaque", crc32=""))
    if kind.startswith("aws:kms"):
        store.verify_stored(b"data", proof, stored)
        return
    with pytest.raises(IntegrityError, match="other bytes than were sent") as caught:
        store.verify_stored(b"data", proof, stored)
    assert "KMS" in caught.value.remedy


def test_a_crc_that_is_repeated_must_be_ours():
    store = store_of("http://127.0.0.1:1", request_checksum_calculation="when_supported")
    proof = store.proof(b"data")
    store.verify_stored(b"data", proof, Stored(etag=f'"{"0" * 32}"', crc32=proof.crc32))
    with pytest.raises(IntegrityError, match="other bytes than were sent"):
        store.verify_stored(b"data", proof, Stored(etag="", crc32="AAAAAA=="))


def test_a_key_without_its_encryption_is_refused():
    with pytest.raises(ConfigError) as caught:
        S3Config(kms_key_id="key-1", server_side_encryption="AES256")
    assert caught.value.field == "kms_key_id"
