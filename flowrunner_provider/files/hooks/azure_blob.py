"""Azure Blob Storage from ``wasb`` connections."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.config import AzureBlobConfig
from flowrunner_provider.files.hooks.bucket import BucketHook
from flowrunner_provider.runtime.hook import options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from flowrunner_provider.files.stores.azure_blob import AzureBlobStore

__all__ = ["FlowRunnerAzureBlobHook"]

_TEXT_EXTRAS = (
    "connection_string", "tenant_id", "shared_access_key", "sas_token", "account_key", "managed_identity_client_id",
    "workload_identity_tenant_id",
)  # fmt: skip


class FlowRunnerAzureBlobHook(BucketHook[AzureBlobConfig]):
    """Opens Azure Blob Storage containers from ``wasb`` connections.

    It reads the fields and extras of the official provider but does not need that provider, whose package installs
    about forty other Azure services and whose hook passes unknown extras to the client and retries by its own rules.

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
        """Return the standard fields, the official extras (with or without their old prefix) and our options."""
        given = cls.official(found)
        values = {**super().values(found), **{name: given[name] for name in _TEXT_EXTRAS if given.get(name)}}
        if secret_config := given.get("client_secret_auth_config"):
            try:
                secret_config = json.loads(secret_config) if isinstance(secret_config, str) else secret_config
            except ValueError:
                raise ConfigError(
                    f"connection {found.conn_id!r}: client_secret_auth_config is not valid JSON",
                    field="client_secret_auth_config",
                    remedy="write a JSON object",
                ) from None
            values["client_secret_auth_config"] = secret_config
        return {**values, **options_of(found)}

    def bucket(self, name: str, where: str) -> AzureBlobStore:
        from flowrunner_provider.files.stores.azure_blob import AzureBlobStore

        return AzureBlobStore(self.config, name, where=where)

    async def describe_account(self) -> str:
        from flowrunner_provider.files.stores.azure_blob_client import containers

        return await containers(self.config)
