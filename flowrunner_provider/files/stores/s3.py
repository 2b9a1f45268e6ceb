"""S3 and what speaks its language: AWS, Ceph, MinIO, R2 and others.

Listings, parts and copies go through boto3's low-level client in threads; what is small and many (reads, puts,
looks, deletions) through obstore.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.core.errors import AccessDenied, ConfigError, IntegrityError, MissingCredential, NotFound
from flowrunner_provider.core.extras import load
from flowrunner_provider.files.config import S3Config
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.object_upload import part_lengths
from flowrunner_provider.files.stores.objects import CAPABILITIES, ObjectStore
from flowrunner_provider.files.stores.s3_answers import attach
from flowrunner_provider.files.stores.s3_client import S3Client, client_errors
from flowrunner_provider.files.stores.s3_copy import copy_object
from flowrunner_provider.files.stores.s3_parts import MOST_PARTS, S3Parts, is_md5

if TYPE_CHECKING:
    from obstore import PutResult
    from obstore.store import ObjectStore as Obstore

__all__ = ["S3Store", "S3Target"]

_MIB = 1024 * 1024
_THREADS = 16
_TRIES = 5
_CREDENTIALS_FOR = timedelta(minutes=10)  # botocore renews its own at the latest ten minutes before they expire


@dataclass(frozen=True, kw_only=True)
class S3Target:
    """A bucket and how to reach it.

    :param session: gives a boto3 session; called in a thread, as it may ask for a role's credentials.
    :param client_config: arguments of ``botocore.config.Config`` that the connection asks for.
    """

    bucket: str
    config: S3Config
    session: Callable[[], Any]
    client_config: Any = None


class S3Store(ObjectStore):
    """One bucket.

    :param where: how messages call it.
    """

    def __init__(self, target: S3Target, *, where: str = "") -> None:
        super().__init__(where or f"s3://{target.bucket}")
        self._target, self.bucket = target, target.bucket
        self._client: S3Client | None = None
        config = target.config
        self.settings = _encryption(config)
        self.etag_is_md5 = not config.encrypts_with_kms
        checksums = config.request_checksum_calculation
        self.wants_crc = checksums == "when_supported" or (checksums == "auto" and config.endpoint_url is None)
        conditional = config.conditional_writes
        atomic = config.endpoint_url is None if conditional is None else conditional
        self.capabilities = changed(CAPABILITIES, atomic_create=atomic, presigns=True)

    @property
    def client(self) -> S3Client:
        """boto3's; only while the store is open."""
        if self._client is None:
            raise ValueError("the store is not open")
        return self._client

    async def connect(self, stack: AsyncExitStack) -> Obstore:
        needed = "files in S3"
        library = load("obstore.store", extra="s3", needed_for=needed)
        load("boto3", extra="s3", needed_for=needed)
        session, client = await self._log_in(stack)
        region = await self._region() or client.meta.region_name or "us-east-1"
        credentials = await asyncio.to_thread(session.get_credentials)
        return library.S3Store(self.bucket, **self._options(credentials, region))  # type: ignore[no-any-return]

    async def _log_in(self, stack: AsyncExitStack) -> tuple[Any, Any]:
        """A boto3 session and its S3 client, in threads that end with ``stack``."""
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3")
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        with client_errors(f"connecting to {self.where}"):
            session = await asyncio.to_thread(self._target.session)
            client = await asyncio.to_thread(self._low_level, session)
        self._client = S3Client(client, threads)
        return session, client

    async def buckets(self) -> list[str]:
        """The names of all buckets that the credentials may see; the store need not be open."""
        async with AsyncExitStack() as stack:
            await self._log_in(stack)
            answer = await self.client.call("listing the buckets", "list_buckets")
        return [str(row["Name"]) for row in answer.get("Buckets", [])]

    async def presign(self, path: str, method: str, expires: timedelta) -> str:
        """A URL that is signed with version 4; see :class:`~flowrunner_provider.files.store.SigningStore`."""
        load("boto3", extra="s3", needed_for="files in S3")
        if self._anonymous:
            raise ConfigError(
                f"{self.where}: an anonymous connection cannot sign",
                field="signature_version",
                remedy="use a connection with an access key or a role",
            )
        operation = {"GET": "get_object", "PUT": "put_object"}[method]
        where = {"Bucket": self.bucket, "Key": path.removeprefix("/")}
        async with AsyncExitStack() as stack:
            session, client = await self._log_in(stack)
            known = self._target.config.region_name or self._target.config.endpoint_url
            region = "" if known else await self._region()
            client = self._low_level(session, region=region, signature_version="s3v4")
            with client_errors(f"signing for {self.where}{path}"):
                url = await asyncio.to_thread(
                    client.generate_presigned_url, operation, where, int(expires.total_seconds())
                )
        return str(url)

    def _low_level(self, session: Any, *, region: str = "", **more: Any) -> Any:
        from botocore.config import Config

        config = self._target.config
        settings = Config(
            s3={
                "addressing_style": self._style(),
                **({"payload_signing_enabled": False} if config.unsigned_payload else {}),
            },
            request_checksum_calculation="when_required",  # what needs a checksum, is given one by us
            response_checksum_validation="when_required",
            connect_timeout=config.conn_timeout,
            read_timeout=config.timeout,
            retries={"mode": "standard", "total_max_attempts": _TRIES},
            max_pool_connections=_THREADS,
            **more,
        )
        base = self._target.client_config
        client = session.client(
            "s3",
            region_name=config.region_name or region or None,
            endpoint_url=config.endpoint_url,
            verify=config.ca_bundle or config.verify,
            config=base.merge(settings) if base else settings,
        )
        attach(client)
        return client

    def _style(self) -> str:
        style = self._target.config.addressing_style
        return style if style != "auto" or not self._target.config.endpoint_url else "path"

    async def _region(self) -> str:
        """Where the bucket is; its absence is an error of the address."""
        try:
            answer = await self.client.call(f"connecting to {self.where}", "head_bucket", Bucket=self.bucket)
        except NotFound:
            raise ConfigError(
                f"{self.where}: there is no bucket {self.bucket!r}",
                field="bucket",
                remedy="correct the address, or the endpoint_url of the connection; buckets are not made",
            ) from None
        except AccessDenied:  # the right to look at the bucket is not needed to use it
            return ""
        return str(answer.get("BucketRegion") or "")

    def _options(self, credentials: Any, region: str) -> dict[str, Any]:
        config = self._target.config
        secure = not (config.endpoint_url or "").startswith("http://")
        virtual = self._style() == "virtual" or not (config.endpoint_url or self._style() == "path")
        http: dict[str, Any] = {
            "allow_http": not secure,
            "connect_timeout": timedelta(seconds=config.conn_timeout),
            "read_timeout": timedelta(seconds=config.timeout),
            "timeout": timedelta(seconds=5 * config.timeout),
        }
        if not config.verify:
            http["allow_invalid_certificates"] = True
        if config.ca_bundle:
            http["root_certificate"] = _pem(config.ca_bundle)
        options: dict[str, Any] = {
            "region": region,
            "virtual_hosted_style_request": virtual,
            "disable_bulk_delete": True,
            "unsigned_payload": config.unsigned_payload,
            "client_options": http,
            "retry_config": {"max_retries": _TRIES - 1, "retry_timeout": timedelta(seconds=2 * config.timeout)},
        }
        if config.endpoint_url:
            scheme, _, host = config.endpoint_url.rstrip("/").partition("://")
            options["endpoint"] = f"{scheme}://{self.bucket}.{host}" if virtual else f"{scheme}://{host}"
        if config.server_side_encryption:
            options["server_side_encryption"] = config.server_side_encryption
        if config.kms_key_id:
            options["sse_kms_key_id"] = config.kms_key_id
        if config.request_checksum_calculation == "when_supported":
            options["checksum_algorithm"] = "SHA256"
        if self._anonymous:
            options["skip_signature"] = True
        else:
            options["credential_provider"] = self._provider(credentials)
        return options

    @property
    def _anonymous(self) -> bool:
        from botocore import UNSIGNED

        return getattr(self._target.client_config, "signature_version", None) is UNSIGNED

    def _provider(self, credentials: Any) -> Callable[[], dict[str, Any]]:
        """botocore's credentials for obstore, which asks again before they run out; botocore renews them."""
        if credentials is None:
            raise MissingCredential(
                f"{self.where}: there are no credentials",
                field="login",
                remedy="put an access key into login and password, or a role_arn or profile_name into the extra",
            )

        def provide() -> dict[str, Any]:
            frozen = credentials.get_frozen_credentials()
            return {
                "access_key_id": frozen.access_key,
                "secret_access_key": frozen.secret_key,
                "token": frozen.token,
                "expires_at": SYSTEM_CLOCK.now() + _CREDENTIALS_FOR,
            }

        return provide

    async def pages(self, prefix: str, *, delimited: bool, most: int = 0) -> AsyncIterator[Sequence[Entry]]:
        what, token = f"listing {self.label(prefix)}", ""
        arguments: dict[str, Any] = {"Bucket": self.bucket, "Prefix": prefix}
        if delimited:
            arguments["Delimiter"] = "/"
        if most:
            arguments["MaxKeys"] = most
        ahead = asyncio.ensure_future(self.client.call(what, "list_objects_v2", **arguments))
        try:
            while True:
                answer = await ahead
                following = "" if most or not answer.get("IsTruncated") else str(answer["NextContinuationToken"])
                if following and following == token:
                    raise IntegrityError(f"{what}: the server repeats a page", remedy="look at the server")
                if token := following:  # on its way while this page is worked with
                    more = {"ContinuationToken": token}
                    ahead = asyncio.ensure_future(self.client.call(what, "list_objects_v2", **arguments, **more))
                page = [self.folder(row["Prefix"]) for row in answer.get("CommonPrefixes", [])]
                page += [
                    self.entry(row["Key"], row["Size"], row["LastModified"], row["ETag"])
                    for row in answer.get("Contents", [])
                ]
                yield page
                if not token:
                    return
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    def parts(self, key: str, token: str, size: int | None) -> S3Parts:
        config = self._target.config
        return S3Parts(self, key, part_lengths(config.part_size * _MIB, MOST_PARTS, size), config.parts_at_once)

    async def copy_key(self, key: str, target: str, *, replace: bool, source: Entry) -> None:
        await copy_object(self, key, target, replace=replace, source=source)

    def checked(self, data: bytes, result: PutResult) -> None:
        from hashlib import md5

        etag = (result["e_tag"] or "").strip('"')
        if self.etag_is_md5 and is_md5(etag) and etag != md5(data, usedforsecurity=False).hexdigest():
            raise IntegrityError(
                f"{self.where}: an object arrived otherwise than it was sent",
                remedy="retry; if the bucket encrypts with KMS, set server_side_encryption in the connection",
            )


def _encryption(config: S3Config) -> dict[str, str]:
    """What is sent with everything that is written, as boto3 calls it."""
    given = {"ServerSideEncryption": config.server_side_encryption, "SSEKMSKeyId": config.kms_key_id}
    return {name: value for name, value in given.items() if value}


def _pem(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError as error:
        raise ConfigError(
            f"the CA bundle {path} cannot be read ({error.strerror})", field="ca_bundle", remedy="name a PEM file"
        ) from None
