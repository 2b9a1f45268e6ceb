"""Azurite, Microsoft's own emulator of Azure Blob Storage, run by node. It is not the real service:
no roles, no throttling, no soft delete; it does check keys, shared access signatures, MD5 and conditions.

Its packages are pinned, with hashes, by ``azurite_npm/package-lock.json`` and installed once.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.oidc import install
from tests.support.servers import HOST, Server, greets, require

__all__ = ["ACCOUNT", "KEY", "PACKAGE", "Azurite", "Container", "azurite"]

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Published in Azurite's documentation: every emulator has this one."""

_CLIENTS: dict[tuple[int, str, str], Any] = {}

PACKAGE = Path(__file__).parent / "azurite_npm"


class Container:
    """One container, seen with Microsoft's own synchronous library."""

    root = "/base"

    def __init__(self, connection_string: str, name: str) -> None:
        self._connection_string = connection_string
        self.name = name

    @property
    def _client(self) -> Any:
        """One for each process: a container is pickled."""
        from azure.storage.blob import ContainerClient

        key = (os.getpid(), self._connection_string, self.name)
        if key not in _CLIENTS:
            _CLIENTS[key] = ContainerClient.from_connection_string(self._connection_string, self.name)
        return _CLIENTS[key]

    def put(self, relative: str, data: bytes) -> None:
        self._client.upload_blob(f"base/{relative}", data, overwrite=True)

    def get(self, relative: str) -> bytes:
        return bytes(self._client.download_blob(f"base/{relative}").readall())

    def names(self) -> list[str]:
        """Whatever is committed."""
        return sorted(blob.name.removeprefix("base/") for blob in self._client.list_blobs())

    def uncommitted(self, relative: str) -> list[str]:
        """The ids of the blocks that wait for a commit."""
        from azure.core.exceptions import ResourceNotFoundError

        try:
            return [block.id for block in self._client.get_blob_client(f"base/{relative}").get_block_list("all")[1]]
        except ResourceNotFoundError:
            return []

    def properties(self, relative: str) -> Any:
        return self._client.get_blob_client(f"base/{relative}").get_blob_properties()


@dataclass
class Azurite:
    """The running emulator."""

    server: Server

    @property
    def url(self) -> str:
        """The account's."""
        return f"http://{HOST}:{self.server.port}/{ACCOUNT}"

    @property
    def connection_string(self) -> str:
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={self.url};"

    def client(self) -> Any:
        """Microsoft's synchronous client."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.connection_string)

    def container(self) -> Container:
        """A fresh container."""
        name = f"c-{uuid.uuid4().hex[:16]}"
        self.client().create_container(name)
        return Container(self.connection_string, name)

    def sas(self, *, permission: str = "rwdlac", valid: timedelta = timedelta(hours=1)) -> str:
        """A shared access signature for the account."""
        from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

        return str(
            generate_account_sas(
                ACCOUNT,
                KEY,
                ResourceTypes(service=True, container=True, object=True),
                AccountSasPermissions.from_string(permission),
                datetime.now(UTC) + valid,
            )
        )


@contextmanager
def azurite(directory: Path) -> Iterator[Azurite]:
    """Run the emulator for the block; ``directory`` gets its log."""
    node = require("node", apt="nodejs npm")
    try:
        modules = install(PACKAGE)
    except OSError as error:
        if os.environ.get("REQUIRE_BACKENDS") == "1":
            raise
        pytest.skip(f"azurite is not installed: {error}")
    program = modules / "node_modules/azurite/dist/src/blob/main.js"
    options = ["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with Server(
        "azurite",
        lambda port: [node, str(program), "--blobHost", HOST, "--blobPort", str(port), *options],
        ready=lambda port: greets(port, b"HTTP/1.1 ", say=b"GET / HTTP/1.0\r\n\r\n"),
        log=directory / "azurite.log",
    ) as server:
        yield Azurite(server)
