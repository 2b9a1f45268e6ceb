"""Clients and credentials for Azure Blob Storage, and the translation of Microsoft's errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flowrunner_provider.core.errors import AccessDenied, AlreadyExists, ConnectionLost, MissingCredential, TimedOut
from flowrunner_provider.core.extras import load
from flowrunner_provider.files.config import AzureBlobConfig
from flowrunner_provider.files.stores.azure_blob_account import account_of
from flowrunner_provider.files.stores.object_errors import refusal

if TYPE_CHECKING:
    from azure.storage.blob.aio import ContainerClient
    from obstore.store import AzureStore

__all__ = ["AzureBlobClients", "azure_errors", "connect", "containers", "token_credential"]

_SCOPE = "https://storage.azure.com/.default"
_NEEDED = "files in Azure Blob Storage"
_FOREVER = None

Provider = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class AzureBlobClients:
    """Microsoft's client and obstore's client of one container, with the same credential."""

    container: ContainerClient
    obstore: AzureStore
    sas: str = ""


async def connect(config: AzureBlobConfig, container: str, stack: AsyncExitStack) -> AzureBlobClients:
    """Open the clients; ``stack`` closes them.

    :raises MissingExtra: if a package of the extra is not installed.
    """
    blob = load("azure.storage.blob.aio", extra="azure", needed_for=_NEEDED)
    library = load("obstore.store", extra="azure", needed_for=_NEEDED)
    # This logger writes every request at INFO.
    logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(logging.WARNING)
    account = account_of(config)
    credential, provider = await _credential(config, stack)
    client = await stack.enter_async_context(
        blob.ContainerClient(
            account.url,
            container,
            credential=credential,
            retry_total=0,
            connection_timeout=config.conn_timeout,
            read_timeout=config.timeout,
        )
    )
    options: dict[str, Any] = {"skip_signature": True} if provider is None else {"credential_provider": provider}
    store = library.AzureStore(
        container,
        account_name=account.name,
        endpoint=account.url,
        use_emulator=False,
        client_options={
            "allow_http": urlsplit(account.url).scheme == "http",
            "connect_timeout": timedelta(seconds=config.conn_timeout),
            "timeout": timedelta(seconds=config.timeout),
        },
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=config.timeout)},
        **options,
    )
    return AzureBlobClients(container=client, obstore=store, sas=account.sas)


async def _credential(config: AzureBlobConfig, stack: AsyncExitStack) -> tuple[Any, Provider | None]:
    """Return the credential for Microsoft's library and a provider function for obstore; (None, None) if anonymous.

    With a provider function, obstore ignores credentials in the environment.
    """
    account = account_of(config)
    if config.anonymous:
        return None, None
    if account.key:
        return {"account_name": account.name, "account_key": account.key}, _constant(access_key=account.key)
    if account.sas:
        from azure.core.credentials import AzureSasCredential

        return AzureSasCredential(account.sas), _constant(sas_token=account.sas)
    token = await token_credential(config, stack)

    async def bearer() -> Any:
        got = await token.get_token(_SCOPE)
        return {"token": got.token, "expires_at": datetime.fromtimestamp(got.expires_on, UTC)}

    return token, bearer


async def token_credential(config: AzureBlobConfig, stack: AsyncExitStack) -> Any:
    """Return the credential of an application or of this machine; ``stack`` closes it."""
    identity = load("azure.identity.aio", extra="azure", needed_for=_NEEDED)
    if config.tenant_id:
        token = identity.ClientSecretCredential(
            config.tenant_id, config.login, config.password, **config.client_secret_auth_config
        )
    else:
        token = identity.DefaultAzureCredential(
            managed_identity_client_id=config.managed_identity_client_id,
            workload_identity_tenant_id=config.workload_identity_tenant_id,
        )
    await stack.enter_async_context(token)
    return token


def _constant(**credential: str) -> Provider:
    async def provide() -> Any:
        return {**credential, "expires_at": _FOREVER}

    return provide


@contextmanager
def azure_errors(what: str) -> Iterator[None]:
    """Translate the exceptions of Microsoft's library.

    :param what: the operation and its path, for messages.
    """
    from azure.core import exceptions

    try:
        yield
    except exceptions.HttpResponseError as error:
        code = getattr(error, "error_code", None) or ""  # an enum member for codes that the library knows
        status, code = error.status_code or 0, str(getattr(code, "value", code))
        if status == 409 and code in ("BlobAlreadyExists", "UnauthorizedBlobOverwrite"):
            raise AlreadyExists(f"{what}: already exists", remedy="choose another name") from None
        if isinstance(error, exceptions.ClientAuthenticationError) and not status:
            raise _no_token(what, error) from None
        raise refusal(what, status, code) from None
    except (exceptions.ServiceRequestTimeoutError, exceptions.ServiceResponseTimeoutError, TimeoutError):
        raise TimedOut(f"{what}: no answer in time", remedy="raise the timeout of the connection") from None
    except exceptions.AzureError as error:
        raise ConnectionLost(
            f"{what}: the connection failed ({type(error).__name__})",
            remedy="check the URL of the account and the network",
        ) from None


def _no_token(what: str, error: Exception) -> AccessDenied | MissingCredential:
    if type(error).__name__ == "CredentialUnavailableError":
        return MissingCredential(
            f"{what}: the connection has no credential and this machine has no identity",
            field="password",
            remedy="set an account key, SAS token, connection string or client secret, or give the machine an identity",
        )
    return AccessDenied(f"{what}: Azure issued no token for this identity", remedy="check tenant, client id and secret")


async def containers(config: AzureBlobConfig) -> str:
    """List one page of the account's containers; return one sentence about it."""
    blob = load("azure.storage.blob.aio", extra="azure", needed_for=_NEEDED)
    async with AsyncExitStack() as stack:
        credential, _ = await _credential(config, stack)
        account = account_of(config)
        options = {"connection_timeout": config.conn_timeout, "read_timeout": config.timeout, "retry_total": 0}
        client = await stack.enter_async_context(blob.BlobServiceClient(account.url, credential=credential, **options))
        with azure_errors(f"listing the containers of {account.url}"):
            page = await anext(client.list_containers(results_per_page=100).by_page(), None)
            names = [] if page is None else [item.name async for item in page]
    return (
        f"The account {account.name} answers; it has {len(names)}{' or more' if len(names) == 100 else ''} containers."
    )
