"""Azure Blob Storage from ``wasb`` connections."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.config import AzureBlobConfig
from flowrunner_provider.files.hooks.base import StoreHook
from flowrunner_provider.files.uri import Location
from flowrunner_provider.runtime.hook import extra_of, options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from flowrunner_provider.files.stores.azure_blob import AzureBlobStore

__all__ = ["FlowRunnerAzureBlobHook"]

_TEXTS = (
    "connection_string", "tenant_id", "shared_access_key", "sas_token", "account_key", "managed_identity_client_id",
    "workload_identity_tenant_id",
)  # fmt: skip


class FlowRunnerAzureBlobHook(StoreHook[AzureBlobConfig]):
    """Reads ``wasb`` connections as the official provider does, without needing it.

    Its own hook is not used: it hands our options on to Microsoft's client, repeats failed requests by rules of its
    own, and its package brings some forty other services of Azure along.

    :param conn_id: the Airflow connection.
    """

    conn_name_attr: ClassVar[str] = "wasb_conn_id"
    default_conn_name: ClassVar[str] = "wasb_default"
    conn_type: ClassVar[str] = "wasb"
    hook_name: ClassVar[str] = "Azure Blob Storage"
    config_type: ClassVar[type] = AzureBlobConfig
    reads: ClassVar[tuple[str, ...]] = ("wasb",)

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """The standard fields, the official extras (with and without their old prefix), and our options."""
        extra = extra_of(found)
        values = super().values(found)
        for name in _TEXTS:
            if value := extra.get(name) or extra.get(f"extra__wasb__{name}"):
                values[name] = value
        if secret_config := extra.get("client_secret_auth_config"):
            values["client_secret_auth_config"] = (
                json.loads(secret_config) if isinstance(secret_config, str) else secret_config
            )
        return {**values, **options_of(found)}

    def store(self, location: Location | None = None, *, field: str = "path") -> AzureBlobStore:
        from flowrunner_provider.files.stores.azure_blob import AzureBlobStore

        container = (location.host if location else "") or self.config.container
        if not container:
            raise ConfigError(
                f"the address does not name a container, nor does the connection {self.conn_id!r}",
                field=field if location else "container",
                remedy=f"write wasb://{self.conn_id}@container/path",
            )
        scheme = location.scheme if location else "wasb"
        return AzureBlobStore(self.config, container, where=f"{scheme}://{self.conn_id}@{container}")

    def check(self) -> str:
        """Look into the connection's container, or list the account's where it names none."""
        config = self.config

        async def look() -> str:
            if not config.container:
                from flowrunner_provider.files.stores.azure_blob_client import containers

                return await containers(config)
            async with self.store() as store:
                count = 0
                async for found in store.pages("", delimited=True, most=1):
                    count += len(found)
                return (
                    f"Reached the container {config.container}; there is {'something' if count else 'nothing'} in it."
                )

        return asyncio.run(look())
