"""Parts of objects: their lengths, the checksums that travel with them, and what a later attempt takes up."""

from __future__ import annotations

import asyncio
import os
import zlib
from base64 import b64encode
from typing import Any

import pytest

from flowrunner_provider.core.errors import IntegrityError, PermanentError, Unavailable
from flowrunner_provider.files.config import S3Config
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores import object_upload, s3, s3_bucket, s3_parts
from flowrunner_provider.files.stores.object_upload import part_lengths
from flowrunner_provider.files.stores.s3 import S3Store, S3Target
from flowrunner_provider.files.stores.s3_body import Body, PiecesBody
from flowrunner_provider.files.stores.s3_copy import copy_object
from flowrunner_provider.files.stores.s3_objects import Proof, Stored
from flowrunner_provider.files.stores.s3_parts import S3Parts
from flowrunner_provider.files.stores.s3_uploads import ClientUploads
from flowrunner_provider.files.stores.s3_wire_uploads import WireUploads
from tests.files.s3 import PART, Bucket, session, store_of
from tests.support.memory_s3 import memory_s3

MIB = 1024 * 1024
TIB = MIB * MIB


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with memory_s3(tmp_path_factory.mktemp("memory_s3")) as found:
        yield found


@pytest.fixture
def bucket(server):
    return Bucket(server)


def put(store, path, data, *, commit=True, size=None):
    """Write ``data`` in pieces that fit no part."""

    async def act():
        async with store:
            upload = await store.begin(path, "token", size=size)
            for at in range(0, len(data), 999_999):
                await upload.write(data[at : at + 999_999])
            await upload.sync()
            assert await upload.size() == upload.offset == len(data)
            if commit:
                await upload.commit()
            await upload.close()

    asyncio.run(act())


@pytest.fixture(params=["ours", "boto3"])
def uploads(request, monkeypatch):
    """Who makes the requests: connections of our own, or boto3 where only that knows the way."""
    if request.param == "boto3":
        monkeypatch.setattr(s3_bucket, "bucket_address", lambda *_: None)
        return ClientUploads
    return WireUploads


def sent(monkeypatch, uploads):
    """The proofs of the parts that are sent from now on."""
    seen = []
    send = uploads.send

    async def watched(self, what, key, upload, number, data, proof):
        seen.append(proof)
        return await send(self, what, key, upload, number, data, proof)

    monkeypatch.setattr(uploads, "send", watched)
    return seen


# -- lengths


@pytest.mark.parametrize(("first", "most"), [(5 * MIB, 10_000), (16 * MIB, 10_000), (8 * MIB, 50_000)])
def test_parts_of_an_unknown_size_suffice_for_5_tib(first, most):
    length = part_lengths(first, most, None)
    lengths = [length(number) for number in range(1, most + 1)]
    assert sum(lengths) >= 5 * TIB
    assert lengths[0] == first
    assert lengths == sorted(lengths)
    assert lengths[-1] < 5 * 1024 * MIB  # the longest part that S3 takes
    assert sum(lengths[:600]) < 1.5 * 600 * first  # and no memory is spent on what is small


@pytest.mark.parametrize("size", [0, 1, 16 * MIB * 10_000, 16 * MIB * 10_000 + 1, 5 * TIB])
def test_parts_of_a_known_size_are_equally_long(size):
    length = part_lengths(16 * MIB, 10_000, size)
    assert length(1) == length(10_000) >= 16 * MIB
    assert length(1) * 10_000 >= size
    assert size > 16 * MIB * 10_000 or length(1) == 16 * MIB


def test_an_unknown_size_outgrows_the_first_length(bucket, monkeypatch):
    monkeypatch.setattr(s3, "MAX_PARTS", 5)
    monkeypatch.setattr(s3_parts, "MAX_PARTS", 5)
    monkeypatch.setattr(object_upload, "LARGEST", 40 * MIB)
    data = os.urandom(8 * PART)
    put(store_of(bucket.endpoint), f"{bucket.root}/grown", data)
    assert bucket.get("grown") == data
    with pytest.raises(PermanentError, match="more than 5 parts"):
        put(store_of(bucket.endpoint), f"{bucket.root}/too-large", data * 4)


def test_a_later_attempt_finds_parts_that_have_grown(bucket, monkeypatch, uploads):
    monkeypatch.setattr(s3, "MAX_PARTS", 5)
    monkeypatch.setattr(object_upload, "LARGEST", 40 * MIB)
    data = os.urandom(7 * PART)
    put(store_of(bucket.endpoint), f"{bucket.root}/grown", data, commit=False)
    sizes = [size for _, size in bucket.parts()]
    assert sizes == sorted(sizes)
    assert sizes[0] == PART < sizes[-1]
    seen = sent(monkeypatch, uploads)
    put(store_of(bucket.endpoint), f"{bucket.root}/grown", data)
    assert len(seen) == 1  # the last one, which was in memory
    assert bucket.get("grown") == data
    assert bucket.unfinished() == []


