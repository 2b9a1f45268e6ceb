"""The store for containers of Azure Blob Storage.

Reads use obstore, everything else Microsoft's asynchronous library; both have the same credential.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace as changed
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flowrunner_provider.core.deadline import SYSTEM_CLOCK
from flowrunner_provider.core.errors import (
    AccessDenied,
    AlreadyExists,
    ConfigError,
    IntegrityError,
    NotFound,
    Rejected,
    Unavailable,
)
from flowrunner_provider.core.open_file import OpenFile
from flowrunner_provider.core.retry import apause
from flowrunner_provider.files.config import AzureBlobConfig
from flowrunner_provider.files.store import Entry
from flowrunner_provider.files.stores.azure_blob_client import AzureBlobClients, azure_errors, connect
from flowrunner_provider.files.stores.azure_blob_parts import MAX_BLOCKS, AzureBlobParts
from flowrunner_provider.files.stores.azure_blob_ranges import read_into
from flowrunner_provider.files.stores.object_errors import obstore_errors
from flowrunner_provider.files.stores.object_upload import part_lengths
from flowrunner_provider.files.stores.objects import CAPABILITIES, ObjectStore

if TYPE_CHECKING:
    from azure.storage.blob.aio import ContainerClient

__all__ = ["AzureBlobStore"]

_MIB = 1024 * 1024
_PAGE_SIZE = 5_000
_POLL_SECONDS = 0.5


class AzureBlobStore(ObjectStore):
    """One container.

    :param config: the connection.
    :param where: its name in messages.
    """

    def __init__(self, config: AzureBlobConfig, container: str, *, where: str = "") -> None:
        super().__init__(where or f"wasb://{container}")
        self._config, self.container = config, container
        self.capabilities = changed(CAPABILITIES, presigns=True, reads_ranges=config.part_size * _MIB)
        self._clients: AzureBlobClients | None = None

    @property
    def clients(self) -> AzureBlobClients:
        """The clients, while the store is open."""
        if self._clients is None:
            raise ValueError("the store is not open")
        return self._clients

    @property
    def client(self) -> ContainerClient:
        """Microsoft's container client, while the store is open."""
        return self.clients.container

    async def connect(self, stack: AsyncExitStack) -> None:
        self._clients = clients = await connect(self._config, self.container, stack)
        try:
            with azure_errors(f"connecting to {self.where}"):
                await clients.container.get_container_properties()
        except Rejected as error:
            if error.code != "ContainerNotFound":
                raise
            raise self._no_container() from None
        except NotFound:
            raise self._no_container() from None
        except AccessDenied as error:
            if "AuthenticationFailed" in error.message:
                raise
            # otherwise the credential is valid but may not read the container; each call checks its own rights

    async def presign(self, path: str, method: str, expires: timedelta) -> str:
        """Return a URL with a shared access signature; see :class:`~flowrunner_provider.files.store.SigningStore`."""
        from flowrunner_provider.files.stores.azure_blob_sign import signed_url

        key = path.removeprefix("/")
        return await signed_url(self._config, self.container, key, method, expires, SYSTEM_CLOCK.now())

    def _no_container(self) -> ConfigError:
        return ConfigError(
            f"{self.where}: the container {self.container!r} does not exist",
            field="container",
            remedy="correct the address or the account; containers are not created",
        )

    def entry(self, key: str, size: int | None, modified: datetime | None, version: str) -> Entry:
        return super().entry(key, size, modified, version.strip('"'))

    async def head(self, key: str) -> Entry:
        with azure_errors(f"checking {self.label(key)}"):
            blob = await self.client.get_blob_client(key).get_blob_properties()
        if _is_folder(blob.metadata):
            return self.folder(f"{key}/")
        return self.entry(key, blob.size, blob.last_modified, blob.etag or "")

    async def pages(self, prefix: str, *, delimited: bool, most: int = 0) -> AsyncIterator[Sequence[Entry]]:
        from azure.storage.blob.aio import BlobPrefix

        options: dict[str, Any] = {
            "name_starts_with": prefix or None,
            "include": ["metadata"],
            "results_per_page": most or _PAGE_SIZE,
        }
        listing: Any = (self.client.walk_blobs if delimited else self.client.list_blobs)(**options)
        pages = listing.by_page()
        what = f"listing {self.label(prefix)}"
        while True:
            with azure_errors(what):
                page = await anext(pages, None)
                found = [] if page is None else [blob async for blob in page]
            if page is None:
                return
            folders = [self.folder(item.name) for item in found if isinstance(item, BlobPrefix)]
            blobs = [item for item in found if not isinstance(item, BlobPrefix)]
            markers = [] if delimited else [self.folder(f"{blob.name}/") for blob in blobs if _is_folder(blob.metadata)]
            files = [blob for blob in blobs if not _is_folder(blob.metadata)]
            yield folders + markers + [self.entry(b.name, b.size, b.last_modified, b.etag) for b in files]

    async def fetch(
        self, key: str, what: str, offset: int, wanted: int, version: str | None = None
    ) -> tuple[int, str | None, bytes] | None:
        import obstore

        options: dict[str, Any] = {"range": (offset, offset + wanted)}
        if version:
            options["if_match"] = version
        try:
            with obstore_errors(what):
                result = await obstore.get_async(self.clients.obstore, key, options=options)  # type: ignore[arg-type]
                data = (await result.bytes_async()).to_bytes()
        except Rejected as error:
            if error.status == 416:
                return None
            raise
        return result.meta["size"], result.meta["e_tag"], data

    @property
    def ranges_at_once(self) -> int:
        return self._config.parts_at_once

    async def read_into(self, file: OpenFile, path: str, offset: int, length: int, version: str) -> int:
        key = path.removeprefix("/")
        what = f"reading {self.label(key)}"
        return await read_into(self.clients.obstore, what, file, key, offset, length, version)

    async def remove(self, key: str) -> None:
        """Delete the blob with one request; obstore would send a batch to the account, which needs more permissions."""
        with azure_errors(f"deleting {self.label(key)}"):
            await self.client.get_blob_client(key).delete_blob()

    def parts(self, key: str, token: str, size: int | None) -> AzureBlobParts:
        length = part_lengths(self._config.part_size * _MIB, MAX_BLOCKS, size)
        blob = self.client.get_blob_client(key)
        return AzureBlobParts(blob, self.label(key), token, length, self._config.parts_at_once)

    async def copy_key(self, key: str, target: str, *, replace: bool, source: Entry) -> None:
        """Copy within the account, and wait for copies that Azure completes asynchronously."""
        from azure.core import MatchConditions

        what = f"copying {self.label(key)}"
        sas = self.clients.sas
        url = self.client.get_blob_client(key).url
        blob = self.client.get_blob_client(target)
        conditions: dict[str, Any] = {} if replace else {"match_condition": MatchConditions.IfMissing}
        if source.version:
            conditions |= {
                "source_etag": f'"{source.version}"',
                "source_match_condition": MatchConditions.IfNotModified,
            }
        with azure_errors(what):
            answer = await blob.start_copy_from_url(url if "?" in url or not sas else f"{url}?{sas}", **conditions)
            status: Any = answer["copy_status"]
            while status == "pending":
                await apause(_POLL_SECONDS)
                status = (await blob.get_blob_properties()).copy.status
        if status != "success":
            raise Unavailable(
                f"{what}: Azure ended the copy with the status {status!r}", remedy="nothing to do: it is retried"
            )

    async def put(self, key: str, data: bytes, *, replace: bool) -> None:
        """Put a blob in one request, with an MD5 that Azure verifies and stores."""
        try:
            with azure_errors(f"writing {self.label(key)}"):
                blob = self.client.get_blob_client(key)
                await blob.upload_blob(data, length=len(data), overwrite=replace, validate_content=True)
        except IntegrityError:  # 412: another writer was faster
            raise AlreadyExists(f"{self.label(key)} already exists", remedy="choose another name") from None


def _is_folder(metadata: Mapping[str, str] | None) -> bool:
    """Return whether a blob is a folder marker of an account with a hierarchical namespace."""
    return (metadata or {}).get("hdi_isfolder") == "true"
