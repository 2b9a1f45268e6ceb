"""Azure Blob Storage from ``wasb`` connections."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.files.config import AzureBlobConfig
from flowrunner_provider.files.hooks.bucket import BucketHook
from flowrunner_provider.runtime.hook import options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from flowrunner_provider.files.stores.azure_blob import AzureBlobStore

__all__ = ["FlowRunnerAzureBlobHook"]

_TEXTS = (
    "connection_string", "tenant_id", "shared_access_key", "sas_token", "account_key", "managed_identity_client_id",
    "workload_identity_tenant_id",
)  # fmt: skip


class FlowRunnerAzureBlobHook(BucketHook[AzureBlobConfig]):
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
    scheme: ClassVar[str] = "wasb"
    noun: ClassVar[str] = "container"
    reads: ClassVar[tuple[str, ...]] = ("wasb",)

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """The standard fields, the official extras (with and without their old prefix), and our options."""
        given = cls.official(found)
        values = {**super().values(found), **{name: given[name] for name in _TEXTS if given.get(name)}}
        if secret_config := given.get("client_secret_auth_config"):
            values["client_secret_auth_config"] = (
                json.loads(secret_config) if isinstance(secret_config, str) else secret_config
            )
        return {**values, **options_of(found)}

    def bucket(self, name: str, where: str) -> AzureBlobStore:
        from flowrunner_provider.files.stores.azure_blob import AzureBlobStore

        return AzureBlobStore(self.config, name, where=where)

    async def around(self) -> str:
        from flowrunner_provider.files.stores.azure_blob_client import containers

        return await containers(self.config)