@pytest.mark.parametrize(("objects", "expected"), [(1, 2), (2, 3), (5, 6)])
def test_only_so_much_travels_at_once(monkeypatch, objects, expected):
    monkeypatch.setattr(object_upload, "MEMORY", 25)
    under_way, most = object_upload.InFlight(), 0

    class Slow:
        at_once = 64

        def length(self, number):
            return 10

        async def start(self):
            pass

        async def send(self, number, pieces):
            nonlocal most
            most = max(most, under_way.bytes)
            for _ in range(3):
                await asyncio.sleep(0)

    async def never(data, *, replace):
        raise AssertionError("what is large is not put in one request")

    async def act():
        upload = object_upload.ObjectUpload(never, Slow(), under_way)
        await upload.write(b"x" * 205)
        await upload.sync()
        assert upload.offset == 205

    async def all_of_them():
        await asyncio.gather(*(act() for _ in range(objects)))

    asyncio.run(all_of_them())
    assert (most, under_way.bytes) == (10 * expected, 0)


# -- checksums


def test_a_crc_goes_along_where_the_server_compares_it(bucket, monkeypatch, uploads):
    seen, data = sent(monkeypatch, uploads), os.urandom(2 * PART + 7)
    put(store_of(bucket.endpoint, request_checksum_calculation="when_supported"), f"{bucket.root}/crc", data)
    assert bucket.get("crc") == data
    assert sorted(seen) == sorted(
        Proof(crc32=b64encode(zlib.crc32(data[at : at + PART]).to_bytes(4, "big")).decode())
        for at in range(0, len(data), PART)
    )


def test_an_md5_goes_along_where_the_server_does_not_know_crcs(rgw, monkeypatch, uploads):
    ceph, data = Bucket(rgw), os.urandom(PART + 7)
    seen = sent(monkeypatch, uploads)
    put(store_of(ceph.endpoint, request_checksum_calculation="when_supported"), f"{ceph.root}/md5", data)
    assert ceph.get("md5") == data
    assert len(seen) == 2
    assert all(proof.md5 and not proof.crc32 for proof in seen)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, True),
        ({"endpoint_url": "https://minio.example"}, False),
        ({"endpoint_url": "https://minio.example", "request_checksum_calculation": "when_supported"}, True),
        ({"request_checksum_calculation": "when_required"}, False),
    ],
)
def test_who_is_asked_for_crcs(options, wanted):
    assert S3Store(S3Target(bucket="b", config=S3Config(**options), session=session)).wants_crc is wanted


def test_a_damaged_part_is_refused(bucket, monkeypatch, uploads):
    monkeypatch.setattr(Body, "crc32", lambda body: 1)
    with pytest.raises(Unavailable, match="damaged in transit"):
        put(
            store_of(bucket.endpoint, request_checksum_calculation="when_supported"),
            f"{bucket.root}/k",
            bytes(2 * PART),
        )
    assert bucket.names() == ["k (unfinished)"]


def test_an_answer_without_the_checksum_is_no_proof(bucket, monkeypatch, uploads):
    send = uploads.send

    async def forgetful(self, *arguments):
        return (await send(self, *arguments))._replace(crc32="")

    monkeypatch.setattr(uploads, "send", forgetful)
    with pytest.raises(IntegrityError, match="other bytes than were sent"):
        put(
            store_of(bucket.endpoint, request_checksum_calculation="when_supported"),
            f"{bucket.root}/k",
            bytes(2 * PART),
        )


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        ("when_supported", "when_supported", 1),
        ("when_required", "when_supported", 3),
        ("when_supported", "when_required", 3),
    ],
)
def test_parts_are_taken_up_if_they_have_checksums_of_our_kind(bucket, monkeypatch, uploads, before, after, again):
    data = os.urandom(2 * PART + 7)
    put(store_of(bucket.endpoint, request_checksum_calculation=before), f"{bucket.root}/k", data, commit=False)
    seen = sent(monkeypatch, uploads)
    put(store_of(bucket.endpoint, request_checksum_calculation=after), f"{bucket.root}/k", data)
    assert len(seen) == again
    assert bucket.get("k") == data
    assert bucket.unfinished() == []


def test_a_part_with_a_crc_is_not_signed_too_over_tls():
    signed = []
    client = S3Target(bucket="b", config=S3Config(region_name="us-east-1"), session=session).client(session())

    def stop(request, **_):
        signed.append(request.headers["X-Amz-Content-SHA256"])
        raise KeyboardInterrupt

    client.meta.events.register("before-send.s3", stop)
    for proof in ({"ChecksumCRC32": "AAAAAA=="}, {"ContentMD5": "1B2M2Y8AsgTpgAmY7PhCfg=="}, {}):
        with pytest.raises(KeyboardInterrupt):
            client.upload_part(Bucket="b", Key="k", PartNumber=1, UploadId="u", Body=PiecesBody([b"abc"]), **proof)
    assert [text.decode() if isinstance(text, bytes) else text for text in signed[:2]] == ["UNSIGNED-PAYLOAD"] * 2
    assert len(signed[2]) == 64


