"""The connections to one bucket of S3 or a compatible server (AWS, Ceph, MinIO, R2 and others), and its settings.

Requests use our own HTTP connections. Copies, and buckets that only boto3 can address, use its low-level client in
threads.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

from flowrunner_provider.core.errors import AccessDenied, ConfigError, MissingCredential, NotFound
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.retry import Backoff, RetryPlan
from flowrunner_provider.files.config import S3Config
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.object_bucket import Bucket, refuse_odd
from flowrunner_provider.files.stores.s3_client import THREADS, S3Client, S3Target, client_errors
from flowrunner_provider.files.stores.s3_objects import ClientObjects, S3Objects
from flowrunner_provider.files.stores.s3_uploads import ClientUploads, S3Uploads
from flowrunner_provider.files.stores.s3_wire_address import BucketAddress, bucket_address, tls_context
from flowrunner_provider.files.stores.s3_wire_blocking_pool import BlockingPool
from flowrunner_provider.files.stores.s3_wire_objects import WireObjects
from flowrunner_provider.files.stores.s3_wire_pool import Pool, Server
from flowrunner_provider.files.stores.s3_wire_requests import RenewingCredentials
from flowrunner_provider.files.stores.s3_wire_uploads import WireUploads

__all__ = ["S3Bucket"]

_TRIES = 5


class S3Bucket(Bucket):
    """One bucket.

    :param where: the name of the bucket in messages.
    """

    def __init__(self, target: S3Target, *, where: str = "") -> None:
        super().__init__(where or f"s3://{target.bucket}")
        self._target, self.bucket = target, target.bucket
        self._client: S3Client | None = None
        self._objects: S3Objects | None = None
        self._uploads: S3Uploads | None = None
        config = target.config
        self.settings = _encryption(config)
        self.etag_is_md5 = not config.encrypts_with_kms
        checksums = config.request_checksum_calculation
        self.wants_crc = checksums == "when_supported" or (checksums == "auto" and config.endpoint_url is None)

    @property
    def client(self) -> S3Client:
        """The client of boto3; only while the store is open."""
        if self._client is None:
            raise ValueError("the store is not open")
        return self._client

    @property
    def objects(self) -> S3Objects:
        """The requests on objects and listings; only while the store is open."""
        if self._objects is None:
            raise ValueError("the store is not open")
        return self._objects

    @property
    def uploads(self) -> S3Uploads:
        """The requests on multipart uploads; only while the store is open."""
        if self._uploads is None:
            raise ValueError("the store is not open")
        return self._uploads

    async def connect(self, stack: AsyncExitStack) -> None:
        load("boto3", extra="s3", needed_for="files in S3")
        what = f"connecting to {self.where}"
        session = await self._log_in(stack)
        with client_errors(what):
            address = bucket_address(self._target, session, self._target.style)
        if address is None:
            self._objects = self._client_objects()
            self._uploads = ClientUploads(self.client, self.bucket, self.settings)
            await self._region(self._objects)
            return
        credentials = await self._credentials(what, session)
        wire, self._uploads = await self._wire_requests(stack, address, credentials)
        self._objects = wire
        if (moved := address.moved(await self._region(wire))) != address:
            wire.close()
            self._objects, self._uploads = await self._wire_requests(stack, moved, credentials)

    async def _log_in(self, stack: AsyncExitStack) -> Any:
        """Return a boto3 session; the threads of its client end with ``stack``."""
        threads = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        with client_errors(f"connecting to {self.where}"):
            session = await asyncio.to_thread(self._target.session)
        self._client, self._threads = S3Client(self._target, session, threads), threads
        return session

    async def _credentials(self, what: str, session: Any) -> RenewingCredentials | None:
        if self._target.anonymous:
            return None
        with client_errors(what):
            found = await asyncio.to_thread(session.get_credentials)
        if found is None:
            raise MissingCredential(
                f"{self.where}: no credentials",
                field="login",
                remedy="set an access key as login and password, or role_arn or profile_name in the extra",
            )
        return RenewingCredentials(found)

    @property
    def _plan(self) -> RetryPlan:
        return RetryPlan(attempts=_TRIES, backoff=Backoff(base=0.1))

    def _client_objects(self) -> ClientObjects:
        return ClientObjects(self.client, self.bucket, self.settings, self._plan, self._target.config.timeout)

    async def _wire_requests(
        self, stack: AsyncExitStack, address: BucketAddress, credentials: RenewingCredentials | None
    ) -> tuple[WireObjects, WireUploads]:
        config = self._target.config
        context = await asyncio.to_thread(tls_context, config) if address.secure or config.ca_bundle else None
        server = Server(
            host=address.host, port=address.port, tls=context if address.secure else None,
            connect_timeout=config.conn_timeout, timeout=config.timeout,
        )  # fmt: skip
        signs = not (address.secure or config.unsigned_payload)
        shared = (address, Pool(server), credentials, self._plan)
        more: Any = {"blocking": BlockingPool(server, self._threads), "settings": self.settings, "sign_bodies": signs}
        objects = WireObjects(*shared, **more)
        stack.callback(objects.close)
        return objects, WireUploads(*shared, **more)

    async def _region(self, objects: S3Objects) -> str:
        """Return the region of the bucket, or "" if it is not reported; a missing bucket is a ConfigError."""
        try:
            return await objects.region(f"connecting to {self.where}")
        except NotFound:
            raise ConfigError(
                f"{self.where}: the bucket {self.bucket!r} does not exist",
                field="bucket",
                remedy="correct the address, or the endpoint_url of the connection; buckets are not created",
            ) from None
        except AccessDenied:  # s3:ListBucket is not needed to use the bucket
            return ""

    async def buckets(self) -> list[str]:
        """Return the names of all buckets that the credentials may list; the store need not be open."""
        async with AsyncExitStack() as stack:
            await self._log_in(stack)
            answer = await self.client.call("listing the buckets", "list_buckets")
        return [str(row["Name"]) for row in answer.get("Buckets", [])]

    async def presign(self, path: str, method: str, expires: timedelta) -> str:
        """Return a URL signed with version 4; see :class:`~flowrunner_provider.files.store.SigningStore`."""
        load("boto3", extra="s3", needed_for="files in S3")
        if self._target.anonymous:
            raise ConfigError(
                f"{self.where}: an anonymous connection cannot sign URLs",
                field="signature_version",
                remedy="use a connection with an access key or a role",
            )
        operation = {"GET": "get_object", "PUT": "put_object"}[method]
        where = {"Bucket": self.bucket, "Key": path.removeprefix("/")}
        async with AsyncExitStack() as stack:
            session = await self._log_in(stack)
            known = self._target.config.region_name or self._target.config.endpoint_url
            region = "" if known else await self._region(self._client_objects())
            with client_errors(f"signing for {self.where}{path}"):
                client = await asyncio.to_thread(self._target.client, session, region=region, signature_version="s3v4")
                url = await asyncio.to_thread(
                    client.generate_presigned_url, operation, where, int(expires.total_seconds())
                )
        return str(url)

    async def head(self, key: str) -> Entry:
        what = f"reading the metadata of {self.label(key)}"
        refuse_odd(key, what)
        found = await self.objects.head(what, key)
        return self.entry(key, found.size, found.modified, found.etag)


def _encryption(config: S3Config) -> dict[str, str]:
    """Return the encryption parameters of every write, by their names in boto3."""
    given = {"ServerSideEncryption": config.server_side_encryption, "SSEKMSKeyId": config.kms_key_id}
    return {name: value for name, value in given.items() if value}
