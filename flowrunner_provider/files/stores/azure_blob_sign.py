"""Shared access signatures for one blob, by Microsoft's library."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load
from flowrunner_provider.files.config import AzureBlobConfig
from flowrunner_provider.files.stores.azure_blob_account import account_of
from flowrunner_provider.files.stores.azure_blob_client import azure_errors, token_credential

__all__ = ["signed_url"]

_CLOCKS_DIFFER = timedelta(minutes=5)


async def signed_url(
    config: AzureBlobConfig, container: str, key: str, method: str, expires: timedelta, now: datetime
) -> str:
    """Return a URL for one blob, signed with the account key or with a user delegation key of this identity.

    :param now: the current time in UTC.
    :raises ConfigError: if the connection has no credential that can sign.
    """
    blob = load("azure.storage.blob", extra="azure", needed_for="signed URLs of Azure Blob Storage")
    account = account_of(config)
    begin, end = now - _CLOCKS_DIFFER, now + expires
    by: dict[str, Any] = {"account_key": account.key}
    if config.anonymous or account.sas:
        raise ConfigError(
            "a connection with a SAS token or without a credential cannot sign URLs",
            field="sas_token",
            remedy="use the account key, or a client secret or managed identity",
        )
    if not account.key:
        async with AsyncExitStack() as stack:
            credential = await token_credential(config, stack)
            library = load("azure.storage.blob.aio", extra="azure", needed_for="signed URLs of Azure Blob Storage")
            service = await stack.enter_async_context(
                library.BlobServiceClient(
                    account.url,
                    credential=credential,
                    retry_total=0,
                    connection_timeout=config.conn_timeout,
                    read_timeout=config.timeout,
                )
            )
            with azure_errors(f"asking {account.url} for a key to sign with"):
                by = {"user_delegation_key": await service.get_user_delegation_key(begin, end)}
    allowed = {"read": True} if method == "GET" else {"create": True, "write": True}
    signature = blob.generate_blob_sas(
        account.name,
        container,
        key,
        permission=blob.BlobSasPermissions(**allowed),
        start=begin,
        expiry=end,
        protocol=None if urlsplit(account.url).scheme == "http" else "https",
        **by,
    )
    return f"{blob.BlobClient(account.url, container, key).url}?{signature}"