@pytest.mark.parametrize("said", [Stored("", "crc"), Stored('"e"', ""), Stored('"e"', "AAAAAA==")])
def test_a_part_is_there_when_the_answer_proves_it(bucket, monkeypatch, uploads, said):
    async def send(self, what, key, upload, number, data, proof):
        return said._replace(crc32=proof.crc32 if said.crc32 == "crc" else said.crc32)

    monkeypatch.setattr(uploads, "send", send)
    with pytest.raises(IntegrityError, match="other bytes than were sent"):
        put(
            store_of(bucket.endpoint, request_checksum_calculation="when_supported"),
            f"{bucket.root}/k",
            bytes(2 * PART),
        )


# -- requests


def test_boto3_makes_no_client_for_a_large_object(bucket, monkeypatch):
    """Which takes longer than many a task."""

    def client(self, *_, **__):
        raise AssertionError("not needed")

    data = os.urandom(2 * PART + 7)
    monkeypatch.setattr(S3Target, "client", client)
    put(store_of(bucket.endpoint), f"{bucket.root}/k", data, commit=False)
    put(store_of(bucket.endpoint), f"{bucket.root}/k", data[:PART] + bytes(PART))
    assert bucket.get("k") == data[:PART] + bytes(PART)
    assert bucket.unfinished() == []


@pytest.mark.backend
@pytest.mark.parametrize(
    ("far", "name"),
    [
        (far, name)
        for far in ("rgw", "moto")
        for name in ("a b+c", "%41%2F", "\u00e9\U0001f600", "<&>\"'", "d//e", "x" * 900)
    ]
    + [("rgw", "n\nl")],
)
def test_parts_of_odd_keys_are_taken_up(request, monkeypatch, uploads, far, name):
    there, data = Bucket(request.getfixturevalue(far)), bytes(PART + 7)
    put(store_of(there.endpoint), f"{there.root}/{name}", data, commit=False)
    seen = sent(monkeypatch, uploads)
    put(store_of(there.endpoint), f"{there.root}/{name}", data)
    assert len(seen) == 1  # what was in memory
    assert there.get(name) == data
    assert there.names() == [name]


class Copying:
    """A client that copies nothing, and notes which ranges it was asked for."""

    def __init__(self) -> None:
        self.ranges: list[tuple[int, int, int]] = []

    async def call(self, what: str, operation: str, **arguments: Any) -> dict[str, Any]:
        if operation == "upload_part_copy":
            first, _, last = arguments["CopySourceRange"].removeprefix("bytes=").partition("-")
            self.ranges.append((arguments["PartNumber"], int(first), int(last)))
        return {"UploadId": "u", "CopyPartResult": {"ETag": "e"}}


@pytest.mark.parametrize("tib", [1, 5])
def test_an_object_of_any_size_is_copied_in_no_more_parts_than_s3_takes(monkeypatch, tib):
    async def leave_nothing(self: S3Parts) -> None: ...

    monkeypatch.setattr(S3Parts, "abort", leave_nothing)
    store, client, size = store_of("http://127.0.0.1:9"), Copying(), tib << 40
    store._client, store._uploads = client, client
    asyncio.run(
        copy_object(
            store, "a", "b", replace=True, source=Entry(path="/a", name="a", size=size, modified=None, version="v")
        )
    )
    numbers, firsts, lasts = zip(*sorted(client.ranges), strict=True)
    assert [*numbers] == [*range(1, len(numbers) + 1)]
    assert len(numbers) <= 10_000
    assert [0, *(last + 1 for last in lasts)] == [*firsts, size]


# -- listings


NAMES = ["a", "b c", "d/e", "\u00e9<&>\"'", "%41", "+", "x" * 900]


def test_a_page_is_read_as_botocore_reads_it(bucket, monkeypatch):
    for name in NAMES:
        bucket.put(name, name.encode())
    store = store_of(bucket.endpoint)
    plain = session().client("s3", endpoint_url=bucket.endpoint, region_name="us-east-1")
    ours = store._target.client(session(), region="us-east-1")
    for more in ({}, {"Delimiter": "/"}, {"MaxKeys": 2}, {"Prefix": "nothing"}):
        question = {"Bucket": bucket.name, "Prefix": f"{bucket.prefix}/", **more}
        expected, found = plain.list_objects_v2(**question), ours.list_objects_v2(**question)
        assert [row["Prefix"] for row in found["CommonPrefixes"]] == [
            row["Prefix"] for row in expected.get("CommonPrefixes", [])
        ]
        assert [(row["Key"], row["Size"], row["LastModified"], row["ETag"]) for row in found["Contents"]] == [
            (row["Key"], row["Size"], row["LastModified"], row["ETag"]) for row in expected.get("Contents", [])
        ]
        assert found["IsTruncated"] == expected["IsTruncated"]
        assert found["NextContinuationToken"] == expected.get("NextContinuationToken", "")
