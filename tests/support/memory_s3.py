"""A small S3 server that keeps everything in memory and is quick enough to show what its clients cost.

It speaks what boto3, obstore and rclone say here: buckets, objects with ranges and conditions, listings, uploads in
parts, deletions. CRC-32 and MD5 that come along are compared; nobody's signature is. With ``--trusting``, for
benchmarks, it believes MD5s and leaves out those that nobody asked for, as a server with machines of its own would
seem to.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import time
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from hashlib import md5
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote_plus, unquote
from xml.sax.saxutils import escape

from tests.support.rgw import S3Server
from tests.support.servers import HOST, Server, greets

__all__ = ["memory_s3"]

HEAD, ROOM, MOST = 64 * 1024, 256 * 1024, 1024 * 1024
PAGE = 1_000
Headers = dict[str, str]
Answer = tuple[int, Headers, Sequence[bytes | memoryview]]


@contextmanager
def memory_s3(directory: Path, *options: str) -> Iterator[S3Server]:
    """Run the server for the block; ``directory`` gets its log."""
    with Server(
        "memory_s3",
        lambda port: [sys.executable, "-m", __name__, str(port), *options],
        ready=lambda port: greets(port, b"HTTP/1.", say=b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        log=directory / "memory_s3.log",
    ) as server:
        yield S3Server(server)


@dataclass(slots=True)
class Stored:
    """An object, or a part of one: its bytes are those of its pieces."""

    pieces: list[bytearray]
    etag: str
    modified: float = field(default_factory=time.time)
    meta: Headers = field(default_factory=dict)

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))

    def cut(self, start: int, end: int) -> list[bytes | memoryview]:
        found: list[bytes | memoryview] = []
        for piece in self.pieces:
            if start < len(piece) and end > 0:
                found.append(memoryview(piece)[max(0, start) : end])
            start, end = start - len(piece), end - len(piece)
        return found


@dataclass(slots=True)
class Upload:
    bucket: str
    key: str
    algorithm: str
    meta: Headers
    begun: float = field(default_factory=time.time)
    parts: dict[int, Stored] = field(default_factory=dict)


class Refused(Exception):
    def __init__(self, status: int, code: str) -> None:
        self.status, self.code = status, code


class Storage:
    """All buckets, and what can be asked of them."""

    def __init__(self, trusting: bool) -> None:
        self.trusting = trusting
        self.buckets: dict[str, dict[str, Stored]] = {}
        self.uploads: dict[str, Upload] = {}
        self.numbers = itertools.count(1)

    def answer(self, method: str, target: str, headers: Headers, body: bytearray) -> Answer:
        path, _, question = target.partition("?")
        query = dict(parse_qsl(question, keep_blank_values=True))
        bucket, _, key = unquote(path).removeprefix("/").partition("/")
        if "aws-chunked" in headers.get("content-encoding", "") or headers.get("x-amz-content-sha256", "").startswith(
            "STREAMING"
        ):
            body = unchunked(body)
        try:
            if not bucket:
                names = "".join(f"<Bucket><Name>{name}</Name></Bucket>" for name in self.buckets)
                return xml(f"<ListAllMyBucketsResult><Buckets>{names}</Buckets></ListAllMyBucketsResult>")
            if not key:
                return self.bucket(method, bucket, query, body)
            if bucket not in self.buckets:
                raise Refused(404, "NoSuchBucket")
            if "uploadId" in query or "uploads" in query:
                return self.parts(method, bucket, key, query, headers, body)
            return self.object(method, bucket, key, headers, body)
        except Refused as error:
            return xml(f"<Error><Code>{error.code}</Code><Message>no</Message></Error>", error.status)

    # -- buckets

    def bucket(self, method: str, bucket: str, query: Headers, body: bytearray) -> Answer:
        if method == "PUT":
            self.buckets.setdefault(bucket, {})
            return 200, {}, []
        if bucket not in self.buckets:
            raise Refused(404, "NoSuchBucket")
        if method == "HEAD":
            return 200, {"x-amz-bucket-region": "us-east-1"}, []
        if "delete" in query:
            for key in re.findall(r"<Key>(.*?)</Key>", body.decode()):
                self.buckets[bucket].pop(unescape(key), None)
            return xml("<DeleteResult/>")
        if "uploads" in query:
            return self.unfinished(bucket, query.get("prefix", ""))
        return self.listing(bucket, query)

    def listing(self, bucket: str, query: Headers) -> Answer:
        prefix, delimiter, most = query.get("prefix", ""), query.get("delimiter", ""), int(query.get("max-keys", PAGE))
        after = query.get("continuation-token") or query.get("start-after") or query.get("marker") or ""
        write = partial(quote_plus, safe="/") if query.get("encoding-type") == "url" else escape  # as AWS does
        found = self.buckets[bucket]
        rows: list[str] = []
        folders: dict[str, None] = {}
        last, more = "", False
        for key in sorted(key for key in found if key.startswith(prefix) and key > after):
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            folder = key[: cut + 1] if cut >= 0 else ""
            if folder and (folder in folders or after.startswith(folder)):
                continue
            if len(rows) + len(folders) == most:
                more = True
                break
            last = key
            if folder:
                folders[folder], last = None, f"{folder}\U0010ffff"
                continue
            item = found[key]
            rows.append(
                f"<Contents><Key>{write(key)}</Key><LastModified>{iso(item.modified)}</LastModified><ETag>&quot;"
                f"{item.etag}&quot;</ETag><Size>{item.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
        rows += [f"<CommonPrefixes><Prefix>{write(name)}</Prefix></CommonPrefixes>" for name in folders]
        next_one = ("NextContinuationToken", escape(last)) if "list-type" in query else ("NextMarker", write(last))
        token = f"<{next_one[0]}>{next_one[1]}</{next_one[0]}>" if more else ""
        encoding = f"<EncodingType>{query['encoding-type']}</EncodingType>" if "encoding-type" in query else ""
        return xml(
            f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{bucket}</Name>'
            f"<Prefix>{write(prefix)}</Prefix><KeyCount>{len(rows)}</KeyCount><MaxKeys>{most}</MaxKeys>{encoding}"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(rows)}</ListBucketResult>"
        )

    # -- objects

    def object(self, method: str, bucket: str, key: str, headers: Headers, body: bytearray) -> Answer:
        there = self.buckets[bucket]
        if method == "PUT":
            if headers.get("if-none-match") == "*" and key in there:
                raise Refused(412, "PreconditionFailed")
            made, said = self.stored(headers, body)
            made.meta = metadata(headers)
            there[key] = made
            return 200, said, []
        if method == "DELETE":
            there.pop(key, None)
            return 204, {}, []
        item = there.get(key)
        if item is None:
            raise Refused(404, "NoSuchKey")
        wanted = headers.get("if-match", "*").strip('"')
        if wanted not in ("*", item.etag):
            raise Refused(412, "PreconditionFailed")
        about = {
            "ETag": f'"{item.etag}"', "Last-Modified": formatdate(item.modified, usegmt=True),
            "Accept-Ranges": "bytes", "Content-Type": "binary/octet-stream", **item.meta,
        }  # fmt: skip
        size = item.size
        if method == "HEAD":
            return 200, {**about, "Content-Length": str(size)}, []
        if "range" not in headers:
            return 200, about, item.pieces
        first, _, last = headers["range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1 if last else size, size)
        if start >= size:
            raise Refused(416, "InvalidRange")
        return 206, {**about, "Content-Range": f"bytes {start}-{end - 1}/{size}"}, item.cut(start, end)

    def stored(self, headers: Headers, body: bytearray) -> tuple[Stored, Headers]:
        """What was sent, if its checksums are right, and what is said about it."""
        said: Headers = {}
        sent = headers.get("x-amz-checksum-crc32")
        if sent is not None:
            if sent != b64encode(zlib.crc32(body).to_bytes(4, "big")).decode():
                raise Refused(400, "BadDigest")
            said["x-amz-checksum-crc32"] = sent
        given = headers.get("content-md5")
        if self.trusting and (given or len(body) > MOST):
            etag = b64decode(given).hex() if given else f"{next(self.numbers):x}-opaque"
        else:
            etag = md5(body, usedforsecurity=False).hexdigest()
            if given and b64decode(given).hex() != etag:
                raise Refused(400, "BadDigest")
        return Stored([body], etag), {**said, "ETag": f'"{etag}"'}

    # -- uploads in parts

    def parts(self, method: str, bucket: str, key: str, query: Headers, headers: Headers, body: bytearray) -> Answer:
        if "uploads" in query:
            name, algorithm = f"u{next(self.numbers):06}", headers.get("x-amz-checksum-algorithm", "")
            self.uploads[name] = Upload(bucket, key, algorithm, metadata(headers))
            return xml(
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>",
                **({"x-amz-checksum-algorithm": algorithm} if algorithm else {}),
            )
        upload = self.uploads.get(query["uploadId"])
        if upload is None:
            raise Refused(404, "NoSuchUpload")
        if method == "PUT":
            if bool(upload.algorithm) != ("x-amz-checksum-crc32" in headers):
                raise Refused(400, "InvalidRequest")
            part, said = self.stored(headers, body)
            part.meta = {"checksum": said.get("x-amz-checksum-crc32", "")}
            upload.parts[int(query["partNumber"])] = part
            return 200, said, []
        if method == "GET":
            return self.listed(upload)
        if method == "DELETE":
            del self.uploads[query["uploadId"]]
            return 204, {}, []
        return self.completed(upload, query["uploadId"], headers, body.decode())

    def listed(self, upload: Upload) -> Answer:
        rows = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{part.etag}&quot;</ETag><Size>{part.size}</Size>"
            f"<LastModified>{iso(part.modified)}</LastModified>"
            + (f"<ChecksumCRC32>{part.meta['checksum']}</ChecksumCRC32>" if part.meta["checksum"] else "")
            + "</Part>"
            for number, part in sorted(upload.parts.items())
        )
        algorithm = f"<ChecksumAlgorithm>{upload.algorithm}</ChecksumAlgorithm>" if upload.algorithm else ""
        return xml(f"<ListPartsResult>{algorithm}<IsTruncated>false</IsTruncated>{rows}</ListPartsResult>")

    def completed(self, upload: Upload, name: str, headers: Headers, text: str) -> Answer:
        there = self.buckets[upload.bucket]
        if headers.get("if-none-match") == "*" and upload.key in there:
            raise Refused(412, "PreconditionFailed")
        whole = Stored([], "", meta=upload.meta)
        etags = []
        for row in re.findall(r"<Part>(.*?)</Part>", text, re.DOTALL):
            said = dict(re.findall(r"<(\w+)>([^<]*)<", row))
            part = upload.parts.get(int(said["PartNumber"]))
            etag = unescape(said["ETag"]).strip('"')
            if part is None or part.etag != etag or said.get("ChecksumCRC32", "") != part.meta["checksum"]:
                raise Refused(400, "InvalidPart")
            whole.pieces += part.pieces
            etags.append(etag)
        sums = b"".join(bytes.fromhex(etag) if len(etag) == 32 else etag.encode() for etag in etags)
        whole.etag = f"{md5(sums, usedforsecurity=False).hexdigest()}-{len(etags)}"
        there[upload.key] = whole
        del self.uploads[name]
        return xml(
            f"<CompleteMultipartUploadResult><Bucket>{upload.bucket}</Bucket><Key>{escape(upload.key)}</Key>"
            f"<ETag>&quot;{whole.etag}&quot;</ETag></CompleteMultipartUploadResult>"
        )

    def unfinished(self, bucket: str, prefix: str) -> Answer:
        rows = "".join(
            f"<Upload><Key>{escape(upload.key)}</Key><UploadId>{name}</UploadId><Initiator><ID>one</ID></Initiator>"
            f"<Initiated>{iso(upload.begun)}</Initiated></Upload>"
            for name, upload in self.uploads.items()
            if upload.bucket == bucket and upload.key.startswith(prefix)
        )
        return xml(f"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{rows}</ListMultipartUploadsResult>")


class Connection(asyncio.BufferedProtocol):
    """HTTP/1.1; a body is received where it is kept."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.head, self.room = bytearray(), memoryview(bytearray(ROOM))
        self.body: bytearray | None = None
        self.got = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.room if self.body is None else memoryview(self.body)[self.got :]

    def buffer_updated(self, nbytes: int) -> None:
        if self.body is None:
            self.head += self.room[:nbytes]
        else:
            self.got += nbytes
        while self.step():
            pass

    def step(self) -> bool:
        if self.body is None:
            text, end, rest = self.head.partition(b"\r\n\r\n")
            if not end:
                return False
            first, *lines = text.decode("latin-1").split("\r\n")
            self.method, self.target, _ = first.split(" ", 2)
            self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            size = int(self.headers.get("content-length") or 0)
            self.body, self.got, self.head = bytearray(size), min(size, len(rest)), rest[size:]
            self.body[: self.got] = rest[: self.got]
            if self.headers.get("expect") and not self.got:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.got < len(self.body):
            return False
        body, self.body = self.body, None
        self.reply(*self.storage.answer(self.method, self.target, self.headers, body))
        return bool(self.head)

    def reply(self, status: int, headers: Headers, body: Sequence[bytes | memoryview]) -> None:
        lines = {"Content-Length": str(sum(map(len, body))), "Server": "memory", **headers}
        if self.method == "HEAD":
            body = []
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.transport.writelines([f"HTTP/1.1 {status} X\r\n{head}\r\n".encode("latin-1"), *body])
        if self.headers.get("connection") == "close":
            self.transport.close()


def xml(text: str, status: int = 200, **headers: str) -> Answer:
    return status, {"Content-Type": "application/xml", **headers}, [f'<?xml version="1.0"?>\n{text}'.encode()]


def iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


def metadata(headers: Headers) -> Headers:
    return {name: value for name, value in headers.items() if name.startswith("x-amz-meta-")}


def unchunked(body: bytearray) -> bytearray:
    """The content of a body in the encoding ``aws-chunked``."""
    found, at = bytearray(), 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].partition(b";")[0], 16)
        if not size:
            return found
        found += memoryview(body)[end + 2 : end + 2 + size]
        at = end + 2 + size + 2


async def serve(port: int, trusting: bool) -> None:
    storage = Storage(trusting)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(storage), HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), "--trusting" in sys.argv))
